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

    /// Whether no chunk has bytes here that are to be moved, or places to write more to.
    pub(crate) fn has_all_left(&self) -> bool {
        self.streams.iter().all(|stream| stream.has_left())
    }

    /// The streams lose their places: their array is not the dataset's any more.
    pub(crate) fn clear(&mut self) {
        self.streams.clear();
    }

    /// Whether `stream` was in the tail; it is not any more.
    pub(crate) fn remove(&mut self, stream: &Arc<Stream>) -> bool {
        let before = self.streams.len();
        self.streams.retain(|other| !Arc::ptr_eq(other, stream));
        self.streams.len() < before
    }

    /// Moves all that lies below `end` out of the way of a commit. A failure is the moved
    /// chunk's own.
    pub(crate) fn make_way(&mut self, folder: &Arc<dyn StoreDir>, layout: &Arc<Layout>, end: u64) {
        let is_clear = |stream: &Arc<Stream>| {
            Arc::ptr_eq(stream.layout(), layout)
                && stream.begins_before(end)
                && stream.make_way(folder, end)
        };
        let loses_its_place = |stream: &Arc<Stream>| stream.place().is_some_and(|base| base < end);
        let displaces = self.streams.iter().any(loses_its_place);
        self.streams.retain(|stream| !is_clear(stream));
        if displaces {
            self.reserve_again();
        }
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
        let reaches = self.streams.iter().filter_map(|stream| stream.reach());
        reaches.fold(end, u64::max)
    }

    /// Whether `stream`, which is complete, had better wait until those ahead of it are committed
    /// from `end` on, where copying it would take as long as `copy`.
    pub(crate) fn is_worth_waiting(&self, stream: &Arc<Stream>, end: u64, copy: Duration) -> bool {
        let Some(base) = stream.place().filter(|&base| base > end) else {
            return false;
        };
        let mut at = end;
        let mut places: Vec<_> = self
            .streams
            .iter()
            .filter_map(|ahead| Some((ahead.place()?, ahead)))
            .filter(|&(place, _)| place < base)
            .collect();
        places.sort_by_key(|&(place, _)| place);
        for (place, ahead) in places {
            let soon = ahead.time_left().is_some_and(|left| left <= copy);
            if place != at || !soon {
                return false;
            }
            at += ahead.body_len();
        }
        at == base
    }
}
