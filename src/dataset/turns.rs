//! Turns: which chunks stream in the tail, one after the other, and whose turn it is to commit.
//!
//! Each chunk that streams is given the room after all others that do, as much as its header says.
//! If they are committed in that order, none of them is ever copied. One that is complete before
//! those ahead of it waits for them if it has reason to believe that they will be done sooner than all
//! could be copied that is in the wrong place then, and no longer than that would take; else its commit
//! moves it to its place, and what lies there of the chunks ahead of it to a file.
//!
//! All streams of a [`Tail`] have one layout. Lock order: the dataset's writer, then a stream's
//! state.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Dataset;
use super::writer::Writer;
use crate::array::stream::{Owner, Stream};
use crate::array::view::Layout;
use crate::convert::bands::Bands;
use crate::disk::temp::TempFile;
use crate::error::{Error, Result};
use crate::npy::Header;
use crate::wait;

/// Chunks that stream at once; the others are staged.
pub(crate) const MOST_STREAMS: usize = 8;

/// Bytes that are copied in a second, within a factor of two on most machines.
const COPY_RATE: u64 = 1 << 30;
/// How many times its length a chunk has copied that is committed before its turn: it goes to its place,
/// as much of those ahead of it to a file, and from there to theirs.
const COPIES: u64 = 3;
/// No chunk waits longer for its turn, however large it is.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often a waiting chunk looks whether that still makes sense.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Worker threads that may wait at once, in all datasets: those that they wait for need some too.
const MOST_WAITING: usize = 6;

/// One of those that wait.
struct Waiting;

impl Waiting {
    fn begin() -> Option<Waiting> {
        let more = |waiting| (waiting < MOST_WAITING).then_some(waiting + 1);
        let counted = WAITING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then_some(Waiting)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

static WAITING: AtomicUsize = AtomicUsize::new(0);

impl Dataset {
    /// Room in the tail for a chunk of this header, unless too many have some; the body will be
    /// stored in `bands`.
    pub(super) fn claim_tail(
        &self,
        header: &Header,
        owner: Owner,
        bands: Bands,
        converted: bool,
    ) -> Result<Option<Arc<Stream>>> {
        if self.is_busy() {
            return Ok(None);
        }
        let mut guard = self.mine()?;
        let writer = self.usable(&mut guard)?;
        writer.tail.streams.retain(|stream| !stream.has_left());
        if writer.tail.streams.len() >= MOST_STREAMS {
            return Ok(None);
        }
        let (layout, rows, new_array) = match self.array() {
            Some(array) => (array.layout, array.rows, None),
            // Two that disagree on the array to be: the second is judged when the first is there.
            None if !writer.tail.is_empty() && !writer.expects(header) => return Ok(None),
            None => {
                let new_array = self.new_array(writer, header)?;
                (new_array.layout.clone(), 0, Some(new_array))
            }
        };
        let too_long = || err!(EFBIG, "the array would have more bytes than a file can");
        let end = layout.offset(rows).ok_or_else(too_long)?;
        let len = header.body_bytes();
        let base = writer.tail.place_after(end).ok_or_else(too_long)?;
        base.checked_add(len)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or_else(too_long)?;
        let stream = Stream::new(layout, new_array, base, owner, len, bands, converted);
        if let Err(error) = stream.reserve() {
            writer.tail.reserve_again();
            let what = format!("no space in the store for a chunk of {len} bytes");
            return Err(Error::io(error, what));
        }
        writer.tail.streams.push(stream.clone());
        Ok(Some(stream))
    }

    pub(super) fn leave_tail(&self, stream: &Arc<Stream>) -> Result<TempFile> {
        let mut guard = self.writer()?;
        let file = stream.take_file(&self.folder)?;
        if let Some(writer) = guard.as_mut() {
            self.free_tail(writer, stream);
        }
        Ok(file)
    }

    /// The stream's chunk is over: what it left behind the last row is cut off.
    pub(super) fn end_stream(&self, stream: &Arc<Stream>) {
        let Ok(mut guard) = self.writer() else {
            return;
        };
        let Some(writer) = guard.as_mut() else {
            return;
        };
        self.free_tail(writer, stream);
    }

    /// Takes its place from this stream, if it has one, and gives the space back: also what a commit has
    /// taken that failed.
    fn free_tail(&self, writer: &mut Writer, stream: &Arc<Stream>) {
        writer.tail.remove(stream);
        self.discard_new(writer);
        self.cut_tail(writer);
        self.tail_changed.notify_all();
    }

    /// As [`Dataset::cut_tail`], if this stream, which was committed, lay after what are rows now.
    pub(super) fn cut_tail_after(&self, writer: &Writer, stream: &Stream) {
        if let Some(end) = self.next_row_at(stream.layout())
            && stream.end() > end
        {
            self.cut_tail(writer);
        }
    }

    /// Cuts off what is after the rows and belongs to no chunk in flight.
    pub(super) fn cut_tail(&self, writer: &Writer) {
        let Some(array) = self.array() else {
            return;
        };
        let Some(end) = array.layout.offset(array.rows) else {
            return;
        };
        let data = &array.layout.data;
        let cut = || {
            let end = writer.tail.reach(end);
            let len = data.len()?;
            // Also what was reserved after the end of the file, if no other chunk needs that. A file
            // that another program has cut would get zeros that pass for rows.
            if len > end || len == end && writer.tail.is_empty() {
                array.layout.cut(end)?;
                writer.tail.reserve_again();
            }
            Ok(())
        };
        let cut: std::io::Result<()> = cut();
        if let Err(error) = cut {
            log::warn!(
                "{}: cannot cut what lies after the rows of data.npy: {error}",
                self.label()
            );
        }
    }

    /// Before the first commit the streamed bytes are in a file that no other chunk needs.
    pub(super) fn discard_new(&self, writer: &mut Writer) {
        if writer.tail.is_empty() && self.array().is_none() {
            writer.new_array = None;
        }
    }

    /// Where the next commit puts its rows, in an array of this layout.
    fn next_row_at(&self, layout: &Arc<Layout>) -> Option<u64> {
        match self.array() {
            Some(array) if Arc::ptr_eq(&array.layout, layout) => layout.offset(array.rows),
            Some(_) => None,
            None => layout.offset(0),
        }
    }

    /// Whether a stream's commit has something to wait for or to copy.
    pub(super) fn is_out_of_turn(&self, stream: &Stream) -> bool {
        !stream.is_all_in_the_tail() || Some(stream.base()) != self.next_row_at(stream.layout())
    }

    /// Waits for this stream's turn, where that is likely to come sooner than copies would be done.
    pub(super) fn wait_for_predecessors(&self, stream: &Arc<Stream>) -> Result<()> {
        let copies = stream.body_len().saturating_mul(COPIES);
        let copy = Duration::from_secs_f64(copies as f64 / COPY_RATE as f64).min(LONGEST_WAIT);
        if !self.is_out_of_turn(stream) {
            return Ok(());
        }
        let Some(_waiting) = Waiting::begin() else {
            return Ok(());
        };
        wait::waits_here();
        let start = Instant::now();
        let mut guard = self.writer()?;
        loop {
            let left = copy.saturating_sub(start.elapsed());
            let worth_it = guard
                .as_ref()
                .is_some_and(|writer| writer.tail.is_worth_waiting(stream, left));
            if left.is_zero() || !worth_it {
                return Ok(());
            }
            (guard, _) = self
                .tail_changed
                .wait_timeout(guard, left.min(LOOK_EVERY))
                .map_err(|_: PoisonError<_>| {
                    err!(EIO, "a failure inside npyfs ended this chunk's stream")
                })?;
        }
    }
}
