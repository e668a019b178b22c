//! One writing daemon a dataset: the others follow it, and take over when it is gone.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use common::{
    Chunk, Mount, Strace, chunks_in, csv_names, npyfs, put_chunk as put, refusal, sync_path,
};

/// Small ones of one producer.
fn small(producer: u64, from: u64, n: usize) -> Vec<Chunk> {
    (from..)
        .map(|number| Chunk::new(producer, number))
        .filter(|chunk| chunk.style() == common::Style::Small)
        .take(n)
        .collect()
}

fn put_all(dataset: &Path, chunks: &[Chunk]) {
    for chunk in chunks {
        put(dataset, *chunk).unwrap();
    }
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// What a mount shows of a dataset, all of it the same story.
#[track_caller]
fn assert_shows(dataset: &Path, chunks: &[Chunk]) {
    assert_eq!(chunks_in(&dataset.join("data.npy")), chunks);
    let names: Vec<String> = chunks.iter().map(|chunk| chunk.name()).collect();
    assert_eq!(csv_names(dataset), names);
    let mut listed: Vec<String> = fs::read_dir(dataset)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "data.npy")
        .collect();
    listed.sort();
    let mut sorted = names;
    sorted.sort();
    assert_eq!(listed, sorted);
    for chunk in chunks {
        assert_eq!(fs::read(dataset.join(chunk.name())).unwrap(), chunk.bytes());
    }
}

#[test]
fn the_second_daemon_follows_and_is_refused() {
    require!(fuse);
    let first = Mount::new();
    let second = Mount::builder().store(&first.store("")).start();
    second.expect_warning("being written by npyfs (pid ");
    fs::create_dir(first.path("run")).unwrap();
    let chunks = small(0, 0, 30);
    for (n, chunk) in chunks.iter().enumerate() {
        put(&first.path("run"), *chunk).unwrap();
        assert_shows(&second.path("run"), &chunks[..=n]);
    }
    let mine = small(1, 0, 1)[0];
    assert_eq!(errno(put(&second.path("run"), mine)), libc::EBUSY);
    assert_eq!(errno(put(&second.path("run"), chunks[0])), libc::EBUSY);
    // Other datasets are free.
    fs::create_dir(second.path("other")).unwrap();
    put(&second.path("other"), mine).unwrap();
    assert_shows(&first.path("other"), &[mine]);
    first.expect_warning("being written by npyfs (pid ");
    assert_eq!(errno(put(&first.path("other"), chunks[0])), libc::EBUSY);
    put(&first.path("run"), mine).unwrap();
    assert_shows(&second.path("run"), &[&chunks[..], &[mine]].concat());
}

#[test]
fn a_read_only_mount_follows_too() {
    require!(fuse);
    let store = tempfile::tempdir().unwrap();
    let first = Mount::builder().store(store.path()).start();
    fs::create_dir(first.path("run")).unwrap();
    let chunks = small(0, 0, 20);
    put(&first.path("run"), chunks[0]).unwrap();
    let second = Mount::builder().store(store.path()).words("ro").start();
    for (n, chunk) in chunks.iter().enumerate().skip(1) {
        put(&first.path("run"), *chunk).unwrap();
        assert_shows(&second.path("run"), &chunks[..=n]);
    }
    drop(first);
    assert_shows(&second.path("run"), &chunks);
    let third = Mount::builder().store(store.path()).start();
    let more = small(1, 0, 1)[0];
    put(&third.path("run"), more).unwrap();
    assert_shows(&second.path("run"), &[&chunks[..], &[more]].concat());
}

#[test]
fn a_follower_sees_renames_and_attributes() {
    require!(fuse);
    let first = Mount::new();
    let second = Mount::builder().store(&first.store("")).start();
    fs::create_dir(first.path("run")).unwrap();
    let chunks = small(0, 0, 3);
    put_all(&first.path("run"), &chunks);
    assert_shows(&second.path("run"), &chunks);
    fs::rename(
        first.path("run/").join(chunks[0].name()),
        first.path("run/renamed.npy"),
    )
    .unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(first.path("run/renamed.npy"), permissions).unwrap();
    let seen = fs::metadata(second.path("run/renamed.npy")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&seen) & 0o777, 0o640);
    sleep(Duration::from_millis(1100)); // names are cached for a second
    assert!(!second.path("run").join(chunks[0].name()).exists());
}

#[test]
fn the_second_writes_when_the_first_has_ended() {
    require!(fuse);
    for killed in [false, true] {
        let mut first = Mount::new();
        let second = Mount::builder().store(&first.store("")).start();
        fs::create_dir(first.path("run")).unwrap();
        let chunks = small(0, 0, 8);
        put_all(&first.path("run"), &chunks[..4]);
        second.expect_warning("being written by npyfs (pid ");
        assert_eq!(errno(put(&second.path("run"), chunks[4])), libc::EBUSY);
        // A reader that keeps its file and its mapping's file across the change of hands.
        let mut open = File::open(second.path("run/data.npy")).unwrap();
        let store = first.store("");
        if killed {
            first.crash();
        } else {
            first = first.remount();
        }
        put_all(&second.path("run"), &chunks[4..6]);
        assert_shows(&second.path("run"), &chunks[..6]);
        let mut seen = Vec::new();
        open.read_to_end(&mut seen).unwrap();
        let rows: u64 = chunks[..4].iter().map(|chunk| chunk.rows()).sum();
        assert_eq!(seen.len() as u64 % 64, rows * 32 % 64, "killed: {killed}");
        drop(open);
        // And back again, once the second has ended.
        if killed {
            drop(second);
            let third = Mount::builder().store(&store).start();
            put_all(&third.path("run"), &chunks[6..]);
            assert_shows(&third.path("run"), &chunks);
        } else {
            assert_shows(&first.path("run"), &chunks[..6]);
            first.expect_warning("being written by npyfs (pid ");
            assert_eq!(errno(put(&first.path("run"), chunks[6])), libc::EBUSY);
            drop(second);
            put_all(&first.path("run"), &chunks[6..]);
            assert_shows(&first.path("run"), &chunks);
        }
    }
}

/// The mapping of a follower goes to the same file as the later owner's.
#[test]
fn opens_from_before_and_after_a_takeover_live_together() {
    require!(fuse, python);
    let mut first = Mount::new();
    let second = Mount::builder().store(&first.store("")).start();
    fs::create_dir(first.path("run")).unwrap();
    let chunks = small(0, 0, 4);
    put_all(&first.path("run"), &chunks);
    let before = File::open(second.path("run/data.npy")).unwrap();
    first.crash();
    // Takes the lock, recovers, and changes no row.
    put(&second.path("run"), chunks[0]).unwrap();
    let after = common::python(
        "import numpy as np, sys; print(np.load(sys.argv[1], mmap_mode='r').shape[0])",
        &[second.path("run/data.npy")],
    );
    let rows: u64 = chunks.iter().map(|chunk| chunk.rows()).sum();
    assert_eq!(after.trim(), rows.to_string());
    drop(before);
}

#[test]
fn append_without_a_mount_is_refused_while_a_daemon_writes() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    let chunks = small(0, 0, 2);
    put(&mount.path("run"), chunks[0]).unwrap();
    let file = mount.scratch(chunks[1].name());
    fs::write(&file, chunks[1].bytes()).unwrap();
    let append = || {
        Command::new(npyfs())
            .arg("append")
            .args([mount.store("run"), file.clone()])
            .output_alone()
            .unwrap()
    };
    let output = append();
    let (code, _) = refusal(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(code, 8, "{said}");
    // It names the mount that it can be copied into.
    let mounted = mount.path("run").display().to_string();
    let holder = format!(
        "being written by npyfs (pid {}, mounted at {})",
        mount.pid(),
        mount.path("").display().to_string().trim_end_matches('/')
    );
    assert!(said.contains(&holder), "{said}");
    let log = fs::read_to_string(mount.store("run/.npyfs/log")).unwrap();
    assert!(log.contains(&holder), "{log}");
    assert!(
        said.contains(&format!("copy it into {mounted} instead")),
        "{said}"
    );
    let mount = mount.remount();
    // The new daemon has not written yet.
    let output = Command::new(npyfs())
        .arg("append")
        .args([mount.store("run"), mount.scratch(chunks[1].name())])
        .output_alone()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_shows(&mount.path("run"), &chunks);
}

#[test]
fn a_lock_file_that_nobody_holds_stops_nobody() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    fs::create_dir(mount.store("run/.npyfs")).unwrap();
    fs::write(mount.store("run/.npyfs/lock"), "12345\n").unwrap();
    put_all(&mount.path("run"), &small(0, 0, 2));
}

/// Looking whether a dataset is locked is not locking it.
#[test]
fn followers_and_checks_never_hold_the_lock() {
    require!(fuse);
    let mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    let chunks = small(0, 0, 120);
    let store = mount.store("");
    let stop = AtomicBool::new(false);
    scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let arguments = [store.as_os_str()];
                    // May find it empty or in the middle of a change.
                    Command::new(npyfs())
                        .arg("check")
                        .args(arguments)
                        .output_alone()
                        .unwrap();
                }
            });
        }
        // Each takes the lock anew.
        for chunk in &chunks[..40] {
            let file = mount.scratch(chunk.name());
            fs::write(&file, chunk.bytes()).unwrap();
            let output = Command::new(npyfs())
                .arg("append")
                .args([mount.store("run"), file])
                .output_alone()
                .unwrap();
            if !output.status.success() {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(output.status.success(), "{output:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_shows(&mount.path("run"), &chunks[..40]);
}

#[test]
fn an_fsync_through_a_follower_covers_the_writers_rows() {
    require!(fuse, root, strace);
    let first = Mount::new();
    let second = Mount::builder().store(&first.store("")).start();
    fs::create_dir(first.path("run")).unwrap();
    put_all(&first.path("run"), &small(0, 0, 3));
    let trace = second.scratch("trace");
    let strace = Strace::attach(second.pid(), "fdatasync,fsync", &[], &trace);
    sync_path(&second.path("run/data.npy")).unwrap();
    strace.detach();
    let traced = fs::read_to_string(trace).unwrap();
    for file in ["data.npy>", "chunks.log>"] {
        assert!(traced.contains(file), "no sync of {file}: {traced}");
    }
}

/// The directory of a dataset in which another daemon has begun a chunk looks empty from outside.
#[test]
fn a_directory_in_which_another_daemon_has_a_chunk_in_flight_is_not_removed() {
    require!(fuse);
    let first = Mount::new();
    let second = Mount::builder().store(&first.store("")).start();
    fs::create_dir(first.path("run")).unwrap();
    assert!(second.path("run").is_dir());
    let chunks = small(0, 0, 2);
    let bytes = chunks[0].bytes();
    let name = first.path("run").join(chunks[0].name());
    let mut in_flight = File::create(&name).unwrap();
    std::io::Write::write_all(&mut in_flight, &bytes[..200]).unwrap();
    second.expect_warning("rmdir run: EBUSY");
    assert_eq!(errno(fs::remove_dir(second.path("run"))), libc::EBUSY);
    std::io::Write::write_all(&mut in_flight, &bytes[200..]).unwrap();
    common::close_chunk(in_flight).unwrap();
    sync_path(&name).unwrap();
    assert_shows(&first.path("run"), &chunks[..1]);
    assert_shows(&second.path("run"), &chunks[..1]);
    second.expect_warning("rmdir run: ENOTEMPTY");
    assert_eq!(errno(fs::remove_dir(second.path("run"))), libc::ENOTEMPTY);
    // What nobody writes to can be removed by either.
    fs::create_dir(first.path("empty")).unwrap();
    assert!(second.path("empty").is_dir());
    fs::remove_dir(second.path("empty")).unwrap();
    put(&first.path("run"), chunks[1]).unwrap();
    assert_shows(&second.path("run"), &chunks);
}

/// One removes and makes the directory again and again, the other writes to it: a chunk whose close said
/// that it is there is there, as long as it is not removed, which a directory with rows never is.
#[test]
fn a_directory_that_is_removed_while_another_daemon_begins_to_write_loses_no_chunk() {
    require!(fuse);
    let mut first = Mount::new();
    let mut second = Mount::builder().store(&first.store("")).start();
    for mount in [&mut first, &mut second] {
        mount.tolerate_warnings();
        // Directories that the other one has removed.
        mount.allow_open("(deleted)");
    }
    let chunk = small(0, 0, 1)[0];
    for round in 0..30 {
        let name = format!("run{round}");
        fs::create_dir(first.path(&name)).unwrap();
        assert!(second.path(&name).is_dir());
        let (writes, removes) = (first.path(&name), second.path(&name));
        let (written, removed) = scope(|threads| {
            let removed = threads.spawn(|| fs::remove_dir(&removes));
            let written = threads.spawn(|| put(&writes, chunk));
            (written.join().unwrap(), removed.join().unwrap())
        });
        assert!(written.is_err() || removed.is_err(), "{round}: both went");
        if written.is_ok() {
            assert_eq!(chunks_in(&first.store(format!("{name}/data.npy"))), [chunk]);
        }
    }
}
