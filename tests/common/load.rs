//! Chunks that say who wrote them: producers for the tests of what is lost, and the reader that
//! finds every one of them again.
//!
//! A row is four u64: producer, sequence number, index in its chunk, and a mix of the three. So any
//! array can be taken apart into whole chunks, whatever the order of its commits was.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use npyfs::npy::{Header, Prefix};

use super::process::no_new_process;

const ROW: usize = 32;

/// One chunk of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk {
    pub producer: u64,
    pub number: u64,
}

/// How a chunk is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Up to 4 KiB at once: it collects in memory.
    Small,
    /// More than 1 MiB, front to back: it streams.
    Streamed,
    /// The second half first: it is staged.
    Staged,
}

fn mix(producer: u64, number: u64, index: u64) -> u64 {
    (producer << 48 ^ number << 24 ^ index)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Chunk {
    pub fn new(producer: u64, number: u64) -> Self {
        Self { producer, number }
    }

    pub fn name(self) -> String {
        format!("p{}-{:06}.npy", self.producer, self.number)
    }

    pub fn from_name(name: &str) -> Option<Self> {
        let (producer, number) = name
            .strip_prefix('p')?
            .strip_suffix(".npy")?
            .split_once('-')?;
        Some(Self::new(producer.parse().ok()?, number.parse().ok()?))
    }

    /// Mostly small, now and then large in either way.
    pub fn style(self) -> Style {
        match mix(self.producer, self.number, 7) >> 60 {
            0 => Style::Streamed,
            1 | 2 => Style::Staged,
            _ => Style::Small,
        }
    }

    pub fn rows(self) -> u64 {
        let any = mix(self.producer, self.number, 11) >> 40;
        match self.style() {
            Style::Small => 1 + any % 128,
            Style::Streamed => 36_000 + any % 20_000,
            Style::Staged => 2 + any % 6_000,
        }
    }

    /// The whole file.
    pub fn bytes(self) -> Vec<u8> {
        let dtype = "<u8".parse().unwrap();
        let mut bytes = Header::encode(&dtype, &[self.rows(), 4]).unwrap();
        for index in 0..self.rows() {
            let mixed = mix(self.producer, self.number, index);
            for value in [self.producer, self.number, index, mixed] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }
}

/// Closes a file and tells what `close` answered, which dropping it does not.
pub fn close(file: File) -> io::Result<()> {
    let _alone = no_new_process();
    nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from)
}

/// Waits until all that was written is where a kill of the daemon leaves it: a write may be answered
/// before its bytes are stored.
pub fn wait_until_stored(file: &File) {
    file.set_len(file.metadata().unwrap().len()).unwrap();
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

/// Writes a chunk in its own style; the file is still open then.
pub fn write(directory: &Path, chunk: Chunk) -> io::Result<File> {
    let bytes = chunk.bytes();
    let file = create(&directory.join(chunk.name()))?;
    match chunk.style() {
        Style::Small => file.write_all_at(&bytes, 0)?,
        Style::Streamed => {
            for (n, piece) in bytes.chunks(256 << 10).enumerate() {
                file.write_all_at(piece, (n as u64) << 18)?;
            }
        }
        Style::Staged => {
            let half = bytes.len() / 2;
            file.write_all_at(&bytes[half..], half as u64)?;
            file.write_all_at(&bytes[..half], 0)?;
        }
    }
    Ok(file)
}

/// Writes and closes a chunk.
pub fn put(directory: &Path, chunk: Chunk) -> io::Result<()> {
    close(write(directory, chunk)?)
}

/// Writes and closes a file with one write.
pub fn put_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = create(path)?;
    file.write_all_at(bytes, 0)?;
    close(file)
}

/// `fsync` of a file or directory that is opened for it.
pub fn sync_path(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let done = nix::unistd::fsync(&file).map_err(io::Error::from);
    debug_assert!(file.as_raw_fd() >= 0);
    done
}

/// An array's header and its rows; fails the test where the file is shorter than its header says.
#[track_caller]
pub fn array_of(path: &Path) -> (Header, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let header = match Header::parse(&bytes) {
        Ok(Prefix::Complete(header)) => header,
        other => panic!("{} is not an array: {other:?}", path.display()),
    };
    assert!(
        bytes.len() as u64 >= header.file_bytes(),
        "{}: {} bytes, the header says {}",
        path.display(),
        bytes.len(),
        header.file_bytes()
    );
    let body = bytes[header.len() as usize..header.file_bytes() as usize].to_vec();
    (header, body)
}

/// The chunks of an array in their order; nothing where there is no array yet. Fails the test where
/// a row is wrong, or a chunk not whole, or there twice.
#[track_caller]
pub fn chunks_in(path: &Path) -> Vec<Chunk> {
    if !path.exists() {
        return Vec::new();
    }
    let (header, body) = array_of(path);
    assert_eq!((header.row_shape(), header.row_bytes()), (&[4][..], 32));
    let mut found = Vec::new();
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        let word = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
        let chunk = Chunk::new(word(0), word(8));
        let at = (body.len() - rest.len()) / ROW;
        assert!(
            chunk.producer < 1 << 8 && chunk.number < 1 << 20,
            "row {at}: {chunk:?}"
        );
        let expected = chunk.bytes();
        let expected = &expected[expected.len() - chunk.rows() as usize * ROW..];
        assert!(
            rest.starts_with(expected),
            "row {at}: {chunk:?} is not whole in {}",
            path.display()
        );
        rest = &rest[expected.len()..];
        found.push(chunk);
    }
    let mut once = found.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), found.len(), "a chunk is there twice: {found:?}");
    found
}

/// The names in chunks.csv; fails the test where the rows are not one after the other.
#[track_caller]
pub fn csv_names(dataset: &Path) -> Vec<String> {
    let text = fs::read_to_string(dataset.join(".npyfs/chunks.csv")).unwrap();
    let mut next = 0;
    text.lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields[1].parse::<u64>().unwrap(), next, "{text}");
            next += fields[2].parse::<u64>().unwrap();
            fields[0].to_owned()
        })
        .collect()
}
