//! The life of a chunk: what each close answers, who may take a name over,
//! and that every way through memory, tail and staging ends in the same rows.

use crate::common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use common::{
    Mount, Parked, ROW, alone, close, counted, errno, eventually, kill, npy, output_of, parked,
    put, put_in_pieces, python, python_command, row_numbers, rows_of, run, start, with_dict,
};
use nix::errno::Errno;

fn with_dataset() -> (Mount, PathBuf) {
    let mount = Mount::new();
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    (mount, dataset)
}

/// A chunk of 100 rows, its place, and its producer, which has closed it after 5000 bytes.
fn paused(mount: &Mount, dataset: &Path) -> (Vec<u8>, PathBuf, Producer) {
    let source = mount.scratch("source.npy");
    let chunk = counted(0, 100);
    fs::write(&source, &chunk).unwrap();
    let path = dataset.join("x.npy");
    let mut first = Producer::start(&path, &source);
    first.does("c 0 5000");
    (chunk, path, first)
}

/// Names in `.npyfs/incoming` of the store's dataset.
fn staged(mount: &Mount) -> usize {
    fs::read_dir(mount.store("run7/.npyfs/incoming")).map_or(0, Iterator::count)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn count_to(rows: u64) -> Vec<u64> {
    (0..rows).collect()
}

/// A producer in another process, which does as it is told: `w OFFSET LENGTH` writes these bytes of
/// the source, `c OFFSET LENGTH` has a child write them and end, `x` closes. It answers each with
/// an errno, 0 for none.
struct Producer {
    child: Parked,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

const PRODUCER: &str = r#"
import os, sys
target, source = sys.argv[1:]
data = open(source, 'rb').read()
fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
def attempt(act, *arguments):
    try:
        act(*arguments)
        return 0
    except OSError as error:
        return error.errno
print(0, flush=True)
for line in sys.stdin:
    order, *numbers = line.split()
    if order == 'x':
        answer = attempt(os.close, fd)
    else:
        at, length = map(int, numbers)
        piece = data[at:at + length]
        if order == 'w':
            answer = attempt(os.write, fd, piece)
        elif child := os.fork():
            answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            answer = attempt(os.write, fd, piece)
            os._exit(answer or attempt(os.close, fd))
    print(answer, flush=True)
"#;

impl Producer {
    fn start(target: &Path, source: &Path) -> Self {
        let mut command = python_command(PRODUCER, &[target, source]);
        let mut child = parked(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut producer = Self {
            orders: child.child().stdin.take().unwrap(),
            answers: BufReader::new(child.child().stdout.take().unwrap()),
            child,
        };
        assert_eq!(producer.answer(), Errno::UnknownErrno);
        producer
    }

    fn answer(&mut self) -> Errno {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        Errno::from_raw(line.trim().parse().unwrap())
    }

    /// `Errno::UnknownErrno` (0) where it went well.
    fn tell(&mut self, order: &str) -> Errno {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    #[track_caller]
    fn does(&mut self, order: &str) {
        assert_eq!(self.tell(order), Errno::UnknownErrno, "{order}");
    }

    fn kill(self) {
        drop(self.child);
    }
}

#[test]
fn a_close_of_nothing_does_nothing() {
    require!(fuse);
    let _alone = alone();
    let (_mount, dataset) = with_dataset();
    let mut file = File::create(dataset.join("x.npy")).unwrap();
    for _ in 0..3 {
        close(file.try_clone().unwrap()).unwrap();
    }
    assert!(!dataset.join("data.npy").exists());
    file.write_all(&counted(0, 5)).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), count_to(5));
}

#[test]
fn the_first_close_commits_and_later_ones_are_ok() {
    require!(fuse);
    let _alone = alone();
    let (_mount, dataset) = with_dataset();
    for (name, first, rows) in [("small", 0, 5), ("large", 5, 20_000)] {
        let mut file = File::create(dataset.join(format!("{name}.npy"))).unwrap();
        file.write_all(&counted(first, rows)).unwrap();
        let second = file.try_clone().unwrap();
        assert_eq!(rows_of(&dataset), count_to(first), "{name}");
        close(second).unwrap();
        assert_eq!(rows_of(&dataset), count_to(first + rows), "{name}");
        close(file.try_clone().unwrap()).unwrap();
        close(file).unwrap();
        assert_eq!(rows_of(&dataset), count_to(first + rows), "{name}");
    }
}

#[test]
fn a_refused_chunk_answers_its_error_at_every_close() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    mount.expect_warning("x.npy: EINVAL");
    let path = dataset.join("x.npy");
    // By a write, and by the close of the last descriptor that can write.
    let mut file = File::create(&path).unwrap();
    let refused = file.write_all(&npy("<f4", "(1, 16)", &[0; 64]));
    assert_eq!(errno(refused), Errno::EINVAL);
    for _ in 0..3 {
        assert_eq!(errno(close(file.try_clone().unwrap())), Errno::EINVAL);
    }
    // The name is free at once.
    assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT);
    assert_eq!(errno(file.write(b"x")), Errno::EINVAL);
    assert_eq!(errno(close(file)), Errno::EINVAL);
    let mut file = File::create(&path).unwrap();
    file.write_all(&counted(0, 5)[..300]).unwrap();
    for _ in 0..3 {
        close(file.try_clone().unwrap()).unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 300);
    assert_eq!(errno(close(file)), Errno::EINVAL);
    assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT);
    assert_eq!(names(&dataset), ["data.npy", "first.npy"]);
    put(&path, &counted(1, 1)).unwrap();
    assert_eq!(rows_of(&dataset), count_to(2));
}

#[test]
fn an_incomplete_chunk_closed_by_another_process_waits_for_the_rest() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = mount.scratch("source.npy");
    let script = r#"set -e; (head -c "$3" "$2"; tail -c "+$(($3 + 1))" "$2") > "$1""#;
    let mut rows = 0;
    for (cut, count) in [(50, 100), (128, 100), (5000, 100), (2_000_000, 20_000)] {
        fs::write(&source, counted(rows, count)).unwrap();
        let target = dataset.join(format!("{cut}.npy"));
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh"]).args([&target, &source]);
        run(sh.arg(cut.to_string()));
        rows += count;
        assert_eq!(rows_of(&dataset), count_to(rows), "cut at {cut}");
    }
    // Nobody brings the rest: refused when the opener closes.
    mount.expect_warning("short.npy: EINVAL");
    let mut sh = Command::new("sh");
    sh.args(["-c", r#"(head -c 5000 "$2"; true) > "$1""#, "sh"]);
    let output = output_of(sh.arg(dataset.join("short.npy")).arg(&source));
    output.unwrap();
    assert_eq!(
        errno(fs::metadata(dataset.join("short.npy"))),
        Errno::ENOENT
    );
    assert_eq!(rows_of(&dataset), count_to(rows));
}

#[test]
fn a_child_may_commit_what_its_parent_opened() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = mount.scratch("source.npy");
    fs::write(&source, counted(0, 10)).unwrap();
    let mut producer = Producer::start(&dataset.join("x.npy"), &source);
    producer.does("c 0 500");
    assert!(!dataset.join("data.npy").exists());
    producer.does("w 500 100");
    producer.does("c 600 10000");
    assert_eq!(rows_of(&dataset), count_to(10));
    producer.does("x");
}

#[test]
fn a_paused_name_may_be_taken_over_and_its_first_writer_hears_of_it() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: ECANCELED");
    let source = mount.scratch("source.npy");
    let mut rows = 0;
    for (n, count) in [100, 20_000].into_iter().enumerate() {
        let chunk = counted(rows, count);
        fs::write(&source, &chunk).unwrap();
        let path = dataset.join(format!("{n}-x.npy"));
        let mut first = Producer::start(&path, &source);
        first.does("c 0 5000");
        put(&path, &chunk).unwrap();
        rows += count;
        assert_eq!(first.tell("w 5000 1000"), Errno::ECANCELED);
        assert_eq!(first.tell("c 5000 1000"), Errno::ECANCELED);
        assert_eq!(first.tell("x"), Errno::ECANCELED);
        assert_eq!(rows_of(&dataset), count_to(rows));
        assert_eq!(fs::read(&path).unwrap(), chunk);
    }
}

#[test]
fn a_rename_takes_a_paused_name_over_if_it_commits() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: ECANCELED");
    mount.expect_warning("x.npy: EBADMSG");
    let (chunk, path, mut first) = paused(&mount, &dataset);
    // One that is refused changes nothing: the first goes on where it was.
    let file = dataset.join("x.npy.part");
    fs::write(&file, &chunk[..6000]).unwrap();
    assert_eq!(errno(fs::rename(&file, &path)), Errno::EBADMSG);
    first.does("c 5000 1000");
    fs::write(&file, &chunk).unwrap();
    fs::rename(&file, &path).unwrap();
    assert_eq!(names(&dataset), ["data.npy", "x.npy"]);
    assert_eq!(fs::read(&path).unwrap(), chunk);
    assert_eq!(first.tell("c 6000 1000"), Errno::ECANCELED);
    assert_eq!(first.tell("x"), Errno::ECANCELED);
    assert_eq!(rows_of(&dataset), count_to(100));
}

#[test]
fn a_name_that_is_being_written_may_not_be_taken_over() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EBUSY");
    let (chunk, path, mut first) = paused(&mount, &dataset);
    first.does("w 5000 1000");
    assert_eq!(errno(put(&path, &chunk)), Errno::EBUSY);
    first.does("w 6000 100000");
    first.does("x");
    put(&path, &chunk).unwrap();
    assert_eq!(rows_of(&dataset), count_to(100));
}

#[test]
fn a_refused_chunk_that_is_still_open_may_be_removed() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    mount.expect_warning("x.npy: EINVAL");
    let path = dataset.join("x.npy");
    let mut file = File::create(&path).unwrap();
    let refused = file.write_all(&npy("<f4", "(1, 16)", &[0; 64]));
    assert_eq!(errno(refused), Errno::EINVAL);
    fs::remove_file(&path).unwrap();
    assert_eq!(names(&dataset), ["data.npy", "first.npy"]);
    assert_eq!(errno(fs::remove_file(&path)), Errno::ENOENT);
    // The name is free, and its first writer hears what it heard before.
    put(&path, &counted(1, 2)).unwrap();
    assert_eq!(errno(file.write(b"more")), Errno::EINVAL);
    assert_eq!(errno(close(file)), Errno::EINVAL);
    assert_eq!(rows_of(&dataset), count_to(3));
    assert_eq!(names(&dataset), ["data.npy", "first.npy", "x.npy"]);
}

#[test]
fn unlinking_a_chunk_in_flight_cancels_it() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 1)).unwrap();
    mount.expect_warning("ECANCELED");
    let path = dataset.join("x.npy");
    for (rows, received) in [
        (100, 0),
        (100, 50),
        (100, 5000),
        (20_000, 2_000_000),
        (100, 12_928),
    ] {
        let chunk = counted(1, rows);
        let mut file = File::create(&path).unwrap();
        file.write_all(&chunk[..received]).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(names(&dataset), ["data.npy", "first.npy"]);
        if received < chunk.len() {
            assert_eq!(errno(file.write(&chunk[received..])), Errno::ECANCELED);
        }
        assert_eq!(errno(close(file.try_clone().unwrap())), Errno::ECANCELED);
        assert_eq!(errno(close(file)), Errno::ECANCELED);
        assert_eq!(rows_of(&dataset), count_to(1));
    }
    put(&path, &counted(1, 1)).unwrap();
    // The end of what was cancelled comes by itself.
    let data = mount.store("run7/data.npy");
    let cleared = eventually(Duration::from_secs(5), || {
        staged(&mount) == 0 && fs::metadata(&data).unwrap().len() == 128 + 2 * ROW as u64
    });
    assert!(cleared, "{:?}", fs::metadata(&data));
}

#[test]
fn a_touched_name_stays_empty_until_it_is_written_or_removed() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    for name in ["a", "b", "c"] {
        run(Command::new("touch").arg(dataset.join(format!("{name}.npy"))));
    }
    let check = |dataset: &Path| {
        assert_eq!(names(dataset), ["a.npy", "b.npy", "c.npy"]);
        for name in ["a", "b", "c"] {
            let path = dataset.join(format!("{name}.npy"));
            assert_eq!(fs::metadata(&path).unwrap().len(), 0);
            assert_eq!(fs::read(&path).unwrap(), b"");
        }
        assert!(!dataset.join("data.npy").exists());
    };
    check(&dataset);
    let mount = mount.remount();
    let dataset = mount.path("run7");
    check(&dataset);
    put(&dataset.join("a.npy"), &counted(0, 3)).unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .open(dataset.join("b.npy"))
        .unwrap();
    file.write_all(&counted(3, 2)).unwrap();
    close(file).unwrap();
    fs::remove_file(dataset.join("c.npy")).unwrap();
    assert_eq!(rows_of(&dataset), count_to(5));
    assert_eq!(names(&dataset), ["a.npy", "b.npy", "data.npy"]);
    let mount = mount.remount();
    assert_eq!(names(&mount.path("run7")), ["a.npy", "b.npy", "data.npy"]);
    assert_eq!(names(&mount.store("run7")), [".npyfs", "data.npy"]);
}

#[test]
fn a_touched_name_may_be_renamed_onto_and_refilled_after_a_refusal() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    let path = dataset.join("x.npy");
    run(Command::new("touch").arg(&path));
    assert_eq!(errno(put(&path, &counted(0, 5)[..300])), Errno::EINVAL);
    run(Command::new("touch").arg(&path));
    fs::write(dataset.join("x.part"), counted(0, 5)).unwrap();
    fs::rename(dataset.join("x.part"), &path).unwrap();
    assert_eq!(rows_of(&dataset), count_to(5));
    assert_eq!(names(&dataset), ["data.npy", "x.npy"]);
}

/// The end of the first handle, which comes later than its close, took the name away for an instant.
#[test]
fn a_name_that_was_created_and_closed_can_be_written_at_once() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    for n in 0..300 {
        let path = dataset.join(format!("{n}.npy"));
        let held = File::create(&path).unwrap();
        let second = OpenOptions::new().write(true).open(&path).unwrap();
        close(second).unwrap();
        close(held).unwrap();
        put(&path, &counted(n, 1)).unwrap();
    }
    assert_eq!(rows_of(&dataset), count_to(300));
    // No empty file is left where the name was.
    let ended = eventually(Duration::from_secs(5), || {
        names(&mount.store("run7")) == [".npyfs", "data.npy"]
    });
    assert!(ended, "{:?}", names(&mount.store("run7")));
}

#[test]
fn a_shell_sees_no_trace_of_a_failed_cp() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    let source = mount.scratch("source.npy");
    for bytes in [b"not an array".to_vec(), counted(0, 100)[..999].to_vec()] {
        fs::write(&source, bytes).unwrap();
        let script = r#"cp "$1" "$2" && exit 3; stat "$2" && exit 4; ls "$3" | grep . && exit 5; test ! -e "$2""#;
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh"])
            .args([&source, &dataset.join("x.npy"), &dataset]);
        run(&mut sh);
    }
}

#[test]
fn a_retry_after_a_killed_producer_need_not_wait() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    let source = mount.scratch("source.npy");
    let mut rows = 0;
    for (n, received) in [(0, 0), (1, 60), (2, 128), (3, 5000), (4, 2_000_000)] {
        let count = if received > 1_000_000 { 20_000 } else { 100 };
        let chunk = counted(rows, count);
        fs::write(&source, &chunk).unwrap();
        let path = dataset.join(format!("{n}-x.npy"));
        let mut producer = Producer::start(&path, &source);
        producer.does(&format!("w 0 {received}"));
        producer.kill();
        put(&path, &chunk).unwrap();
        rows += count;
        assert_eq!(rows_of(&dataset), count_to(rows), "after {received} bytes");
    }
    assert_eq!(staged(&mount), 0);
}

#[test]
fn small_bodies_touch_no_file_and_large_ones_stream_into_the_tail() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 10)).unwrap();
    let data = mount.store("run7/data.npy");
    let before = fs::read(&data).unwrap();
    let small = counted(10, 1000);
    let mut file = File::create(dataset.join("small.npy")).unwrap();
    file.write_all(&small[..100_000]).unwrap();
    assert_eq!(fs::read(&data).unwrap(), before);
    assert_eq!(staged(&mount), 0);
    file.write_all(&small[100_000..]).unwrap();
    close(file).unwrap();
    let large = counted(1010, 20_000);
    let mut file = File::create(dataset.join("large.npy")).unwrap();
    file.write_all(&large[..2_000_000]).unwrap();
    // A stat after the write waits for nothing, so ask for the size that it is to have.
    let now = fs::read(&data).unwrap();
    assert_eq!(
        row_numbers(&fs::read(dataset.join("data.npy")).unwrap()),
        count_to(1010)
    );
    assert_eq!(staged(&mount), 0, "it has its final place already");
    assert!(now.len() >= 128 + 1010 * ROW + 1_000_000);
    file.write_all(&large[2_000_000..]).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), count_to(21_010));
}

#[test]
fn large_chunks_stream_one_behind_the_other_and_only_the_ninth_is_staged() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 10)).unwrap();
    let chunks: Vec<_> = (0..9).map(|n| counted(10 + 20_000 * n, 20_000)).collect();
    let path = |n: usize| dataset.join(format!("{n}.npy"));
    let mut files: Vec<_> = (0..9).map(|n| File::create(path(n)).unwrap()).collect();
    let piece = chunks[0].len() / 4 + 1;
    for part in 0..4 {
        for (file, chunk) in files.iter_mut().zip(&chunks) {
            let part = chunk.chunks(piece).nth(part).unwrap();
            file.write_all(part).unwrap();
        }
        assert_eq!(staged(&mount), 1);
    }
    for file in files {
        close(file).unwrap();
    }
    assert_eq!(rows_of(&dataset), count_to(180_010));
    assert_eq!(staged(&mount), 0);
    for (n, chunk) in chunks.iter().enumerate() {
        assert!(fs::read(path(n)).unwrap() == *chunk);
    }
}

#[test]
fn a_large_chunk_that_is_closed_before_its_turn_is_committed_at_once() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 10)).unwrap();
    let (slow, quick) = (counted(20_010, 30_000), counted(10, 20_000));
    let mut first = File::create(dataset.join("slow.npy")).unwrap();
    let mut second = File::create(dataset.join("quick.npy")).unwrap();
    first.write_all(&slow[..1_500_000]).unwrap();
    second.write_all(&quick).unwrap();
    assert_eq!(staged(&mount), 0);
    close(second).unwrap();
    assert_eq!(rows_of(&dataset), count_to(20_010));
    assert_eq!(staged(&mount), 1, "the slow one has lost its place");
    first.write_all(&slow[1_500_000..]).unwrap();
    close(first).unwrap();
    assert_eq!(rows_of(&dataset), count_to(50_010));
    assert_eq!(staged(&mount), 0);
    assert!(fs::read(dataset.join("slow.npy")).unwrap() == slow);
    let stored = fs::metadata(mount.store("run7/data.npy")).unwrap();
    assert_eq!(stored.len(), 128 + 50_010 * ROW as u64);
}

#[test]
fn a_small_chunk_that_commits_while_a_large_one_streams_displaces_it() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("first.npy"), &counted(0, 10)).unwrap();
    let mut rows = 10;
    // The newcomer overwrites less than was streamed, and more.
    for (n, newcomer) in [3, 1000, 7000].into_iter().enumerate() {
        let large = counted(rows + newcomer, 40_000);
        let path = dataset.join(format!("{n}-large.npy"));
        let mut file = OpenOptions::new();
        let mut file = file
            .read(true)
            .write(true)
            .create(true)
            .open(&path)
            .unwrap();
        file.write_all(&large[..700_000]).unwrap();
        put(
            &dataset.join(format!("{n}-small.npy")),
            &counted(rows, newcomer),
        )
        .unwrap();
        assert_eq!(rows_of(&dataset), count_to(rows + newcomer), "at once");
        assert_eq!(staged(&mount), 1);
        file.write_all(&large[700_000..900_000]).unwrap();
        let mut back = vec![0; 900_000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == large[..900_000], "what was written reads back");
        file.write_all(&large[900_000..]).unwrap();
        close(file).unwrap();
        rows += newcomer + 40_000;
        assert_eq!(rows_of(&dataset), count_to(rows));
        assert_eq!(staged(&mount), 0);
        assert!(fs::read(&path).unwrap() == large);
    }
    let mount = mount.remount();
    assert_eq!(rows_of(&mount.path("run7")), count_to(rows));
}

#[test]
fn a_small_chunk_may_be_the_first_while_a_large_one_streams() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    // The same form: the large one follows.
    let large = counted(5, 20_000);
    let mut file = File::create(dataset.join("large.npy")).unwrap();
    file.write_all(&large[..2_000_000]).unwrap();
    assert!(!dataset.join("data.npy").exists());
    put(&dataset.join("small.npy"), &counted(0, 5)).unwrap();
    file.write_all(&large[2_000_000..]).unwrap();
    close(file).unwrap();
    assert_eq!(rows_of(&dataset), count_to(20_005));
    // Another form: the large one is too late.
    let other = mount.path("other");
    fs::create_dir(&other).unwrap();
    mount.expect_warning("other/large.npy: EINVAL");
    let mut file = File::create(other.join("large.npy")).unwrap();
    file.write_all(&large[..2_000_000]).unwrap();
    let small = npy("<f4", "(2,)", &[0; 8]);
    put(&other.join("small.npy"), &small).unwrap();
    let written = file.write_all(&large[2_000_000..]);
    assert_eq!(errno(written.and(close(file))), Errno::EINVAL);
    assert_eq!(fs::read(other.join("small.npy")).unwrap(), small);
    assert_eq!(fs::metadata(other.join("data.npy")).unwrap().len(), 136);
    let log = fs::read_to_string(other.join(".npyfs/log")).unwrap();
    assert!(
        log.contains("dtype '<i8', this dataset holds '<f4'"),
        "{log}"
    );
}

#[test]
fn every_order_of_writing_commits_the_same_bytes() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    type Way = (&'static str, fn(&mut File, &[u8]));
    let ways: [Way; 9] = [
        ("backwards", |file, chunk| {
            for at in (0..chunk.len())
                .step_by(100_000)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                let end = chunk.len().min(at + 100_000);
                file.write_all_at(&chunk[at..end], at as u64).unwrap();
            }
        }),
        ("header last", |file, chunk| {
            file.write_all_at(&chunk[128..], 128).unwrap();
            file.write_all_at(&chunk[..128], 0).unwrap();
        }),
        ("zeros for a header", |file, chunk| {
            file.write_all(&[0; 128]).unwrap();
            file.write_all(&chunk[128..]).unwrap();
            file.write_all_at(&chunk[..128], 0).unwrap();
        }),
        ("count patched last", |file, chunk| {
            let dict = "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 16), }";
            file.write_all(&with_dict(dict)).unwrap();
            file.write_all(&chunk[128..]).unwrap();
            file.write_all_at(&chunk[..128], 0).unwrap();
        }),
        ("size first", |file, chunk| {
            file.set_len(chunk.len() as u64).unwrap();
            file.write_all(chunk).unwrap();
        }),
        ("size last", |file, chunk| {
            file.write_all(chunk).unwrap();
            file.set_len(chunk.len() as u64).unwrap();
        }),
        ("cut and written on", |file, chunk| {
            file.write_all(&chunk[..chunk.len() - 10]).unwrap();
            file.set_len(1000).unwrap();
            file.write_all_at(&chunk[1000..], 1000).unwrap();
        }),
        ("begun again", |file, chunk| {
            file.write_all(&counted(7, 3)).unwrap();
            file.set_len(0).unwrap();
            file.write_all_at(chunk, 0).unwrap();
        }),
        ("a row twice", |file, chunk| {
            file.write_all(&[&chunk[..chunk.len() - 8], &[9; 8]].concat())
                .unwrap();
            let at = chunk.len() - 8;
            file.write_all_at(&chunk[at..], at as u64).unwrap();
        }),
    ];
    let mut rows = 0;
    for count in [50, 12_000] {
        for (way, write) in ways {
            let chunk = counted(rows, count);
            let path = dataset.join(format!("{way} {count}.npy"));
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .unwrap();
            write(&mut file, &chunk);
            let mut back = Vec::new();
            std::io::Seek::rewind(&mut file).unwrap();
            file.read_to_end(&mut back).unwrap();
            assert!(back == chunk, "{way}: read back");
            assert_eq!(file.metadata().unwrap().len(), chunk.len() as u64, "{way}");
            assert_eq!(
                rows_of(&dataset).len() as u64,
                rows,
                "{way}: not before close"
            );
            close(file.try_clone().unwrap()).unwrap();
            // Not while another descriptor can write, unless all of it came front to back.
            let plain = way == "size last" || (way == "backwards" && count == 50);
            assert_eq!(
                rows_of(&dataset).len() as u64,
                if plain { rows + count } else { rows },
                "{way}"
            );
            close(file).unwrap_or_else(|error| panic!("{way}: {error}"));
            rows += count;
            assert_eq!(rows_of(&dataset).len() as u64, rows, "{way}");
            assert!(fs::read(&path).unwrap() == chunk, "{way}");
            assert_eq!(staged(&mount), 0, "{way}");
        }
    }
    assert_eq!(rows_of(&dataset), count_to(rows));
}

#[test]
fn what_is_written_reads_back_through_the_same_handle() {
    require!(fuse);
    let _alone = alone();
    let (_mount, dataset) = with_dataset();
    let mut rows = 0;
    for count in [100, 20_000] {
        let chunk = counted(rows, count);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        let mut file = options.open(dataset.join(format!("{count}.npy"))).unwrap();
        let mut at = 0;
        for end in [60, 128, 700, chunk.len() * 2 / 3, chunk.len()] {
            file.write_all(&chunk[at..end]).unwrap();
            at = end;
            let mut back = vec![0; chunk.len() + 10];
            let mut got = 0;
            while let n @ 1.. = file.read_at(&mut back[got..], got as u64).unwrap() {
                got += n;
            }
            assert_eq!(got, end);
            assert!(back[..got] == chunk[..got]);
            assert_eq!(file.metadata().unwrap().len(), end as u64);
            let middle = end / 2;
            let n = file.read_at(&mut back[..10], middle as u64).unwrap();
            assert_eq!(back[..n], chunk[middle..middle + n]);
        }
        close(file).unwrap();
        rows += count;
    }
    assert_eq!(rows_of(&dataset), count_to(rows));
}

#[test]
fn the_bytes_of_a_truncated_pipe_are_kept() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    mount.expect_warning("x.npy: EINVAL");
    let path = dataset.join("x.npy");
    let chunks = [counted(0, 100), counted(0, 20_000), counted(0, 200)];
    let mut kept = Vec::new();
    for (n, chunk) in chunks.iter().enumerate() {
        let received = &chunk[..chunk.len() / 2];
        let mut cat = Command::new("sh");
        cat.args(["-c", r#"cat > "$1""#, "sh"]).arg(&path);
        let mut cat = start(cat.stdin(Stdio::piped())).unwrap();
        cat.stdin.take().unwrap().write_all(received).unwrap();
        cat.wait().unwrap();
        kept.push(received.to_vec());
        // Newest first in a listing.
        let listed: Vec<PathBuf> = fs::read_dir(dataset.join(".npyfs/rejected"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(listed.len(), n + 1);
        for (path, bytes) in listed.iter().zip(kept.iter().rev()) {
            assert!(path.to_str().unwrap().ends_with("-x.npy"));
            // Under a header of the rows that came.
            let kept = fs::read(path).unwrap();
            assert!(kept[128..] == bytes[128..]);
            let rows = (kept.len() as u64 - 128) / 128;
            assert_eq!(common::array_of(path).0.rows(), rows);
        }
        let log = fs::read_to_string(dataset.join(".npyfs/log")).unwrap();
        let name = listed[0].file_name().unwrap().to_str().unwrap();
        assert!(log.lines().last().unwrap().contains(name), "{log}");
    }
    assert_eq!(
        fs::metadata(dataset.join("x.npy")).ok().map(|it| it.len()),
        None
    );
    // They are the user's to remove.
    for entry in fs::read_dir(dataset.join(".npyfs/rejected")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(names(&dataset.join(".npyfs/rejected")).is_empty());
}

#[test]
fn rejected_bytes_are_kept_up_to_the_limit_the_newest_first() {
    require!(fuse);
    let _alone = alone();
    let mount = Mount::builder().words("rejected-limit=30K").start();
    let dataset = mount.path("run7");
    fs::create_dir(&dataset).unwrap();
    mount.expect_warning("EINVAL");
    for n in 0..5 {
        let path = dataset.join(format!("{n}.npy"));
        put(&path, &counted(n, 100)[..10_000]).unwrap_err();
    }
    let kept = names(&dataset.join(".npyfs/rejected"));
    assert_eq!(kept.len(), 3, "{kept:?}");
    for (name, n) in kept.iter().zip(2..) {
        assert!(name.ends_with(&format!("-{n}.npy")), "{name}");
    }
    put(&dataset.join("5.npy"), &counted(0, 1000)[..100_000]).unwrap_err();
    assert_eq!(
        names(&dataset.join(".npyfs/rejected")),
        kept,
        "too large to keep"
    );
}

#[test]
fn mode_and_time_stay_as_the_producer_set_them() {
    require!(fuse);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = mount.scratch("source.npy");
    fs::write(&source, counted(0, 10)).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    fs::set_permissions(&source, PermissionsExt::from_mode(0o640)).unwrap();
    File::open(&source).unwrap().set_modified(time).unwrap();
    let cp = |arguments: &[&str], name: &str| {
        run(Command::new("cp")
            .args(arguments)
            .arg(&source)
            .arg(dataset.join(name)));
    };
    cp(&["-p"], "p.npy");
    cp(&["-a"], "a.npy");
    run(Command::new("rsync")
        .arg("-a")
        .arg(&source)
        .arg(dataset.join("rsync.npy")));
    // Set after close, as install and shutil.copy2 do.
    put(&dataset.join("after.npy"), &counted(0, 10)).unwrap();
    fs::set_permissions(dataset.join("after.npy"), PermissionsExt::from_mode(0o640)).unwrap();
    let file = File::open(dataset.join("after.npy")).unwrap();
    file.set_modified(time).unwrap();
    drop(file);
    // Set on the open file, before its first byte and after its last.
    let mut file = File::create(dataset.join("open.npy")).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o640))
        .unwrap();
    file.write_all(&counted(0, 10)).unwrap();
    file.set_modified(time).unwrap();
    close(file).unwrap();
    // A file that is renamed brings its own.
    cp(&["-p"], "x.part");
    fs::rename(dataset.join("x.part"), dataset.join("renamed.npy")).unwrap();
    let check = |dataset: &Path| {
        let names = names(dataset);
        assert_eq!(names.len(), 7);
        for name in names.iter().filter(|name| *name != "data.npy") {
            let stat = fs::metadata(dataset.join(name)).unwrap();
            assert_eq!(stat.mode() & 0o7777, 0o640, "{name}");
            assert_eq!(stat.modified().unwrap(), time, "{name}");
        }
    };
    check(&dataset);
    let mount = mount.remount();
    check(&mount.path("run7"));
}

#[test]
fn copy2_keeps_what_it_copies() {
    require!(fuse, python);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    let source = mount.scratch("source.npy");
    fs::write(&source, counted(0, 10)).unwrap();
    let script = r#"
import os, shutil, sys
source, target = sys.argv[1:]
os.chmod(source, 0o604)
os.utime(source, ns=(10**18, 10**18 + 1))
shutil.copy2(source, target)
shutil.copy2(source, target)
stat = os.stat(target)
assert (stat.st_mode & 0o7777, stat.st_mtime_ns) == (0o604, 10**18 + 1), stat
"#;
    python(script, &[&source, &dataset.join("c.npy")]);
    assert_eq!(rows_of(&dataset), count_to(10));
}

#[test]
fn the_owner_stays_as_it_was_set() {
    require!(fuse, root);
    let _alone = alone();
    let (mount, dataset) = with_dataset();
    put(&dataset.join("after.npy"), &counted(0, 1)).unwrap();
    chown(dataset.join("after.npy"), Some(1234), Some(4321)).unwrap();
    let mut file = File::create(dataset.join("open.npy")).unwrap();
    std::os::unix::fs::fchown(&file, Some(1234), Some(4321)).unwrap();
    file.write_all(&counted(1, 1)).unwrap();
    close(file).unwrap();
    put_in_pieces(&dataset.join("mine.npy"), &counted(2, 1), 50).unwrap();
    let check = |dataset: &Path| {
        for name in ["after.npy", "open.npy"] {
            let stat = fs::metadata(dataset.join(name)).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (1234, 4321), "{name}");
        }
        let stat = fs::metadata(dataset.join("mine.npy")).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (0, 0));
        let csv = fs::read_to_string(dataset.join(".npyfs/chunks.csv")).unwrap();
        assert_eq!(
            csv.lines().filter(|line| line.contains("Z,1234,")).count(),
            2
        );
    };
    check(&dataset);
    let mount = mount.remount();
    check(&mount.path("run7"));
}

/// The child closes the descriptor in its execve, during which much of its /proc cannot be read.
#[test]
fn a_program_started_beside_a_chunk_in_flight_hangs_nobody() {
    require!(fuse);
    let _alone = alone();
    let (mut mount, dataset) = with_dataset();
    mount.tolerate_warnings();
    let chunk = counted(0, 3);
    let path = dataset.join("a.npy");
    // By a thread that is gone when the child comes.
    let open = std::thread::spawn(move || File::create(path).unwrap());
    let file = open.join().unwrap();
    file.write_all_at(&chunk[..200], 0).unwrap();
    let started = std::thread::spawn(|| start(&mut Command::new("true")).unwrap().wait().unwrap());
    if !eventually(Duration::from_secs(10), || started.is_finished()) {
        kill(mount.pid(), "KILL");
        panic!("the child hangs in its execve");
    }
    assert!(started.join().unwrap().success());
    // Whose close it was cannot be told any more, so what becomes of the chunk is not promised.
    file.write_all_at(&chunk[200..], 200).ok();
    close(file).ok();
    put(&dataset.join("b.npy"), &counted(3, 1)).unwrap();
}

/// Their handles may end at any moment beside it, which makes files of both.
#[test]
fn an_empty_chunk_is_renamed_onto_another_right_after_its_close() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let open = |path: &Path| {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true);
        options.open(path).unwrap()
    };
    for n in 0..2000 {
        let (from, to) = (
            dataset.join(format!("{n}-from.npy")),
            dataset.join(format!("{n}-to.npy")),
        );
        let first = open(&from);
        let second = open(&from);
        drop(first);
        let target = open(&to);
        drop(second);
        fs::rename(&from, &to).unwrap_or_else(|error| panic!("round {n}: {error}"));
        drop(target);
        fs::remove_file(&to).unwrap();
    }
}
