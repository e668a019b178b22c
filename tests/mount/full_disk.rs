//! A store that is full, or read-only for a while: nothing is half appended, nothing acknowledged
//! is lost, and work goes on when there is room again, with no remount.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread::scope;

use common::{
    Chunk, LoopMount, Mount, chunks_in, close_chunk as close, csv_names, inside_a_private_namespace,
};
use common::{npyfs, put_chunk as put, run};

const PRODUCERS: u64 = 4;

fn disk(scratch: &Path) -> LoopMount {
    let disk = LoopMount::make::<&str>(&scratch.join("disk"), "ext4", 64 << 20, &[]);
    fs::create_dir(disk.at.join("store")).unwrap();
    disk
}

#[track_caller]
fn assert_all(dataset: &Path, acknowledged: &[Chunk]) {
    let found = chunks_in(&dataset.join("data.npy"));
    let mut sorted = found.clone();
    sorted.sort();
    let mut expected = acknowledged.to_vec();
    expected.sort();
    assert!(sorted == expected, "{} of {}", sorted.len(), expected.len());
    let names: Vec<String> = found.iter().map(|chunk| chunk.name()).collect();
    assert_eq!(csv_names(dataset), names);
}

/// Producers that go on until an error; the errors are returned.
fn fill(dataset: &Path, from: u64, limit: u64, acknowledged: &Mutex<Vec<Chunk>>) -> Vec<i32> {
    let errors = Mutex::new(Vec::new());
    scope(|threads| {
        for producer in 0..PRODUCERS {
            let errors = &errors;
            threads.spawn(move || {
                for number in from..from + limit {
                    let chunk = Chunk::new(producer, number);
                    match put(dataset, chunk) {
                        Ok(()) => acknowledged.lock().unwrap().push(chunk),
                        Err(error) => {
                            errors.lock().unwrap().push(error.raw_os_error().unwrap());
                            return;
                        }
                    }
                }
            });
        }
    });
    errors.into_inner().unwrap()
}

#[test]
fn a_full_store_refuses_whole_chunks_and_goes_on_when_there_is_room() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace(
        "a_full_store_refuses_whole_chunks_and_goes_on_when_there_is_room",
    ) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = disk(scratch.path());
    let ballast = disk.at.join("ballast");
    fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let mut mount = Mount::builder()
        .store(&disk.at.join("store"))
        .words("sync-interval=0.2,rejected-limit=0")
        .start();
    mount.tolerate_warnings(); // the log cannot be written either
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..3 {
        let errors = fill(&dataset, 10_000 * round, 10_000, &acknowledged);
        assert_eq!(errors, [libc::ENOSPC; PRODUCERS as usize]);
        assert_all(&dataset, &acknowledged.lock().unwrap());
        assert_all_in_store(&mount.store("run/data.npy"), &acknowledged.lock().unwrap());
    }
    fs::remove_file(&ballast).unwrap();
    let errors = fill(&dataset, 50_000, 8, &acknowledged);
    assert!(errors.is_empty(), "{errors:?}");
    let acknowledged = acknowledged.into_inner().unwrap();
    assert_all(&dataset, &acknowledged);
    let mount = mount.crash_and_remount();
    assert_all(&mount.path("run"), &acknowledged);
    put(&mount.path("run"), Chunk::new(0, 60_000)).unwrap();
    let store = mount.store("");
    mount.finish();
    run(Command::new(npyfs()).arg("check").arg(store));
}

#[track_caller]
fn assert_all_in_store(data: &Path, acknowledged: &[Chunk]) {
    assert_eq!(chunks_in(data).len(), acknowledged.len());
}

#[test]
fn a_chunk_that_cannot_fit_fails_at_its_header() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace("a_chunk_that_cannot_fit_fails_at_its_header") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = disk(scratch.path());
    let mount = Mount::builder().store(&disk.at.join("store")).start();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    mount.expect_warning("no space in");
    let small = Chunk::new(0, 0);
    let dtype = "<u8".parse().unwrap();
    let head = npyfs::npy::Header::encode(&dtype, &[1 << 30, 4]).unwrap();
    // Once as the first chunk of all, once streaming, once while another streams.
    let first = dataset.join("first.npy");
    let file = File::create_new(&first).unwrap();
    let error = file.write_all_at(&head, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(close(file).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    put(&dataset, small).unwrap();
    let mut streaming = (1..).map(|n| Chunk::new(1, n));
    let streaming = streaming
        .find(|chunk| chunk.style() == common::Style::Streamed)
        .unwrap();
    let bytes = streaming.bytes();
    let half = File::create_new(dataset.join(streaming.name())).unwrap();
    half.write_all_at(&bytes[..1 << 20], 0).unwrap();
    for name in ["second.npy", "third.npy"] {
        let file = File::create_new(dataset.join(name)).unwrap();
        let error = file.write_all_at(&head, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{name}");
        close(file).unwrap_err();
    }
    half.write_all_at(&bytes[1 << 20..], 1 << 20).unwrap();
    close(half).unwrap();
    assert_all(&dataset, &[small, streaming]);
    let free = nix::sys::statvfs::statvfs(&disk.at).unwrap();
    let free = free.blocks_free() * free.fragment_size();
    assert!(
        free > 40 << 20,
        "space is still reserved: {free} bytes free"
    );
}

/// As the kernel leaves a filesystem that it found damaged: for good. That a store goes on when it
/// can be written again is shown in faults.rs, with EROFS from the daemon's own calls.
#[test]
fn a_store_that_became_read_only_is_an_errno_and_is_still_read() {
    require!(fuse, root, unshare);
    if !inside_a_private_namespace("a_store_that_became_read_only_is_an_errno_and_is_still_read") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = disk(scratch.path());
    let mut mount = Mount::builder()
        .store(&disk.at.join("store"))
        .words("sync-interval=0.2")
        .start();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let acknowledged = Mutex::new(Vec::new());
    assert!(fill(&dataset, 0, 20, &acknowledged).is_empty());
    let shut = Command::new("mount")
        .args(["-o", "remount,abort"])
        .arg(&disk.at)
        .output_alone()
        .unwrap();
    if !shut.status.success() {
        common::skip("this ext4 cannot be aborted");
        return;
    }
    for number in 100..103 {
        let error = put(&dataset, Chunk::new(0, number)).unwrap_err();
        let errno = error.raw_os_error().unwrap();
        assert!(matches!(errno, libc::EROFS | libc::EIO), "{error}");
    }
    assert_all(&dataset, &acknowledged.lock().unwrap());
    common::sync_path(&dataset.join("data.npy")).unwrap_err();
    // It could not close the store cleanly any more.
    mount.crash();
}
