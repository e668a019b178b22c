//! `npyfs check`: every damage is found, told with the names of the chunks that it hit, and is exit
//! code 1; what is no damage is exit code 0.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use common::{Chunk, Mount, Place, Style, kill, npyfs, put_bytes, put_chunk, run};

const HEADER: u64 = 128;

fn small(n: usize) -> Vec<Chunk> {
    let all = (0..).map(|number| Chunk::new(0, number));
    all.filter(|it| it.style() == Style::Small)
        .take(n)
        .collect()
}

/// A closed dataset of these chunks.
struct Closed {
    store: tempfile::TempDir,
    chunks: Vec<Chunk>,
}

impl Closed {
    fn of(chunks: Vec<Chunk>) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mount = Mount::builder().store(store.path()).start();
        fs::create_dir(mount.path("run")).unwrap();
        for chunk in &chunks {
            put_chunk(&mount.path("run"), *chunk).unwrap();
        }
        mount.finish();
        Self { store, chunks }
    }

    fn data(&self) -> PathBuf {
        self.store.path().join("run/data.npy")
    }

    fn journal(&self) -> PathBuf {
        self.store.path().join("run/.npyfs/chunks.log")
    }

    /// Where the rows of chunk `n` begin in `data.npy`.
    fn offset(&self, n: usize) -> u64 {
        HEADER + self.rows(n) * 32
    }

    /// How many rows are before chunk `n`.
    fn rows(&self, n: usize) -> u64 {
        self.chunks[..n].iter().map(|it| it.rows()).sum()
    }

    /// The same count in another header.
    fn count(&self, rows: u64) {
        let file = open(&self.data());
        let mut head = vec![0; HEADER as usize];
        file.read_exact_at(&mut head, 0).unwrap();
        let text = String::from_utf8(head[10..].to_vec()).unwrap();
        let (before, rest) = text.split_once("'shape': (").unwrap();
        let (field, rest) = rest.split_once(',').unwrap();
        let width = field.len();
        let text = format!("{before}'shape': ({rows:>width$},{rest}");
        file.write_all_at(text.as_bytes(), 10).unwrap();
    }

    fn cut_data(&self, len: u64) {
        open(&self.data()).set_len(len).unwrap();
    }

    /// Damage, and exactly these chunks are named.
    #[track_caller]
    fn is_damaged(&self, phrase: &str, hit: &[usize]) {
        let (code, said) = check(self.store.path());
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("DAMAGED"), "{said}");
        assert!(said.contains(phrase), "no word of '{phrase}': {said}");
        for (n, chunk) in self.chunks.iter().enumerate() {
            let named = said.contains(&chunk.name());
            assert_eq!(named, hit.contains(&n), "{}: {said}", chunk.name());
        }
    }

    #[track_caller]
    fn is_good(&self, phrase: &str) {
        let (code, said) = check(self.store.path());
        assert_eq!(code, 0, "{said}");
        assert!(said.contains(phrase), "no word of '{phrase}': {said}");
        assert!(!said.contains("DAMAGED"), "{said}");
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = open(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The exit code, and all that was said.
fn check(path: &Path) -> (i32, String) {
    let output = Command::new(npyfs())
        .arg("check")
        .arg(path)
        .output_alone()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap();
    (code, String::from_utf8(said).unwrap())
}

#[test]
fn a_good_dataset_is_good_and_nothing_is_changed() {
    require!(fuse);
    let closed = Closed::of(small(4));
    let before = [closed.data(), closed.journal()].map(|path| fs::read(path).unwrap());
    closed.is_good(&format!("good: {} rows", closed.rows(4)));
    let after = [closed.data(), closed.journal()].map(|path| fs::read(path).unwrap());
    assert!(before == after, "a check has changed the store");
}

#[test]
fn a_flipped_byte_of_the_rows_names_their_chunk() {
    require!(fuse);
    let closed = Closed::of(small(4));
    for n in 0..4 {
        let last = closed.offset(n + 1) - 1;
        for at in [closed.offset(n), last] {
            flip(&closed.data(), at);
            closed.is_damaged("differ from their checksum", &[n]);
            flip(&closed.data(), at);
        }
    }
    flip(&closed.data(), closed.offset(1));
    flip(&closed.data(), closed.offset(3));
    closed.is_damaged("differ from their checksum", &[1, 3]);
}

#[test]
fn a_flipped_byte_anywhere_in_the_header_is_found() {
    require!(fuse);
    let closed = Closed::of(small(2));
    for at in 0..HEADER {
        flip(&closed.data(), at);
        let (code, said) = check(closed.store.path());
        // '=u8' is what '<u8' is.
        let same = fs::read(closed.data()).unwrap()[at as usize] == b'=';
        assert_eq!(code, i32::from(!same), "byte {at}: {said}");
        flip(&closed.data(), at);
    }
    closed.is_good("good: ");
}

#[test]
fn a_flipped_byte_anywhere_in_the_journal_is_found() {
    require!(fuse);
    let closed = Closed::of(small(3));
    let len = fs::metadata(closed.journal()).unwrap().len();
    // Without its last record it is what a daemon leaves that is killed just then.
    for at in 0..len - 17 {
        flip(&closed.journal(), at);
        let (code, said) = check(closed.store.path());
        assert_eq!(code, 1, "byte {at} of {len}: {said}");
        flip(&closed.journal(), at);
    }
    closed.is_good("good: ");
}

#[test]
fn a_damaged_record_names_the_rows_and_all_chunks_behind_it() {
    require!(fuse);
    let closed = Closed::of(small(4));
    let journal = fs::read(closed.journal()).unwrap();
    let name = closed.chunks[1].name();
    let at = journal
        .windows(name.len())
        .position(|window| window == name.as_bytes())
        .unwrap();
    flip(&closed.journal(), at as u64);
    let (first, end) = (closed.rows(1), closed.rows(2));
    closed.is_damaged(
        &format!("rows {first} to {end}: the record of their chunk is damaged"),
        &[2, 3],
    );
    closed.is_damaged("are whole, but its record is after the damage", &[2, 3]);

    // A daemon changes nothing of it either, and does not hand out rows without their names.
    let before = [closed.data(), closed.journal()].map(|path| fs::read(path).unwrap());
    let mount = Mount::builder().store(closed.store.path()).start();
    mount.expect_warning("the journal is damaged at byte");
    put_chunk(&mount.path("run"), closed.chunks[0]).unwrap_err();
    fs::read(mount.path("run/data.npy")).unwrap_err();
    mount.finish();
    let after = [closed.data(), closed.journal()].map(|path| fs::read(path).unwrap());
    assert!(before == after, "the damaged dataset was changed");
    // The way out that the message tells.
    fs::remove_dir_all(closed.store.path().join("run/.npyfs")).unwrap();
    let mount = Mount::builder().store(closed.store.path()).start();
    assert_eq!(
        common::chunks_in(&mount.path("run/data.npy")),
        closed.chunks
    );
}

/// A closed dataset whose chunks were: forgotten, renamed, renamed and then forgotten, written again
/// under the same name, and that again; two of each name's rows were appended by another program.
struct Renamed {
    store: tempfile::TempDir,
    /// Of each chunk: its rows' first and the one after its last, and how a check calls it.
    rows: Vec<(u64, u64, String)>,
}

impl Renamed {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let builder = Mount::builder().store(store.path());
        let mount = builder.words("allow_delete,names=reuse").start();
        let dataset = mount.path("run");
        fs::create_dir(&dataset).unwrap();
        let mut rows: Vec<(u64, u64, String)> = Vec::new();
        let mut put = |name: &str, number, called: &str| {
            let bytes = Chunk::new(7, number).bytes();
            put_bytes(&dataset.join(name), &bytes).unwrap();
            let first = rows.last().map_or(0, |last| last.1);
            let end = first + (bytes.len() as u64 - HEADER) / 32;
            rows.push((
                first,
                end,
                called.replace("ROWS", &format!("rows {first} to {end}")),
            ));
        };
        put("a.npy", 0, "ROWS (of a name that was forgotten: a.npy)");
        put("b.npy", 1, "b2.npy: ROWS");
        put("c.npy", 2, "ROWS (of a name that was forgotten: c2.npy)");
        put(
            "d.npy",
            3,
            "ROWS (of an earlier chunk of a name that was written again: d.npy)",
        );
        put(
            "d.npy",
            4,
            "ROWS (of an earlier chunk of a name that was written again: d.npy)",
        );
        fs::remove_file(dataset.join("a.npy")).unwrap();
        fs::rename(dataset.join("b.npy"), dataset.join("b2.npy")).unwrap();
        fs::rename(dataset.join("c.npy"), dataset.join("c2.npy")).unwrap();
        fs::remove_file(dataset.join("c2.npy")).unwrap();
        put("d.npy", 5, "d.npy: ROWS");
        // A name that was forgotten, now of another chunk.
        put("c.npy", 6, "c.npy: ROWS");
        mount.finish();
        Self { store, rows }
    }

    fn data(&self) -> PathBuf {
        self.store.path().join("run/data.npy")
    }
}

#[test]
fn rows_of_names_that_were_forgotten_or_reused_are_verified() {
    require!(fuse);
    let renamed = Renamed::new();
    let (code, said) = check(renamed.store.path());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("7 chunks, 4 of them"), "{said}");
    for (first, end, called) in &renamed.rows {
        let at = HEADER + (first + end) / 2 * 32;
        flip(&renamed.data(), at);
        let (code, said) = check(renamed.store.path());
        assert_eq!(code, 1, "{called}: {said}");
        let line = format!("DAMAGED: {called} differ from their checksum");
        assert!(said.contains(&line), "no '{line}': {said}");
        assert_eq!(said.matches("DAMAGED").count(), 1, "{said}");
        flip(&renamed.data(), at);
    }
    let (code, said) = check(renamed.store.path());
    assert_eq!(code, 0, "{said}");
}

#[test]
fn rows_of_forgotten_names_are_named_where_the_dataset_cannot_be_opened() {
    require!(fuse);
    let renamed = Renamed::new();
    let (first, _, called) = &renamed.rows[0];
    flip(&renamed.data(), HEADER + first * 32);
    let (last, end, _) = &renamed.rows[6];
    open(&renamed.data()).set_len(HEADER + last * 32).unwrap();
    let (code, said) = check(renamed.store.path());
    assert_eq!(code, 1, "{said}");
    for line in [
        format!("DAMAGED: {called} are not what was committed"),
        format!("DAMAGED: c.npy: rows {last} to {end} are not in data.npy"),
    ] {
        assert!(said.contains(&line), "no '{line}': {said}");
    }
}

#[test]
fn rows_of_other_programs_are_counted_and_those_around_them_verified() {
    require!(fuse);
    let chunks = small(3);
    let closed = Closed::of(chunks[..2].to_vec());
    // Another program appends five rows, and a daemon adopts them before its next chunk.
    let end = closed.offset(2);
    open(&closed.data())
        .write_all_at(&[7; 5 * 32], end)
        .unwrap();
    closed.count(closed.rows(2) + 5);
    let mount = Mount::builder().store(closed.store.path()).start();
    put_chunk(&mount.path("run"), chunks[2]).unwrap();
    mount.finish();
    closed.is_good("5 rows of other programs have no checksum");
    flip(&closed.data(), end + 8);
    closed.is_good("5 rows of other programs have no checksum");
    for (n, at) in [(1, end - 1), (2, end + 5 * 32)] {
        flip(&closed.data(), at);
        let (code, said) = check(closed.store.path());
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains(&format!("DAMAGED: {}", chunks[n].name())),
            "{said}"
        );
        flip(&closed.data(), at);
    }
}

/// How many bytes of rows a check reads; and what it says.
fn read_by_a_check(dataset: &Path) -> (u64, String) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=read,pread64", "-o"])
        .arg(trace.path())
        .arg(npyfs())
        .arg("check")
        .arg(dataset)
        .output_alone()
        .unwrap();
    let traced = fs::read_to_string(trace.path()).unwrap();
    let of_rows = traced
        .lines()
        .filter(|line| line.contains("/data.npy>"))
        // But for its header, which is looked at again and again.
        .filter(|line| !line.contains(", 0) = "));
    let read = of_rows.map(|line| line.rsplit("= ").next().unwrap().parse::<u64>().unwrap());
    (read.sum(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_row_is_read_once() {
    require!(fuse, strace);
    let renamed = Renamed::new();
    let (read, _) = read_by_a_check(&renamed.store.path().join("run"));
    assert_eq!(read, renamed.rows[6].1 * 32);
}

/// Some chunks of which were synced, when its daemon is killed.
fn killed(chunks: &[Chunk]) -> Mount {
    let mut mount = Mount::builder().words("sync-interval=1000").start();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    for chunk in chunks {
        put_chunk(&dataset, *chunk).unwrap();
        if *chunk == chunks[1] {
            common::sync_path(&dataset).unwrap();
        }
    }
    mount.crash();
    mount
}

#[test]
fn every_row_of_a_dataset_that_was_not_closed_is_read_once() {
    require!(fuse, strace);
    let chunks = small(6);
    let killed = killed(&chunks);
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    run(Command::new("cp")
        .arg("-a")
        .args([&killed.store("run"), &copy]));
    let rows: u64 = chunks.iter().map(|chunk| chunk.rows()).sum();
    for dataset in [&killed.store("run"), &copy] {
        let (read, said) = read_by_a_check(dataset);
        assert_eq!(read, rows * 32, "{said}");
        let good = format!("good: {rows} rows");
        assert!(said.contains(&good) && said.contains("6 chunks"), "{said}");
    }
    // Damage in the middle, and what is not all there at the end.
    let data = copy.join("data.npy");
    let second = HEADER + chunks[0].rows() * 32;
    flip(&data, second + 16);
    let (read, said) = read_by_a_check(&copy);
    assert_eq!(read, rows * 32, "{said}");
    let line = format!("DAMAGED: {}: rows", chunks[1].name());
    assert_eq!(said.matches(&line).count(), 1, "{said}");
    flip(&data, second + 16);
    let last = HEADER + (rows - chunks[5].rows()) * 32;
    flip(&data, last + 16);
    let (read, said) = read_by_a_check(&copy);
    assert_eq!(read, rows * 32, "{said}");
    let line = format!(
        "DAMAGED: {}: its {} rows",
        chunks[5].name(),
        chunks[5].rows()
    );
    assert_eq!(said.matches(&line).count(), 1, "{said}");
}

#[test]
fn an_array_that_is_too_short_names_the_chunks_that_are_not_all_there() {
    require!(fuse);
    let closed = Closed::of(small(4));
    closed.cut_data(closed.offset(4) - 1);
    closed.is_damaged("are not in data.npy", &[3]);
    closed.cut_data(closed.offset(2) + 1);
    closed.is_damaged("are not in data.npy", &[2, 3]);
    closed.cut_data(50);
    closed.is_damaged("are not in data.npy", &[0, 1, 2, 3]);
    fs::remove_file(closed.data()).unwrap();
    closed.is_damaged("data.npy is gone", &[0, 1, 2, 3]);
}

#[test]
fn a_count_that_nobody_wrote_is_damage_and_rows_of_others_are_not() {
    require!(fuse);
    let closed = Closed::of(small(3));
    closed.count(closed.rows(2));
    closed.is_damaged("the header counted", &[]);
    closed.count(closed.rows(3) + 5);
    closed.is_damaged("holds fewer", &[]);
    // Unless the rows are there: then another program has appended them.
    let end = closed.offset(3);
    open(&closed.data())
        .write_all_at(&[7; 5 * 32], end)
        .unwrap();
    closed.is_good("adopted 5 rows that another program appended");
    closed.is_good("5 rows of other programs have no checksum");
}

#[test]
fn what_a_kill_leaves_is_no_damage() {
    require!(fuse);
    let mut mount = Mount::new();
    fs::create_dir(mount.path("run")).unwrap();
    let chunks = small(4);
    for chunk in &chunks {
        put_chunk(&mount.path("run"), *chunk).unwrap();
    }
    mount.crash();
    // In the middle of the next commit: its record is torn, its rows are after the last.
    let journal = mount.store("run/.npyfs/chunks.log");
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend([60, 0, 0, 0, 1, 2, 3]);
    fs::write(&journal, bytes).unwrap();
    let (code, said) = check(&mount.store(""));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("after its last good record"), "{said}");
    assert!(said.contains("4 chunks"), "{said}");
}

#[test]
fn a_dataset_at_work_is_checked_and_not_disturbed() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    put_chunk(&dataset, Chunk::new(9, 0)).unwrap();
    let stop = AtomicBool::new(false);
    let checks = scope(|threads| {
        for producer in 0..2 {
            let (dataset, stop) = (&dataset, &stop);
            threads.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    put_chunk(dataset, Chunk::new(producer, number)).unwrap();
                }
            });
        }
        let checks: Vec<_> = (0..25).map(|_| check(&mount.store("run"))).collect();
        stop.store(true, Ordering::Relaxed);
        checks
    });
    for (code, said) in checks {
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("good: "), "{said}");
    }
    // Damage is found there too.
    flip(&mount.store("run/data.npy"), HEADER + 3);
    let (code, said) = check(&mount.store("run"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&Chunk::new(9, 0).name()), "{said}");
    flip(&mount.store("run/data.npy"), HEADER + 3);
    put_chunk(&dataset, Chunk::new(9, 1)).unwrap();
}

#[test]
fn a_damaged_record_is_found_in_a_dataset_at_work() {
    require!(fuse);
    let mount = Mount::new();
    let dataset = mount.path("run");
    fs::create_dir(&dataset).unwrap();
    let chunks = small(4);
    for chunk in &chunks {
        put_chunk(&dataset, *chunk).unwrap();
    }
    let journal = mount.store("run/.npyfs/chunks.log");
    let bytes = fs::read(&journal).unwrap();
    let mut first = 0;
    for chunk in &chunks {
        let name = chunk.name();
        let at = bytes.windows(name.len());
        let at = at.clone().position(|it| it == name.as_bytes()).unwrap();
        flip(&journal, at as u64);
        let (code, said) = check(&mount.store("run"));
        flip(&journal, at as u64);
        let end = first + chunk.rows();
        assert_eq!(code, 1, "{said}");
        let line = format!("rows {first} to {end}: the record of their chunk is damaged");
        assert!(said.contains(&line), "no '{line}': {said}");
        first = end;
    }
    let (code, said) = check(&mount.store("run"));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn each_dataset_of_a_store_is_checked() {
    require!(fuse);
    let closed = Closed::of(small(2));
    let mount = Mount::builder().store(closed.store.path()).start();
    fs::create_dir(mount.path("other")).unwrap();
    fs::create_dir(mount.path("other/inner")).unwrap();
    let chunk = small(1)[0];
    put_bytes(&mount.path("other/inner/c.npy"), &chunk.bytes()).unwrap();
    mount.finish();
    flip(&closed.store.path().join("other/inner/data.npy"), HEADER);
    let (code, said) = check(closed.store.path());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("other/inner: DAMAGED: c.npy"), "{said}");
    assert!(said.contains("run: good: "), "{said}");
    assert!(said.contains("1 of 2 datasets are damaged"), "{said}");
    let (code, _) = check(&closed.store.path().join("run"));
    assert_eq!(code, 0);
}

/// A chunk that is committed, and of which one byte of the store is flipped afterwards.
fn damaged_mount(mount: &Mount) -> String {
    fs::create_dir(mount.path("run")).unwrap();
    fs::create_dir(mount.path("good")).unwrap();
    let chunk = small(1)[0];
    for dataset in ["run", "good"] {
        put_chunk(&mount.path(dataset), chunk).unwrap();
    }
    flip(&mount.store("run/data.npy"), HEADER + 3);
    let damaged = mount.store("run").display().to_string();
    format!("{damaged}: DAMAGED: {}: rows 0 to", chunk.name())
}

#[test]
fn a_mount_has_its_store_checked() {
    require!(fuse);
    let mount = Mount::new();
    let damage = damaged_mount(&mount);
    let link = mount.scratch("link");
    std::os::unix::fs::symlink(mount.path(""), &link).unwrap();
    let around = mount.path("run/../good/.././run");
    for path in [mount.path(""), mount.path("run"), link.join("run"), around] {
        let (code, said) = check(&path);
        assert_eq!(code, 1, "{}: {said}", path.display());
        assert!(said.contains(&damage), "{}: {said}", path.display());
    }
    let (code, said) = check(&mount.path("good"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 chunks"), "{said}");
    // From inside the mount.
    let mut command = Command::new(npyfs());
    command.args(["check", "."]).current_dir(mount.path("run"));
    let output = command.output_alone().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // A directory above both finds each dataset once.
    let (code, said) = check(mount.path("").parent().unwrap());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("1 of 2 datasets are damaged"), "{said}");
}

#[test]
fn a_mount_of_a_part_of_the_mount_has_that_part_checked() {
    require!(fuse, root);
    let mount = Mount::new();
    let damage = damaged_mount(&mount);
    let bound = mount.scratch("bound");
    fs::create_dir(&bound).unwrap();
    run(Command::new("mount")
        .arg("--bind")
        .args([&mount.path("run"), &bound]));
    let (code, said) = check(&bound);
    run(Command::new("umount").arg(&bound));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&damage), "{said}");
    assert!(said.contains("1 of 1 datasets"), "{said}");
}

#[test]
fn a_mount_whose_daemon_is_stopped_or_dead_has_its_store_checked() {
    require!(fuse);
    let mut mount = Mount::new();
    let damage = damaged_mount(&mount);
    let pid = mount.pid();
    let checked = |what: &str, damage: &str| {
        for path in ["", "run", "run/../run"] {
            let begun = Instant::now();
            let output = Command::new("timeout")
                .args(["-s", "KILL", "10"])
                .arg(npyfs())
                .arg("check")
                .arg(mount.path(path))
                .output_alone()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(begun.elapsed() < Duration::from_secs(9), "{what}: it hangs");
            assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
            assert!(said.contains(damage), "{what}: {said}");
        }
    };
    kill(pid, "STOP");
    checked("stopped", &damage);
    kill(pid, "CONT");
    kill(pid, "KILL");
    assert!(common::eventually(Duration::from_secs(20), || {
        !common::is_alive(pid)
    }));
    // What it had not synced is now what recovery will drop.
    let (run, _) = damage.split_at(damage.find(": rows").unwrap());
    checked("dead", run);
    mount.crash();
}

#[test]
fn a_mount_whose_store_cannot_be_reached_is_not_called_good() {
    require!(fuse, root);
    let mount = Mount::new();
    damaged_mount(&mount);
    // Another store's mount hides it.
    let other = Place::new();
    fs::create_dir(other.store().join("run")).unwrap();
    common::try_mount(&other.store(), &mount.store(""));
    let (code, said) = check(&mount.path(""));
    run(&mut common::umount(&mount.store("")));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("is hidden by"), "{said}");
}

/// Datasets are made, grow, are let go and removed by other programs while they are checked.
#[test]
fn a_check_calls_nothing_damaged_that_is_only_being_changed() {
    require!(fuse);
    let mount = Mount::builder().words("allow_delete=all,names=reuse");
    let mount = mount.start();
    let chunks = small(30);
    fs::create_dir(mount.path("run")).unwrap();
    fs::create_dir(mount.path("quiet")).unwrap();
    put_chunk(&mount.path("quiet"), chunks[0]).unwrap();
    let alone = mount.scratch("alone");
    fs::create_dir(&alone).unwrap();
    for chunk in &chunks {
        fs::write(alone.join(chunk.name()), chunk.bytes()).unwrap();
    }
    let (dataset, short) = (mount.path("run"), mount.path("short"));
    let (appended, root) = (mount.store("appended"), mount.path(""));
    let stop = AtomicBool::new(false);
    let rounds = scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for chunk in &chunks[..6] {
                    put_chunk(&dataset, *chunk).unwrap();
                }
                for chunk in &chunks[..6] {
                    fs::remove_file(dataset.join(chunk.name())).unwrap();
                }
                fs::remove_file(dataset.join("data.npy")).unwrap();
                fs::create_dir(&short).unwrap();
                put_chunk(&short, chunks[0]).unwrap();
                fs::remove_file(short.join(chunks[0].name())).unwrap();
                fs::remove_file(short.join("data.npy")).unwrap();
                fs::remove_dir(&short).unwrap();
            }
        });
        threads.spawn(|| {
            // Each takes the lock and lets it go again.
            for chunk in chunks.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut append = Command::new(npyfs());
                append.arg("append").arg(&appended);
                append.arg(alone.join(chunk.name())).output_alone().unwrap();
            }
        });
        let rounds: Vec<_> = (0..60).map(|_| check(&root)).collect();
        stop.store(true, Ordering::Relaxed);
        rounds
    });
    for (code, said) in rounds {
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("quiet: good: "), "{said}");
    }
    mount.finish();
}

#[test]
fn a_terminal_sees_a_progress_bar_and_nobody_else_does() {
    require!(fuse, script);
    let mut all = (0..).map(|number| Chunk::new(0, number));
    let large: Vec<Chunk> = all
        .by_ref()
        .filter(|it| it.style() == Style::Streamed)
        .take(12)
        .collect();
    let closed = Closed::of(large);
    let output = Command::new(npyfs())
        .arg("check")
        .arg(closed.store.path())
        .output_alone()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(!output.stdout.contains(&b'\r'));

    // All rows of a copy of one that was not closed are read before it is known what it is.
    let scratch = tempfile::tempdir().unwrap();
    let killed = killed(&closed.chunks);
    run(Command::new("cp")
        .arg("-a")
        .args([&killed.store("run"), &scratch.path().join("copy")]));
    for dataset in [closed.store.path(), scratch.path()] {
        let command = format!("{} check {}", npyfs().display(), dataset.display());
        let on_terminal = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .output_alone()
            .unwrap();
        let seen = String::from_utf8_lossy(&on_terminal.stdout).into_owned();
        assert!(on_terminal.status.success(), "{seen}");
        // Of all bytes, how many are done.
        assert!(seen.contains("MiB/") && seen.contains("iB/s"), "{seen:?}");
        assert!(seen.contains("good: "), "{seen:?}");
    }
}
