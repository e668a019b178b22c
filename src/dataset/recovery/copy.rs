//! A copy of a dataset: its files, and what is known of their rows.
//!
//! Nothing of it is believed before each of its rows was compared with a checksum. That may take long,
//! so it is done apart from the rest, with no lock, and its outcome is believed as long as the files are
//! the same and as long as they were.

use std::sync::Arc;

use super::file_mtime;
use super::replay::Replay;
use super::rows::{Rows, Step, Verdict};
use crate::array::Array;
use crate::array::view::Layout;
use crate::disk::{StoreFile, Whereabouts, modified};
use crate::error::{Context, Result};
use crate::journal::Attributes;
use crate::stop::Stop;

/// What the files of a copy were when they were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    data: File,
    journal: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    is: Whereabouts,
    len: u64,
    modified: i64,
}

impl File {
    fn of(blob: &dyn StoreFile) -> Result<Self> {
        let failed = || "cannot look at the files of the copy".to_owned();
        Ok(Self {
            is: blob.whereabouts().context(failed)?,
            len: blob.len().context(failed)?,
            modified: modified(blob).context(failed)?,
        })
    }
}

impl Files {
    pub(super) fn of(data: &dyn StoreFile, journal: &dyn StoreFile) -> Result<Self> {
        Ok(Self {
            data: File::of(data)?,
            journal: File::of(journal)?,
        })
    }

    /// Whether these are the same files, however long.
    pub(crate) fn are(&self, other: &Self) -> bool {
        self.data.is == other.data.is && self.journal.is == other.journal.is
    }

    pub(crate) fn journal_len(&self) -> u64 {
        self.journal.len
    }
}

/// A copy whose rows are to be verified.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(super) layout: Arc<Layout>,
    /// What the header counts.
    pub(super) counted: u64,
    pub(super) replay: Replay,
    pub(crate) files: Files,
}

/// What was found of the rows of a copy.
#[derive(Debug)]
pub(crate) struct Verified {
    files: Files,
    pub(super) verdict: Verdict,
}

impl Copied {
    /// Reads all rows that the journal tells of; `watch` is told of each step.
    pub(crate) fn verify(&self, stop: &Stop, watch: &dyn Fn(Step)) -> Result<Verified> {
        let rows = Rows {
            layout: &self.layout,
            file_len: self.files.data.len,
            stop,
        };
        let verdict = rows.judge_copy(&self.replay.unverified, self.counted, watch)?;
        Ok(Verified {
            files: self.files,
            verdict,
        })
    }

    /// The array, of which no row is verified yet.
    pub(crate) fn array(&self) -> Result<Array> {
        Ok(Array {
            layout: self.layout.clone(),
            rows: 0,
            modified: file_mtime(&self.layout.data)?,
        })
    }

    /// What was set of the array itself, by the whole journal.
    pub(crate) fn array_attributes(&self) -> Option<(Attributes, i64)> {
        self.replay.catalog.of_array()
    }
}

impl Verified {
    /// What was found, if it was found of these files.
    pub(super) fn of(&self, files: &Files) -> Option<Verdict> {
        (self.files == *files).then(|| self.verdict.clone())
    }
}
