//! A store over quota, on a filesystem with quotas of its own: the producers get `EDQUOT`, nothing
//! is half appended, and work goes on when the quota is raised.

use crate::common;

use std::fs;
use std::process::Command;

use common::{Chunk, LoopMount, Mount, chunks_in, csv_names, inside_a_private_namespace};
use common::{npyfs, put_chunk, run};

#[test]
fn a_store_over_quota_refuses_whole_chunks_and_goes_on_when_it_is_raised() {
    require!(fuse, root, unshare, btrfs);
    let test = "a_store_over_quota_refuses_whole_chunks_and_goes_on_when_it_is_raised";
    if !inside_a_private_namespace(test) {
        return;
    }
    let kinds = fs::read_to_string("/proc/filesystems").unwrap();
    if !kinds.contains("btrfs") {
        return common::skip("this kernel has no btrfs");
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = LoopMount::make::<&str>(&scratch.path().join("disk"), "btrfs", 512 << 20, &[]);
    let store = disk.at.join("store");
    let btrfs = |arguments: &[&str]| {
        run(Command::new("btrfs").args(arguments).arg(&store));
    };
    run(Command::new("btrfs")
        .args(["quota", "enable"])
        .arg(&disk.at));
    btrfs(&["subvolume", "create"]);
    btrfs(&["qgroup", "limit", "24M"]);

    let mut mount = Mount::builder()
        .store(&store)
        .words("sync-interval=0.2,rejected-limit=0")
        .start();
    mount.tolerate_warnings(); // the log is over quota too
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let mut there: Vec<Chunk> = Vec::new();
    let shows = |mount: &Mount, there: &[Chunk]| {
        let dataset = mount.path("run");
        assert_eq!(chunks_in(&dataset.join("data.npy")), there);
        let names: Vec<String> = there.iter().map(|it| it.name()).collect();
        assert_eq!(csv_names(&dataset), names);
    };
    let mut refused = Vec::new();
    for number in 0..2000 {
        let chunk = Chunk::new(0, number);
        match put_chunk(&dataset, chunk) {
            Ok(()) => there.push(chunk),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
                refused.push(chunk);
            }
        }
        if refused.len() == 5 {
            break;
        }
    }
    assert_eq!(refused.len(), 5, "the quota was never met");
    shows(&mount, &there);

    btrfs(&["qgroup", "limit", "none"]);
    for chunk in refused {
        put_chunk(&dataset, chunk).unwrap();
        there.push(chunk);
    }
    common::sync_path(&dataset).unwrap();
    shows(&mount, &there);
    let mount = mount.crash_and_remount();
    shows(&mount, &there);
    mount.finish();
    run(Command::new(npyfs()).arg("check").arg(&store));
}
