//! Streams and the tail, without a dataset.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::stream::{Owner, Stream};
use super::tail::Tail;
use super::view::{HeaderKind, Layout};
use crate::convert::bands::Bands;
use crate::disk::{Directory, Face, Open, StoreDir, read_exact_at};
use crate::npy::GrowableHeader;

const HEAD: u64 = 128;

/// The file of an array of bytes, and what is to be in it.
struct Ground {
    _scratch: tempfile::TempDir,
    folder: Arc<dyn StoreDir>,
    layout: Arc<Layout>,
    tail: Tail,
    /// All rows so far.
    rows: Vec<u8>,
}

impl Ground {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let folder: Arc<dyn StoreDir> = Arc::new(Directory::open(scratch.path()).unwrap());
        folder.make_dir(Path::new(".npyfs")).unwrap();
        let data = folder.open(Path::new("data.npy"), Open::CreateNew).unwrap();
        let header = GrowableHeader::new(&"|u1".parse().unwrap(), &[]).unwrap();
        assert_eq!(header.len(), HEAD);
        data.write_at(&header.bytes(0), 0).unwrap();
        Self {
            _scratch: scratch,
            folder,
            layout: Arc::new(Layout::new(HeaderKind::Growable(header), data)),
            tail: Tail::default(),
            rows: Vec::new(),
        }
    }

    fn end(&self) -> u64 {
        HEAD + self.rows.len() as u64
    }

    fn begin(&mut self, len: u64, bands: Bands) -> Arc<Stream> {
        let owner = Owner {
            name: OsString::from("x.npy"),
            head: b"a header".to_vec(),
            face: Mutex::new(Face {
                len: 0,
                mode: 0o600,
                uid: nix::unistd::getuid().as_raw(),
                gid: nix::unistd::getgid().as_raw(),
                mtime: None,
            }),
        };
        let base = self.tail.place_after(self.end()).unwrap();
        let stream = Stream::new(self.layout.clone(), None, base, owner, len, bands, false);
        self.tail.streams.push(stream.clone());
        stream
    }

    /// A chunk from elsewhere.
    fn commit(&mut self, rows: &[u8]) {
        let (at, end) = (self.end(), self.end() + rows.len() as u64);
        self.tail.make_way(&self.folder, &self.layout, end);
        self.layout.data.write_at(rows, at).unwrap();
        self.rows.extend_from_slice(rows);
        self.holds();
    }

    /// The chunk `stream`, whose `body` is complete.
    fn settle(&mut self, stream: &Arc<Stream>, stored: &[u8]) {
        let end = self.end() + stored.len() as u64;
        self.tail.remove(stream);
        self.tail.make_way(&self.folder, &self.layout, end);
        stream.settle(&self.layout, self.end()).unwrap();
        self.rows.extend_from_slice(stored);
        self.holds();
    }

    fn holds(&self) {
        let mut found = vec![0; self.rows.len()];
        read_exact_at(&*self.layout.data, &mut found, HEAD).unwrap();
        assert!(found == self.rows);
    }

    fn files(&self) -> Vec<String> {
        let files = self.folder.list(Path::new(".npyfs/incoming")).unwrap();
        let name = |file: crate::disk::DirEntry| file.name.into_string().unwrap();
        files.into_iter().map(name).collect()
    }
}

fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let next = |n: u64| ((n + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..len).map(next).collect()
}

fn reads_back(stream: &Stream, body: &[u8]) {
    let mut back = vec![0; body.len()];
    stream.read(&mut back, 0).unwrap();
    assert!(back == body);
}

#[test]
fn only_what_is_overwritten_is_moved() {
    let mut ground = Ground::new();
    let body = bytes(1, 8 << 20);
    let stream = ground.begin(body.len() as u64, Bands::default());
    stream.write(&body[..4 << 20], 0).unwrap();
    ground.commit(&bytes(2, 3 << 20));
    let [file] = &ground.files()[..] else {
        panic!("{:?}", ground.files());
    };
    assert!(file.ends_with("~x.npy"), "{file}");
    let path = Path::new(".npyfs/incoming").join(file);
    let spilled = ground.folder.open(&path, Open::Read).unwrap();
    assert_eq!(spilled.len().unwrap(), 8 + (3 << 20));
    stream.write(&body[4 << 20..], 4 << 20).unwrap();
    assert_eq!(spilled.len().unwrap(), 8 + (3 << 20));
    reads_back(&stream, &body);
    ground.settle(&stream, &body);
    drop(stream);
    assert_eq!(ground.files(), [""; 0]);
}

#[test]
fn what_is_overwritten_whole_is_a_file_of_the_chunk() {
    let mut ground = Ground::new();
    let body = bytes(1, 3000);
    let stream = ground.begin(3000, Bands::default());
    stream.write(&body[..2000], 0).unwrap();
    ground.commit(&bytes(2, 5000));
    assert!(stream.has_left() && ground.tail.is_empty());
    let files = ground.files();
    assert!(
        files.len() == 1 && files[0].ends_with("-x.npy"),
        "{files:?}"
    );
    stream.write(&body[2000..], 2000).unwrap();
    reads_back(&stream, &body);
    ground.settle(&stream, &body);
}

#[test]
fn what_cannot_be_moved_is_told_to_its_own_producer() {
    let mut ground = Ground::new();
    let stream = ground.begin(3000, Bands::default());
    stream.write(&bytes(1, 2000), 0).unwrap();
    // There can be no directory.
    let incoming = Path::new(".npyfs/incoming");
    ground.folder.open(incoming, Open::CreateNew).unwrap();
    ground.commit(&bytes(2, 10));
    assert!(ground.tail.is_empty());
    let told = stream.write(&[0], 2000).unwrap_err();
    assert!(
        told.to_string().contains("out of the array's tail"),
        "{told}"
    );
    let told = stream.settle(&ground.layout, ground.end()).unwrap_err();
    assert!(
        told.to_string().contains("out of the array's tail"),
        "{told}"
    );
    ground.holds();
}

#[test]
fn an_array_that_took_the_place_of_the_first_gets_all_of_a_stream() {
    let mut ground = Ground::new();
    let body = bytes(1, 3000);
    let stream = ground.begin(3000, Bands::default());
    stream.write(&body[..2000], 0).unwrap();
    ground.commit(&bytes(2, 100));
    stream.write(&body[2000..], 2000).unwrap();
    let mut other = Ground::new();
    other.commit(&bytes(3, 40));
    other.settle(&stream, &body);
    ground.holds();
}

#[test]
fn a_chunk_waits_for_those_ahead_of_it_if_all_are_soon_done() {
    const MIB: u64 = 1 << 20;
    let mut ground = Ground::new();
    let [first, second, third] = [3, 4, 5].map(|len| ground.begin(len * MIB, Bands::default()));
    let places = [&first, &second, &third].map(|stream| stream.base() - 128);
    assert_eq!(places, [0, 3 * MIB, 7 * MIB]);
    let long = Duration::from_secs(3600);
    first.write(&bytes(1, 3 * MIB), 0).unwrap();
    third.write(&bytes(1, 5 * MIB), 0).unwrap();
    assert!(!ground.tail.is_worth_waiting(&first, long));
    // Nothing has come of the second.
    assert!(ground.tail.is_worth_waiting(&second, long));
    assert!(!ground.tail.is_worth_waiting(&third, long));
    second.write(&bytes(1, 4 * MIB - 1), 0).unwrap();
    assert!(ground.tail.is_worth_waiting(&third, long));
    // All will be moved on by what has the place of the first now, and the next is there already.
    ground.commit(&bytes(2, 10));
    assert!(ground.tail.is_worth_waiting(&third, long));
    let next = ground.begin(10, Bands::default());
    assert_eq!(next.base(), 128 + 10 + 12 * MIB);
}

/// What producers do, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Begin {
        len: u64,
        bands: bool,
    },
    Write {
        stream: usize,
        len: u64,
    },
    Small {
        len: u64,
    },
    /// A commit that fails after its rows were laid down.
    Fail {
        len: u64,
    },
    Settle {
        stream: usize,
    },
    File {
        stream: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (1..40u64, any::<bool>()).prop_map(|(len, bands)| Step::Begin { len, bands }),
        6 => (0..8usize, 1..20u64).prop_map(|(stream, len)| Step::Write { stream, len }),
        3 => (1..12u64).prop_map(|len| Step::Small { len }),
        1 => (1..12u64).prop_map(|len| Step::Fail { len }),
        2 => (0..8usize).prop_map(|stream| Step::Settle { stream }),
        1 => (0..8usize).prop_map(|stream| Step::File { stream }),
    ];
    prop::collection::vec(step, 1..60)
}

struct Flight {
    stream: Arc<Stream>,
    body: Vec<u8>,
    bands: Bands,
    came: usize,
}

impl Flight {
    fn write(&mut self, len: usize) {
        let end = (self.came + len).min(self.body.len());
        let data = &self.body[self.came..end];
        self.stream.write(data, self.came as u64).unwrap();
        self.came = end;
        reads_back(&self.stream, &self.body[..end]);
    }

    fn stored(&self) -> Vec<u8> {
        let mut stored = vec![0; self.body.len()];
        let mut put = |at: u64, bytes: &[u8]| {
            stored[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        self.bands.scatter(0, &self.body, &mut put).unwrap();
        stored
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_overwrites_them_streams_come_whole(steps in steps(), large in any::<bool>()) {
        // Below and above what is spilled and copied at once.
        let unit = if large { 30_000 } else { 3 };
        let mut ground = Ground::new();
        let mut flights: Vec<Flight> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let seed = n as u64 * 1000;
            match step {
                Step::Begin { len, bands } if flights.len() < 8 => {
                    // Items of a byte, 3 columns, in bands of a part of one.
                    let dims = [len * unit, 3];
                    let bands = match bands {
                        true => Bands::new(1, &dims, len * unit / 2),
                        false => Bands::default(),
                    };
                    let body = bytes(seed, len * unit * 3);
                    let stream = ground.begin(body.len() as u64, bands.clone());
                    flights.push(Flight { stream, body, bands, came: 0 });
                }
                Step::Write { stream, len } if stream < flights.len() => {
                    flights[stream].write((len * unit) as usize);
                }
                Step::Small { len } => ground.commit(&bytes(seed, len * unit)),
                Step::Fail { len } => {
                    let before = ground.rows.len();
                    ground.commit(&bytes(seed, len * unit));
                    ground.rows.truncate(before);
                }
                Step::Settle { stream } if stream < flights.len() => {
                    let mut flight = flights.remove(stream);
                    flight.write(flight.body.len());
                    let stored = flight.stored();
                    ground.settle(&flight.stream, &stored);
                }
                Step::File { stream } if stream < flights.len() => {
                    let flight = flights.remove(stream);
                    let file = flight.stream.take_file(&ground.folder).unwrap();
                    ground.tail.remove(&flight.stream);
                    let mut found = vec![0; 8 + flight.came];
                    read_exact_at(file.blob(), &mut found, 0).unwrap();
                    prop_assert!(found[8..] == flight.body[..flight.came]);
                    prop_assert_eq!(&found[..8], b"a header");
                }
                _ => {}
            }
            for flight in &flights {
                reads_back(&flight.stream, &flight.body[..flight.came]);
            }
        }
        ground.tail.clear();
        drop(flights);
        if ground.folder.list(Path::new(".npyfs/incoming")).is_ok() {
            prop_assert_eq!(ground.files(), [""; 0]);
        }
    }
}
