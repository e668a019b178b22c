//! A scripted history on a simulated disk, broken at every one of its calls (P1, P2, P3, P6, P7).
//!
//! *One failure*: the call fails, all others work. Whoever is answered an error has appended
//! nothing, now or later; all others have.
//! *A kill*: everything fails from the call on, and the next process finds the disk as it is. All
//! that was acknowledged is there, once, in commit order; what was cut short may be.
//! *A power cut*: the next boot finds what was synced and some of the rest. What is there is a
//! prefix of the commit order, and holds all that was synced.
//! *Recovery* of each is cut short at every call too, and run again.
#![allow(missing_docs, unreachable_pub)]

use crate::chunks;
use crate::simulated;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use chunks::{chunk, meaning, split};
use nix::errno::Errno;
use npyfs::dataset::{Attributes, Budget, Change, ChunkHandle, Face, Found, NoOthers, Start, View};
use npyfs::disk::{Open, StoreDir};
use npyfs::{Dataset, Options, Result};
use simulated::{Disk, Fault};

const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];

fn long() -> bool {
    std::env::var_os("NPYFS_LONG").is_some_and(|long| long == "1")
}

fn open(disk: &Disk, boot: [u8; 16]) -> Result<Arc<Dataset>> {
    let options = Options {
        // Rows of 64 bytes: up to 15 of them collect in memory, more are streamed.
        memory: Budget::new(1000),
        boot: Some(boot),
        ..Options::default()
    };
    Dataset::open_in(Arc::new(disk.clone()), "simulated", options)
}

/// How many rows of a chunk are confirmed, and how many its header says.
const CONFIRMED: (usize, u64) = (40, 60);

/// A chunk that somebody tried to append.
#[derive(Clone, Debug)]
struct Tried {
    name: &'static str,
    /// Where the attempt was renamed to, once that was acknowledged.
    renamed: Option<&'static str>,
    rename_synced: bool,
    bytes: Vec<u8>,
    acknowledged: bool,
    synced: bool,
}

/// What the producers were told, in the order of their commits.
#[derive(Debug, Default)]
struct Told {
    tried: Vec<Tried>,
    errors: Vec<Errno>,
    /// What they wrote that is no chunk.
    refused: Vec<&'static str>,
    /// The fsync of the unfinished one was answered.
    confirmed: bool,
}

impl Told {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error.errno())).ok()
    }

    fn close(&mut self, name: &'static str, bytes: Vec<u8>, result: Result<()>) {
        let acknowledged = self.note(result).is_some();
        self.tried.push(Tried {
            name,
            renamed: None,
            rename_synced: false,
            bytes,
            acknowledged,
            synced: false,
        });
    }

    fn sync(&mut self, result: Result<()>) {
        if self.note(result).is_some() {
            for tried in &mut self.tried {
                tried.synced |= tried.acknowledged;
                tried.rename_synced |= tried.renamed.is_some();
            }
        }
    }

    fn acknowledged(&self) -> Vec<&Tried> {
        self.tried
            .iter()
            .filter(|tried| tried.acknowledged)
            .collect()
    }
}

fn begin(dataset: &Arc<Dataset>, name: &str) -> Result<ChunkHandle> {
    let face = Face {
        len: 0,
        mode: 0o644,
        uid: 7,
        gid: 8,
        mtime: Some(9),
    };
    let chunk = dataset.begin(OsStr::new(name), face, Start::New)?;
    assert!(chunk.is_new(), "{name} is committed");
    Ok(chunk)
}

/// The pieces of a chunk as (offset, bytes), front to back.
fn pieces(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    bytes
        .chunks(700)
        .enumerate()
        .map(|(n, piece)| (n as u64 * 700, piece))
        .collect()
}

fn write_all(incoming: &ChunkHandle, pieces: &[(u64, &[u8])]) -> Result<()> {
    pieces
        .iter()
        .try_for_each(|(at, piece)| incoming.write(piece, *at, || ()))
}

fn whole(told: &mut Told, dataset: &Arc<Dataset>, name: &'static str, bytes: Vec<u8>) {
    let done = dataset.append(name, &bytes);
    told.close(name, bytes, done);
}

/// Writes these pieces of a chunk and closes it, with `between` in the middle.
fn streamed(
    told: &mut Told,
    dataset: &Arc<Dataset>,
    name: &'static str,
    bytes: Vec<u8>,
    reversed: bool,
    between: impl FnOnce(&mut Told),
) {
    let Some(incoming) = told.note(begin(dataset, name)) else {
        return between(told);
    };
    let mut pieces = pieces(&bytes);
    if reversed {
        pieces.reverse();
    }
    let (first, rest) = pieces.split_at(pieces.len() / 2);
    let written = write_all(&incoming, first);
    between(told);
    let done = written
        .and_then(|()| write_all(&incoming, rest))
        .and_then(|()| incoming.flush(&NoOthers));
    incoming.release();
    told.close(name, bytes, done);
}

/// All that producers can do, on a disk that may break in the middle. `reopened` says how to open
/// a second time; `None` ends the history there.
fn history(disk: &Disk, told: &mut Told) -> Option<Arc<Dataset>> {
    let mut dataset = told
        .note(open(disk, BOOT))
        .or_else(|| told.note(open(disk, BOOT)))?;
    whole(told, &dataset, "first.npy", chunk(3, 1));
    whole(told, &dataset, "second.npy", chunk(5, 2));
    told.sync(dataset.sync());
    streamed(
        told,
        &dataset,
        "displaced.npy",
        chunk(60, 3),
        false,
        |told| {
            whole(told, &dataset, "newcomer.npy", chunk(2, 4));
            whole(told, &dataset, "another.npy", chunk(15, 5));
        },
    );
    streamed(told, &dataset, "in-place.npy", chunk(45, 6), false, |_| ());
    if let Some(from) = told
        .tried
        .iter()
        .position(|tried| tried.name == "second.npy")
    {
        let (old, new) = (OsStr::new("second.npy"), OsStr::new("renamed.npy"));
        if told.note(dataset.rename(old, new)).is_some() {
            told.tried[from].renamed = Some("renamed.npy");
        }
    }
    let change = Change {
        mode: Some(0o400),
        ..Change::default()
    };
    told.note(dataset.set_attributes(OsStr::new("first.npy"), &change));
    streamed(told, &dataset, "scattered.npy", chunk(21, 7), true, |_| ());

    // fsync of a complete chunk commits it and makes it durable.
    if let Some(incoming) = told.note(begin(&dataset, "fsynced.npy")) {
        let bytes = chunk(4, 8);
        let done = incoming
            .write(&bytes, 0, || ())
            .and_then(|()| incoming.commit_if_complete());
        let committed = done.is_ok();
        told.close("fsynced.npy", bytes, done);
        if committed {
            told.sync(dataset.sync());
        }
        incoming.release();
    }

    // Refusals, in memory and streamed, one after the header and one at close.
    for (name, rows) in [("short.npy", 6), ("short-stream.npy", 40)] {
        if let Some(incoming) = told.note(begin(&dataset, name)) {
            let bytes = chunk(rows, 9);
            let written = incoming.write(&bytes[..bytes.len() - 30], 0, || ());
            assert!(written.and_then(|()| incoming.flush(&NoOthers)).is_err());
            incoming.release();
        }
        told.refused.push(name);
    }
    if let Some(incoming) = told.note(begin(&dataset, "unlinked.npy")) {
        let bytes = chunk(50, 10);
        let written = incoming.write(&bytes[..2000], 0, || ());
        if told.note(written).is_some() {
            let Some(Found::InFlight(chunk)) = dataset.find(OsStr::new("unlinked.npy")).unwrap()
            else {
                panic!("it is in flight");
            };
            told.note(dataset.abort(&chunk));
        }
        incoming.release();
        told.refused.push("unlinked.npy");
    }

    // An ordinary file that is renamed to a chunk's name.
    let bytes = chunk(7, 11);
    disk.put("ordinary", &bytes);
    let attributes = Attributes {
        mode: 0o600,
        uid: 1,
        gid: 2,
        mtime: 3,
    };
    let done = disk
        .undisturbed(|| disk.open(Path::new("ordinary"), Open::Read))
        .map_err(|error| panic!("{error}"))
        .and_then(|blob| dataset.append_blob(OsStr::new("from-file.npy"), &*blob, attributes));
    told.close("from-file.npy", bytes, done);

    let closed = told.note(dataset.close()).is_some();
    if closed {
        told.sync(Ok(()));
    }
    drop(dataset);
    dataset = told
        .note(open(disk, BOOT))
        .or_else(|| told.note(open(disk, BOOT)))?;
    whole(told, &dataset, "reopened.npy", chunk(9, 12));
    streamed(told, &dataset, "last.npy", chunk(33, 13), false, |_| ());

    // One that is never finished, but synced before its last bytes.
    if let Some(incoming) = told.note(begin(&dataset, "confirmed.npy")) {
        let bytes = chunk(CONFIRMED.1, 15);
        let (first, rest) = bytes.split_at(128 + 64 * CONFIRMED.0);
        let done = incoming
            .write(first, 0, || ())
            .and_then(|()| incoming.commit_if_complete());
        told.confirmed = told.note(done).is_some();
        told.note(incoming.write(&rest[..640], first.len() as u64, || ()));
        told.refused.push("confirmed.npy");
        incoming.release();
    }

    // One that is never finished.
    if let Some(incoming) = told.note(begin(&dataset, "unfinished.npy")) {
        let written = incoming.write(&chunk(80, 14)[..3000], 0, || ());
        told.note(written);
        told.refused.push("unfinished.npy");
        std::mem::forget(incoming);
    }
    Some(dataset)
}

fn contents(view: &View) -> Vec<u8> {
    let mut bytes = vec![0; view.len() as usize];
    assert_eq!(view.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn names(dataset: &Dataset) -> Vec<OsString> {
    let (mut names, mut id) = (Vec::new(), 0);
    while let Some((name, next)) = dataset.next_name(id) {
        names.push(name);
        id = next;
    }
    names
}

/// Checks that the dataset is whole, and answers which attempts it holds, in commit order.
fn whole_and_readable(dataset: &Dataset, told: &Told, context: &str) -> Vec<usize> {
    let (mut held, mut rows) = (Vec::new(), Vec::new());
    for name in names(dataset) {
        let view = dataset.chunk(&name).unwrap().expect(context).view;
        let bytes = contents(&view);
        let which = told.tried.iter().position(|tried| {
            tried.bytes == bytes
                && (name == tried.name
                    || tried.renamed.is_some_and(|new| name == new)
                    || name == "renamed.npy" && tried.name == "second.npy")
        });
        let which =
            which.unwrap_or_else(|| panic!("{} holds what nobody wrote {context}", name.display()));
        assert!(
            !held.contains(&which),
            "{} is there twice {context}",
            name.display()
        );
        held.push(which);
        rows.extend_from_slice(split(&bytes).1);
    }
    match dataset.snapshot().unwrap() {
        Some(array) => {
            let bytes = contents(&array);
            let (head, body) = split(&bytes);
            let shape = vec![rows.len() as u64 / 64, 8];
            assert_eq!(
                meaning(head),
                ("'<i8'".to_owned(), false, shape),
                "{context}"
            );
            assert!(body == rows, "the rows are not the chunks' {context}");
        }
        None => assert!(held.is_empty(), "chunks without an array {context}"),
    }
    held
}

/// `data.npy` as any other program finds it (P8): whole rows of what was appended, in order.
fn valid_in_the_store(disk: &Disk, told: &Told, context: &str) {
    let Some(bytes) = disk.bytes("data.npy") else {
        return;
    };
    let (head, body) = split(&bytes);
    let (_, _, shape) = meaning(head);
    let counted = shape[0] as usize * 64;
    assert!(
        counted <= body.len(),
        "counts rows that are not there {context}"
    );
    // Among the attempts some may have failed.
    let mut at = 0;
    for tried in &told.tried {
        let rows = split(&tried.bytes).1;
        if at < counted && body[at..counted].starts_with(rows) {
            at += rows.len();
        }
    }
    assert_eq!(at, counted, "holds rows that nobody wrote {context}");
}

/// A producer that heard nothing, or an error, tries again: then all is there, once.
fn retries_settle_it(disk: &Disk, dataset: &Arc<Dataset>, told: &Told, context: &str) {
    let second = OsStr::new("renamed.npy");
    let renamed = dataset.chunk(second).unwrap().is_some();
    for tried in &told.tried {
        let name = if renamed && tried.name == "second.npy" {
            "renamed.npy"
        } else {
            tried.name
        };
        dataset
            .append(name, &tried.bytes)
            .unwrap_or_else(|error| panic!("a retry of {name} failed: {error} {context}"));
    }
    let held = whole_and_readable(dataset, told, context);
    assert_eq!(held.len(), told.tried.len(), "{context}");
    dataset.append("new.npy", &chunk(1, 99)).unwrap();
    dataset.sync().unwrap();
    dataset.close().unwrap();
    let power_cut = disk.power_cut(0);
    let again = open(&power_cut, NEXT_BOOT).unwrap();
    assert_eq!(
        names(&again).len(),
        told.tried.len() + 1,
        "closed and lost {context}"
    );
}

#[test]
fn the_history_works_on_a_disk_that_does() {
    let (disk, mut told) = (Disk::default(), Told::default());
    let dataset = history(&disk, &mut told).unwrap();
    assert_eq!(told.errors, []);
    assert_eq!(told.acknowledged().len(), 11);
    let held = whole_and_readable(&dataset, &told, "");
    assert_eq!(held, (0..11).collect::<Vec<_>>());
    valid_in_the_store(&disk, &told, "");
    retries_settle_it(&disk, &dataset, &told, "");
}

fn calls_of_the_history() -> usize {
    let (disk, mut told) = (Disk::default(), Told::default());
    let dataset = history(&disk, &mut told).unwrap();
    let calls = disk.calls();
    drop(dataset);
    assert!(calls > 150, "{calls} calls");
    calls
}

#[test]
fn one_failure_is_told_and_changes_nothing_else() {
    let calls = calls_of_the_history();
    for (errno, half) in [(libc::ENOSPC, false), (libc::EIO, true)] {
        for at in 0..calls {
            let context = format!("when call {at} fails with {errno}, half done: {half}");
            let (disk, mut told) = (Disk::default(), Told::default());
            disk.break_at(Some(Fault {
                at,
                errno,
                for_good: false,
                half,
            }));
            let dataset =
                history(&disk, &mut told).unwrap_or_else(|| panic!("no dataset {context}"));
            assert!(disk.struck(), "{context}");
            disk.break_at(None);
            let expected: Vec<usize> = (0..told.tried.len())
                .filter(|&n| told.tried[n].acknowledged)
                .collect();
            let held = whole_and_readable(&dataset, &told, &context);
            assert_eq!(held, expected, "{context}, told {:?}", told.errors);
            valid_in_the_store(&disk, &told, &context);
            // ESTALE: attributes of a chunk that was refused.
            let known = [Errno::from_raw(errno), Errno::EIO, Errno::ESTALE];
            assert!(
                told.errors.iter().all(|errno| known.contains(errno)),
                "{:?} {context}",
                told.errors
            );

            let next = disk.killed();
            let dataset = open(&next, BOOT).unwrap_or_else(|error| panic!("{error} {context}"));
            let held = whole_and_readable(&dataset, &told, &format!("after a kill {context}"));
            assert_eq!(
                held, expected,
                "after a kill {context}, told {:?}",
                told.errors
            );
            retries_settle_it(&next, &dataset, &told, &context);
            has_confirmed(&next, &told, &context);
        }
    }
}

/// Runs the history on a disk that stops working at call `at`.
fn cut_short(at: usize, half: bool) -> (Disk, Told) {
    let (disk, mut told) = (Disk::default(), Told::default());
    disk.break_at(Some(Fault {
        at,
        errno: libc::EIO,
        for_good: true,
        half,
    }));
    drop(history(&disk, &mut told));
    (disk, told)
}

fn after_kill(next: &Disk, told: &Told, context: &str) -> Vec<usize> {
    let dataset = open(next, BOOT).unwrap_or_else(|error| panic!("{error} {context}"));
    let held = whole_and_readable(&dataset, told, context);
    let lost = told
        .tried
        .iter()
        .enumerate()
        .find(|(n, tried)| tried.acknowledged && !held.contains(n));
    assert!(lost.is_none(), "{lost:?} is lost {context}");
    assert!(held.is_sorted(), "another order {context}");
    for tried in told.tried.iter().filter(|tried| tried.acknowledged) {
        let name = tried.renamed.unwrap_or(tried.name);
        assert!(
            dataset.chunk(OsStr::new(name)).unwrap().is_some(),
            "{name} is lost {context}"
        );
    }
    held
}

/// What an fsync of an unfinished chunk has confirmed is kept.
fn has_confirmed(disk: &Disk, told: &Told, context: &str) {
    let paths = disk.paths();
    let is_it =
        |path: &&str| path.starts_with(".npyfs/rescued/") && path.ends_with("-confirmed.npy");
    let kept: Vec<&str> = paths
        .iter()
        .filter_map(|path| path.to_str())
        .filter(is_it)
        .collect();
    if !told.confirmed {
        return;
    }
    assert_eq!(kept.len(), 1, "{context}");
    let bytes = disk.bytes(kept[0]).unwrap();
    let (head, body) = split(&bytes);
    let (_, _, shape) = meaning(head);
    let confirmed = 64 * CONFIRMED.0;
    assert!(shape[0] as usize >= CONFIRMED.0, "{context}");
    let whole = chunk(CONFIRMED.1, 15);
    assert!(
        body[..confirmed] == split(&whole).1[..confirmed],
        "{context}"
    );
}

/// What recovery keeps of a chunk begins as the chunk does, and says how many rows it has. What was
/// not received is no part of it, but where bytes came out of order.
fn kept_as_it_came(disk: &Disk, told: &Told, context: &str) -> usize {
    let unfinished = [
        ("short.npy", chunk(6, 9)),
        ("short-stream.npy", chunk(40, 9)),
        ("unlinked.npy", chunk(50, 10)),
        ("unfinished.npy", chunk(80, 14)),
        ("confirmed.npy", chunk(CONFIRMED.1, 15)),
    ];
    let tried = told.tried.iter().map(|it| (it.name, it.bytes.clone()));
    let sent: Vec<(&str, Vec<u8>)> = tried.chain(unfinished).collect();
    let paths = disk.paths();
    let kept = paths
        .iter()
        .filter_map(|path| path.to_str())
        .filter(|path| path.starts_with(".npyfs/rejected/") || path.starts_with(".npyfs/rescued/"));
    let mut count = 0;
    for path in kept {
        count += 1;
        let (_, whole) = sent
            .iter()
            .find(|(name, _)| path.ends_with(&format!("-{name}")))
            .unwrap_or_else(|| panic!("{path} is of no chunk {context}"));
        let bytes = disk.bytes(path).unwrap();
        if path.ends_with("-scattered.npy") {
            let same = bytes.iter().zip(whole).all(|(a, b)| a == b || *a == 0);
            assert!(same, "{path} {context}");
            continue;
        }
        // A part of the header, up to the count in it at least, which may be of fewer rows.
        if bytes.len() < 128 {
            assert!(
                whole.starts_with(&bytes[..bytes.len().min(60)]),
                "{path} {context}"
            );
            continue;
        }
        let ((head, body), (_, rows)) = (split(&bytes), split(whole));
        let (_, _, shape) = meaning(head);
        assert!(shape[0] as usize * 64 <= body.len(), "{path} {context}");
        assert!(rows.starts_with(body), "{path} {context}");
    }
    count
}

#[test]
fn a_kill_costs_nothing_that_was_acknowledged() {
    let mut kept = 0;
    for at in 0..calls_of_the_history() {
        for half in [false, true] {
            let context = format!("after a kill at call {at}, half done: {half}");
            let (disk, told) = cut_short(at, half);
            let next = disk.killed();
            valid_in_the_store(&next, &told, &context);
            after_kill(&next, &told, &context);
            kept += kept_as_it_came(&next, &told, &context);
            has_confirmed(&next, &told, &context);
            let again = disk.killed();
            let dataset = open(&again, BOOT).unwrap();
            retries_settle_it(&again, &dataset, &told, &context);
        }
    }
    assert!(kept > 100, "{kept} files");
}

fn after_power_cut(next: &Disk, told: &Told, context: &str) -> Vec<usize> {
    let dataset = open(next, NEXT_BOOT).unwrap_or_else(|error| panic!("{error} {context}"));
    let held = whole_and_readable(&dataset, told, context);
    let order: Vec<usize> = (0..told.tried.len())
        .filter(|&n| told.tried[n].acknowledged || held.contains(&n))
        .collect();
    assert!(
        order.starts_with(&held),
        "{held:?} is no prefix of {order:?} {context}"
    );
    let lost = told
        .tried
        .iter()
        .enumerate()
        .find(|(n, tried)| tried.synced && !held.contains(n));
    assert!(lost.is_none(), "{lost:?} was synced and is lost {context}");
    for tried in told.tried.iter().filter(|tried| tried.rename_synced) {
        let name = tried.renamed.unwrap();
        assert!(
            dataset.chunk(OsStr::new(name)).unwrap().is_some(),
            "{name} is lost {context}"
        );
    }
    held
}

#[test]
fn a_power_cut_costs_nothing_that_was_synced_and_leaves_a_prefix() {
    let seeds = if long() { 40 } else { 6 };
    for at in 0..calls_of_the_history() + 1 {
        let (disk, told) = cut_short(at, at % 2 == 1);
        for seed in 0..seeds {
            let seed = (at * 1000 + seed) as u64;
            let context = format!("after a power cut at call {at}, seed {seed}");
            let next = disk.power_cut(seed);
            after_power_cut(&next, &told, &context);
            has_confirmed(&next, &told, &context);
            let again = disk.power_cut(seed);
            let dataset = open(&again, NEXT_BOOT).unwrap();
            retries_settle_it(&again, &dataset, &told, &context);
        }
    }
}

#[test]
fn recovery_cut_short_anywhere_and_run_again_ends_the_same() {
    let step = if long() { 1 } else { 5 };
    for at in (0..calls_of_the_history()).step_by(step) {
        let (disk, told) = cut_short(at, at % 2 == 0);
        for (boot, image) in [
            (BOOT, disk.killed()),
            (NEXT_BOOT, disk.power_cut(at as u64)),
        ] {
            let was_killed = boot == BOOT;
            let expected = {
                let copy = image.killed();
                let dataset = open(&copy, boot).unwrap();
                let held = whole_and_readable(&dataset, &told, "at first");
                (held, names(&dataset), copy.calls())
            };
            for m in 0..expected.2 {
                let context = format!(
                    "recovery from call {at} in boot {}, cut short at {m}",
                    boot[0]
                );
                let broken = image.killed();
                broken.break_at(Some(Fault {
                    at: m,
                    errno: libc::EIO,
                    for_good: true,
                    half: m % 2 == 0,
                }));
                drop(open(&broken, boot));
                let then = [
                    (boot, broken.killed()),
                    ([3; 16], broken.power_cut(m as u64)),
                ];
                for (boot, next) in then {
                    let dataset =
                        open(&next, boot).unwrap_or_else(|error| panic!("{error} {context}"));
                    let held = whole_and_readable(&dataset, &told, &context);
                    let context = format!("{context}, then in boot {}", boot[0]);
                    // The interrupted recovery of a kill has synced nothing yet: a power cut may
                    // still take what was never synced.
                    if was_killed && boot != BOOT {
                        assert!(expected.0.starts_with(&held), "{context}");
                    } else {
                        assert_eq!(
                            (&held, &names(&dataset)),
                            (&expected.0, &expected.1),
                            "{context}"
                        );
                    }
                }
            }
        }
    }
}
