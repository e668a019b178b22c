//! Chunks for tests, and a strict reader of what comes back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use nix::errno::Errno;

/// Numbers in a row of [`counted`] chunks.
pub const WIDTH: u64 = 16;
/// Bytes in such a row.
pub const ROW: usize = WIDTH as usize * 8;

/// A `.npy` 1.0 file as numpy writes it.
pub fn npy(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = with_dict(&dict);
    bytes.extend_from_slice(body);
    bytes
}

/// The same with any text in the place of the dictionary, and no body.
pub fn with_dict(dict: &str) -> Vec<u8> {
    let len = (10 + dict.len() + 1).next_multiple_of(64);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&u16::try_from(len - 10).unwrap().to_le_bytes());
    bytes.extend_from_slice(dict.as_bytes());
    bytes.resize(len - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// The rows `first..first + rows` of an array `<i8` of shape `(?, 16)` in which every number is
/// the number of its row.
pub fn counted(first: u64, rows: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(rows as usize * ROW);
    for row in first..first + rows {
        for _ in 0..WIDTH {
            body.extend_from_slice(&row.to_le_bytes());
        }
    }
    npy("<i8", &format!("({rows}, {WIDTH})"), &body)
}

/// A `.npy` file taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub descr: String,
    pub shape: Vec<u64>,
    pub body: Vec<u8>,
}

/// Takes a `.npy` 1.0 file apart; panics where numpy would not read it.
#[track_caller]
pub fn parse(bytes: &[u8]) -> Parsed {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let len = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..len]).unwrap();
    let field = |name: &str, from: char, to: char| {
        let rest = header.split_once(&format!("'{name}': ")).unwrap().1;
        let rest = rest.strip_prefix(from).unwrap();
        rest.split_once(to).unwrap().0.to_owned()
    };
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape = field("shape", '(', ')');
    let shape = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    let shape = shape.map(|n| {
        let zeros = n.chars().all(|digit| digit == '0');
        assert!(zeros || !n.starts_with('0'), "Python refuses {n}");
        n.parse().unwrap()
    });
    Parsed {
        descr: field("descr", '\'', '\''),
        shape: shape.collect(),
        body: bytes[len..].to_vec(),
    }
}

/// The numbers of the rows of an array made of [`counted`] chunks; panics where any row is not
/// whole or the file's end is not where the header says.
#[track_caller]
pub fn row_numbers(file: &[u8]) -> Vec<u64> {
    let array = parse(file);
    assert_eq!(array.descr, "<i8");
    assert_eq!(array.shape[1..], [WIDTH]);
    assert_eq!(array.body.len(), array.shape[0] as usize * ROW);
    array
        .body
        .chunks(ROW)
        .map(|row| {
            assert!(row.chunks(8).all(|number| number == &row[..8]), "{row:?}");
            u64::from_le_bytes(row[..8].try_into().unwrap())
        })
        .collect()
}

/// The numbers of the rows of a dataset's array through the mount; none where there is none.
#[track_caller]
pub fn rows_of(dataset: &Path) -> Vec<u64> {
    match fs::read(dataset.join("data.npy")) {
        Ok(file) => row_numbers(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Creates the file, writes `bytes` by one call and closes it, with the answer of each.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_in_pieces(path, bytes, bytes.len().max(1))
}

/// The same with one call for each `piece` bytes.
pub fn put_in_pieces(path: &Path, bytes: &[u8], piece: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    let written = bytes
        .chunks(piece)
        .try_for_each(|piece| file.write_all(piece));
    let closed = close(file);
    written.and(closed)
}

pub use super::load::close;

/// The errno of what must fail.
#[track_caller]
pub fn errno<T>(result: io::Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("did not fail"),
        Err(error) => Errno::from_raw(error.raw_os_error().expect("an error of the system")),
    }
}
