//! `npyfs check`: every damage is found, told with the names of the chunks that it hit, and is exit
//! code 1; what is no damage is exit code 0.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use common::{Chunk, Mount, Style, npyfs, put_bytes, put_chunk};

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
        .output()
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
    closed.is_damaged("are whole, but its record is behind the damage", &[2, 3]);

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
    // In the middle of the next commit: its record is torn, its rows are behind the last.
    let journal = mount.store("run/.npyfs/chunks.log");
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend([60, 0, 0, 0, 1, 2, 3]);
    fs::write(&journal, bytes).unwrap();
    let (code, said) = check(&mount.store(""));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("behind its last good record"), "{said}");
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
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(!output.stdout.contains(&b'\r'));

    let command = format!(
        "{} check {}",
        npyfs().display(),
        closed.store.path().display()
    );
    let on_terminal = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&on_terminal.stdout).into_owned();
    assert!(on_terminal.status.success(), "{seen}");
    // Of all bytes, how many are done.
    assert!(seen.contains("MiB/") && seen.contains("iB/s"), "{seen:?}");
    assert!(seen.contains("good: "), "{seen:?}");
}
