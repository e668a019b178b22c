//! P13: nothing that was accepted is lost in silence. What an fsync had confirmed, and rows that
//! recovery sets aside, no limit removes; what a limit removes or does not keep, the log tells.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Mount, User, array_of, close, counted, errno, eventually, kept, kill, parked, put, rows_of,
    with_dict,
};
use nix::errno::Errno;
use npyfs::{Dataset, Options};

fn with_dataset(words: &str) -> (Mount, PathBuf) {
    let mut mount = Mount::builder().words(words).start();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

fn log(mount: &Mount) -> String {
    fs::read_to_string(mount.store("run/.npyfs/log")).unwrap_or_default()
}

fn fsync(file: &File) {
    nix::unistd::fsync(file).unwrap();
}

/// A header of this many rows of 16 numbers, and the first rows of them.
fn part(of: u64, rows: u64) -> Vec<u8> {
    let mut bytes = with_dict(&format!(
        "{{'descr': '<i8', 'fortran_order': False, 'shape': ({of}, 16), }}"
    ));
    bytes.extend_from_slice(&counted(0, rows)[128..]);
    bytes
}

#[track_caller]
fn has_rows(path: &Path, rows: u64) {
    let (header, body) = array_of(path);
    assert_eq!(header.rows(), rows, "{}", path.display());
    assert!(body == counted(0, rows)[128..]);
}

#[test]
fn an_unfinished_chunk_that_was_fsynced_is_kept_whatever_the_limit_is() {
    require!(fuse);
    // In memory, streamed, and staged.
    for (of, rows) in [(300, 100), (20_000, 10_000)] {
        let (mount, dataset) = with_dataset("rejected_limit=1K");
        put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
        let mut file = File::create(dataset.join("long.npy")).unwrap();
        file.write_all(&part(of, rows)).unwrap();
        fsync(&file);
        assert_eq!(errno(close(file)), Errno::EINVAL);
        let [only] = &kept(&dataset, "rescued")[..] else {
            panic!("{}", log(&mount));
        };
        has_rows(only, rows);
        let name = only.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with("-long.npy"), "{name}");
        assert!(log(&mount).contains(&format!("is kept as .npyfs/rescued/{name}")));
        // Refusals that come after remove nothing of it.
        put(&dataset.join("bad.npy"), &part(50, 10)).unwrap_err();
        assert_eq!(kept(&dataset, "rescued").len(), 1);
        assert_eq!(rows_of(&dataset), [0]);
    }
}

#[test]
fn a_producer_that_is_killed_after_its_fsync_leaves_what_was_confirmed() {
    require!(fuse, python);
    let (mount, dataset) = with_dataset("rejected_limit=1M");
    let source = mount.scratch("part");
    fs::write(&source, part(20_000, 10_000)).unwrap();
    let script = "import os, sys, time
f = open(sys.argv[2], 'wb')
f.write(open(sys.argv[1], 'rb').read())
f.flush()
os.fsync(f.fileno())
open(sys.argv[3], 'w').close()
time.sleep(60)";
    let ready = mount.scratch("ready");
    let mut command =
        common::python_command(script, &[source, dataset.join("long.npy"), ready.clone()]);
    let mut producer = parked(&mut command);
    assert!(eventually(std::time::Duration::from_secs(20), || ready.exists()));
    kill(producer.child().id().cast_signed(), "KILL");
    producer.child().wait().unwrap();
    let there = eventually(std::time::Duration::from_secs(20), || {
        !kept(&dataset, "rescued").is_empty()
    });
    assert!(there, "{}", log(&mount));
    has_rows(&kept(&dataset, "rescued")[0], 10_000);
}

#[test]
fn what_was_confirmed_of_a_chunk_in_flight_survives_the_daemon() {
    require!(fuse);
    for (of, rows) in [(300, 100), (20_000, 10_000)] {
        let (mut mount, dataset) = with_dataset("rejected_limit=0");
        put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
        let mut file = File::create(dataset.join("long.npy")).unwrap();
        file.write_all(&part(of, rows)).unwrap();
        fsync(&file);
        mount.crash();
        drop(file);
        let mut mount = mount.remount();
        mount.tolerate_warnings();
        let dataset = mount.path("run");
        put(&dataset.join("second.npy"), &counted(1, 1)).unwrap();
        assert_eq!(rows_of(&dataset), [0, 1]);
        let [only] = &kept(&dataset, "rescued")[..] else {
            panic!("{}", log(&mount));
        };
        has_rows(only, rows);
        let log = log(&mount);
        assert!(
            log.contains("long.npy was being written when the daemon died"),
            "{log}"
        );
    }
}

#[test]
fn an_fsynced_chunk_that_is_finished_is_committed_and_leaves_nothing_behind() {
    require!(fuse);
    let (_mount, dataset) = with_dataset("");
    for rows in [100_u64, 20_000] {
        let first = rows_of(&dataset).len() as u64;
        let bytes = counted(first, rows);
        let mut file = File::create(dataset.join(format!("{rows}.npy"))).unwrap();
        for piece in bytes.chunks(bytes.len() / 3) {
            file.write_all(piece).unwrap();
            fsync(&file);
        }
        close(file).unwrap();
    }
    assert_eq!(rows_of(&dataset), (0..20_100).collect::<Vec<_>>());
    assert!(kept(&dataset, "rescued").is_empty());
}

#[test]
fn a_name_that_is_taken_over_does_not_take_what_was_confirmed_with_it() {
    require!(fuse);
    let (mount, dataset) = with_dataset("rejected_limit=0");
    let path = dataset.join("a.npy");
    let file = File::create(&path).unwrap();
    file.write_all_at(&part(300, 100), 0).unwrap();
    fsync(&file);
    file.set_len(0).unwrap();
    file.write_all_at(&counted(0, 2), 0).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), [0, 1]);
    let [only] = &kept(&dataset, "rescued")[..] else {
        panic!("{}", log(&mount));
    };
    has_rows(only, 100);
}

fn options(boot: u8) -> Options {
    Options {
        boot: Some([boot; 16]),
        rejected_limit: 4000,
        ..Options::default()
    }
}

/// What a power cut left: 10 rows that are recorded, and 10 of which only the header tells.
fn with_rows_without_record() -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(store.path(), options(1)).unwrap();
    dataset.append("a.npy", &counted(0, 10)).unwrap();
    dataset.sync().unwrap();
    let journal = store.path().join(".npyfs/chunks.log");
    let before = fs::metadata(&journal).unwrap().len();
    dataset.append("b.npy", &counted(10, 10)).unwrap();
    std::mem::forget(dataset);
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join(".npyfs")).unwrap();
    for name in ["data.npy", ".npyfs/chunks.log"] {
        fs::copy(store.path().join(name), copy.path().join(name)).unwrap();
    }
    let journal = OpenOptions::new()
        .write(true)
        .open(copy.path().join(".npyfs/chunks.log"));
    journal.unwrap().set_len(before).unwrap();
    copy
}

#[test]
fn rows_that_recovery_sets_aside_outlive_any_number_of_refusals() {
    let store = with_rows_without_record();
    let dataset = Dataset::open(store.path(), options(2)).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 10);
    for n in 0..10 {
        let short = &counted(0, 50)[..3000];
        dataset.append(format!("{n}.npy"), short).unwrap_err();
    }
    let [only] = &kept(store.path(), "rescued")[..] else {
        panic!("not one file");
    };
    assert!(fs::read(only).unwrap() == counted(10, 10));
    assert!(only.to_str().unwrap().ends_with("-rows-without-record.npy"));
}

#[test]
fn rows_that_cannot_be_set_aside_are_not_cut() {
    let store = with_rows_without_record();
    let in_the_way = store.path().join(".npyfs/rescued");
    fs::write(&in_the_way, "in the way").unwrap();
    let data = || fs::read(store.path().join("data.npy")).unwrap();
    let before = data();
    let error = Dataset::open(store.path(), options(2)).unwrap_err();
    assert!(error.to_string().contains(".npyfs/rescued"), "{error}");
    assert!(data() == before);
    fs::remove_file(&in_the_way).unwrap();
    let dataset = Dataset::open(store.path(), options(2)).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 10);
    assert_eq!(kept(store.path(), "rescued").len(), 1);
}

#[test]
fn a_confirmed_chunk_that_cannot_be_rescued_stays_where_it_is() {
    require!(fuse);
    let (mut mount, dataset) = with_dataset("");
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    let mut file = File::create(dataset.join("long.npy")).unwrap();
    file.write_all(&part(300, 100)).unwrap();
    fsync(&file);
    mount.crash();
    drop(file);
    fs::write(mount.store("run/.npyfs/rescued"), "in the way").unwrap();
    let mut mount = mount.remount();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    let left = || fs::read_dir(mount.store("run/.npyfs/incoming")).unwrap();
    put(&dataset.join("second.npy"), &counted(1, 1)).unwrap_err();
    assert_eq!(left().count(), 1);
    fs::remove_file(mount.store("run/.npyfs/rescued")).unwrap();
    put(&dataset.join("second.npy"), &counted(1, 1)).unwrap();
    assert_eq!(left().count(), 0);
    has_rows(&kept(&dataset, "rescued")[0], 100);
}

#[test]
fn refused_bytes_load_and_the_log_tells_of_what_is_removed_and_not_kept() {
    require!(fuse);
    let (mount, dataset) = with_dataset("rejected_limit=20K");
    for (n, rows) in [(0, 100), (1, 101), (2, 300)] {
        put(&dataset.join(format!("{n}.npy")), &part(20_000, rows)).unwrap_err();
    }
    let [only] = &kept(&dataset, "rejected")[..] else {
        panic!("{}", log(&mount));
    };
    has_rows(only, 101);
    let log = log(&mount);
    assert!(
        log.contains("-0.npy was removed from .npyfs/rejected"),
        "{log}"
    );
    assert!(
        log.contains("2.npy: its 38528 bytes are not kept: rejected_limit is 20480"),
        "{log}"
    );
}

#[test]
fn what_is_rescued_is_its_producers_who_may_remove_it() {
    require!(fuse, root, python);
    let mut mount = Mount::builder()
        .words("allow_other,rejected_limit=0")
        .start();
    mount.tolerate_warnings();
    let user = User::ordinary();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    std::os::unix::fs::chown(&dataset, Some(user.uid), Some(user.gid)).unwrap();
    let source = mount.scratch("part");
    fs::write(&source, part(300, 100)).unwrap();
    let mut dd = user.command("dd");
    let done = common::output_of(
        dd.arg(format!("if={}", source.display()))
            .arg(format!("of={}", dataset.join("mine.npy").display()))
            .args(["conv=fsync", "status=none"]),
    );
    assert!(!done.unwrap().status.success());
    let [only] = &kept(&dataset, "rescued")[..] else {
        panic!("{}", log(&mount));
    };
    assert_eq!(only.metadata().unwrap().uid(), user.uid);
    let mut rm = user.command("rm");
    common::run(rm.arg("-f").arg(only));
    assert!(kept(&dataset, "rescued").is_empty());
}

#[test]
fn salvage_lists_copies_and_removes_what_is_kept() {
    require!(fuse);
    let (mount, dataset) = with_dataset("");
    put(&dataset.join("bad.npy"), &part(50, 10)).unwrap_err();
    let mut file = File::create(dataset.join("long.npy")).unwrap();
    file.write_all(&part(300, 100)).unwrap();
    fsync(&file);
    close(file).unwrap_err();
    let salvage = |arguments: &[&str], dataset: &Path| {
        let mut command = Command::new(common::npyfs());
        common::output_of(command.arg("salvage").arg(dataset).args(arguments)).unwrap()
    };
    // By way of the mount, and from the store.
    for dataset in [&dataset, &mount.store("run")] {
        let said = String::from_utf8(salvage(&[], dataset).stdout).unwrap();
        assert!(said.contains("-bad.npy: 10 rows, shape (10, 16)"), "{said}");
        assert!(
            said.contains("-long.npy: 100 rows, shape (100, 16)"),
            "{said}"
        );
    }
    let to = mount.scratch("salvaged");
    let words = ["--to", to.to_str().unwrap(), "--remove"];
    assert!(salvage(&words[..2], &dataset).status.success());
    let copied = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let copied: Vec<_> = copied.collect();
    assert_eq!(copied.len(), 2);
    for path in &copied {
        let rows = if path.to_str().unwrap().ends_with("-bad.npy") {
            10
        } else {
            100
        };
        has_rows(path, rows);
    }
    // What is there already counts as copied, nothing else is written over, and what was not copied
    // is not removed.
    let again = salvage(&words[..2], &dataset);
    assert!(again.status.success(), "{again:?}");
    fs::write(&copied[0], "other").unwrap();
    let again = salvage(&words, &dataset);
    assert_eq!(again.status.code(), Some(8), "{again:?}");
    let left = || kept(&dataset, "rescued").len() + kept(&dataset, "rejected").len();
    assert_eq!(left(), 1);
    assert_eq!(fs::read(&copied[0]).unwrap(), b"other");
    fs::remove_dir_all(&to).unwrap();
    let moved = salvage(&words, &dataset);
    assert!(moved.status.success(), "{moved:?}");
    assert_eq!((left(), fs::read_dir(&to).unwrap().count()), (0, 1));
    let none = salvage(&["--list"], &dataset);
    assert!(none.status.success() && none.stdout.is_empty());
    assert_eq!(salvage(&[], &mount.store("")).status.code(), Some(4));
}

/// An earlier version kept them beside refused bytes.
#[test]
fn rows_that_an_earlier_version_set_aside_are_not_removed_by_a_refusal() {
    require!(fuse);
    let (mount, dataset) = with_dataset("rejected_limit=1K");
    let rejected = mount.store("run/.npyfs/rejected");
    fs::create_dir_all(&rejected).unwrap();
    let rows = rejected.join("20250101T000000.000000Z-000-rows-without-record.npy");
    fs::write(&rows, counted(0, 20)).unwrap();
    for n in 0..4 {
        let path = dataset.join(format!("{n}.npy"));
        put(&path, &counted(0, 40)[..700]).unwrap_err();
    }
    assert!(fs::read(&rows).unwrap() == counted(0, 20));
    // A chunk of that name has no such right.
    for _ in 0..4 {
        put(
            &dataset.join("rows-without-record.npy"),
            &counted(0, 40)[..700],
        )
        .unwrap_err();
    }
    assert_eq!(kept(&dataset, "rejected").len(), 2);
}
