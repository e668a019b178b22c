//! Damaged input of every kind: nothing panics, hangs or takes unbounded memory.
//!
//! Each test runs for 5 seconds, or for `NPYFS_FUZZ_SECONDS`. The seed is printed; `NPYFS_FUZZ_SEED`
//! sets it.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use npyfs::npy::{GrowableHeader, Header, Prefix};
use npyfs::{Dataset, Options};

/// No single input may take longer.
const LONGEST: Duration = Duration::from_secs(20);
/// Peak memory of the whole test process, in KiB, whatever a length field claims.
const MOST_MEMORY: u64 = 600 << 10;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A few changes: bits, bytes, interesting numbers, cuts, copies and insertions.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const NUMBERS: [u64; 8] = [0, 1, 127, 255, 65535, 1 << 31, 1 << 62, u64::MAX];
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(9) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                2 => {
                    let number = NUMBERS[self.below(8)].to_le_bytes();
                    for (byte, new) in bytes.iter_mut().skip(at).zip(number) {
                        *byte = new;
                    }
                }
                3 => bytes.truncate(at),
                4 => {
                    let end = (at + self.below(200)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
                5 => {
                    let end = (at + self.below(64)).min(bytes.len());
                    bytes.drain(at..end);
                }
                6 => {
                    let text = [
                        "(",
                        ")",
                        ",",
                        "'",
                        "{",
                        "9999999999999999999",
                        "-1",
                        "None",
                        "[(",
                    ];
                    let text = text[self.below(text.len())].as_bytes();
                    bytes.splice(at..at, text.iter().copied());
                }
                7 => {
                    let end = (at + self.below(600)).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                _ => bytes.extend((0..self.below(300)).map(|n| n as u8)),
            }
        }
    }
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Calls `each` with one random source until the time is up.
fn fuzz(what: &str, mut each: impl FnMut(&mut Random)) {
    let seconds = env::var("NPYFS_FUZZ_SECONDS").map_or(5, |text| text.parse().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed =
        env::var("NPYFS_FUZZ_SEED").map_or(now.as_nanos() as u64, |text| text.parse().unwrap());
    println!("{what}: seed {seed}");
    let start = Instant::now();
    let rounds = Arc::new(AtomicU64::new(0));
    let watched = rounds.clone();
    let name = what.to_owned();
    spawn(move || {
        loop {
            let before = watched.load(Ordering::Relaxed);
            sleep(LONGEST);
            if watched.load(Ordering::Relaxed) == before && before > 0 {
                eprintln!("{name}: seed {seed}: round {before} hangs");
                std::process::abort();
            }
        }
    });
    let mut random = Random(seed | 1);
    while start.elapsed() < Duration::from_secs(seconds) {
        rounds.fetch_add(1, Ordering::Relaxed);
        each(&mut random);
    }
    let peak = peak_memory();
    println!(
        "{what}: {} inputs in {seconds} s, peak memory {} MiB",
        rounds.swap(0, Ordering::Relaxed),
        peak >> 10
    );
    assert!(peak < MOST_MEMORY, "{what}: {peak} KiB of memory");
}

fn header_corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    for (descr, shape) in [
        ("'<f8'", "(3, 4)"),
        ("'|u1'", "(7,)"),
        ("'>c16'", "(1, 2, 3, 4, 5, 6, 7, 8)"),
        ("'<M8[25s]'", "(0,)"),
        (
            "[('x', '<f4'), ('y', '<i2', (2, 2)), (('t', 'n'), '|S5')]",
            "(9,)",
        ),
        ("[('a', [('b', '<U3'), ('', '|V4')])]", "(2, 0)"),
    ] {
        let dict = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
        for version in [1, 2, 3] {
            let size = if version == 1 { 2 } else { 4 };
            let mut text = dict.clone().into_bytes();
            while (8 + size + text.len() + 1) % 64 != 0 {
                text.push(b' ');
            }
            text.push(b'\n');
            let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes()[..size]);
            bytes.extend(text);
            corpus.push(bytes);
        }
        if let Ok(dtype) = descr.trim_matches('\'').parse() {
            corpus.push(
                GrowableHeader::new(&dtype, &[3, 1 << 40])
                    .unwrap()
                    .bytes(12345),
            );
        }
    }
    corpus
}

#[test]
fn headers() {
    let corpus = header_corpus();
    fuzz("headers", |random| {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        random.mutate(&mut bytes);
        if let Ok(Prefix::Complete(header)) = Header::parse(&bytes) {
            // What was taken can be written, and reads as the same.
            let again = Header::encode(header.dtype(), header.shape()).unwrap();
            match Header::parse(&again) {
                Ok(Prefix::Complete(same)) => {
                    assert_eq!(
                        (same.dtype(), same.shape()),
                        (header.dtype(), header.shape())
                    );
                }
                other => panic!("{other:?} for {:?}", String::from_utf8_lossy(&again)),
            }
            if let Ok(Some(published)) = GrowableHeader::adopt(&bytes) {
                let bytes = published.bytes(77);
                assert_eq!(published.rows(&bytes).unwrap(), 77);
            }
        }
    });
}

const BOOT: [u8; 16] = [1; 16];

fn open(directory: &Path, boot: [u8; 16]) -> npyfs::Result<Arc<Dataset>> {
    let options = Options {
        boot: Some(boot),
        ..Default::default()
    };
    Dataset::open(directory, options)
}

fn chunk(n: u8, rows: u64, order: &str) -> Vec<u8> {
    let dtype = format!("{order}i4").parse().unwrap();
    let mut bytes = Header::encode(&dtype, &[rows, 3]).unwrap();
    bytes.extend((0..rows * 12).map(|at| at as u8 ^ n));
    bytes
}

/// The two files of a dataset, left by a daemon that was killed, in several states.
fn datasets() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for state in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let dataset = open(directory.path(), BOOT).unwrap();
        for n in 0..12 {
            let order = if n % 5 == 4 { ">" } else { "<" };
            let bytes = chunk(n, u64::from(n) % 7, order);
            dataset.append(format!("chunk{n}.npy"), &bytes).unwrap();
            if n == 6 && state > 0 {
                dataset.sync().unwrap();
                dataset
                    .rename("chunk2.npy".as_ref(), "other.npy".as_ref())
                    .unwrap();
            }
        }
        if state == 2 {
            dataset.close().unwrap();
            dataset.append("late.npy", &chunk(99, 3, "<")).unwrap();
        }
        if state == 3 {
            dataset.forget("chunk5.npy".as_ref()).unwrap();
            dataset.close().unwrap();
        }
        let (mut data, mut journal) = files(directory.path());
        if state == 4 {
            let rows = dataset.snapshot().unwrap().unwrap().rows();
            streams(&mut data, &mut journal, rows);
        }
        found.push((data, journal));
    }
    // What the first version left.
    let stores = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/v1");
    for name in [
        "killed",
        "renamed",
        "forgotten",
        "converted",
        "adopted-rows",
    ] {
        found.push(files(&stores.join(name)));
    }
    found
}

fn files(dataset: &Path) -> (Vec<u8>, Vec<u8>) {
    (
        fs::read(dataset.join("data.npy")).unwrap(),
        fs::read(dataset.join(".npyfs/chunks.log")).unwrap(),
    )
}

/// Rows of streams after row `end`, with attributes of the array and a hand-over between.
fn streams(data: &mut Vec<u8>, journal: &mut Vec<u8>, mut end: u64) {
    for (stream, commits) in [(1u64, 3), (2, 2), (1, 1)] {
        let (first, mut crc) = (end, 0);
        for n in 0..commits {
            let rows = [stream as u8 ^ n; 24];
            crc = crc32c::crc32c_append(crc, &rows);
            data.extend(rows);
            end += 2;
            let numbers = [stream, first, end - first].map(u64::to_le_bytes).concat();
            let rest = [0; 13];
            journal.extend(framed(
                &[&[16], &numbers[..], &crc.to_le_bytes(), &rest].concat(),
            ));
        }
        if stream == 2 {
            let hand_over = [&[17; 17], &end.to_le_bytes()[..], &[8; 8]].concat();
            let opened = records(journal).into_iter().find(|it| it[8] == 11);
            for record in [framed(&[15; 29]), framed(&hand_over), opened.unwrap()] {
                journal.extend(record);
            }
        }
    }
}

/// A payload with its length and a good checksum.
fn framed(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), payload);
    [&len[..], &crc.to_le_bytes(), payload].concat()
}

/// The records of a journal, its first line before them.
fn records(journal: &[u8]) -> Vec<Vec<u8>> {
    let (line, mut rest) = journal.split_at(16);
    let mut found = vec![line.to_vec()];
    while let Some(len) = rest.first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize + 8;
        found.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    found
}

/// Changes records and gives them a good checksum, so that their contents are read.
fn mutate_records(random: &mut Random, journal: &[u8]) -> Vec<u8> {
    let mut records = records(journal);
    for _ in 0..=random.below(3) {
        let at = 1 + random.below(records.len() - 1);
        match random.below(5) {
            0 => {
                let copy = records[at].clone();
                records.insert(1 + random.below(records.len() - 1), copy);
            }
            1 if records.len() > 2 => {
                records.remove(at);
            }
            _ => {
                let mut payload = records[at][8..].to_vec();
                random.mutate(&mut payload);
                records[at] = framed(&payload);
            }
        }
    }
    records.concat()
}

/// Opens what was damaged, and asks it everything.
fn examine(directory: &Path, random: &mut Random) {
    let boot = [1 + random.below(2) as u8; 16];
    let before = fs::read(directory.join(".npyfs/chunks.log")).ok();
    let dataset = match open(directory, boot) {
        Ok(dataset) => dataset,
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty());
            // What this version cannot read is another's, and no damage.
            if said.contains("newer npyfs") {
                let after = fs::read(directory.join(".npyfs/chunks.log")).ok();
                assert!(before == after, "{said}, and the journal was changed");
            }
            return;
        }
    };
    let rows = match dataset.snapshot() {
        Ok(Some(view)) => {
            let mut piece = [0; 4096];
            view.read_at(&mut piece, view.len().saturating_sub(4000))
                .ok();
            view.rows()
        }
        _ => 0,
    };
    for id in 0..100 {
        dataset.csv_line(id);
    }
    dataset.status().ok();
    dataset.check(&mut |_, _| ()).ok();
    if dataset.append("new.npy", &chunk(1, 4, "<")).is_ok() {
        let data = fs::read(directory.join("data.npy")).unwrap();
        let Ok(Prefix::Complete(header)) = Header::parse(&data) else {
            panic!("data.npy is not valid");
        };
        assert_eq!(header.rows(), dataset.snapshot().unwrap().unwrap().rows());
        assert!(header.rows() >= rows && data.len() as u64 >= header.file_bytes());
    }
    drop(dataset);
    // What recovery has left, recovery takes.
    if let Ok(dataset) = open(directory, [3; 16]) {
        dataset.check(&mut |_, _| ()).ok();
    }
}

fn place(directory: &Path, data: Option<&[u8]>, journal: &[u8]) {
    fs::remove_dir_all(directory).ok();
    fs::create_dir_all(directory.join(".npyfs")).unwrap();
    if let Some(data) = data {
        fs::write(directory.join("data.npy"), data).unwrap();
    }
    fs::write(directory.join(".npyfs/chunks.log"), journal).unwrap();
}

/// A directory whose syncs cost nothing, where there is one.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[test]
fn journals() {
    let scratch = in_memory();
    let directory = scratch.path().join("run");
    let corpus = datasets();
    fuzz("journals", |random| {
        let (data, journal) = &corpus[random.below(corpus.len())];
        let journal = if random.below(3) == 0 {
            let mut journal = journal.clone();
            random.mutate(&mut journal);
            journal
        } else {
            mutate_records(random, journal)
        };
        place(&directory, Some(data), &journal);
        examine(&directory, random);
    });
}

#[test]
fn recoveries() {
    let scratch = in_memory();
    let directory = scratch.path().join("run");
    let corpus = datasets();
    fuzz("recoveries", |random| {
        let (data, journal) = &corpus[random.below(corpus.len())];
        let mut data = data.clone();
        let mut journal = journal.clone();
        // Headers more often than rows.
        if random.below(2) == 0 {
            random.mutate(&mut data);
        } else {
            let mut head = data[..128].to_vec();
            random.mutate(&mut head);
            data.splice(..128, head);
        }
        match random.below(3) {
            0 => random.mutate(&mut journal),
            1 => journal = mutate_records(random, &journal),
            _ => {}
        }
        let missing = random.below(20) == 0;
        place(&directory, (!missing).then_some(&data), &journal);
        if random.below(20) == 0 {
            fs::remove_file(directory.join(".npyfs/chunks.log")).unwrap();
        }
        examine(&directory, random);
    });
}
