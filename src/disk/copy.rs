//! Reading and copying files of a store, piece by piece.

use std::io;

use super::StoreFile;
use crate::stop::Stop;

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
/// The operating system's; `EIO` where the file ends before them.
pub fn read_exact_at(blob: &dyn StoreFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if blob.read_at(buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

/// Hands `len` bytes from `offset` on to `each`, piece by piece.
///
/// # Errors
/// Those of reading (`EIO` where the file ends early) and of `each`.
pub fn read_pieces(
    blob: &dyn StoreFile,
    offset: u64,
    len: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = vec![0; len.min(PIECE) as usize];
    let mut done = 0;
    while done < len {
        let piece = &mut buffer[..(len - done).min(PIECE) as usize];
        read_exact_at(blob, piece, offset + done)?;
        each(piece)?;
        done += piece.len() as u64;
    }
    Ok(())
}

/// Copies `len` bytes from one blob into another.
///
/// # Errors
/// Those of reading and writing.
pub fn copy(
    from: &dyn StoreFile,
    at: u64,
    to: &dyn StoreFile,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let mut done = 0;
    read_pieces(from, at, len, |piece| {
        to.write_at(piece, offset + done)?;
        done += piece.len() as u64;
        Ok(())
    })
}

/// As [`copy`], to where all bytes that are zeros in a hole of `from` are zeros already: they take no
/// space there either.
///
/// # Errors
/// Those of reading and writing, and `ECANCELED`.
pub(crate) fn copy_data(
    from: &dyn StoreFile,
    at: u64,
    to: &dyn StoreFile,
    offset: u64,
    len: u64,
    stop: &Stop,
) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = vec![0; len.min(PIECE) as usize];
    let mut done = 0;
    while done < len {
        stop.check_io()?;
        // Pieces end where blocks do: part of a block that has data is no hole.
        let to_border = PIECE - (at + done) % PIECE;
        let piece = &mut buffer[..(len - done).min(to_border) as usize];
        read_exact_at(from, piece, at + done)?;
        let end = at + done + piece.len() as u64;
        let data = if is_zero(piece) {
            from.next_data(at + done)?
        } else {
            at + done
        };
        if data < end {
            to.write_at(piece, offset + done)?;
            done += piece.len() as u64;
        } else {
            done = (data - at).min(len);
        }
    }
    Ok(())
}

/// Whether all of these bytes are 0.
fn is_zero(bytes: &[u8]) -> bool {
    leading_zeros(bytes) == bytes.len()
}

/// How many of these bytes are 0 before the first that is not.
pub(crate) fn leading_zeros(bytes: &[u8]) -> usize {
    const LINE: usize = 64;
    let or = |line: &[u8]| line.iter().fold(0, |all, byte| all | byte);
    let lines = bytes.chunks(LINE).take_while(|line| or(line) == 0).count();
    let at = (lines * LINE).min(bytes.len());
    let rest = bytes[at..].iter().take_while(|byte| **byte == 0).count();
    at + rest
}
