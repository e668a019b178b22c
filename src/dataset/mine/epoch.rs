//! What a chunk's id is worth: its rows are in the files that the dataset had when it was committed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Dataset;
use crate::chunk::ChunkId;
use crate::error::{Error, Result};

/// Counts how often the dataset's files turned out to be others than before.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    now: AtomicU64,
    /// Why the last one ended.
    why: Mutex<Option<Error>>,
}

impl Epoch {
    /// What was committed up to now is in files that are not the store's any more.
    pub(crate) fn end(&self, why: &Error) {
        *crate::lock(&self.why) = Some(why.clone());
        self.now.fetch_add(1, Ordering::AcqRel);
    }
}

impl Dataset {
    /// The id of the chunk at this place in the catalog.
    pub(crate) fn chunk_id(&self, index: u32) -> ChunkId {
        ChunkId {
            index,
            epoch: self.epoch.now.load(Ordering::Acquire),
        }
    }

    /// Whether what the chunk was committed to is what the store has.
    ///
    /// # Errors
    /// `ESTALE` and `EIO` where it is not.
    pub(crate) fn still_has(&self, chunk: ChunkId) -> Result<()> {
        if chunk.epoch == self.epoch.now.load(Ordering::Acquire) {
            return Ok(());
        }
        let since = "the chunk was committed, and then the files of the dataset were replaced";
        Err(match crate::lock(&self.epoch.why).clone() {
            Some(why) => why.context(since),
            None => err!(ESTALE, "{since}"),
        })
    }
}
