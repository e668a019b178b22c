//! What is committed cannot be removed, unless the mount says `allow_delete`, and arrays only with
//! `allow_delete=all`.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Mount, counted, errno, npy, put, python_command, row_numbers, rows_of, run};
use nix::errno::Errno;

fn with_chunks(mount: Mount) -> (Mount, PathBuf) {
    let dataset = mount.path("ds");
    fs::create_dir(&dataset).unwrap();
    for n in 0..3 {
        put(&dataset.join(format!("{n}.npy")), &counted(n * 10, 10)).unwrap();
    }
    (mount, dataset)
}

fn deleting() -> (Mount, PathBuf) {
    with_chunks(Mount::builder().words("allow_delete=all").start())
}

/// The array, after the names of its chunks.
fn remove_array(dataset: &Path) {
    for n in 0..3 {
        fs::remove_file(dataset.join(format!("{n}.npy"))).unwrap();
    }
    fs::remove_file(dataset.join("data.npy")).unwrap();
}

fn names(dataset: &Path) -> Vec<String> {
    let entries = fs::read_dir(dataset).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn by_default_what_is_committed_stays() {
    require!(fuse);
    let (mount, dataset) = with_chunks(Mount::new());
    for name in ["0.npy", "data.npy"] {
        mount.expect_warning(&format!("unlink ds/{name}: EPERM"));
        assert_eq!(errno(fs::remove_file(dataset.join(name))), Errno::EPERM);
    }
    mount.expect_warning("rmdir ds: ENOTEMPTY");
    assert_eq!(errno(fs::remove_dir(&dataset)), Errno::ENOTEMPTY);
    for n in 1..3 {
        mount.expect_warning(&format!("unlink ds/{n}.npy: EPERM"));
    }
    let output = Command::new("rm").arg("-rf").arg(&dataset).output_alone();
    assert!(!output.unwrap().status.success());
    assert_eq!(rows_of(&dataset), (0..30).collect::<Vec<_>>());
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    assert!(
        log.contains("0.npy is committed and cannot be removed: its rows are part of data.npy")
    );
}

#[test]
fn rm_r_removes_a_dataset() {
    require!(fuse);
    let (mount, dataset) = deleting();
    fs::write(dataset.join("notes.txt"), "x").unwrap();
    fs::create_dir(dataset.join("inner")).unwrap();
    put(&dataset.join("inner/0.npy"), &counted(0, 3)).unwrap();
    run(Command::new("rm").arg("-r").arg(&dataset));
    assert!(!dataset.exists() && !mount.store("ds").exists());
    // The name is free for another array.
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("0.npy"), &npy("<f4", "(2,)", &[0; 8])).unwrap();
    let mount = mount.remount();
    let array = fs::read(mount.path("ds/data.npy")).unwrap();
    assert_eq!(array.len(), 128 + 8);
}

#[test]
fn every_way_to_remove_a_dataset_works() {
    require!(fuse, python);
    for script in [
        "rm -r $DS",
        "rm -rf $DS",
        "rm -f $DS/*; rmdir $DS",
        "find $DS -delete",
        // It begins with data.npy, which it may not remove then.
        "mkdir empty; for n in 1 2; do rsync -a --delete empty/ $DS/ && break; done; rmdir $DS",
        "$NPYFS_TEST_PYTHON -c 'import shutil, sys; shutil.rmtree(sys.argv[1])' $DS",
        "mv $DS gone; rm -r gone",
    ] {
        let (mount, dataset) = deleting();
        let python = python_command::<&str>("", &[]).get_program().to_owned();
        if script.contains("rsync") {
            mount.expect_warning("unlink ds/data.npy: EBUSY");
        }
        run(Command::new("bash")
            .args(["-ec", script])
            .current_dir(mount.scratch(""))
            .env("NPYFS_TEST_PYTHON", python)
            .env("DS", &dataset));
        assert!(!dataset.exists(), "{script}");
        assert!(!mount.store("ds").exists(), "{script}");
    }
}

#[test]
fn rm_r_removes_thousands_of_chunks() {
    require!(fuse);
    let (mount, dataset) = deleting();
    let chunk = counted(0, 1);
    for n in 10..12_000 {
        put(&dataset.join(format!("{n}.npy")), &chunk).unwrap();
    }
    run(Command::new("rm").arg("-r").arg(&dataset));
    assert!(!mount.store("ds").exists());
}

#[test]
fn a_removed_chunk_is_forgotten_and_its_rows_stay() {
    require!(fuse);
    let (mount, dataset) = deleting();
    let mut open = File::open(dataset.join("1.npy")).unwrap();
    fs::remove_file(dataset.join("1.npy")).unwrap();
    assert!(!dataset.join("1.npy").exists());
    assert_eq!(names(&dataset), ["0.npy", "2.npy", "data.npy"]);
    assert_eq!(rows_of(&dataset), (0..30).collect::<Vec<_>>());
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == counted(10, 10));
    drop(open);
    // The name is free; what comes under it is appended.
    put(&dataset.join("1.npy"), &counted(30, 5)).unwrap();
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    assert!(log.contains("1.npy forgotten; its rows stay"), "{log}");
    fs::remove_file(dataset.join("0.npy")).unwrap();
    let mount = mount.remount();
    let dataset = mount.path("ds");
    assert_eq!(rows_of(&dataset), (0..35).collect::<Vec<_>>());
    assert_eq!(names(&dataset), ["2.npy", "1.npy", "data.npy"]);
    assert!(fs::read(dataset.join("1.npy")).unwrap() == counted(30, 5));
    let mount = mount.crash_and_remount();
    assert_eq!(names(&mount.path("ds")), ["2.npy", "1.npy", "data.npy"]);
    run(Command::new(common::npyfs())
        .arg("check")
        .arg(mount.store("ds")));
}

#[test]
fn a_removed_array_is_kept_by_who_has_it_open() {
    require!(fuse, python);
    let (mount, dataset) = deleting();
    let script = r"
import sys, os, numpy as np
ds = sys.argv[1]
f = open(ds + '/data.npy', 'rb')
m = np.load(ds + '/data.npy', mmap_mode='r')
assert m[25, 3] == 25
for n in range(3):
    os.unlink(ds + f'/{n}.npy')
os.unlink(ds + '/data.npy')
assert not os.path.exists(ds + '/data.npy') and os.listdir(ds) == [], os.listdir(ds)
assert not os.path.exists(ds + '/0.npy')
np.save(ds + '/0.npy', np.ones((4, 2), 'f4'))
assert (np.load(ds + '/data.npy') == 1).all()
assert (m == np.arange(30)[:, None]).all()
assert (np.load(f) == m).all()
np.save(ds + '/x.npy', np.zeros((1, 2), 'f4'))
assert (m == np.arange(30)[:, None]).all() and len(np.load(ds + '/data.npy')) == 5
";
    common::python(script, &[&dataset]);
    let mount = mount.crash_and_remount();
    let array = fs::read(mount.path("ds/data.npy")).unwrap();
    assert_eq!(array.len(), 128 + 5 * 8);
    let mount = mount.remount();
    assert_eq!(names(&mount.path("ds")), ["0.npy", "x.npy", "data.npy"]);
    run(Command::new(common::npyfs())
        .arg("check")
        .arg(mount.store("ds")));
}

#[test]
fn an_empty_dataset_stays_empty_after_its_array_was_removed() {
    require!(fuse);
    let (mount, dataset) = deleting();
    remove_array(&dataset);
    assert_eq!(
        errno(fs::remove_file(dataset.join("data.npy"))),
        Errno::ENOENT
    );
    let mount = mount.remount();
    assert!(names(&mount.path("ds")).is_empty());
    let mount = mount.crash_and_remount();
    assert!(names(&mount.path("ds")).is_empty());
    assert!(!mount.store("ds/data.npy").exists());
    fs::remove_dir(mount.path("ds")).unwrap();
}

#[test]
fn a_removal_that_a_crash_interrupted_is_finished() {
    require!(fuse);
    let (mut mount, dataset) = deleting();
    put(&dataset.join("more.npy"), &counted(30, 5)).unwrap();
    mount.crash();
    // The rename has decided it; the journal still tells of the rows.
    fs::rename(
        mount.store("ds/data.npy"),
        mount.store("ds/.npyfs/data.npy.removed"),
    )
    .unwrap();
    let store = mount.store("");
    let copy = mount.scratch("copy");
    run(Command::new("cp").arg("-a").arg(&store).arg(&copy));
    // Whoever only reads sees an empty dataset too, and changes nothing.
    let reader = Mount::builder().store(&copy).words("ro").start();
    assert!(names(&reader.path("ds")).is_empty());
    reader.finish();
    assert!(copy.join("ds/.npyfs/data.npy.removed").exists());
    let writer = Mount::builder()
        .store(&copy)
        .words("allow_delete=all")
        .start();
    assert!(names(&writer.path("ds")).is_empty());
    put(&writer.path("ds/0.npy"), &npy("<f4", "(2,)", &[0; 8])).unwrap();
    assert!(!copy.join("ds/.npyfs/data.npy.removed").exists());
    let writer = writer.crash_and_remount();
    assert_eq!(names(&writer.path("ds")), ["0.npy", "data.npy"]);
}

#[test]
fn chunks_in_flight_survive_the_removal_of_the_array() {
    require!(fuse);
    let (mount, dataset) = deleting();
    let big = counted(100, 30_000);
    let small = counted(50, 10);
    let write = |name: &str, bytes: &[u8]| {
        let file = File::create(dataset.join(name)).unwrap();
        std::io::Write::write_all(&mut &file, bytes).unwrap();
        file
    };
    let streaming = write("big.npy", &big[..2_000_000]);
    let collecting = write("small.npy", &small[..500]);
    remove_array(&dataset);
    std::io::Write::write_all(&mut &streaming, &big[2_000_000..]).unwrap();
    std::io::Write::write_all(&mut &collecting, &small[500..]).unwrap();
    common::close(streaming).unwrap();
    common::close(collecting).unwrap();
    let array = fs::read(dataset.join("data.npy")).unwrap();
    let rows: Vec<u64> = (100..30_100).chain(50..60).collect();
    assert!(row_numbers(&array) == rows);
    let mount = mount.remount();
    assert_eq!(rows_of(&mount.path("ds")).len(), 30_010);
}
