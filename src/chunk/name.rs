//! What the names in a dataset's directory mean.

use crate::disk::paths::{CONTROL, DATA};
use crate::error::Result;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What a name in a dataset's directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `data.npy`
    Array,
    /// `data[START:STOP].npy`: rows by the rules of a Python slice without a step.
    Slice {
        /// First row; from the end where negative.
        start: Option<i64>,
        /// The row after the last; from the end where negative.
        stop: Option<i64>,
    },
    /// `.npyfs`
    Control,
    /// A chunk: its close commits it.
    Chunk,
    /// An ordinary file.
    Ordinary,
}

impl Kind {
    /// Classifies a name.
    pub fn of(name: &OsStr) -> Kind {
        let bytes = name.as_bytes();
        if name == CONTROL {
            return Kind::Control;
        }
        if name == DATA {
            return Kind::Array;
        }
        let Some(stem) = bytes.strip_suffix(b".npy") else {
            return Kind::Ordinary;
        };
        if stem.is_empty() || stem[0] == b'.' || stem.ends_with(b".tmp") || stem.ends_with(b".part")
        {
            return Kind::Ordinary;
        }
        slice(stem).unwrap_or(Kind::Chunk)
    }
}

fn slice(stem: &[u8]) -> Option<Kind> {
    let range = stem.strip_prefix(b"data[")?.strip_suffix(b"]")?;
    let (start, stop) = std::str::from_utf8(range).ok()?.split_once(':')?;
    let bound = |text: &str| match text {
        "" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    Some(Kind::Slice {
        start: bound(start)?,
        stop: bound(stop)?,
    })
}

/// The rows that a slice takes of an array of `rows` rows, by Python's rules: bounds from the end
/// where negative, and cut to what is there.
pub(crate) fn slice_rows(start: Option<i64>, stop: Option<i64>, rows: u64) -> std::ops::Range<u64> {
    let clamp = |bound: i64| match u64::try_from(bound) {
        Ok(bound) => bound.min(rows),
        Err(_) => rows.saturating_sub(bound.unsigned_abs()),
    };
    let start = start.map_or(0, clamp);
    let stop = stop.map_or(rows, clamp);
    start..stop.max(start)
}

/// # Errors
/// `EPERM` for a name that no chunk can have.
pub(crate) fn check_chunk_name(name: &OsStr) -> Result<()> {
    match Kind::of(name) {
        Kind::Chunk => Ok(()),
        _ => Err(err!(EPERM, "{} is not a name for a chunk", name.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        Kind::of(OsStr::new(name))
    }

    #[test]
    fn only_visible_npy_files_that_are_not_temporary_are_chunks() {
        for name in [
            "a.npy",
            "ü b.npy",
            "data.npy.npy",
            "data[1].npy",
            "data[1:2:3].npy",
            "a.part.1.npy",
        ] {
            assert_eq!(kind(name), Kind::Chunk, "{name}");
        }
        for name in [
            ".npy",
            ".a.npy",
            ".a.npy.X1",
            "a.tmp.npy",
            "a.part.npy",
            "a.npy.part",
            "a.npz",
            "npy",
            "notes.txt",
        ] {
            assert_eq!(kind(name), Kind::Ordinary, "{name}");
        }
        assert_eq!(kind("data.npy"), Kind::Array);
        assert_eq!(kind(".npyfs"), Kind::Control);
    }

    #[test]
    fn slices_follow_pythons_rules() {
        let rows = |name: &str, rows| match kind(name) {
            Kind::Slice { start, stop } => slice_rows(start, stop, rows),
            other => panic!("{name} is {other:?}"),
        };
        assert_eq!(rows("data[2:5].npy", 10), 2..5);
        assert_eq!(rows("data[-3:].npy", 10), 7..10);
        assert_eq!(rows("data[:-3].npy", 10), 0..7);
        assert_eq!(rows("data[:].npy", 10), 0..10);
        assert_eq!(rows("data[5:2].npy", 10), 5..5);
        assert_eq!(rows("data[-99:99].npy", 10), 0..10);
        assert_eq!(rows("data[12:].npy", 10), 10..10);
    }
}
