//! Names of files that hold a chunk's bytes: they end with the chunk's name, as far as that goes.
//!
//! A chunk's name may have any bytes but 0 and `/`, up to 255 of them. A file that has more in its
//! name keeps the end of it, and where the filesystem takes no such name (one of other bytes than
//! UTF-8, of certain characters, of more than 143 bytes), it has a plain one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::disk::StoreDir;
use crate::disk::clock;

/// What a file's name may have, in bytes, on most filesystems.
const LONGEST: usize = 255;
/// What a plain one has at most: less than on any.
const LONGEST_PLAIN: usize = 100;

/// Moves a file of the chunk `name` to `directory`.
pub(crate) fn move_into(
    folder: &dyn StoreDir,
    directory: &str,
    name: &OsStr,
    from: &Path,
) -> io::Result<PathBuf> {
    with_any_name(|plain| {
        let path = Path::new(directory).join(dated(name, plain));
        folder.rename(from, &path)?;
        Ok(path)
    })
}

/// A name that no other file has had, which sorts by time.
fn dated(name: &OsStr, plain: bool) -> OsString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
    let mut file = format!("{}-{n:03}-", clock::compact(clock::now())).into_bytes();
    append_name(&mut file, name, plain);
    OsString::from_vec(file)
}

/// Calls `make` for a name that has all of the chunk's, and where the filesystem does not take that,
/// for a plain one.
pub(crate) fn with_any_name<T>(make: impl Fn(bool) -> io::Result<T>) -> io::Result<T> {
    match make(false) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENAMETOOLONG | libc::EILSEQ | libc::EINVAL)
            ) =>
        {
            make(true)
        }
        other => other,
    }
}

/// Appends a chunk's name to that of a file.
pub(crate) fn append_name(file: &mut Vec<u8>, name: &OsStr, plain: bool) {
    let longest = if plain { LONGEST_PLAIN } else { LONGEST };
    let bytes = name.as_bytes();
    let mut from = bytes.len().saturating_sub(longest - file.len());
    // No character is cut.
    if let Some(text) = name.to_str() {
        while !text.is_char_boundary(from) {
            from += 1;
        }
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let as_is = |byte: &u8| {
        if plain && !is_plain(*byte) {
            b'_'
        } else {
            *byte
        }
    };
    file.extend(bytes[from..].iter().map(as_is));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(name: &[u8], plain: bool) -> Vec<u8> {
        let mut file = b"1-2-".to_vec();
        append_name(&mut file, OsStr::from_bytes(name), plain);
        file
    }

    #[test]
    fn any_bytes_stay_as_they_are_but_in_a_plain_name() {
        let name = b"a\xff b+~\n\xc3\xa9.npy";
        assert_eq!(appended(name, false), [b"1-2-", &name[..]].concat());
        assert_eq!(appended(name, true), b"1-2-a__b_____.npy");
    }

    #[test]
    fn of_a_long_name_the_end_is_kept_and_no_character_cut() {
        let name = [&[b'x'; 251][..], b".npy"].concat();
        let file = appended(&name, false);
        assert_eq!((file.len(), &file[250..]), (255, &b"x.npy"[..]));
        assert_eq!(appended(&name, true).len(), 100);
        // Three bytes are too many, and a character has two.
        let name = ["\u{e9}".repeat(124).as_bytes(), b"xx.npy"].concat();
        let file = appended(&name, false);
        assert_eq!((file.len(), &file[4..]), (254, &name[4..]));
    }

    #[test]
    fn a_filesystem_that_takes_no_such_name_gets_a_plain_one() {
        let asked = |errno: i32| {
            with_any_name(|plain| match plain {
                true => Ok(plain),
                false => Err(io::Error::from_raw_os_error(errno)),
            })
        };
        for errno in [libc::ENAMETOOLONG, libc::EILSEQ, libc::EINVAL] {
            assert!(asked(errno).unwrap());
        }
        assert!(asked(libc::ENOSPC).is_err());
    }
}
