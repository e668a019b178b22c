//! P13: what a producer had written of a chunk when its daemon died is kept, as far as it lay in a file
//! of its own, and the log tells of each chunk.

use crate::common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Mount, User, array_of, counted, kept, put, rows_of, wait_until_stored, with_dict};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use npyfs::{Dataset, Options};

fn with_dataset(words: &str) -> (Mount, PathBuf) {
    let mut mount = Mount::builder().words(words).start();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    (mount, dataset)
}

/// Kills the daemon, and the next one recovers the dataset.
fn killed(mut mount: Mount) -> (Mount, PathBuf) {
    mount.crash();
    let mut mount = mount.remount();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    fs::read(dataset.join("data.npy")).unwrap();
    (mount, dataset)
}

fn log(mount: &Mount) -> String {
    fs::read_to_string(mount.store("run/.npyfs/log")).unwrap_or_default()
}

/// The bytes of the chunk's name in that of the file which keeps it.
fn chunk_of(path: &Path) -> &[u8] {
    let name = path.file_name().unwrap().as_bytes();
    let at = name.iter().enumerate().filter(|it| *it.1 == b'-').nth(1);
    &name[at.unwrap().0 + 1..]
}

/// A header of this many rows of 16 numbers, and the first rows of them.
fn part(of: u64, rows: u64) -> Vec<u8> {
    let mut bytes = with_dict(&format!(
        "{{'descr': '<i8', 'fortran_order': False, 'shape': ({of}, 16), }}"
    ));
    bytes.extend_from_slice(&counted(0, rows)[128..]);
    bytes
}

/// Begins a chunk whose bytes do not come front to back, so that they lie in a file.
fn begin(path: &Path, of: u64, rows: u64) -> File {
    let file = File::create(path).unwrap();
    let bytes = part(of, rows);
    file.write_all_at(&bytes[200..], 200).unwrap();
    file.write_all_at(&bytes[..200], 0).unwrap();
    wait_until_stored(&file);
    file
}

#[track_caller]
fn has_rows(path: &Path, rows: u64) {
    let (header, body) = array_of(path);
    assert_eq!(header.rows(), rows, "{}", path.display());
    assert!(body == counted(0, rows)[128..]);
}

fn salvage(dataset: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(common::npyfs());
    command.arg("salvage").arg(dataset).args(arguments);
    let output = common::output_of(&mut command).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_killed_daemon_leaves_what_was_fsynced_and_what_was_only_written() {
    require!(fuse);
    let (mut mount, dataset) = with_dataset("");
    let mut fsynced = File::create(dataset.join("fsynced.npy")).unwrap();
    fsynced.write_all(&part(300, 100)).unwrap();
    nix::unistd::fsync(&fsynced).unwrap();
    let written = begin(&dataset.join("written.npy"), 300, 50);
    let empty = File::create(dataset.join("empty.npy")).unwrap();
    mount.crash();
    drop((fsynced, written, empty));
    let mut mount = mount.remount();
    mount.tolerate_warnings();
    // Nothing has opened the dataset yet.
    let dataset = mount.path("run");
    let said = salvage(&dataset, &["--list"]);
    let told = |name: &str, rows: u64| format!("-{name}: {rows} rows, shape ({rows}, 16)");
    assert!(said.contains(&told("fsynced.npy", 100)), "{said}");
    assert!(said.contains(&told("written.npy", 50)), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    let [rescued] = &kept(&dataset, "rescued")[..] else {
        panic!("{}", log(&mount));
    };
    has_rows(rescued, 100);
    let [rejected] = &kept(&dataset, "rejected")[..] else {
        panic!("{}", log(&mount));
    };
    has_rows(rejected, 50);
    let log = log(&mount);
    let name = rejected.file_name().unwrap().to_str().unwrap();
    for line in [
        format!("written.npy was being written when the daemon died: 6528 bytes of it are kept as .npyfs/rejected/{name}\n"),
        "fsynced.npy was being written when the daemon died: its 12928 bytes, up to the last fsync at least, are kept as .npyfs/rescued/".into(),
    ] {
        assert!(log.contains(&line), "no '{line}' in\n{log}");
    }
    assert!(!log.contains("empty.npy"), "{log}");
    assert_eq!(kept(&mount.store("run"), "incoming"), [] as [PathBuf; 0]);
    let to = mount.scratch("salvaged");
    salvage(&dataset, &["--to", to.to_str().unwrap(), "--remove"]);
    assert_eq!(fs::read_dir(to).unwrap().count(), 2);
    assert_eq!(rows_of(&dataset), [0]);
    // The names are free.
    put(&dataset.join("written.npy"), &counted(1, 1)).unwrap();
}

#[test]
fn a_daemon_that_waits_beside_the_one_that_dies_finds_what_that_had_received() {
    require!(fuse);
    let (mut mount, dataset) = with_dataset("");
    let fsynced = begin(&dataset.join("fsynced.npy"), 300, 100);
    nix::unistd::fsync(&fsynced).unwrap();
    let written = begin(&dataset.join("written.npy"), 300, 50);
    let mut second = Mount::builder().store(&mount.store("")).start();
    second.tolerate_warnings();
    let beside = second.path("run");
    assert_eq!(rows_of(&beside), [0]);
    // By no process of another program, which would wait for this daemon as it closes our descriptors.
    let signal = |signal| nix::sys::signal::kill(Pid::from_raw(mount.pid()), signal).unwrap();
    signal(Signal::SIGSTOP);
    put(&beside.join("more.npy"), &counted(1, 1)).unwrap_err();
    signal(Signal::SIGKILL);
    mount.crash();
    drop((fsynced, written));
    put(&beside.join("more.npy"), &counted(1, 1)).unwrap();
    assert_eq!(rows_of(&beside), [0, 1]);
    has_rows(&kept(&beside, "rescued")[0], 100);
    has_rows(&kept(&beside, "rejected")[0], 50);
}

#[test]
fn a_chunk_that_was_moved_out_of_the_tail_is_kept() {
    require!(fuse);
    let (mount, dataset) = with_dataset("");
    let mut file = File::create(dataset.join("long.npy")).unwrap();
    let bytes = part(40_000, 20_000);
    file.write_all(&bytes[..bytes.len() / 2]).unwrap();
    // Takes the place of all its rows, also of those that are still to come.
    put(&dataset.join("other.npy"), &counted(1, 40_000)).unwrap();
    file.write_all(&bytes[bytes.len() / 2..]).unwrap();
    wait_until_stored(&file);
    let (mount, dataset) = killed(mount);
    drop(file);
    let [only] = &kept(&dataset, "rejected")[..] else {
        panic!("{}", log(&mount));
    };
    has_rows(only, 20_000);
    assert_eq!(rows_of(&dataset).len(), 40_001);
}

#[test]
fn the_beginning_of_a_chunk_that_is_moved_out_of_the_tail_does_not_pass_for_it() {
    require!(fuse);
    let (mount, dataset) = with_dataset("");
    let mut file = File::create(dataset.join("long.npy")).unwrap();
    let bytes = part(40_000, 20_000);
    file.write_all(&bytes).unwrap();
    put(&dataset.join("small.npy"), &counted(1, 1)).unwrap();
    assert_eq!(kept(&mount.store("run"), "incoming").len(), 1);
    let (mount, dataset) = killed(mount);
    drop(file);
    assert!(kept(&dataset, "rejected").is_empty());
    let line = "long.npy was being written when the daemon died: what came of it is not kept";
    assert!(log(&mount).contains(line), "{}", log(&mount));
    assert_eq!(rows_of(&dataset), [0, 1]);
}

#[test]
fn rows_in_another_order_do_not_pass_for_a_chunk() {
    require!(fuse);
    let (mount, dataset) = with_dataset("");
    // Transposed in bands, where a share of the memory does not hold all of it.
    let rows = 300_000_u64;
    let mut bytes = with_dict(&format!(
        "{{'descr': '<i8', 'fortran_order': True, 'shape': ({rows}, 16), }}"
    ));
    bytes.extend((0..rows * 8).flat_map(u64::to_le_bytes));
    let mut file = File::create(dataset.join("fortran.npy")).unwrap();
    let half = bytes.len() / 2;
    file.write_all(&bytes[..half]).unwrap();
    put(&dataset.join("small.npy"), &counted(1, 1)).unwrap();
    for piece in bytes[half..].chunks(1 << 20) {
        file.write_all(piece).unwrap();
    }
    let in_a_file = kept(&mount.store("run"), "incoming");
    assert_eq!(in_a_file.len(), 1, "it was not displaced");
    let (mount, dataset) = killed(mount);
    drop(file);
    assert!(kept(&dataset, "rejected").is_empty());
    let line = "fortran.npy was being written when the daemon died: what came of it is not kept";
    assert!(log(&mount).contains(line), "{}", log(&mount));
}

#[test]
fn names_of_any_bytes_are_kept_with_the_end_of_long_ones() {
    require!(fuse);
    let (mount, dataset) = with_dataset("");
    let long = [&[b'l'; 251][..], b".npy"].concat();
    let names: [&[u8]; 4] = [
        b"a+b~c-d e.npy",
        b"\xff\n\x01.npy",
        "\u{e9}.npy".as_bytes(),
        &long,
    ];
    let open: Vec<File> = names
        .iter()
        .map(|name| begin(&dataset.join(OsStr::from_bytes(name)), 300, 50))
        .collect();
    // Confirmed under such names too.
    for file in &open[..2] {
        nix::unistd::fsync(file).unwrap();
    }
    let (mount, dataset) = killed(mount);
    drop(open);
    let found = |directory| -> Vec<Vec<u8>> {
        let files = kept(&dataset, directory);
        files.iter().for_each(|path| has_rows(path, 50));
        files.iter().map(|path| chunk_of(path).to_vec()).collect()
    };
    assert_eq!(found("rescued"), names[..2], "{}", log(&mount));
    let [accented, end] = &found("rejected")[..] else {
        panic!("{}", log(&mount));
    };
    assert_eq!(accented, names[2]);
    assert!(end.len() > 200 && long.ends_with(end));
}

#[test]
fn it_belongs_to_its_producer_also_where_its_mode_changed_in_flight() {
    require!(fuse, root);
    let (mount, dataset) = with_dataset("allow_other");
    let user = User::ordinary();
    let staged = begin(&dataset.join("staged.npy"), 300, 50);
    let mut streamed = File::create(dataset.join("streamed.npy")).unwrap();
    let bytes = part(40_000, 20_000);
    streamed.write_all(&bytes[..bytes.len() / 2]).unwrap();
    for name in ["staged.npy", "streamed.npy"] {
        let path = dataset.join(name);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o440)).unwrap();
        chown(&path, Some(user.uid), Some(user.gid)).unwrap();
    }
    put(&dataset.join("other.npy"), &counted(1, 40_000)).unwrap();
    streamed.write_all(&bytes[bytes.len() / 2..]).unwrap();
    let (mount, dataset) = killed(mount);
    drop((staged, streamed));
    let kept = kept(&dataset, "rejected");
    assert_eq!(kept.len(), 2, "{}", log(&mount));
    for path in kept {
        let stat = path.metadata().unwrap();
        let shown = (stat.uid(), stat.gid(), stat.mode() & 0o7777);
        assert_eq!(shown, (user.uid, user.gid, 0o440), "{}", path.display());
    }
}

/// A daemon of an ordinary user may not open its own file against that file's mode.
#[test]
fn what_its_owner_may_not_write_is_kept_too() {
    require!(fuse, root, fusermount3);
    let user = User::ordinary();
    let mut mount = Mount::builder().user(user).start();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    common::run(user.command("mkdir").arg(&dataset));
    let part_file = mount.scratch("part");
    fs::write(&part_file, part(300, 50)).unwrap();
    let python = "import os, sys
os.umask(0)
part = open(sys.argv[2], 'rb').read()
files = []
for name in ('fsynced.npy', 'written.npy'):
    fd = os.open(os.path.join(sys.argv[1], name), os.O_CREAT | os.O_WRONLY, 0o444)
    os.pwrite(fd, part[200:], 200)
    os.pwrite(fd, part[:200], 0)
    files.append(fd)
os.fsync(files[0])
print('ready', flush=True)
sys.stdin.read()";
    let mut command = user.command("python3");
    command
        .args(["-c", python])
        .args([&dataset, &part_file])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut producer = common::parked(&mut command);
    let mut line = String::new();
    let out = producer.child().stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    mount.crash();
    drop(producer);
    let mut mount = mount.remount();
    mount.tolerate_warnings();
    let dataset = mount.path("run");
    common::run(user.command("ls").arg(&dataset));
    let store = mount.store("run");
    for directory in ["rescued", "rejected"] {
        let [only] = &kept(&store, directory)[..] else {
            panic!("{directory}: {}", log(&mount));
        };
        has_rows(only, 50);
        let stat = only.metadata().unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (user.uid, 0o444));
    }
}

#[test]
fn the_limit_takes_the_oldest_and_the_log_tells_of_each() {
    require!(fuse);
    let (mount, dataset) = with_dataset("rejected_limit=20K");
    let open: Vec<File> = [("a", 50), ("b", 60), ("c", 61), ("too-long", 300)]
        .map(|(name, rows)| begin(&dataset.join(format!("{name}.npy")), 400, rows))
        .into();
    let (mount, dataset) = killed(mount);
    drop(open);
    let kept = kept(&dataset, "rejected");
    let names: Vec<&[u8]> = kept.iter().map(|path| chunk_of(path)).collect();
    assert_eq!(names, [b"b.npy", b"c.npy"], "{}", log(&mount));
    let log = log(&mount);
    assert!(
        log.contains("-a.npy was removed from .npyfs/rejected to make room"),
        "{log}"
    );
    let line = "too-long.npy was being written when the daemon died: its 38528 bytes are not kept: rejected_limit is 20480 bytes";
    assert!(log.contains(line), "{log}");
}

fn options() -> Options {
    Options {
        boot: Some([1; 16]),
        ..Options::default()
    }
}

/// A dataset as a daemon that died has left it, with these files in `incoming/`.
fn left(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(store.path(), options()).unwrap();
    dataset.append("whole.npy", &counted(0, 10)).unwrap();
    dataset.close().unwrap();
    let incoming = store.path().join(".npyfs/incoming");
    fs::create_dir_all(&incoming).unwrap();
    for (name, bytes) in files {
        fs::write(incoming.join(name), bytes).unwrap();
    }
    store
}

#[test]
fn the_names_of_earlier_versions_are_understood() {
    let bytes = part(300, 50);
    let store = left(&[
        ("4-0", &bytes),
        ("4-1+old+er.npy", &bytes),
        ("5-0-new+er.npy", &bytes),
    ]);
    let dataset = Dataset::open(store.path(), options()).unwrap();
    dataset.acquire().unwrap();
    for (directory, name) in [("rescued", "old+er.npy"), ("rejected", "new+er.npy")] {
        let [only] = &kept(store.path(), directory)[..] else {
            panic!("{directory}");
        };
        assert_eq!(chunk_of(only), name.as_bytes());
        has_rows(only, 50);
    }
    let log = fs::read_to_string(store.path().join(".npyfs/log")).unwrap();
    assert!(
        log.contains("dropped 1 files of .npyfs/incoming with 6528 bytes"),
        "{log}"
    );
    assert!(kept(store.path(), "incoming").is_empty());
}

#[test]
fn what_was_committed_after_all_is_not_kept_a_second_time() {
    let whole = counted(0, 10);
    let other = counted(5, 10);
    let store = left(&[
        ("4-0-whole.npy", &whole),
        ("4-1+whole.npy", &whole),
        ("4-2-whole.npy", &other),
    ]);
    let dataset = Dataset::open(store.path(), options()).unwrap();
    dataset.acquire().unwrap();
    assert!(kept(store.path(), "rescued").is_empty());
    let [only] = &kept(store.path(), "rejected")[..] else {
        panic!("not the one that differs");
    };
    assert!(fs::read(only).unwrap() == other);
}

/// The first process of each container has the number 1.
#[test]
fn a_dead_daemon_that_had_this_ones_process_number_has_left_it_none_the_less() {
    let in_use = tempfile::tempdir().unwrap();
    let at_work = Dataset::open(in_use.path(), options()).unwrap();
    let face = npyfs::dataset::Face {
        len: 0,
        mode: 0o644,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        mtime: None,
    };
    let chunk = at_work
        .begin("x.npy".as_ref(), face, npyfs::dataset::Start::New)
        .unwrap();
    chunk.write(&part(300, 50)[200..], 200, || ()).unwrap();
    let [own] = &kept(in_use.path(), "incoming")[..] else {
        panic!("it is not in a file");
    };
    let numbers = own.file_name().unwrap().to_str().unwrap();
    let numbers = numbers.strip_suffix("-x.npy").unwrap();
    let bytes = part(300, 50);
    let store = left(&[
        (&format!("{numbers}+dead.npy"), &bytes),
        (&format!("{numbers}-dead.npy"), &bytes),
    ]);
    let dataset = Dataset::open(store.path(), options()).unwrap();
    dataset.acquire().unwrap();
    has_rows(&kept(store.path(), "rescued")[0], 50);
    has_rows(&kept(store.path(), "rejected")[0], 50);
    assert!(own.exists());
    chunk.release();
}

/// What was never synced may have lost pages: nobody is told that it is all there.
#[test]
fn after_a_power_cut_the_log_does_not_promise_that_all_of_it_is_there() {
    for (boot, promised) in [(1, true), (2, false)] {
        let store = left(&[("4-0-x.npy", &part(300, 50))]);
        let options = Options {
            boot: Some([boot; 16]),
            ..Options::default()
        };
        Dataset::open(store.path(), options)
            .unwrap()
            .acquire()
            .unwrap();
        let log = fs::read_to_string(store.path().join(".npyfs/log")).unwrap();
        let says = log.contains(", as far as they had reached the disk\n");
        assert_eq!(says, !promised, "{log}");
        assert!(log.contains("6528 bytes of it are kept as"), "{log}");
    }
}
