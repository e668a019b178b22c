//! Checksums of rows in a file, which may have holes.
//!
//! A hole reads as zeros and takes no space: the owner of a dataset's directory can make one of any
//! length. The checksum of that many zeros is computed, not read.

use std::io;
use std::panic::resume_unwind;
use std::thread;

use crate::disk::{StoreFile, read_exact_at};
use crate::stop::Stop;

/// How much is read at once, in bytes: what is read is summed up while the processor has it at hand.
const PIECE: u64 = 256 << 10;
/// How much one thread sums up before it joins the other: both are near the same place in the file, so
/// that a disk reads on.
const STRETCH: u64 = 8 << 20;

/// The CRC-32C of what `crc` is of, followed by `len` bytes of a file from `offset` on. `progress` is
/// told the bytes that were dealt with.
///
/// # Errors
/// Those of reading (`EIO` where the file ends early), and `ECANCELED`.
pub(crate) fn extend(
    mut crc: u32,
    blob: &dyn StoreFile,
    offset: u64,
    len: u64,
    stop: &Stop,
    progress: &mut dyn FnMut(u64),
) -> io::Result<u32> {
    let mut done = 0;
    while done < len {
        let at = offset + done;
        let stretch = (len - done).min(2 * STRETCH);
        let read = if stretch == 2 * STRETCH {
            of_two(blob, at, stop)?
        } else {
            of_one(blob, at, stretch, stop)?
        };
        crc = crc32c::crc32c_combine(crc, read, stretch as usize);
        let mut passed = stretch;
        if stretch >= PIECE && read == crc_of_zeros(stretch) {
            let end = at + stretch;
            let data = blob.next_data(end)?.min(offset + len);
            // Past the end of the file there are no zeros, but nothing.
            let zeros = data.min(blob.len()?).saturating_sub(end);
            crc = crc32c::crc32c_combine(crc, crc_of_zeros(zeros), zeros as usize);
            passed += zeros;
        }
        done += passed;
        progress(passed);
    }
    Ok(crc)
}

/// Of two stretches, by two threads.
fn of_two(blob: &dyn StoreFile, offset: u64, stop: &Stop) -> io::Result<u32> {
    let [first, second] = thread::scope(|threads| {
        let other = thread::Builder::new()
            .name("npyfs-checksum".into())
            .spawn_scoped(threads, || of_one(blob, offset + STRETCH, STRETCH, stop));
        let first = of_one(blob, offset, STRETCH, stop);
        let second = match other {
            Ok(other) => match other.join() {
                Ok(second) => second,
                Err(panic) => resume_unwind(panic),
            },
            Err(error) => {
                log::debug!("no thread for a checksum: {error}");
                of_one(blob, offset + STRETCH, STRETCH, stop)
            }
        };
        [first, second]
    });
    Ok(crc32c::crc32c_combine(first?, second?, STRETCH as usize))
}

fn of_one(blob: &dyn StoreFile, offset: u64, len: u64, stop: &Stop) -> io::Result<u32> {
    let mut buffer = vec![0; len.min(PIECE) as usize];
    let (mut crc, mut done) = (0, 0);
    while done < len {
        // A disk may be slow enough for a stretch to take long.
        stop.check_io()?;
        let piece = &mut buffer[..(len - done).min(PIECE) as usize];
        read_exact_at(blob, piece, offset + done)?;
        crc = crc32c::crc32c_append(crc, piece);
        done += piece.len() as u64;
    }
    Ok(crc)
}

/// The CRC-32C of what `crc` is of, followed by `len` bytes that are 0.
pub(crate) fn append_zeros(crc: u32, len: u64) -> u32 {
    // So few are summed up sooner than combined.
    const FEW: &[u8] = &[0; 64 << 10];
    match FEW.get(..usize::try_from(len).unwrap_or(usize::MAX)) {
        Some(zeros) => crc32c::crc32c_append(crc, zeros),
        None => crc32c::crc32c_combine(crc, crc_of_zeros(len), len as usize),
    }
}

/// The CRC-32C of `len` bytes that are 0.
fn crc_of_zeros(len: u64) -> u32 {
    // Of 1, 2, 4, ... zeros: each is the one before it, twice.
    let (mut power, mut power_len) = (crc32c::crc32c(&[0]), 1u64);
    let (mut crc, mut rest) = (0, len);
    while rest > 0 {
        if rest & 1 == 1 {
            crc = crc32c::crc32c_combine(crc, power, power_len as usize);
        }
        rest >>= 1;
        if rest > 0 {
            power = crc32c::crc32c_combine(power, power, power_len as usize);
            power_len <<= 1;
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsFile;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn zeros_have_the_checksum_that_they_have_when_they_are_read() {
        for len in [0, 1, 2, 3, 7, 4096, 100_000, 1 << 20] {
            let zeros = vec![0; len];
            assert_eq!(crc_of_zeros(len as u64), crc32c::crc32c(&zeros), "{len}");
            let appended = crc32c::crc32c_append(7, &zeros);
            assert_eq!(append_zeros(7, len as u64), appended, "{len}");
        }
    }

    #[test]
    fn holes_are_summed_up_as_the_zeros_that_they_read_as() {
        let mut file = tempfile::tempfile().unwrap();
        let len = 45 << 20;
        file.set_len(len).unwrap();
        for at in [3u64, 2 << 20, (4 << 20) + 77, (21 << 20) + 1, len - 9] {
            file.write_all_at(b"data", at).unwrap();
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let blob = OsFile::new(file);
        for (offset, len) in [
            (0, len),
            (1, len - 1),
            (100, 3 << 20),
            (5 << 20, 40 << 20),
            (len, 0),
        ] {
            let mut told = 0;
            let part = &bytes[offset as usize..(offset + len) as usize];
            let crc = extend(7, &blob, offset, len, &Stop::default(), &mut |n| told += n);
            assert_eq!(crc.unwrap(), crc32c::crc32c_append(7, part));
            assert_eq!(told, len);
        }
        assert!(extend(0, &blob, 1, len, &Stop::default(), &mut |_| ()).is_err());
    }

    #[test]
    fn a_hole_of_a_terabyte_takes_no_time() {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let blob = OsFile::new(file);
        let start = std::time::Instant::now();
        extend(0, &blob, 0, 1 << 40, &Stop::default(), &mut |_| ()).unwrap();
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }
}
