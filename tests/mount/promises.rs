//! The promises P1 to P10, each kept through a real mount. A test's name begins with the
//! promise that it shows; fsync and crashes (P6, P7) have files of their own.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use common::{
    Mount, Parked, ROW, close, counted, errno, eventually, npy, parked, parse, put, put_in_pieces,
    python, python_command, row_numbers, rows_of, run,
};
use nix::errno::Errno;

/// A mount with an empty dataset in it.
fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

/// A child that says a line on stdout when it is where the test wants it.
fn wait_for_line(child: &mut Parked) -> (String, BufReader<ChildStdout>) {
    let mut lines = BufReader::new(child.child().stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    (line.trim().to_owned(), lines)
}

/// All that must not change when a chunk is refused: the names, and of files their bytes.
fn fingerprint(mount: &Mount, dataset: &str) -> Vec<(String, u32)> {
    let store = mount.store(dataset);
    let mut all: Vec<_> = fs::read_dir(mount.path(dataset))
        .unwrap()
        .map(|entry| (entry.unwrap().file_name().into_string().unwrap(), 0))
        .collect();
    all.sort();
    for file in [
        store.join("data.npy"),
        store.join(".npyfs/chunks.log"),
        mount.path(dataset).join(".npyfs/chunks.csv"),
    ] {
        let bytes = fs::read(&file).unwrap();
        let name = format!("{} {} bytes", file.display(), bytes.len());
        all.push((name, crc32c::crc32c(&bytes)));
    }
    all
}

#[test]
fn p1_readers_see_whole_chunks_while_they_arrive_in_small_writes() {
    require!(fuse);
    const CHUNK: u64 = 32;
    let (mount, dataset) = with_dataset();
    let writing = AtomicU64::new(2);
    scope(|scope| {
        for writer in 0..2 {
            let (dataset, writing) = (&dataset, &writing);
            scope.spawn(move || {
                for n in 0..40 {
                    let chunk = counted((2 * n + writer) * CHUNK, CHUNK);
                    let path = dataset.join(format!("{writer}-{n}.npy"));
                    put_in_pieces(&path, &chunk, 100).unwrap();
                }
                writing.fetch_sub(1, Ordering::Release);
            });
        }
        let (dataset, writing) = (&dataset, &writing);
        scope.spawn(move || {
            let mut looks = 0;
            while writing.load(Ordering::Acquire) > 0 || looks < 10 {
                looks += 1;
                for chunk in rows_of(dataset).chunks(CHUNK as usize) {
                    let whole: Vec<u64> = (chunk[0]..chunk[0] + CHUNK).collect();
                    assert_eq!(chunk, whole);
                }
            }
            assert!(looks > 20, "the reader came to look {looks} times only");
        });
    });
    let mut rows = rows_of(&dataset);
    rows.sort_unstable();
    assert_eq!(rows, (0..80 * CHUNK).collect::<Vec<_>>());
    drop(mount);
}

#[test]
fn p1_a_producer_killed_in_the_middle_leaves_nothing_in_the_array() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 10)).unwrap();
    mount.expect_warning("killed.npy: EINVAL");
    let script = r#"exec 3>"$1"; head -c "$3" "$2" >&3; echo; exec sleep 100"#;
    // In memory, streaming into the tail, and not through its header yet.
    for (rows, received) in [(100, 1000), (100, 128), (30_000, 3_000_000), (100, 50)] {
        let before = fingerprint(&mount, "run7");
        let count = rows_of(&dataset).len() as u64;
        let source = mount.scratch("source.npy");
        fs::write(&source, counted(count, rows)).unwrap();
        let target = dataset.join("killed.npy");
        let mut producer = Command::new("sh");
        producer.args(["-c", script, "sh"]).args([&target, &source]);
        producer.arg(received.to_string()).stdout(Stdio::piped());
        let mut producer = parked(&mut producer);
        wait_for_line(&mut producer);
        assert_eq!(rows_of(&dataset).len() as u64, count);
        drop(producer);
        assert_eq!(fingerprint(&mount, "run7"), before, "{rows} rows");
        // Its retry need not wait for anything.
        run(Command::new("cp").args([&source, &target]));
        let all: Vec<u64> = (0..count + rows).collect();
        assert_eq!(rows_of(&dataset), all);
        let name = dataset.join(format!("{rows}-{received}.npy"));
        fs::rename(&target, name).unwrap();
    }
}

#[test]
fn p2_after_close_answers_0_every_open_sees_the_rows() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let committed = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            for n in 0..600 {
                let chunk = counted(n, 1);
                if n % 3 == 0 {
                    put(&dataset.join("part.tmp"), &chunk).unwrap();
                    let name = dataset.join(format!("{n}.npy"));
                    fs::rename(dataset.join("part.tmp"), name).unwrap();
                } else {
                    put(&dataset.join(format!("{n}.npy")), &chunk).unwrap();
                }
                committed.store(n + 1, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let promised = committed.load(Ordering::Acquire);
                let seen = rows_of(&dataset).len() as u64;
                assert!(seen >= promised, "{seen} rows seen of {promised}");
            }
        });
    });
    let all: Vec<u64> = (0..600).collect();
    assert_eq!(rows_of(&dataset), all);
    let mount = mount.remount();
    assert_eq!(rows_of(&mount.path("run7")), all);
}

#[test]
fn p2_after_an_error_the_dataset_is_as_it_was() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    put(&dataset.join("good.npy"), &counted(0, 100)).unwrap();
    let small = counted(100, 100);
    let large = counted(100, 30_000);
    let too_long = |chunk: &[u8]| [chunk, b"!"].concat();
    let bad: [(&str, Vec<u8>, Errno); 9] = [
        ("short", small[..small.len() - 1].to_vec(), Errno::EINVAL),
        ("head", small[..128].to_vec(), Errno::EINVAL),
        ("half head", small[..64].to_vec(), Errno::EINVAL),
        ("large short", large[..3_000_000].to_vec(), Errno::EINVAL),
        ("long", too_long(&small), Errno::EINVAL),
        ("large long", too_long(&large), Errno::EINVAL),
        ("garbage", vec![7; 5000], Errno::EINVAL),
        ("dtype", npy("<f4", "(4, 16)", &[0; 256]), Errno::EINVAL),
        ("good", counted(7, 100), Errno::EEXIST),
    ];
    let before = fingerprint(&mount, "run7");
    for (name, bytes, expected) in &bad {
        let path = dataset.join(format!("{name}.npy"));
        mount.expect_warning(&format!("{name}.npy: {expected:?}"));
        for piece in [bytes.len(), 999, 1 << 20] {
            assert_eq!(errno(put_in_pieces(&path, bytes, piece)), *expected);
            assert_eq!(fingerprint(&mount, "run7"), before, "{name} by {piece}");
        }
        // By rename.
        let part = dataset.join("x.part");
        fs::write(&part, bytes).unwrap();
        let by_rename = match expected {
            Errno::EINVAL => Errno::EBADMSG,
            other => *other,
        };
        mount.expect_warning(&format!("{name}.npy: {by_rename:?}"));
        assert_eq!(errno(fs::rename(&part, &path)), by_rename);
        fs::remove_file(&part).unwrap();
        assert_eq!(fingerprint(&mount, "run7"), before, "{name} by rename");
    }
    let csv = before.last().unwrap().clone();
    let mount = mount.remount();
    assert_eq!(fingerprint(&mount, "run7").last(), Some(&csv));
    assert_eq!(rows_of(&mount.path("run7")), (0..100).collect::<Vec<_>>());
}

#[test]
fn p3_the_same_bytes_again_succeed_and_append_nothing() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    let small = counted(0, 50);
    let large = counted(50, 20_000);
    put(&dataset.join("small.npy"), &small).unwrap();
    put(&dataset.join("large.npy"), &large).unwrap();
    let again = |mount: &Mount| {
        let dataset = mount.path("run7");
        for (name, chunk) in [("small.npy", &small), ("large.npy", &large)] {
            let path = dataset.join(name);
            put(&path, chunk).unwrap();
            put_in_pieces(&path, chunk, 100_000).unwrap();
            // Without truncation, from the back, by rename, by another file of the mount.
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(chunk, 0).unwrap();
            close(file).unwrap();
            let file = File::create(&path).unwrap();
            let middle = chunk.len() / 2;
            file.write_all_at(&chunk[middle..], middle as u64).unwrap();
            file.write_all_at(&chunk[..middle], 0).unwrap();
            close(file).unwrap();
            let part = dataset.join("x.part");
            fs::write(&part, chunk).unwrap();
            fs::rename(&part, &path).unwrap();
            assert!(!part.exists());
            fs::copy(&path, &part).unwrap();
            run(Command::new("mv").arg("-f").args([&part, &path]));
            assert_eq!(fs::read(&path).unwrap(), *chunk);
        }
        assert_eq!(rows_of(&dataset).len(), 20_050);
        let csv = fs::read_to_string(dataset.join(".npyfs/chunks.csv")).unwrap();
        assert_eq!(csv.lines().count(), 3);
    };
    again(&mount);
    let mount = mount.remount();
    again(&mount);
}

#[test]
fn p3_other_bytes_under_a_committed_name_are_eexist() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    mount.expect_warning("c.npy: EEXIST");
    let chunk = counted(0, 1000);
    let path = dataset.join("c.npy");
    put(&path, &chunk).unwrap();
    let mut other = chunk.clone();
    *other.last_mut().unwrap() ^= 1;
    let try_all = |path: &Path| {
        for bytes in [&other, &counted(0, 999), &counted(0, 1001)] {
            assert_eq!(errno(put(path, bytes)), Errno::EEXIST);
            let part = path.with_extension("part");
            fs::write(&part, bytes).unwrap();
            assert_eq!(errno(fs::rename(&part, path)), Errno::EEXIST);
            assert_eq!(fs::read(&part).unwrap(), *bytes, "the source stays");
            fs::remove_file(&part).unwrap();
        }
        assert_eq!(fs::read(path).unwrap(), chunk);
        assert_eq!(rows_of(path.parent().unwrap()).len(), 1000);
    };
    try_all(&path);
    let mount = mount.remount();
    try_all(&mount.path("run7/c.npy"));
}

#[test]
fn p3_producers_that_race_for_a_name_with_the_same_bytes_all_succeed() {
    require!(fuse);
    const NAMES: u64 = 1000;
    let (mount, dataset) = with_dataset();
    mount.expect_warning("EBUSY");
    scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for n in 0..NAMES {
                    let (path, chunk) = (dataset.join(format!("{n}.npy")), counted(n, 1));
                    while let Err(error) = put(&path, &chunk) {
                        assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
                    }
                }
            });
        }
    });
    assert_eq!(rows_of(&dataset), (0..NAMES).collect::<Vec<_>>());
}

#[test]
fn p3_rsync_may_be_run_again() {
    require!(fuse, rsync);
    let (mount, dataset) = with_dataset();
    let chunks = mount.scratch("chunks");
    fs::create_dir(&chunks).unwrap();
    for n in 0..20 {
        fs::write(chunks.join(format!("{n:02}.npy")), counted(n * 100, 100)).unwrap();
    }
    fs::write(chunks.join("large.npy"), counted(2000, 20_000)).unwrap();
    let rsync = |dataset: &Path, more: &[&str]| {
        let (from, to) = (chunks.join(""), dataset.join(""));
        let mut command = Command::new("rsync");
        let output = run(command.args(["-a", "-i"]).args(more).args([from, to]));
        assert_eq!(rows_of(dataset).len(), 22_000);
        String::from_utf8(output.stdout).unwrap()
    };
    rsync(&dataset, &[]);
    let said = rsync(&dataset, &[]);
    assert_eq!(said, "", "times and sizes are kept, so nothing is sent");
    rsync(&dataset, &["--ignore-times"]);
    rsync(&dataset, &["--ignore-times", "--inplace"]);
    rsync(&dataset, &["--checksum"]);
    let mount = mount.remount();
    let dataset = mount.path("run7");
    assert_eq!(rsync(&dataset, &[]), "");
    rsync(&dataset, &["--ignore-times", "--inplace"]);
}

/// Opens `data.npy` (argument 1) again and again until the file of argument 2 is there, and checks
/// all ways in which one open can show its size.
const SNAPSHOTS: &str = r#"
import os, sys, numpy as np
from numpy.lib import format
path, stop, out = sys.argv[1:]
last = opens = 0
while True:
    ending = os.path.exists(stop)
    with open(path, 'rb') as f:
        format.read_magic(f)
        shape, fortran, dtype = format.read_array_header_1_0(f)
        size = os.fstat(f.fileno()).st_size
        assert f.tell() + shape[0] * shape[1] * 8 == size, (shape, size)
        assert shape[0] >= last, (shape, last)
        last = shape[0]
        fd = f.fileno()
        body = os.pread(fd, size + 4096, 128)
        assert len(body) == size - 128, (len(body), size)
        assert os.pread(fd, 1, size) == b''
        rows = np.frombuffer(body, dtype).reshape(shape)
        assert (rows == np.arange(last)[:, None]).all()
        assert os.lseek(fd, 0, os.SEEK_END) == size
        mapped = np.memmap(f, dtype, 'r', 128, shape)
        assert (mapped == rows).all()
        if opens % 8 == 0:
            with open(out, 'wb') as to:
                at = 0
                while n := os.sendfile(to.fileno(), fd, at, 1 << 30):
                    at += n
                assert at == size, (at, size)
            assert (np.load(out) == rows).all()
        # Later, and with more rows committed, still the same.
        assert os.fstat(fd).st_size == size
        assert os.pread(fd, 64, 64) == os.pread(fd, 128, 0)[64:]
    assert len(np.load(path, mmap_mode='r')) >= last
    opens += 1
    if ending:
        break
print(opens, last)
"#;

fn p4_snapshots(mount: &Mount) {
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    let stop = mount.scratch("stop");
    let (out, copy) = (mount.scratch("out.npy"), mount.scratch("copy.npy"));
    let data = dataset.join("data.npy");
    scope(|scope| {
        let reader = scope.spawn(|| python(SNAPSHOTS, &[&data, &stop, &out]));
        let copier = scope.spawn(|| {
            let mut copied = 0;
            while !stop.exists() {
                run(Command::new("cp").args([&data, &copy]));
                let rows = row_numbers(&fs::read(&copy).unwrap()).len();
                assert!(rows >= copied);
                copied = rows;
            }
        });
        let held = File::open(&data).unwrap();
        assert!(eventually(Duration::from_secs(30), || out.exists()));
        for n in 1..5000 {
            put(&dataset.join(format!("{n}.npy")), &counted(n, 1)).unwrap();
        }
        File::create(&stop).unwrap();
        copier.join().unwrap();
        let said = reader.join().unwrap();
        let (opens, last) = said.trim().split_once(' ').unwrap();
        assert!(opens.parse::<u32>().unwrap() >= 10, "{said}");
        assert_eq!(last, "5000");
        // 4,999 appends later the first open is what it was.
        let mut bytes = vec![0; 4096];
        let len = held.read_at(&mut bytes, 0).unwrap();
        assert_eq!(row_numbers(&bytes[..len]), [0]);
        assert_eq!(held.metadata().unwrap().len(), len as u64);
    });
}

#[test]
fn p4_an_open_is_a_snapshot() {
    require!(fuse, python);
    p4_snapshots(&Mount::new());
}

#[test]
fn p4_an_open_is_a_snapshot_when_cached() {
    require!(fuse, python);
    p4_snapshots(&Mount::builder().words("cached").start());
}

/// Each open in a thread of its own, all at once: what one of them learns of the array's size must
/// not reach another's snapshot.
fn p4_many_readers(mount: &Mount) {
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    let data = dataset.join("data.npy");
    let stop = AtomicBool::new(false);
    scope(|scope| {
        let readers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let (mut opens, mut last) = (0, 0);
                    let mut bytes = vec![0; 1 << 20];
                    while !stop.load(Ordering::Relaxed) {
                        let file = File::open(&data).unwrap();
                        let before = file.metadata().unwrap().len();
                        let read = file.read_at(&mut bytes, 0).unwrap();
                        let rows = row_numbers(&bytes[..read]).len() as u64;
                        assert_eq!(read as u64, 128 + rows * ROW as u64, "its header's rows");
                        assert_eq!(before, read as u64, "the size before it was read");
                        assert_eq!(file.metadata().unwrap().len(), before, "and after");
                        assert!(rows >= last, "{rows} rows after {last}");
                        (opens, last) = (opens + 1, rows);
                        // Some go on while others open.
                        if opens % 5 == 0 {
                            sleep(Duration::from_millis(2));
                            assert_eq!(file.metadata().unwrap().len(), before);
                        }
                    }
                    opens
                })
            })
            .collect();
        for n in 1..3000 {
            put(&dataset.join(format!("{n}.npy")), &counted(n, 1)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 50);
        }
    });
}

#[test]
fn p4_readers_that_open_at_once_have_their_own_snapshots() {
    require!(fuse);
    p4_many_readers(&Mount::new());
}

#[test]
fn p4_readers_that_open_at_once_have_their_own_snapshots_when_cached() {
    require!(fuse);
    p4_many_readers(&Mount::builder().words("cached").start());
}

#[test]
fn p4_copies_through_the_mount_are_consistent() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    for n in 0..50 {
        put(&dataset.join(format!("{n}.npy")), &counted(n * 10, 10)).unwrap();
    }
    // By copy_file_range or what the kernel makes of it, into another dataset as a chunk.
    let copied = mount.path("copied");
    fs::create_dir(&copied).unwrap();
    fs::copy(dataset.join("data.npy"), copied.join("all.npy")).unwrap();
    let all: Vec<u64> = (0..500).collect();
    assert_eq!(rows_of(&copied), all);
}

#[test]
fn p5_a_mapping_survives_the_death_of_the_daemon() {
    require!(fuse, root, python);
    let (mut mount, dataset) = with_dataset();
    let rows = 40_000;
    put(&dataset.join("large.npy"), &counted(0, rows)).unwrap();
    put(&dataset.join("more.npy"), &counted(rows, 10)).unwrap();
    let script = r#"
import sys, numpy as np
array = np.load(sys.argv[1], mmap_mode='r')
print(array[0, 0], flush=True)
sys.stdin.readline()
assert (array == np.arange(len(array))[:, None]).all()
print(len(array))
"#;
    let mut reader = python_command(script, &[dataset.join("data.npy")]);
    reader.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = parked(&mut reader);
    let (first, mut lines) = wait_for_line(&mut reader);
    assert_eq!(first, "0");
    mount.crash();
    // Nothing of it is left to answer from: the page cache is the store's file's.
    let mut input = reader.child().stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), (rows + 10).to_string());
    assert!(reader.child().wait().unwrap().success());
}

/// Opens the store's own file (argument 1) 2,000 times at least and until argument 2 is there.
const STORE_READER: &str = r#"
import os, sys, time, numpy as np
path, stop, ready = sys.argv[1:]
open(ready, 'w').close()
most = opens = dips = 0
while opens < 2000 or not os.path.exists(stop):
    array = np.load(path, mmap_mode='r')
    assert array.dtype == '<i8' and array.shape[1:] == (16,), (array.dtype, array.shape)
    rows = len(array)
    if rows < most:
        # Allowed for an instant only.
        dips += 1
        deadline = time.monotonic() + 5
        while len(np.load(path, mmap_mode='r')) < most:
            assert time.monotonic() < deadline, (rows, most)
    if rows:
        tail = array[-min(rows, 50):]
        assert (tail == np.arange(rows - len(tail), rows)[:, None]).all(), rows
    most = max(most, rows)
    opens += 1
array = np.load(path)
assert len(array) >= most
most = len(array)
assert (array == np.arange(most)[:, None]).all()
print(opens, most, dips)
"#;

#[test]
fn p8_the_stores_file_is_valid_at_every_instant() {
    require!(fuse, python);
    const APPENDS: u64 = 20_000;
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    let data = mount.store("run7/data.npy");
    let (stop, ready) = (mount.scratch("stop"), mount.scratch("ready"));
    scope(|scope| {
        let reader = scope.spawn(|| python(STORE_READER, &[&data, &stop, &ready]));
        assert!(eventually(Duration::from_secs(30), || ready.exists()));
        for n in 1..APPENDS {
            put(&dataset.join(format!("{n}.npy")), &counted(n, 1)).unwrap();
        }
        File::create(&stop).unwrap();
        let said = reader.join().unwrap();
        assert!(said.contains(&format!(" {APPENDS} ")), "{said}");
    });
    let all: Vec<u64> = (0..APPENDS).collect();
    assert_eq!(row_numbers(&fs::read(&data).unwrap()), all);
    let mount = mount.remount();
    assert_eq!(row_numbers(&fs::read(&data).unwrap()), all);
    drop(mount);
}

#[test]
fn p8_the_stores_file_is_plain_after_unmount() {
    require!(fuse);
    let store = tempfile::tempdir().unwrap();
    let mount = Mount::builder().store(store.path()).start();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    for dataset in ["a", "a/b"] {
        put(&mount.path(dataset).join("1.npy"), &counted(0, 9_000)).unwrap();
        put(&mount.path(dataset).join("2.npy"), &counted(9_000, 3)).unwrap();
        // What was refused has left nothing after the rows.
        let large = counted(0, 30_000);
        let path = mount.path(dataset).join("3.npy");
        mount.expect_warning("3.npy: EINVAL");
        assert_eq!(errno(put(&path, &large[..2_000_000])), Errno::EINVAL);
    }
    mount.finish();
    for dataset in ["a", "a/b"] {
        let file = fs::read(store.path().join(dataset).join("data.npy")).unwrap();
        assert_eq!(row_numbers(&file), (0..9_003).collect::<Vec<_>>());
    }
}

#[test]
fn p8_a_count_that_grows_past_eight_digits_is_never_too_large() {
    require!(fuse);
    const STEP: u64 = 33_333_333;
    let (mount, dataset) = with_dataset();
    // Rows of no bytes: a count of any length costs nothing.
    let chunk = npy("<i8", &format!("({STEP}, 0)"), b"");
    put(&dataset.join("0.npy"), &chunk).unwrap();
    let published = AtomicU64::new(STEP);
    let done = AtomicBool::new(false);
    let data = mount.store("run7/data.npy");
    scope(|scope| {
        scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Acquire) || looks < 100 {
                looks += 1;
                let array = parse(&fs::read(&data).unwrap());
                // One append may be under way.
                let most = published.load(Ordering::Acquire) + STEP;
                assert!(array.shape[0] <= most, "{:?} of {most}", array.shape);
                assert_eq!((array.shape[1], array.body.len()), (0, 0));
            }
        });
        for n in 1..400 {
            put(&dataset.join(format!("{n}.npy")), &chunk).unwrap();
            published.store((n + 1) * STEP, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(parse(&fs::read(&data).unwrap()).shape, [400 * STEP, 0]);
    let seen = parse(&fs::read(dataset.join("data.npy")).unwrap());
    assert_eq!(seen.shape, [400 * STEP, 0]);
}

#[test]
fn p9_nothing_is_cast_truncated_or_padded() {
    require!(fuse);
    let mount = Mount::new();
    let pairs = [
        ("<f8", "<f4"),
        ("<f4", "<f8"),
        ("<i8", "<i4"),
        ("<i8", "<u8"),
        ("<i8", "<f8"),
        ("<i8", "<m8[s]"),
        ("<M8[s]", "<M8[ms]"),
        ("|S4", "|S3"),
        ("|S4", "|V4"),
        ("<U2", "<U1"),
        ("|u1", "|b1"),
        ("|u1", "|i1"),
    ];
    for (n, (holds, comes)) in pairs.into_iter().enumerate() {
        let dataset = mount.path(format!("d{n}"));
        fs::create_dir(&dataset).unwrap();
        put(&dataset.join("1.npy"), &npy(holds, "(0, 2)", b"")).unwrap();
        mount.expect_warning(&format!("d{n}/2.npy: EINVAL"));
        let refused = put(&dataset.join("2.npy"), &npy(comes, "(0, 2)", b""));
        assert_eq!(errno(refused), Errno::EINVAL, "{comes} into {holds}");
    }
    let dataset = mount.path("shapes");
    fs::create_dir(&dataset).unwrap();
    put(&dataset.join("1.npy"), &npy("|u1", "(1, 2, 3)", &[1; 6])).unwrap();
    mount.expect_warning("shapes/2.npy: EINVAL");
    for shape in ["(1, 3, 2)", "(1, 6)", "(6,)", "(1, 2, 3, 1)", "(2, 3)"] {
        let refused = put(&dataset.join("2.npy"), &npy("|u1", shape, &[1; 6]));
        assert_eq!(errno(refused), Errno::EINVAL, "{shape}");
    }
}

#[test]
fn p9_byte_order_and_fortran_order_are_converted_without_loss() {
    require!(fuse, python);
    let (mount, dataset) = with_dataset();
    // numpy is the judge: each array in every order, large enough for each path through npyfs.
    let script = r#"
import os, sys, numpy as np
mount = sys.argv[1]
rng = np.random.default_rng(1)
dtypes = ['<f8', '>f8', '<i2', '>c8', '|S3', '>U2', '>M8[ms]', [('a', '>i2'), ('b', '<f4', (2,))]]
for d, dtype in enumerate(dtypes):
    dataset = f'{mount}/d{d}'
    os.mkdir(dataset)
    itemsize = np.dtype(dtype).itemsize
    expected = []
    for n, rows in enumerate([3, 1, 0, 300_000 // itemsize, 5]):
        shape = (rows, 4, 3)
        raw = rng.integers(32, 99, size=rows * 12 * itemsize, dtype='u1')
        if np.dtype(dtype).kind == 'U':
            raw = np.zeros(rows * 12 * itemsize, 'u1')
            raw[3::4] = 65
        array = raw.view(dtype).reshape(shape)
        swapped = array.astype(array.dtype.newbyteorder(), copy=True)
        fortran = np.asfortranarray(array)
        for k, version in enumerate([array, swapped, fortran, np.asfortranarray(swapped)]):
            name = f'{dataset}/{n}-{k}.npy'
            np.save(name, version)
            expected.append(version)
            view = np.load(name)
            assert view.shape == shape and (view == version).all(), (dtype, name)
            # Again, as it was written.
            np.save(name, version)
            np.save(name, np.load(name))
    got = np.load(f'{dataset}/data.npy')
    assert got.dtype == expected[0].dtype and got.flags.c_contiguous
    assert len(got) == sum(map(len, expected))
    expected = b''.join(e.astype(got.dtype).tobytes() for e in expected)
    assert got.tobytes() == expected, dtype
print('ok')
"#;
    assert_eq!(python(script, &[&dataset]), "ok\n");
    drop(mount);
}

#[test]
fn p10_the_log_says_why_with_both_sides() {
    require!(fuse);
    let (mount, dataset) = with_dataset();
    put(&dataset.join("good.npy"), &counted(0, 100)).unwrap();
    let small = counted(100, 100);
    let cases: [(&str, Vec<u8>, &[&str]); 7] = [
        ("dtype", npy("<f4", "(1, 16)", &[0; 64]), &["<f4", "<i8"]),
        ("shape", npy("<i8", "(1, 9)", &[0; 72]), &["(9,)", "(16,)"]),
        (
            "short",
            small[..128 + 10 * ROW].to_vec(),
            &["10 of 100 rows", "90 rows"],
        ),
        (
            "long",
            [&small[..], b"!"].concat(),
            &["12929 bytes", "12928"],
        ),
        ("0-d", npy("<i8", "()", &[0; 8]), &["()"]),
        ("object", npy("|O", "(1, 16)", &[0; 8]), &["O"]),
        ("good", counted(3, 100), &["other bytes"]),
    ];
    for (name, bytes, said) in cases {
        mount.expect_warning(&format!("{name}.npy"));
        put(&dataset.join(format!("{name}.npy")), &bytes).unwrap_err();
        let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
        let line = log.lines().last().unwrap();
        assert!(line.contains(&format!(" {name}.npy refused: ")), "{line}");
        for part in said {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
        let lines = log
            .lines()
            .filter(|line| line.contains(&format!(" {name}.npy ")));
        assert_eq!(lines.count(), 1, "a refusal is told once: {log}");
        // The same by rename.
        let part = dataset.join("x.part");
        fs::write(&part, &bytes).unwrap();
        fs::rename(&part, dataset.join(format!("{name}.npy"))).unwrap_err();
        let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
        let line = log.lines().last().unwrap();
        for part in said {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
        fs::remove_file(&part).unwrap();
    }
    // The log is the store's, and outlives the mount.
    let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
    let mount = mount.remount();
    let later = fs::read_to_string(mount.store("run7/.npyfs/log")).unwrap();
    // How often the same was refused since may have come to it.
    assert!(later.starts_with(&log), "{later}");
}
