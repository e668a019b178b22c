//! `.npyfs`: what npyfs says about a dataset, as files.
//!
//! Reachable by name and not listed, so that `cp -r` and `rm -r` pass it by. The texts are made
//! when they are opened or read, and have no size until then: they are read with direct I/O.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use super::inodes::{Control, Kept};
use crate::dataset::{CSV_HEAD, Dataset};
use crate::error::Result;

/// The control file of a name in `.npyfs`; the root of the mount has others than a dataset.
pub(crate) fn named(name: &OsStr, at_root: bool) -> Option<Control> {
    match (name.to_str()?, at_root) {
        ("daemon", true) => Some(Control::Daemon),
        ("losses", true) => Some(Control::Losses),
        ("log", _) => Some(Control::Log),
        ("status.json", false) => Some(Control::Status),
        ("chunks.csv", false) => Some(Control::Chunks),
        ("rejected", false) => Some(Control::Kept(Kept::Rejected)),
        ("rescued", false) => Some(Control::Kept(Kept::Rescued)),
        _ => None,
    }
}

/// The names that a listing of `.npyfs` shows.
pub(crate) fn names(at_root: bool) -> &'static [(&'static str, bool)] {
    if at_root {
        &[("daemon", false), ("log", false)]
    } else {
        &[
            ("chunks.csv", false),
            ("log", false),
            ("rejected", true),
            ("rescued", true),
            ("status.json", false),
        ]
    }
}

/// What something in `.npyfs` is called there; `None` of `.npyfs` itself.
pub(crate) fn name_of(control: &Control) -> Option<&OsStr> {
    let name = match control {
        Control::Dir => return None,
        Control::Log => "log",
        Control::Status => "status.json",
        Control::Chunks => "chunks.csv",
        Control::Daemon => "daemon",
        Control::Losses => "losses",
        Control::Kept(kept) => kept.way()[1],
        Control::KeptFile(_, name) => return Some(name),
    };
    Some(OsStr::new(name))
}

/// How many of those are directories.
pub(crate) fn directories(at_root: bool) -> u32 {
    let dirs = names(at_root).iter().filter(|(_, is_dir)| *is_dir);
    dirs.count() as u32
}

/// A text that is read from front to back.
#[derive(Debug)]
pub(crate) enum GeneratedFile {
    /// All of it.
    Whole(Vec<u8>),
    /// The lines of `chunks.csv`, made as they are read.
    Csv {
        dataset: Arc<Dataset>,
        state: Mutex<Csv>,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Csv {
    /// Offset of `window` in the text.
    at: u64,
    window: Vec<u8>,
    next_id: u32,
}

impl GeneratedFile {
    pub(crate) fn csv(dataset: Arc<Dataset>) -> GeneratedFile {
        GeneratedFile::Csv {
            dataset,
            state: Mutex::default(),
        }
    }

    /// Reads up to `len` bytes from `offset`.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        match self {
            GeneratedFile::Whole(text) => {
                let start = (offset as usize).min(text.len());
                let end = start.saturating_add(len).min(text.len());
                Ok(text[start..end].to_vec())
            }
            GeneratedFile::Csv { dataset, state } => {
                Ok(crate::lock(state).read(dataset, offset, len))
            }
        }
    }
}

impl Csv {
    fn read(&mut self, dataset: &Dataset, offset: u64, len: usize) -> Vec<u8> {
        if offset < self.at {
            *self = Csv::default();
        }
        if self.at == 0 && self.next_id == 0 && self.window.is_empty() {
            self.window.extend_from_slice(CSV_HEAD.as_bytes());
        }
        let end = offset + len as u64;
        while self.at + (self.window.len() as u64) < end {
            let Some((line, next)) = dataset.csv_line(self.next_id) else {
                break;
            };
            self.next_id = next;
            self.window.extend_from_slice(line.as_bytes());
            // What is before the offset is not read again, but for a reader that goes back.
            let skip = (offset.saturating_sub(self.at) as usize).min(self.window.len());
            if skip >= 1 << 20 {
                self.window.drain(..skip);
                self.at += skip as u64;
            }
        }
        let start = (offset.saturating_sub(self.at) as usize).min(self.window.len());
        let stop = (start + len).min(self.window.len());
        let read = self.window[start..stop].to_vec();
        self.window.drain(..start);
        self.at += start as u64;
        read
    }
}
