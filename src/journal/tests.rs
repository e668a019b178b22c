use proptest::prelude::*;

use super::*;
use crate::disk::{MountId, OsFile, Place};

/// What any record can be made of.
#[derive(Clone, Debug)]
struct Parts {
    kind: u8,
    name: Vec<u8>,
    other: Vec<u8>,
    header: Vec<u8>,
    id: [u8; 16],
    a: u64,
    b: u64,
    c: u32,
    time: i64,
    flag: bool,
    attributes: Attributes,
    whence: Whence,
}

fn parts() -> impl Strategy<Value = Parts> {
    let name = || prop::collection::vec(any::<u8>(), 1..=255);
    let header = prop::collection::vec(any::<u8>(), 0..300);
    let numbers = any::<([u8; 16], u64, u64, u32, i64, bool)>();
    (
        1u8..=17,
        name(),
        name(),
        header,
        numbers,
        attributes(),
        whence(),
    )
        .prop_map(
            |(kind, name, other, header, (id, a, b, c, time, flag), attributes, whence)| Parts {
                kind,
                name,
                other,
                header,
                id,
                a,
                b,
                c,
                time,
                flag,
                attributes,
                whence,
            },
        )
}

fn attributes() -> impl Strategy<Value = Attributes> {
    any::<(u32, u32, u32, i64)>().prop_map(|(mode, uid, gid, mtime)| Attributes {
        mode,
        uid,
        gid,
        mtime,
    })
}

fn whence() -> impl Strategy<Value = Whence> {
    let mount = prop_oneof![
        Just(MountId::Unknown),
        any::<u64>().prop_map(MountId::Unique),
        any::<u64>().prop_map(MountId::Device),
    ];
    let place = || any::<(u64, i64)>().prop_map(|(inode, born)| Place { inode, born });
    (any::<[u8; 16]>(), mount, place(), place()).prop_map(|(host, mount, data, journal)| Whence {
        host,
        mount,
        data,
        journal,
    })
}

impl Parts {
    fn record(&self) -> Record<'_> {
        let new = self.kind > 10;
        let at = new.then_some(self.time);
        match self.kind {
            1 => Record::Array {
                header: &self.header,
            },
            2 => Record::Header {
                bytes: &self.header,
            },
            3 => Record::Chunk(ChunkRecord {
                name: &self.name,
                first_row: self.a,
                rows: self.b,
                header: self.c,
                crc: !self.c,
                converted: self.flag,
                attributes: self.attributes,
                committed: self.time,
            }),
            4 | 12 => Record::Rename {
                from: &self.name,
                to: &self.other,
                at,
            },
            5 | 13 => Record::Attributes {
                name: &self.name,
                set: self.attributes,
                at,
            },
            6 => Record::Foreign {
                first_row: self.a,
                rows: self.b,
            },
            7 => Record::Durable { rows: self.a },
            8 | 11 => Record::Opened(Opened {
                boot: self.id,
                at: self.time,
                whence: new.then_some(self.whence),
            }),
            9 => Record::Closed { rows: self.a },
            10 | 14 => Record::Forgotten {
                name: &self.name,
                at,
            },
            15 => Record::ArrayAttributes {
                set: self.attributes,
                at: self.time,
            },
            16 => Record::Run(RunRecord {
                stream: self.b,
                first_row: self.a,
                rows: !self.a,
                crc: self.c,
                ahead: self.flag,
                uid: !self.c,
                committed: self.time,
            }),
            _ => Record::HandOver {
                host: self.id,
                rows: self.a,
                at: self.time,
            },
        }
    }
}

fn blob(bytes: &[u8]) -> Arc<dyn StoreFile> {
    let blob = OsFile::new(tempfile::tempfile().unwrap());
    blob.write_at(bytes, 0).unwrap();
    Arc::new(blob)
}

fn journal(version: u8, records: &[Record<'_>]) -> Vec<u8> {
    let mut bytes = first_line().to_vec();
    bytes[DIGIT] = b'0' + version;
    for record in records {
        record.encode(&mut bytes);
    }
    bytes
}

/// A payload with a good checksum.
fn framed(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), payload).to_le_bytes();
    [&len[..], &crc, payload].concat()
}

/// How many records of a journal are read, and the error that ends it.
fn read(bytes: &[u8]) -> (usize, Option<String>) {
    let mut reader = match Reader::open(blob(bytes)) {
        Ok((_, reader)) => reader,
        Err(error) => return (0, Some(error.to_string())),
    };
    let mut read = 0;
    loop {
        match reader.next() {
            Ok(Some(_)) => read += 1,
            Ok(None) => return (read, None),
            Err(error) => return (read, Some(error.to_string())),
        }
    }
}

proptest! {
    #[test]
    fn every_record_reads_as_it_was_written(all in prop::collection::vec(parts(), 0..12)) {
        let records: Vec<Record<'_>> = all.iter().map(Parts::record).collect();
        let (start, mut reader) = Reader::open(blob(&journal(2, &records))).unwrap();
        prop_assert_eq!(start, Start::Version(2));
        for record in &records {
            prop_assert_eq!(reader.next().unwrap(), Some(record.clone()));
        }
        prop_assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn version_1_has_the_records_that_have_no_new_field(parts in parts()) {
        let record = parts.record();
        let (read, error) = read(&journal(1, std::slice::from_ref(&record)));
        prop_assert_eq!(record.is_new(), parts.kind > 10);
        prop_assert_eq!(read, usize::from(!record.is_new()));
        prop_assert_eq!(error.is_some(), record.is_new());
    }

    /// A payload means one record, and that is spelled in this one way.
    #[test]
    fn whatever_has_a_good_checksum_is_read_or_refused(
        parts in parts(),
        kind in any::<u8>(),
        noise in prop::collection::vec(any::<u8>(), 0..120),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut spelled = Vec::new();
        parts.record().encode(&mut spelled);
        let mut short = spelled[FRAME..].to_vec();
        short.truncate(1 + cut.index(short.len()));
        let long = [&spelled[FRAME..], &noise].concat();
        for payload in [short, long, [&[kind][..], &noise].concat()] {
            let bytes = [&journal(2, &[])[..], &framed(&payload)].concat();
            let (_, mut reader) = Reader::open(blob(&bytes)).unwrap();
            match reader.next() {
                Ok(Some(record)) => {
                    let mut again = Vec::new();
                    record.encode(&mut again);
                    prop_assert_eq!(&again[FRAME..], &payload);
                }
                Ok(None) => prop_assert!(false, "cut off: {payload:?}"),
                Err(error) => prop_assert!(error.to_string().contains("newer npyfs")),
            }
        }
    }

    #[test]
    fn a_record_that_did_not_arrive_as_a_whole_ends_the_journal(
        whole in parts(),
        torn in parts(),
        cut in any::<prop::sample::Index>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let before = journal(2, &[whole.record()]);
        let mut all = before.clone();
        torn.record().encode(&mut all);
        let len = before.len() + cut.index(all.len() - before.len());
        prop_assert_eq!(read(&all[..len]), (1, None));
        let bit = 8 * before.len() + bit.index(8 * (all.len() - before.len()));
        all[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(read(&all), (1, None));
    }
}

/// Stores hold these numbers.
#[test]
fn each_kind_has_its_number_and_its_length() {
    let attributes = Attributes::default();
    let opened = |whence| {
        Record::Opened(Opened {
            boot: [1; 16],
            at: 2,
            whence,
        })
    };
    let rename = |at| Record::Rename {
        from: b"a",
        to: b"b",
        at,
    };
    let set = |at| Record::Attributes {
        name: b"a",
        set: attributes,
        at,
    };
    let run = RunRecord {
        stream: 1,
        first_row: 2,
        rows: 3,
        crc: 4,
        ahead: true,
        uid: 5,
        committed: 6,
    };
    let records = [
        (1, 3, Record::Array { header: b"hh" }),
        (2, 3, Record::Header { bytes: b"hh" }),
        (4, 5, rename(None)),
        (5, 22, set(None)),
        (
            6,
            17,
            Record::Foreign {
                first_row: 0,
                rows: 1,
            },
        ),
        (7, 9, Record::Durable { rows: 1 }),
        (8, 25, opened(None)),
        (9, 9, Record::Closed { rows: 1 }),
        (
            10,
            2,
            Record::Forgotten {
                name: b"a",
                at: None,
            },
        ),
        (11, 82, opened(Some(Whence::default()))),
        (12, 13, rename(Some(1))),
        (13, 30, set(Some(1))),
        (
            14,
            10,
            Record::Forgotten {
                name: b"a",
                at: Some(1),
            },
        ),
        (
            15,
            29,
            Record::ArrayAttributes {
                set: attributes,
                at: 1,
            },
        ),
        (16, 42, Record::Run(run)),
        (
            17,
            33,
            Record::HandOver {
                host: [1; 16],
                rows: 2,
                at: 3,
            },
        ),
    ];
    for (kind, len, record) in records {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(
            (bytes[FRAME], bytes.len() - FRAME),
            (kind, len),
            "{record:?}"
        );
    }
}

#[test]
fn a_record_of_an_unknown_kind_is_an_error_that_names_it() {
    let durable = Record::Durable { rows: 7 };
    for kind in [0, 18, 99, 255] {
        let mut bytes = journal(2, std::slice::from_ref(&durable));
        let at = bytes.len();
        bytes.extend(framed(&[kind, 1, 2, 3]));
        durable.encode(&mut bytes);
        let (read, error) = read(&bytes);
        assert_eq!(read, 1);
        let error = error.unwrap();
        let phrase =
            format!("a record of kind {kind} at byte {at}, this npyfs knows kinds 1 to 17");
        assert!(error.contains(&phrase), "{error}");
    }
}

#[test]
fn a_journal_of_an_unknown_version_is_an_error_that_names_it() {
    for (line, version) in [
        (b"npyfs journal 3\n", "3"),
        (b"npyfs journal 0\n", "0"),
        (b"npyfs journal 12", "12"),
        (b"npyfs journal 2x", "2x"),
        (b"npyfs journal \xff\n", "\u{fffd}"),
    ] {
        let error = Reader::open(blob(line)).unwrap_err().to_string();
        let phrase = format!("of version {version}, this npyfs knows versions 1 to 2");
        assert!(error.contains(&phrase), "{error}");
    }
    for line in [&b""[..], b"npyfs journal 2", b"npyfs Journal 2\n"] {
        assert_eq!(Reader::open(blob(line)).unwrap().0, Start::Nothing);
    }
}

#[test]
fn a_version_is_raised_in_place() {
    let old = journal(1, &[Record::Durable { rows: 7 }]);
    let blob = blob(&old);
    let mut journal = Journal::resume(blob.clone(), old.len() as u64).unwrap();
    assert_eq!(Reader::open(blob.clone()).unwrap().0, Start::Version(1));
    journal.raise_version().unwrap();
    let (start, mut reader) = Reader::open(blob.clone()).unwrap();
    assert_eq!(start, Start::Version(VERSION));
    assert_eq!(reader.next().unwrap(), Some(Record::Durable { rows: 7 }));
    assert_eq!((journal.len(), blob.len().unwrap()), (33, 33));
}

#[test]
fn a_new_journal_is_of_the_newest_version() {
    for old in [
        &b""[..],
        b"npyfs jour",
        b"something else that is no journal",
    ] {
        let blob = blob(old);
        let journal = Journal::resume(blob.clone(), 0).unwrap();
        assert_eq!((journal.len(), blob.len().unwrap()), (FIRST, FIRST));
        let (start, _) = Reader::open(blob).unwrap();
        assert_eq!(start, Start::Version(VERSION));
    }
}

#[test]
fn damage_is_passed_with_no_checksum_of_what_is_as_long_as_a_header() {
    let mut bytes = Vec::new();
    while bytes.len() < 4 << 20 {
        bytes.extend((1u32 << 20).to_le_bytes());
    }
    // As long as only headers are, so that no checksum is computed of it.
    let header = vec![b' '; LONGEST_WITHOUT_HEADER];
    Record::Header { bytes: &header }.encode(&mut bytes);
    let good = bytes.len() as u64;
    Record::Durable { rows: 7 }.encode(&mut bytes);
    let mut reader = Reader::resume(blob(&bytes), 0);
    assert!(reader.next().unwrap().is_none());
    assert!(reader.skip_damage().unwrap());
    assert_eq!(reader.offset(), good);
    assert_eq!(reader.next().unwrap(), Some(Record::Durable { rows: 7 }));
    assert!(!reader.skip_damage().unwrap());
}

#[test]
fn a_record_of_an_unknown_kind_after_damage_is_found_too() {
    let mut bytes = journal(2, &[]);
    bytes.extend([0x77; 40]);
    let good = bytes.len() as u64;
    bytes.extend(framed(&[44, 1]));
    let (_, mut reader) = Reader::open(blob(&bytes)).unwrap();
    assert!(reader.next().unwrap().is_none());
    assert!(reader.skip_damage().unwrap());
    assert_eq!(reader.offset(), good);
    assert!(reader.next().unwrap_err().to_string().contains("kind 44"));
}
