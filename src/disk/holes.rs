//! Copying files with holes, at the cost of their data alone.
//!
//! A hole reads as zeros and takes no space: any user can make one of any length.

use std::io;

use super::{StoreFile, read_pieces};

/// How much is taken for data where the filesystem says that none begins there and no hole either, as
/// it may while the file is changed.
const BLOCK: u64 = 4096;

/// A part of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// From this offset on so many bytes, which are to be read.
    Data(u64, u64),
    /// So many zeros, which need not be.
    Hole(u64, u64),
}

/// What is read of a file with holes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// Bytes as they are.
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

impl Part<'_> {
    /// How many bytes it is of.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Zeros(len) => *len,
        }
    }
}

/// Hands the `len` bytes from `offset` on to `each`, part by part. What comes after the end of the
/// file is a hole.
///
/// # Errors
/// The operating system's, and those of `each`.
pub(crate) fn extents(
    blob: &dyn StoreFile,
    offset: u64,
    len: u64,
    mut each: impl FnMut(Extent) -> io::Result<()>,
) -> io::Result<()> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    while at < end {
        let data = blob.next_data(at)?.clamp(at, end);
        if data > at {
            each(Extent::Hole(at, data - at))?;
            at = data;
            continue;
        }
        let hole = match blob.next_hole(at)? {
            hole if hole > at => hole.min(end),
            _ => at.saturating_add(BLOCK).min(end),
        };
        each(Extent::Data(at, hole - at))?;
        at = hole;
    }
    Ok(())
}

/// As [`read_pieces`], but holes are not read.
///
/// # Errors
/// Those of reading (`EIO` where the file ends early) and of `each`.
pub(crate) fn read_parts(
    blob: &dyn StoreFile,
    offset: u64,
    len: u64,
    mut each: impl FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<()> {
    extents(blob, offset, len, |extent| match extent {
        Extent::Data(at, len) => read_pieces(blob, at, len, |piece| each(Part::Bytes(piece))),
        Extent::Hole(at, len) if at + len <= blob.len()? => each(Part::Zeros(len)),
        // Past the end of the file there are no zeros, but nothing.
        Extent::Hole(..) => Err(io::Error::from_raw_os_error(libc::EIO)),
    })
}

/// Makes `len` bytes from `offset` on zeros. Those that are a hole stay one.
///
/// # Errors
/// The operating system's.
pub(crate) fn clear(blob: &dyn StoreFile, offset: u64, len: u64) -> io::Result<()> {
    const ZEROS: &[u8] = &[0; 128 << 10];
    let there = blob.len()?;
    let has = there.min(offset.saturating_add(len)).saturating_sub(offset);
    extents(blob, offset, has, |extent| {
        let Extent::Data(at, len) = extent else {
            return Ok(());
        };
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(ZEROS.len() as u64);
            blob.write_at(&ZEROS[..piece as usize], at + done)?;
            done += piece;
        }
        Ok(())
    })?;
    let end = offset.saturating_add(len);
    if there < end {
        blob.set_len(end)?;
    }
    Ok(())
}

/// Copies the first `len` bytes of one file into another, which is empty: holes stay holes.
///
/// # Errors
/// Those of reading and writing.
pub(crate) fn copy_sparse(from: &dyn StoreFile, to: &dyn StoreFile, len: u64) -> io::Result<()> {
    let mut done = 0;
    read_parts(from, 0, len, |part| {
        if let Part::Bytes(piece) = part {
            to.write_at(piece, done)?;
        }
        done += part.len();
        Ok(())
    })?;
    if to.len()? < len {
        to.set_len(len)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::OsFile;
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};

    const LEN: u64 = 3 << 40;

    /// A file with a hole at its beginning, in its middle and at its end.
    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN).unwrap();
        for at in [1 << 20, (1 << 30) + 77, 2 << 40] {
            file.write_all_at(&[7; 10_000], at).unwrap();
        }
        file
    }

    fn byte(file: &File, at: u64) -> u8 {
        let mut byte = [9];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    }

    #[test]
    fn a_copy_of_a_file_with_holes_takes_the_time_and_the_space_of_its_data() {
        let (from, to) = (sparse(), tempfile::tempfile().unwrap());
        let copy = to.try_clone().unwrap();
        copy_sparse(&OsFile::new(from), &OsFile::new(to), LEN).unwrap();
        let stat = copy.metadata().unwrap();
        assert_eq!(stat.len(), LEN);
        assert!(stat.blocks() * 512 < 1 << 20, "{}", stat.blocks());
        for at in [1 << 20, (1 << 30) + 77, 2 << 40] {
            for (at, expected) in [(at - 1, 0), (at, 7), (at + 9999, 7), (at + 10_000, 0)] {
                assert_eq!(byte(&copy, at), expected, "{at}");
            }
        }
    }

    #[test]
    fn what_was_there_is_cleared_and_the_rest_stays() {
        let file = sparse();
        let blob = OsFile::new(file.try_clone().unwrap());
        clear(&blob, (1 << 20) + 1, (2 << 40) - 1).unwrap();
        assert_eq!(byte(&file, 1 << 20), 7);
        assert_eq!(byte(&file, (1 << 20) + 1), 0);
        assert_eq!(byte(&file, (1 << 30) + 77), 0);
        assert_eq!(byte(&file, (2 << 40) + 9999), 0);
        clear(&blob, LEN - 3, 10).unwrap();
        assert_eq!(file.metadata().unwrap().len(), LEN + 7);
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_also_where_a_hole_would_be() {
        let blob = OsFile::new(sparse());
        let error = read_parts(&blob, LEN - 3, 4, |_| Ok(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
}
