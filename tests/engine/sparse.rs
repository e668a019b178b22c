//! P12: files of any length that a dataset's owner puts in the place of journal and array keep neither
//! the daemon nor a check at work, and take no space when they are recovered.

use crate::common;
use crate::common::Started as _;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Chunk, Mount, Style, chunks_in, npyfs, put_chunk};
use npyfs::dataset::Stop;
use npyfs::error::Errno;
use npyfs::{Dataset, Options};

const TERABYTE: u64 = 1 << 40;
/// On a machine with much else to do.
const SOON: Duration = Duration::from_secs(20);
const JOURNAL: &str = ".npyfs/chunks.log";

fn extend(path: &Path, len: u64) {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .unwrap();
    file.set_len(len).unwrap();
}

/// A dataset that has only a journal.
fn with_journal(store: &Path, beginning: &[u8]) -> PathBuf {
    let at = store.join("planted");
    fs::create_dir_all(at.join(".npyfs")).unwrap();
    fs::write(at.join(JOURNAL), beginning).unwrap();
    extend(&at.join(JOURNAL), TERABYTE);
    at
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), payload);
    [&len[..], &crc.to_le_bytes(), payload].concat()
}

/// The checksum of 2^n zeros.
fn crc_of_zeros(n: u32) -> u32 {
    (0..n).fold(crc32c::crc32c(&[0]), |crc, n| {
        crc32c::crc32c_combine(crc, crc, 1 << n)
    })
}

/// A dataset that was not closed, whose last chunk has a terabyte of rows that are a hole.
fn with_rows(store: &Path, crc: u32) -> PathBuf {
    let at = store.join("planted");
    fs::create_dir_all(&at).unwrap();
    let dataset = Dataset::open(&at, Options::default()).unwrap();
    let dtype = "|u1".parse().unwrap();
    let mut chunk = npyfs::npy::Header::encode(&dtype, &[2]).unwrap();
    chunk.extend([1, 2]);
    dataset.append("first.npy", &chunk).unwrap();
    let mut journal = fs::read(at.join(JOURNAL)).unwrap();
    drop(dataset);
    let mut record = vec![3];
    record.extend(2u64.to_le_bytes());
    record.extend(TERABYTE.to_le_bytes());
    record.extend(0u32.to_le_bytes());
    record.extend(crc.to_le_bytes());
    // Stored as it came; mode, owner, group, time; time of commit.
    record.extend([0; 1 + 12 + 8 + 8]);
    record.extend(b"hole.npy");
    journal.extend(framed(&record));
    fs::write(at.join(JOURNAL), journal).unwrap();
    extend(&at.join("data.npy"), 128 + 2 + TERABYTE);
    at
}

/// What the files in a directory take, in bytes.
fn space(directory: &Path) -> u64 {
    let each = fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let stat = entry.metadata().unwrap();
        match stat.is_dir() {
            true => space(&entry.path()),
            false => stat.blocks() * 512,
        }
    });
    each.sum()
}

/// A look at a planted dataset ends soon, and so does a check; another dataset goes on, and the
/// daemon ends when it is told to. Answers what the check said.
fn harms_nothing(store: &Path) -> String {
    let start = Instant::now();
    let mut mount = Mount::builder().store(store).start();
    mount.tolerate_warnings();
    let (planted, run) = (mount.path("planted"), mount.path("run"));
    std::thread::scope(|threads| {
        // Whatever the answer is.
        threads.spawn(|| fs::metadata(planted.join("data.npy")).is_ok());
        fs::create_dir(&run).unwrap();
        let mut all = (0..).map(|number| Chunk::new(0, number));
        let chunk = all.find(|it| it.style() == Style::Small).unwrap();
        put_chunk(&run, chunk).unwrap();
        assert_eq!(chunks_in(&run.join("data.npy")), [chunk]);
    });
    mount.finish();
    let mut check = Command::new("timeout");
    let check = check.arg("60").arg(npyfs()).arg("check").arg(store);
    let output = check.output_alone().unwrap();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(space(&store.join("planted")) < 64 << 20, "it took space");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn a_journal_of_nothing_but_a_hole_is_not_read_through() {
    require!(fuse, timeout);
    let beginnings: [&[u8]; 5] = [
        b"",
        b"npyfs journal 1\n",
        b"npyfs journal 2\n",
        b"npyfs journal 2\n\x07\x00\x00\x00 and something",
        b"something else",
    ];
    for beginning in beginnings {
        let store = tempfile::tempdir().unwrap();
        with_journal(store.path(), beginning);
        harms_nothing(store.path());
    }
}

/// What may follow a hole is found.
#[test]
fn a_good_record_after_a_hole_is_a_reason_to_change_nothing() {
    let store = tempfile::tempdir().unwrap();
    let at = with_journal(store.path(), b"npyfs journal 2\n");
    let mut journal = OpenOptions::new()
        .append(true)
        .open(at.join(JOURNAL))
        .unwrap();
    let closed = framed(&[&[9][..], &3u64.to_le_bytes()].concat());
    journal.write_all(&closed).unwrap();
    let start = Instant::now();
    let error = Dataset::open(&at, Options::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the journal is damaged at byte 16"),
        "{error}"
    );
    assert!(start.elapsed() < SOON);
}

/// Each byte of it could be the length of a record.
#[test]
fn a_journal_with_more_damage_than_can_be_looked_through_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path().join("planted");
    fs::create_dir_all(at.join(".npyfs")).unwrap();
    let mut file = File::create(at.join(JOURNAL)).unwrap();
    file.write_all(b"npyfs journal 2\n").unwrap();
    let piece = [0xff, 3, 0, 0].repeat(1 << 18);
    for _ in 0..48 {
        file.write_all(&piece).unwrap();
    }
    let start = Instant::now();
    let error = Dataset::open(&at, Options::default()).unwrap_err();
    assert_eq!(error.errno(), Errno::EIO);
    assert!(error.to_string().contains("nothing is changed"), "{error}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(
        fs::metadata(at.join(JOURNAL)).unwrap().len(),
        16 + (48 << 20)
    );
}

#[test]
fn an_array_without_a_journal_whose_rows_are_a_hole_is_not_read_through() {
    require!(fuse, timeout);
    let store = tempfile::tempdir().unwrap();
    let at = store.path().join("planted");
    fs::create_dir(&at).unwrap();
    let dtype = "|u1".parse().unwrap();
    let header = npyfs::npy::Header::encode(&dtype, &[TERABYTE]).unwrap();
    fs::write(at.join("data.npy"), &header).unwrap();
    extend(&at.join("data.npy"), header.len() as u64 + TERABYTE);
    let said = harms_nothing(store.path());
    assert!(said.contains("rows of other programs"), "{said}");
}

#[test]
fn rows_that_are_a_hole_are_verified_without_being_read() {
    require!(fuse, timeout);
    let store = tempfile::tempdir().unwrap();
    let at = with_rows(store.path(), crc_of_zeros(40));
    harms_nothing(store.path());
    // They are what was committed.
    let dataset = Dataset::open(&at, Options::default()).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 2 + TERABYTE);
}

#[test]
fn rows_that_are_a_hole_take_no_space_where_they_are_set_aside() {
    require!(fuse, timeout);
    let store = tempfile::tempdir().unwrap();
    // With a count that no good record has.
    let at = with_rows(store.path(), 7);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(at.join("data.npy"))
        .unwrap();
    let mut head = vec![0; 128];
    file.read_exact_at(&mut head, 0).unwrap();
    let text = String::from_utf8(head[10..].to_vec()).unwrap();
    let count = (TERABYTE + 2).to_string();
    let blank = " ".repeat(count.len() - 1);
    let text = text.replace(&format!("{blank}2,"), &format!("{count},"));
    file.write_all_at(text.as_bytes(), 10).unwrap();
    harms_nothing(store.path());
    let dataset = Dataset::open(&at, Options::default()).unwrap();
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 2);
}

#[test]
fn an_opening_is_given_up_when_the_process_is_to_end() {
    let store = tempfile::tempdir().unwrap();
    let at = with_rows(store.path(), crc_of_zeros(40));
    let files = || ["data.npy", JOURNAL].map(|name| fs::metadata(at.join(name)).unwrap().len());
    let before = files();
    let stop = Stop::default();
    stop.set();
    let options = Options {
        stop,
        ..Default::default()
    };
    let error = Dataset::open(&at, options).unwrap_err();
    assert_eq!(error.errno(), Errno::ECANCELED, "{error}");
    assert_eq!(files(), before);
}

/// Backs a store up, soon and in little space. Answers the exit code and what was said.
#[track_caller]
fn backed_up(store: &Path, copy: &Path) -> (Option<i32>, String) {
    let start = Instant::now();
    let mut backup = Command::new("timeout");
    let backup = backup.arg("60").arg(npyfs()).arg("backup");
    let output = backup.args([store, copy]).output_alone().unwrap();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(space(copy) < 64 << 20, "it took space");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said)
}

#[track_caller]
fn is_good(store: &Path) {
    let mut check = Command::new("timeout");
    let check = check.arg("60").arg(npyfs()).arg("check").arg(store);
    let output = check.output_alone().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_backup_copies_no_holes_of_ordinary_and_rescued_files() {
    require!(timeout);
    let (store, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(store.path().join("run")).unwrap();
    let dataset = Dataset::open(store.path().join("run"), Options::default()).unwrap();
    let dtype = "|u1".parse().unwrap();
    let mut chunk = npyfs::npy::Header::encode(&dtype, &[2]).unwrap();
    chunk.extend([1, 2]);
    dataset.append("first.npy", &chunk).unwrap();
    drop(dataset);
    fs::create_dir_all(store.path().join("run/.npyfs/rescued")).unwrap();
    let files = ["x.txt", "run/.npyfs/rescued/0001-rows"];
    for file in files {
        extend(&store.path().join(file), 3 * TERABYTE);
        let file = OpenOptions::new().write(true).open(store.path().join(file));
        file.unwrap().write_all_at(b"end", 3 * TERABYTE).unwrap();
    }
    extend(&store.path().join("hole"), TERABYTE);
    let copy = to.path().join("copy");
    assert_eq!(backed_up(store.path(), &copy).0, Some(0));
    for file in files {
        let file = File::open(copy.join(file)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 * TERABYTE + 3);
        let mut end = [9; 4];
        file.read_exact_at(&mut end, 3 * TERABYTE - 1).unwrap();
        assert_eq!(&end, b"\0end");
    }
    let hole = copy.join("hole").metadata().unwrap();
    assert_eq!((hole.len(), hole.blocks()), (TERABYTE, 0));
}

#[test]
fn a_backup_sums_up_rows_that_are_a_hole_without_reading_them() {
    require!(timeout);
    for (crc, code) in [(crc_of_zeros(40), 0), (crc_of_zeros(40) ^ 1, 1)] {
        let (store, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        with_rows(store.path(), crc);
        let copy = to.path().join("copy");
        let (ended, said) = backed_up(store.path(), &copy);
        assert_eq!(ended, Some(code), "{said}");
        let is_named = said.contains("hole.npy: rows 2 to");
        assert_eq!(is_named, code != 0, "{said}");
        is_good(&copy);
    }
}

#[test]
fn where_rows_are_a_hole_nothing_stays_of_an_interrupted_backup() {
    require!(timeout);
    let (store, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let planted = with_rows(store.path(), crc_of_zeros(40));
    let whole = fs::read(planted.join(JOURNAL)).unwrap();
    let before = whole.len() - 8 - 62;
    fs::write(planted.join(JOURNAL), &whole[..before]).unwrap();
    let copy = to.path().join("copy");
    assert_eq!(backed_up(store.path(), &copy).0, Some(0));
    let rows = OpenOptions::new()
        .write(true)
        .open(copy.join("planted/data.npy"))
        .unwrap();
    rows.write_all_at(&[7; 100_000], 130).unwrap();
    rows.write_all_at(&[7; 100_000], TERABYTE - 7).unwrap();
    fs::write(planted.join(JOURNAL), &whole).unwrap();
    let (code, said) = backed_up(store.path(), &copy);
    assert_eq!(code, Some(0), "{said}");
    is_good(&copy);
}

#[test]
fn a_backup_copies_no_holes_of_an_array_that_another_program_made() {
    require!(timeout);
    let (store, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rows = 8 * TERABYTE;
    fs::create_dir(store.path().join("run")).unwrap();
    let data = store.path().join("run/data.npy");
    let dtype = "|u1".parse().unwrap();
    let header = npyfs::npy::Header::encode(&dtype, &[rows]).unwrap();
    fs::write(&data, &header).unwrap();
    let len = header.len() as u64 + rows;
    extend(&data, len);
    let file = OpenOptions::new().write(true).open(&data).unwrap();
    file.write_all_at(b"end", len - 3).unwrap();
    let copy = to.path().join("copy");
    let is_copied = |expected: &[u8; 4]| {
        let (code, said) = backed_up(store.path(), &copy);
        assert_eq!(code, Some(0), "{said}");
        let len = data.metadata().unwrap().len();
        let file = File::open(copy.join("run/data.npy")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), len);
        let mut end = [9; 4];
        file.read_exact_at(&mut end, len - 4).unwrap();
        assert_eq!(&end, expected);
    };
    is_copied(b"\0end");
    // Adopted, it has a journal, and no checksum of those rows.
    let dataset = Dataset::open(store.path().join("run"), Options::default()).unwrap();
    let mut chunk = npyfs::npy::Header::encode(&dtype, &[1]).unwrap();
    chunk.push(b'!');
    dataset.append("first.npy", &chunk).unwrap();
    dataset.close().unwrap();
    is_copied(b"end!");
    is_good(&copy);
}
