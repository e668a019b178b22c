//! Many producers at a time: rows only grow, and every chunk is in the array whole, in one piece,
//! once (P1, P2, P4), also while a slow producer streams and is displaced again and again.
#![allow(missing_docs, unreachable_pub)]

use crate::chunks;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chunks::{Dice, header, meaning, split};
use npyfs::dataset::{Budget, ChunkHandle, Face, Found, NoOthers, Start, View};
use npyfs::{Dataset, Options};

const THREADS: u64 = 8;
const CHUNKS: u64 = 300;
const ROW: usize = 64;

/// A chunk whose rows say whose they are, which of them, and of how many.
fn chunk(id: u64, rows: u64) -> Vec<u8> {
    let mut bytes = header("'<u8'", false, &[rows, 8]);
    for row in 0..rows {
        for word in [id, row, rows, !id, id ^ row, id, row, rows] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

/// The same chunk in Fortran order and the other byte order.
fn reordered(id: u64, rows: u64) -> Vec<u8> {
    let chunk = chunk(id, rows);
    let body = &chunk[128..];
    let mut bytes = header("'>u8'", true, &[rows, 8]);
    for column in 0..8 {
        for row in body.chunks(ROW) {
            bytes.extend(row[column * 8..][..8].iter().rev());
        }
    }
    bytes
}

/// Reads rows back: their chunks in order, each whole and in one piece.
fn chunks_in(body: &[u8]) -> Vec<(u64, u64)> {
    let word = |row: &[u8], n: usize| u64::from_le_bytes(row[n * 8..n * 8 + 8].try_into().unwrap());
    let (mut found, mut at) = (Vec::new(), 0);
    while at < body.len() {
        let (id, rows) = (word(&body[at..], 0), word(&body[at..], 2));
        let end = at + rows as usize * ROW;
        assert!(end <= body.len(), "chunk {id} of {rows} rows is cut off");
        assert!(
            body[at..end] == chunk(id, rows)[128..],
            "chunk {id} at byte {at} is torn"
        );
        found.push((id, rows));
        at = end;
    }
    found
}

fn dataset(directory: &tempfile::TempDir, memory: usize) -> Arc<Dataset> {
    let options = Options {
        memory: Budget::new(memory),
        ..Options::default()
    };
    Dataset::open(directory.path(), options).unwrap()
}

fn begin(dataset: &Arc<Dataset>, name: &str) -> ChunkHandle {
    let face = Face {
        len: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: None,
    };
    let chunk = dataset.begin(OsStr::new(name), face, Start::New).unwrap();
    assert!(chunk.is_new(), "{name} is committed");
    chunk
}

/// Writes a chunk in pieces, front to back or back to front.
fn write(dataset: &Arc<Dataset>, name: &str, bytes: &[u8], piece: usize, reversed: bool) {
    let incoming = begin(dataset, name);
    let mut pieces: Vec<_> = bytes.chunks(piece).enumerate().collect();
    if reversed {
        pieces.reverse();
    }
    for (n, data) in pieces {
        incoming.write(data, (n * piece) as u64, || ()).unwrap();
    }
    incoming.flush(&NoOthers).unwrap();
    incoming.release();
}

fn contents(view: &View, from: u64) -> Vec<u8> {
    let mut bytes = vec![0; (view.len() - from) as usize];
    assert_eq!(view.read_at(&mut bytes, from).unwrap(), bytes.len());
    bytes
}

/// Takes snapshots until it is told to stop; each has all that an earlier one had, and whole chunks.
fn watch(dataset: &Dataset, stop: &AtomicBool) {
    let (mut rows, mut seen) = (0, 0u64);
    let mut kept: Option<(View, Vec<u8>)> = None;
    loop {
        let last = stop.load(Ordering::Relaxed);
        if let Some(array) = dataset.snapshot().unwrap() {
            assert!(
                array.rows() >= rows,
                "rows went from {rows} to {}",
                array.rows()
            );
            let head_and_old = 128 + rows * ROW as u64;
            let head = contents(&array, 0)[..128].to_vec();
            assert_eq!(meaning(&head).2, [array.rows(), 8]);
            seen += chunks_in(&contents(&array, head_and_old)).len() as u64;
            rows = array.rows();
            if let Some((view, bytes)) = &kept {
                assert!(contents(view, 0) == *bytes, "an old snapshot has changed");
            }
            if kept.is_none() || last {
                let bytes = contents(&array, 0);
                kept = Some((array, bytes));
            }
        }
        if last {
            break;
        }
        thread::yield_now();
    }
    assert!(seen > 0);
}

/// Everything that was appended, once, under its name.
fn check(dataset: &Dataset, expected: &HashMap<u64, u64>) {
    let array = dataset.snapshot().unwrap().unwrap();
    let bytes = contents(&array, 0);
    let found = chunks_in(split(&bytes).1);
    assert_eq!(found.len(), expected.len());
    assert_eq!(found.iter().copied().collect::<HashMap<_, _>>(), *expected);
    let mut first_row = 0;
    for (id, rows) in found {
        let name = format!("{id}.npy");
        let chunk_found = dataset.chunk(OsStr::new(&name)).unwrap().unwrap();
        assert_eq!(
            (chunk_found.receipt.first_row, chunk_found.receipt.rows),
            (first_row, rows)
        );
        assert!(contents(&chunk_found.view, 0) == chunk(id, rows), "{name}");
        first_row += rows;
    }
}

#[test]
fn every_chunk_of_many_producers_is_there_whole_and_once() {
    let directory = tempfile::tempdir().unwrap();
    // Little enough memory that some bodies find none and stream or are staged.
    let dataset = dataset(&directory, 4 << 10);
    let stop = AtomicBool::new(false);
    let mut expected = HashMap::new();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| watch(&dataset, &stop)))
            .collect();
        let producers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let dataset = &dataset;
                scope.spawn(move || {
                    let mut dice = Dice::new(thread);
                    let mut appended = Vec::new();
                    for n in 0..CHUNKS {
                        let id = thread * CHUNKS + n;
                        let rows = match dice.up_to(9) {
                            0 => 100 + dice.up_to(200) as u64,
                            1..=3 => 20 + dice.up_to(40) as u64,
                            _ => 1 + dice.up_to(5) as u64,
                        };
                        let reversed = dice.up_to(9) == 0;
                        let bytes = chunk(id, rows);
                        write(dataset, &format!("{id}.npy"), &bytes, 3000, reversed);
                        appended.push((id, rows));
                    }
                    appended
                })
            })
            .collect();
        for producer in producers {
            expected.extend(producer.join().unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_eq!(expected.len() as u64, THREADS * CHUNKS);
    check(&dataset, &expected);
    dataset.close().unwrap();
    drop(dataset);
    check(&self::dataset(&directory, 0), &expected);
}

#[test]
fn a_slow_stream_is_displaced_by_small_chunks_and_comes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let dataset = dataset(&directory, 64 << 20);
    let mut expected = HashMap::from([(0, 1)]);
    dataset.append("0.npy", &chunk(0, 1)).unwrap();
    for round in 1..8u64 {
        let (slow, rows) = (1_000_000 + round, 100_000);
        let bytes = match round % 2 {
            0 => chunk(slow, rows),
            _ => reordered(slow, rows),
        };
        let (streaming, committed) = (AtomicBool::new(true), AtomicUsize::new(0));
        let small = thread::scope(|scope| {
            let small = scope.spawn(|| {
                let mut appended = Vec::new();
                while streaming.load(Ordering::Relaxed) {
                    let id = round * 100_000 + appended.len() as u64;
                    let rows = 1 + id % 900;
                    dataset
                        .append(format!("{id}.npy"), &chunk(id, rows))
                        .unwrap();
                    appended.push((id, rows));
                    committed.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
                appended
            });
            let name = format!("{slow}.npy");
            let incoming = begin(&dataset, &name);
            let piece = 64 << 10;
            for (n, data) in bytes.chunks(piece).enumerate() {
                incoming.write(data, (n * piece) as u64, || ()).unwrap();
                if n % 20 == 0 {
                    // What was streamed is read back from wherever it is now.
                    let mut again = vec![0; data.len().min(5000)];
                    let at = (n / 2 * piece) as u64;
                    assert_eq!(incoming.read(&mut again, at).unwrap(), again.len());
                    assert!(again == bytes[at as usize..at as usize + again.len()]);
                    // Until it has been overtaken.
                    let before = committed.load(Ordering::Relaxed);
                    let began = Instant::now();
                    while committed.load(Ordering::Relaxed) == before {
                        assert!(began.elapsed() < Duration::from_secs(20), "nobody commits");
                        thread::yield_now();
                    }
                }
            }
            if round % 4 > 1 {
                // Some writers end with the header: no more front to back.
                incoming.write(&bytes[..128], 0, || ()).unwrap();
            }
            incoming.flush(&NoOthers).unwrap();
            incoming.release();
            streaming.store(false, Ordering::Relaxed);
            small.join().unwrap()
        });
        assert!(!small.is_empty());
        expected.insert(slow, rows);
        expected.extend(small);
    }
    check(&dataset, &expected);
    let left = std::fs::read_dir(directory.path().join(".npyfs/incoming"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "files were left in incoming");
}

/// All orders of the numbers below `n`.
fn orders(n: u64) -> Vec<Vec<u64>> {
    let Some(last) = n.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let shorter = orders(last);
    let with_last = |order: &Vec<u64>| {
        let put = |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        };
        (0..=order.len()).map(put).collect::<Vec<_>>()
    };
    shorter.iter().flat_map(with_last).collect()
}

/// Nothing is in `incoming`, and nothing after the last row.
fn nothing_is_left(directory: &tempfile::TempDir, dataset: &Dataset) {
    let incoming = directory.path().join(".npyfs/incoming");
    let left = std::fs::read_dir(incoming).map_or(0, Iterator::count);
    assert_eq!(left, 0, "files were left in incoming");
    let stored = std::fs::metadata(directory.path().join("data.npy")).unwrap();
    assert_eq!(stored.len(), dataset.snapshot().unwrap().unwrap().len());
}

#[test]
fn chunks_that_stream_at_once_end_in_any_order_and_are_whole() {
    const PIECE: usize = 256 << 10;
    for (round, order) in orders(4).into_iter().enumerate() {
        let round = round as u64;
        let directory = tempfile::tempdir().unwrap();
        let dataset = dataset(&directory, 64 << 20);
        let mut expected = HashMap::new();
        let small = |id, expected: &mut HashMap<u64, u64>| {
            dataset.append(format!("{id}.npy"), &chunk(id, 5)).unwrap();
            expected.insert(id, 5);
        };
        if round.is_multiple_of(2) {
            small(100, &mut expected);
        }
        let streams: Vec<_> = (0..4u64)
            .map(|id| {
                let rows = 17_000 + 9_000 * ((id + round) % 3);
                let bytes = match (id + round) % 5 {
                    4 => reordered(id, rows),
                    _ => chunk(id, rows),
                };
                (begin(&dataset, &format!("{id}.npy")), bytes, rows)
            })
            .collect();
        let most = streams.iter().map(|(_, bytes, _)| bytes.len()).max();
        for at in (0..most.unwrap()).step_by(PIECE) {
            for (incoming, bytes, _) in &streams {
                let data = &bytes[at.min(bytes.len())..(at + PIECE).min(bytes.len())];
                incoming.write(data, at as u64, || ()).unwrap();
            }
            if at == 2 * PIECE && round % 3 == 1 {
                small(101, &mut expected);
            }
        }
        for (n, &id) in order.iter().enumerate() {
            let (incoming, bytes, rows) = &streams[id as usize];
            if n == 1 && round % 4 == 3 {
                // It is unlinked, and its place goes to nobody.
                let name = format!("{id}.npy");
                let Some(Found::InFlight(chunk)) = dataset.find(OsStr::new(&name)).unwrap() else {
                    panic!("{name} is in flight");
                };
                dataset.abort(&chunk).unwrap();
            } else {
                incoming.flush(&NoOthers).unwrap();
                expected.insert(id, *rows);
                let mut again = vec![0; 5000];
                assert_eq!(incoming.read(&mut again, 70_000).unwrap(), again.len());
                if bytes[..128] == chunk(id, *rows)[..128] {
                    assert!(again == bytes[70_000..75_000], "round {round}, chunk {id}");
                }
            }
            incoming.release();
        }
        check(&dataset, &expected);
        nothing_is_left(&directory, &dataset);
    }
}

#[test]
fn producers_that_stream_at_once_move_each_other_and_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let dataset = dataset(&directory, 64 << 20);
    let expected: HashMap<u64, u64> = thread::scope(|scope| {
        let producers: Vec<_> = (0..5u64)
            .map(|producer| {
                let dataset = &dataset;
                scope.spawn(move || {
                    let mut appended = Vec::new();
                    for number in 0..12 {
                        let id = producer * 100 + number;
                        let rows = match producer {
                            0 => 1 + id,
                            _ => 17_000 + id * 7919 % 30_000,
                        };
                        let bytes = match (producer, number % 3) {
                            (1, 2) => reordered(id, rows),
                            _ => chunk(id, rows),
                        };
                        let piece = (16 << 10) << (id % 5);
                        write(dataset, &format!("{id}.npy"), &bytes, piece, false);
                        appended.push((id, rows));
                    }
                    appended
                })
            })
            .collect();
        producers
            .into_iter()
            .flat_map(|producer| producer.join().unwrap())
            .collect()
    });
    check(&dataset, &expected);
    nothing_is_left(&directory, &dataset);
}

#[test]
fn of_many_who_race_for_one_name_one_wins_and_all_others_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let dataset = dataset(&directory, 64 << 20);
    let mut expected = HashMap::new();
    for round in 0..4000u64 {
        let name = format!("{round}.npy");
        let answers: Vec<bool> = thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| match dataset.append(&name, &chunk(round, 3)) {
                        Ok(()) => true,
                        Err(error) => {
                            assert_eq!(error.errno(), nix::errno::Errno::EBUSY, "{error}");
                            false
                        }
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        assert!(answers.contains(&true), "nobody appended {name}");
        expected.insert(round, 3);
    }
    check(&dataset, &expected);
}
