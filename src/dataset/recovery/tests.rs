//! What the records mean that no daemon of this version writes yet, and where a dataset was taken.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::dataset::{Dataset, Options};
use crate::disk::{Change, clock};
use crate::disk::{Directory, MountId, OsFile, Place};
use crate::journal::Attributes;
use crate::journal::{Reader, Record, RunRecord};
use crate::npy::{GrowableHeader, Header};

const BOOT: [u8; 16] = [1; 16];
const ANOTHER: [u8; 16] = [2; 16];
const CHUNK: &str = "a.npy";
/// Of the header of `data.npy`.
const HEADER: usize = 128;

fn options(boot: [u8; 16]) -> Options {
    Options {
        boot: Some(boot),
        ..Options::default()
    }
}

/// Rows of one number that count on from row 0.
fn body(first: u64, rows: u64) -> Vec<u8> {
    (first..first + rows).flat_map(u64::to_le_bytes).collect()
}

fn chunk(first: u64, rows: u64) -> Vec<u8> {
    let dtype = "<u8".parse().unwrap();
    let mut bytes = Header::encode(&dtype, &[rows]).unwrap();
    bytes.extend(body(first, rows));
    bytes
}

/// A dataset as a daemon that was killed has left it, and what is done to it since.
struct Left {
    scratch: tempfile::TempDir,
}

impl Left {
    /// With one chunk of 2 rows.
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let dataset = Dataset::open(scratch.path(), options(BOOT)).unwrap();
        dataset.append(CHUNK, &chunk(0, 2)).unwrap();
        // In the same files, as they were before they were closed.
        let files = [DATA, JOURNAL].map(|name| scratch.path().join(name));
        let before = files.clone().map(|path| fs::read(path).unwrap());
        drop(dataset);
        for (path, bytes) in files.iter().zip(before) {
            fs::write(path, bytes).unwrap();
        }
        fs::remove_file(scratch.path().join(".npyfs/lock")).unwrap();
        Self { scratch }
    }

    fn at(&self) -> &Path {
        self.scratch.path()
    }

    fn journal(&self) -> PathBuf {
        self.at().join(JOURNAL)
    }

    fn rows(&self, first: u64, rows: u64) -> &Self {
        let path = self.at().join(DATA);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(HEADER + 8 * first as usize);
        bytes.extend(body(first, rows));
        fs::write(path, bytes).unwrap();
        self
    }

    /// The header counts these.
    fn counted(&self, rows: u64) -> &Self {
        let path = self.at().join(DATA);
        let mut bytes = fs::read(&path).unwrap();
        let header = GrowableHeader::adopt(&bytes[..HEADER]).unwrap().unwrap();
        bytes[..HEADER].copy_from_slice(&header.bytes(rows));
        fs::write(path, bytes).unwrap();
        self
    }

    fn record(&self, record: &Record<'_>) -> &Self {
        let mut bytes = fs::read(self.journal()).unwrap();
        record.encode(&mut bytes);
        fs::write(self.journal(), bytes).unwrap();
        self
    }

    /// A commit of stream 7, after which its run has these rows.
    fn run(&self, first_row: u64, rows: u64) -> &Self {
        let crc = crc32c::crc32c(&body(first_row, rows));
        self.record(&Record::Run(RunRecord {
            stream: 7,
            first_row,
            rows,
            crc,
            ahead: false,
            uid: 1000,
            committed: 5,
        }))
    }

    fn flip(&self, row: u64) -> &Self {
        let path = self.at().join(DATA);
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER + 8 * row as usize] ^= 1;
        fs::write(path, bytes).unwrap();
        self
    }

    fn open(&self, boot: [u8; 16]) -> Arc<Dataset> {
        Dataset::open(self.at(), options(boot)).unwrap()
    }

    fn replay(&self) -> Replay {
        let journal: Arc<dyn StoreFile> =
            Arc::new(OsFile::new(fs::File::open(self.journal()).unwrap()));
        let stop = Stop::default();
        let reading = Reading {
            until: u64::MAX,
            copied: false,
            stop: &stop,
        };
        read_replay(&journal, reading).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at().join(".npyfs/log")).unwrap()
    }

    fn files(&self) -> [Vec<u8>; 2] {
        [self.at().join(DATA), self.journal()].map(|path| fs::read(path).unwrap())
    }
}

#[track_caller]
fn has_rows(dataset: &Dataset, rows: u64) {
    let view = dataset.snapshot().unwrap().unwrap();
    assert_eq!(view.rows(), rows);
    let mut bytes = vec![0; view.body_len() as usize];
    view.read_body(&mut bytes, 0).unwrap();
    assert!(bytes == body(0, rows), "other rows");
}

#[test]
fn rows_of_streams_are_rows_without_a_name_that_have_a_checksum() {
    for boot in [BOOT, ANOTHER] {
        let left = Left::new();
        left.rows(2, 7).run(2, 3).run(2, 5);
        left.record(&Record::Foreign {
            first_row: 7,
            rows: 1,
        });
        left.run(8, 1);
        let dataset = left.open(boot);
        has_rows(&dataset, 9);
        let again = Dataset::append(&dataset, CHUNK, &chunk(0, 2));
        again.unwrap();
        dataset.append("b.npy", &chunk(9, 2)).unwrap();
        dataset.close().unwrap();
        drop(dataset);
        let dataset = left.open(ANOTHER);
        has_rows(&dataset, 11);
        assert!(!dataset.is_owned(), "not closed cleanly");
        let runs: Vec<(u64, u64)> = dataset
            .published()
            .catalog
            .runs()
            .iter()
            .map(|run| (run.first_row, run.rows))
            .collect();
        assert_eq!(runs, [(2, 5), (8, 1)]);
        let report = dataset.check(&mut |_, _| ()).unwrap();
        assert_eq!((report.chunks, report.unverified_rows), (2, 1));
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        drop(dataset);
        let report = left.flip(4).open(ANOTHER).check(&mut |_, _| ()).unwrap();
        let phrase = "rows 2 to 7, which a stream appended, differ from their checksum";
        assert!(report.damage[0].contains(phrase), "{:?}", report.damage);
        assert_eq!(report.damage.len(), 1);
    }
}

#[test]
fn a_stream_loses_its_commits_from_the_first_one_with_wrong_rows_on() {
    for boot in [BOOT, ANOTHER] {
        let left = Left::new();
        left.rows(2, 7).run(2, 2).run(2, 4).run(2, 7).flip(4);
        let dataset = left.open(boot);
        has_rows(&dataset, 4);
        let log = left.log();
        for (row, rows) in [(4, 2), (6, 3)] {
            let phrase = format!(
                "a stream's commit at row {row} dropped by recovery: its {rows} rows had not"
            );
            assert!(log.contains(&phrase), "{log}");
        }
        assert!(
            log.contains("of which a.npy to a stream's commit at row 2, 2 commits,"),
            "{log}"
        );
        let report = dataset.check(&mut |_, _| ()).unwrap();
        assert!(report.damage.is_empty() && report.unverified_rows == 0);
    }
}

#[test]
fn of_a_run_only_the_rows_that_were_not_synced_are_verified() {
    let left = Left::new();
    left.rows(2, 7)
        .run(2, 4)
        .counted(6)
        .record(&Record::Durable { rows: 6 });
    // What a disk has lost since is for a check to find, not for a recovery to cut.
    left.run(2, 7).flip(3);
    let dataset = left.open(ANOTHER);
    assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 9);
    let report = dataset.check(&mut |_, _| ()).unwrap();
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
}

#[test]
fn an_array_that_a_stream_began_is_missed_when_it_is_gone() {
    let left = Left::new();
    let records = fs::read(left.journal()).unwrap();
    // All but the record of the chunk, which is the last.
    let chunk = records.len() - (8 + 54 + CHUNK.len());
    fs::write(left.journal(), &records[..chunk]).unwrap();
    left.run(0, 2).record(&Record::Durable { rows: 2 });
    fs::rename(left.at().join(DATA), left.at().join(NEW_DATA)).unwrap();
    has_rows(&left.open(ANOTHER), 2);
    fs::remove_file(left.at().join(DATA)).unwrap();
    let error = Dataset::open(left.at(), options(ANOTHER)).unwrap_err();
    assert!(error.to_string().contains("data.npy is gone"), "{error}");
}

#[test]
fn a_dataset_that_was_handed_over_is_as_clean_as_a_closed_one() {
    for boot in [BOOT, ANOTHER] {
        let left = Left::new();
        left.rows(2, 3).run(2, 3);
        // Its count, as the daemon has published it.
        drop(left.open(BOOT));
        let journal = fs::read(left.journal()).unwrap();
        fs::write(left.journal(), &journal[..journal.len() - 17]).unwrap();
        let hand_over = Record::HandOver {
            host: [3; 16],
            rows: 5,
            at: 6,
        };
        left.record(&hand_over);
        let before = left.files();
        let dataset = left.open(boot);
        assert!(!dataset.is_owned());
        has_rows(&dataset, 5);
        drop(dataset);
        assert!(left.files() == before, "changed");
        let replay = left.replay();
        assert!(replay.closed && replay.unverified.is_empty() && replay.durable == 5);
    }
}

#[test]
fn damage_before_a_hand_over_is_no_crash() {
    let left = Left::new();
    let mut journal = fs::read(left.journal()).unwrap();
    let at = journal.len() - 3;
    journal[at] ^= 1;
    fs::write(left.journal(), journal).unwrap();
    left.record(&Record::HandOver {
        host: [3; 16],
        rows: 2,
        at: 6,
    });
    let before = left.files();
    let error = Dataset::open(left.at(), options(ANOTHER)).unwrap_err();
    assert!(
        error.to_string().contains("the journal is damaged"),
        "{error}"
    );
    assert!(left.files() == before, "changed");
}

fn forget_all(dataset: &Dataset) {
    while let Some((name, _)) = dataset.next_name(0) {
        dataset.forget(&name).unwrap();
    }
}

#[test]
fn what_was_set_of_the_array_itself_is_known_again() {
    let left = Left::new();
    let set = |mode| Attributes {
        mode,
        uid: 5,
        gid: 6,
        mtime: 7,
    };
    assert_eq!(left.open(BOOT).array_attributes(), None);
    for (mode, at) in [(0o400, 8), (0o440, 9)] {
        left.record(&Record::ArrayAttributes { set: set(mode), at });
    }
    let dataset = left.open(ANOTHER);
    assert_eq!(dataset.array_attributes(), Some((set(0o440), 9)));
    dataset.append("b.npy", &chunk(2, 2)).unwrap();
    drop(dataset);
    let dataset = left.open(ANOTHER);
    assert_eq!(dataset.array_attributes(), Some((set(0o440), 9)));
    // They go with the array.
    forget_all(&dataset);
    dataset.remove_array().unwrap();
    assert_eq!(dataset.array_attributes(), None);
}

/// A user whom a later record denies them cannot read rows of it while it is verified.
#[test]
fn what_was_set_last_of_the_array_itself_holds_of_a_copy_before_any_row_is_verified() {
    let (left, copy) = (Left::new(), tempfile::tempdir().unwrap());
    let set = |mode| Attributes {
        mode,
        uid: 5,
        gid: 6,
        mtime: 7,
    };
    for mode in [0o444, 0o400] {
        left.record(&Record::ArrayAttributes {
            set: set(mode),
            at: 8,
        });
    }
    fs::create_dir(copy.path().join(".npyfs")).unwrap();
    for file in [DATA, JOURNAL] {
        fs::copy(left.at().join(file), copy.path().join(file)).unwrap();
    }
    let folder: Arc<dyn StoreDir> = Arc::new(Directory::open(copy.path()).unwrap());
    let look = Look {
        how: Open::Read,
        boot: BOOT,
        live: false,
        distrust: false,
        accept: false,
        stop: &Stop::default(),
        copies: Copies::Known(None),
    };
    let Found::Unverified(copied) = survey_if_settled(&folder, &look).unwrap() else {
        panic!("not taken for a copy");
    };
    assert_eq!(copied.array_attributes(), Some((set(0o400), 8)));
    assert_eq!(copied.array().unwrap().rows, 0);
}

#[test]
fn rows_of_a_stream_are_told_where_the_journal_is_damaged() {
    let left = Left::new();
    left.rows(2, 12).run(2, 3).run(2, 5).flip(3);
    let mut journal = fs::read(left.journal()).unwrap();
    journal.extend([0x55; 20]);
    fs::write(left.journal(), journal).unwrap();
    left.run(9, 2).run(9, 3).run(12, 2).flip(12);
    left.record(&Record::Closed { rows: 14 });
    let lines = super::super::lost_chunks(left.at()).unwrap();
    let expected = [
        "rows 2 to 7, which a stream appended, are not what was committed",
        "rows 7 to 9: the record of their chunk is damaged",
        "rows 9 to 12, which a stream appended, are whole, but their record is after the damage",
        "rows 12 to 14, which a stream appended, are not what was committed",
    ];
    assert_eq!(lines, expected);
}

/// Where the files are, and the mount, as the system says.
fn place_of(path: &Path) -> Place {
    let metadata = fs::metadata(path).unwrap();
    let born = metadata.created().map_or(0, clock::from_system);
    Place {
        inode: metadata.ino(),
        born,
    }
}

#[test]
fn an_opened_record_tells_where_the_dataset_is_and_in_which_mount() {
    let scratch = tempfile::tempdir().unwrap();
    let left = Left { scratch };
    let dataset = left.open(BOOT);
    dataset.acquire().unwrap();
    let journal = place_of(&left.journal());
    let opened = left.replay().opened.unwrap();
    let whence = opened.whence.unwrap();
    assert_eq!((opened.boot, whence.host), (BOOT, [0; 16]));
    assert_eq!((whence.data, whence.journal), (Place::default(), journal));
    let mount = whence.mount;
    assert_ne!(mount, MountId::Unknown);
    // With the first chunk the array is somewhere.
    dataset.append(CHUNK, &chunk(0, 2)).unwrap();
    let data = place_of(&left.at().join(DATA));
    let whence = left.replay().opened.unwrap().whence.unwrap();
    assert_eq!((whence.data, whence.journal), (data, journal));
    drop(dataset);

    let dataset = left.open(ANOTHER);
    dataset.append("b.npy", &chunk(2, 2)).unwrap();
    let opened = left.replay().opened.unwrap();
    let whence = opened.whence.unwrap();
    assert_eq!((opened.boot, whence.mount), (ANOTHER, mount));
    assert_eq!((whence.data, whence.journal), (data, journal));
    assert_ne!(data, journal);

    // Removing the array begins a new journal in the same file.
    forget_all(&dataset);
    dataset.remove_array().unwrap();
    let whence = left.replay().opened.unwrap().whence.unwrap();
    assert_eq!((whence.data, whence.journal), (Place::default(), journal));
}

#[test]
fn names_and_attributes_change_at_a_time_that_is_told() {
    let left = Left::new();
    let dataset = left.open(BOOT);
    let before = clock::now();
    let change = Change {
        mode: Some(0o600),
        ..Default::default()
    };
    let name = OsStr::new("b.npy");
    dataset.rename(OsStr::new(CHUNK), name).unwrap();
    dataset.set_attributes(name, &change).unwrap();
    dataset.forget(name).unwrap();
    let after = clock::now();
    let blob = Arc::new(OsFile::new(fs::File::open(left.journal()).unwrap()));
    let (_, mut reader) = Reader::open(blob).unwrap();
    let mut times = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        match record {
            Record::Rename { at, .. }
            | Record::Attributes { at, .. }
            | Record::Forgotten { at, .. } => times.push(at.unwrap()),
            _ => {}
        }
    }
    assert_eq!(times.len(), 3);
    assert!(times.is_sorted() && before <= times[0] && times[2] <= after);
}
