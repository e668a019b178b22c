//! The room after the last row: which chunks stream there, one after the other.
//!
//! All streams of a [`Tail`] have one layout.

use std::sync::Arc;
use std::time::Duration;

use super::stream::Stream;
use super::view::Layout;
use crate::disk::StoreDir;

/// The chunks that have bytes after the last row or are to have them, by their places there.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) streams: Vec<Arc<Stream>>,
}

impl Tail {
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether no chunk has bytes here, or places to write more to.
    pub(crate) fn has_all_left(&self) -> bool {
        self.streams.iter().all(|stream| stream.has_left())
    }

    /// The streams lose their places: their array is not the dataset's any more.
    pub(crate) fn clear(&mut self) {
        self.streams.clear();
    }

    /// The place of `stream` is another's from now on.
    pub(crate) fn remove(&mut self, stream: &Arc<Stream>) {
        self.streams.retain(|other| !Arc::ptr_eq(other, stream));
    }

    /// Moves all that lies before `end` out of the way of a commit. A failure is the moved
    /// chunk's own.
    pub(crate) fn make_way(&mut self, folder: &Arc<dyn StoreDir>, layout: &Arc<Layout>, end: u64) {
        self.streams.retain(|stream| {
            !(Arc::ptr_eq(stream.layout(), layout) && stream.make_way(folder, end))
        });
    }

    /// One that gives back what it reserved gives back the others' too.
    pub(crate) fn reserve_again(&self) {
        for stream in &self.streams {
            // It was a promise that space will not run out late, and is one no more.
            if let Err(error) = stream.reserve() {
                log::debug!("cannot reserve a stream's space again: {error}");
            }
        }
    }

    /// The end of what is taken of the backing file, which is `end` if no chunk is in the tail.
    pub(crate) fn reach(&self, end: u64) -> u64 {
        self.streams
            .iter()
            .fold(end, |end, stream| end.max(stream.end()))
    }

    /// Where a chunk will be that is committed after all of these, where the rows end at `end`; at least
    /// the end of what is taken. `None`: no file is that long.
    pub(crate) fn place_after(&self, end: u64) -> Option<u64> {
        let mut lens = self.streams.iter().map(|stream| stream.body_len());
        let all = lens.try_fold(end, u64::checked_add)?;
        Some(all.max(self.reach(end)))
    }

    /// Whether `stream`, which is complete, had better wait until those ahead of it are committed, where
    /// copying it and them would take as long as `copy`.
    pub(crate) fn is_worth_waiting(&self, stream: &Arc<Stream>, copy: Duration) -> bool {
        let is_soon = |ahead: &Stream| ahead.time_left().is_some_and(|left| left <= copy);
        let mut ahead = self
            .streams
            .iter()
            .filter(|other| other.base() < stream.base())
            .peekable();
        ahead.peek().is_some() && ahead.all(|ahead| is_soon(ahead))
    }
}
