//! `.npyfs`: what npyfs says about a dataset, as files.
//!
//! Reachable by name and not listed, so that `cp -r` and `rm -r` pass it by.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use crate::dataset::{CSV_HEAD, CsvEdition, Dataset};
use crate::disk::paths::CONTROL;
use crate::error::Result;
use crate::store::Place;

/// What is in `.npyfs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Control {
    /// The directory itself.
    Dir,
    /// `log`
    Log,
    /// `status.json`
    Status,
    /// `chunks.csv`
    Chunks,
    /// `daemon`, at the root only: the daemon's process id.
    Daemon,
    /// `losses`, at the root only: how often files were replaced in the store while they were written.
    Losses,
    /// `rejected` or `rescued`
    Kept(Kept),
    /// A file in one of them.
    KeptFile(Kept, Arc<OsStr>),
}

/// Where bytes of chunks that came to nothing are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kept {
    /// Up to a limit.
    Rejected,
    /// For good.
    Rescued,
}

/// A text as it was at one moment.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Text {
    pub(crate) control: Control,
    pub(super) body: Body,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Body {
    Whole(Arc<[u8]>),
    /// `chunks.csv`, which is made when it is opened.
    Csv(CsvEdition),
}

impl Text {
    pub(super) fn len(&self) -> u64 {
        match &self.body {
            Body::Whole(text) => text.len() as u64,
            Body::Csv(edition) => edition.len,
        }
    }

    /// Whether the dataset is needed to read it.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.body, Body::Csv(_))
    }
}

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

/// A text that is read.
#[derive(Debug)]
pub(crate) enum GeneratedFile {
    /// All of it.
    Whole(Arc<[u8]>),
    /// The lines of `chunks.csv`, made as they are read.
    Csv {
        dataset: Arc<Dataset>,
        edition: CsvEdition,
        state: Mutex<Csv>,
    },
}

/// A part of the text, as it is read mostly from front to back.
#[derive(Debug, Default)]
pub(crate) struct Csv {
    /// Offset of `window` in the text.
    at: u64,
    window: Vec<u8>,
    next_id: u32,
    /// Where lines begin, about [`STEP`] bytes from each other: offset and id. A reader that goes back, as
    /// the kernel does that reads ahead in pieces, begins at one of them.
    marks: Vec<(u64, u32)>,
}

const STEP: u64 = 1 << 20;

impl GeneratedFile {
    pub(crate) fn csv(dataset: Arc<Dataset>, edition: CsvEdition) -> GeneratedFile {
        GeneratedFile::Csv {
            dataset,
            edition,
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
            GeneratedFile::Csv {
                dataset,
                edition,
                state,
            } => crate::lock(state).read(dataset, edition, offset, len),
        }
    }
}

impl Csv {
    fn read(
        &mut self,
        dataset: &Dataset,
        edition: &CsvEdition,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        if offset < self.at {
            let before = self.marks.partition_point(|&(at, _)| at <= offset);
            let mark = before.checked_sub(1).map(|mark| self.marks[mark]);
            (self.at, self.next_id) = mark.unwrap_or((0, 0));
            self.window.clear();
        }
        if self.at == 0 && self.next_id == 0 && self.window.is_empty() {
            self.window.extend_from_slice(CSV_HEAD.as_bytes());
        }
        let end = offset + len as u64;
        while self.at + (self.window.len() as u64) < end {
            let here = self.at + self.window.len() as u64;
            let last = self.marks.last().map_or(0, |&(at, _)| at);
            if here >= last + STEP {
                self.marks.push((here, self.next_id));
            }
            let Some((line, next)) = dataset.csv_line_of(edition, self.next_id)? else {
                break;
            };
            self.next_id = next;
            self.window.extend_from_slice(line.as_bytes());
            // What is before the offset is not read again, but for a reader that goes back.
            let skip = (offset.saturating_sub(self.at) as usize).min(self.window.len());
            if skip as u64 >= STEP {
                self.window.drain(..skip);
                self.at += skip as u64;
            }
        }
        let start = (offset.saturating_sub(self.at) as usize).min(self.window.len());
        let stop = (start + len).min(self.window.len());
        let read = self.window[start..stop].to_vec();
        self.window.drain(..start);
        self.at += start as u64;
        Ok(read)
    }
}

impl Control {
    /// Where it is stored: the directories to it, from the dataset's, and its name.
    pub(super) fn stored(&self) -> Option<(&'static [&'static str], &OsStr)> {
        match self {
            Control::Log => Some((&[CONTROL], OsStr::new("log"))),
            Control::Kept(kept) => Some((&kept.way()[..1], OsStr::new(kept.way()[1]))),
            Control::KeptFile(kept, name) => Some((kept.way(), name)),
            Control::Dir
            | Control::Status
            | Control::Chunks
            | Control::Daemon
            | Control::Losses => None,
        }
    }
}

impl Kept {
    /// The way to it from a dataset's directory.
    pub(super) fn way(self) -> &'static [&'static str; 2] {
        match self {
            Kept::Rejected => &[CONTROL, "rejected"],
            Kept::Rescued => &[CONTROL, "rescued"],
        }
    }
}

/// A directory within another; `None` where it is missing.
pub(super) fn enter<'a>(place: &Place<'a>, names: &[&str]) -> Result<Option<Place<'a>>> {
    let mut names = names.iter().map(OsStr::new);
    let Some(first) = names.next() else {
        return Ok(None);
    };
    let mut within = place.enter(first)?;
    for name in names {
        within = match within {
            Some(within) => within.enter(name)?,
            None => return Ok(None),
        };
    }
    Ok(within)
}
