//! Durability: one disk flush for all who wait (group commit).
//!
//! A sync that is asked for while a flush is under way is answered by the next one, which then covers them
//! all. After each flush the journal notes how far the rows are safe, so that recovery knows what
//! it has to verify. No lock is held while the disk works, unless it failed before and is made to
//! check_compatible with memory first (`resume`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::recovery::open_if_there;
use super::writer::Writer;
use crate::array::Array;
use crate::dataset::Dataset;
use crate::disk::paths::{CONTROL, JOURNAL};
use crate::disk::{Open, copy, copy_data};
use crate::error::{Context, Error, Result};
use crate::journal::Journal;
use crate::journal::Record;
use crate::stop::Stop;

/// How long a flush waits for company.
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// How many flushes do not wait after one that waited in vain.
const SKIP_WAITS: u32 = 16;

/// Told how a sync went.
pub type Waiter = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
pub(crate) struct Syncs {
    state: Mutex<State>,
    /// One more waits.
    joined: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    waiting: Vec<Waiter>,
    /// How many seem to be at work: those that the last flush answered and those that came
    /// meanwhile.
    expected: usize,
    last_took: Duration,
    /// Flushes that are still to go without waiting for company, since it did not come last time.
    skip_waits: u32,
    /// The directories' entries are durable.
    entries: bool,
}

impl std::fmt::Debug for Syncs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Syncs")
    }
}

impl Dataset {
    /// Syncs all rows committed so far.
    ///
    /// # Errors
    /// What the disk answers; the dataset then refuses writes until the store works again.
    pub fn sync(&self) -> Result<()> {
        let (send, receive) = mpsc::channel();
        let mine = self.sync_later(Box::new(move |result| {
            // The receiver waits below; it cannot be gone.
            if send.send(result).is_err() {
                log::debug!("no thread waits for this sync");
            }
        }));
        if mine {
            self.run_syncs();
        }
        receive
            .recv()
            .unwrap_or_else(|_| Err(err!(EIO, "the sync was given up")))
    }

    /// Asks for a sync and returns at once. `true`: no thread is at it, and the caller must see to it
    /// that [`Dataset::run_syncs`] is called, on a thread that may wait.
    #[must_use]
    #[doc(hidden)]
    pub fn sync_later(&self, waiter: Waiter) -> bool {
        let mut state = crate::lock(&self.syncs.state);
        state.waiting.push(waiter);
        self.syncs.joined.notify_one();
        !std::mem::replace(&mut state.running, true)
    }

    /// Syncs until none is asked for.
    #[doc(hidden)]
    pub fn run_syncs(&self) {
        loop {
            let Some(waiting) = self.next_waiting() else {
                return;
            };
            let start = Instant::now();
            // Were it to end this loop, all who come later would wait for ever.
            let result = catch_unwind(AssertUnwindSafe(|| self.sync_now()))
                .unwrap_or_else(|_| Err(self.sync_panicked()));
            {
                let mut state = crate::lock(&self.syncs.state);
                state.expected = waiting.len() + state.waiting.len();
                state.last_took = start.elapsed();
            }
            for waiter in waiting {
                waiter(result.clone());
            }
        }
    }

    /// What was synced is unknown, as after a sync that failed.
    fn sync_panicked(&self) -> Error {
        let error = err!(EIO, "a failure inside npyfs ended the sync");
        log::error!("{}: {error}", self.label());
        if let Ok(mut guard) = self.writer()
            && let Some(writer) = guard.as_mut()
        {
            writer.failed.get_or_insert_with(|| error.clone());
        }
        error
    }

    /// Those that the next flush answers. Those that the last one answered together are likely to be back
    /// soon: the first of them waits for the others, as long as a flush takes at the most, so that
    /// they share this one too. Where flushes are so fast that the others are not back by then, the
    /// disk would only stand idle.
    fn next_waiting(&self) -> Option<Vec<Waiter>> {
        let mut state = crate::lock(&self.syncs.state);
        let expected = state.expected;
        if state.skip_waits > 0 {
            state.skip_waits -= 1;
        } else if !state.waiting.is_empty() && state.waiting.len() < expected {
            let patience = state.last_took.min(LONGEST_WAIT);
            let waited = self
                .syncs
                .joined
                .wait_timeout_while(state, patience, |state| state.waiting.len() < expected)
                .unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() {
                state.skip_waits = SKIP_WAITS;
            }
        }
        if state.waiting.is_empty() {
            state.running = false;
            return None;
        }
        Some(std::mem::take(&mut state.waiting))
    }

    /// Whether something was committed since the last sync, or waits for the store to work again.
    #[doc(hidden)]
    pub fn is_dirty(&self) -> bool {
        match self.writer.try_lock() {
            Ok(writer) => writer
                .as_ref()
                .is_some_and(|writer| writer.dirty || writer.failed.is_some()),
            Err(_) => false,
        }
    }

    fn sync_now(&self) -> Result<()> {
        let (journal, journal_len) = {
            self.pay()?;
            let mut guard = self.mine()?;
            match guard.as_mut() {
                Some(writer) => {
                    self.resume(writer);
                    if let Some(error) = &writer.failed {
                        return Err(error.clone());
                    }
                    writer.dirty = false;
                    (Some(writer.journal.blob().clone()), writer.journal.len())
                }
                // Another daemon's, whose records name the rows that are to last.
                None => (open_if_there(&self.folder, JOURNAL, Open::Read)?, 0),
            }
        };
        self.refresh()?;
        let array = self.array();
        let synced = (|| {
            // What the filesystem notes of both files then goes to the disk with the first sync, and
            // little is left for the second.
            if let Some(journal) = &journal {
                journal
                    .start_writeback()
                    .context(|| "cannot sync the journal".into())?;
            }
            if let Some(array) = &array {
                array
                    .layout
                    .data
                    .sync()
                    .context(|| "cannot sync data.npy".into())?;
            }
            if let Some(journal) = &journal {
                journal
                    .sync()
                    .context(|| "cannot sync the journal".into())?;
            }
            self.sync_entries()
        })();
        // What was synced must be what the store has.
        let mut guard = match &synced {
            Ok(()) => self.mine_by_name()?,
            Err(_) => self.writer()?,
        };
        let Some(writer) = guard.as_mut() else {
            return synced;
        };
        match synced {
            Ok(()) => {
                // It may have been removed meanwhile.
                let is_same = |now: Array, then: &Array| Arc::ptr_eq(&now.layout, &then.layout);
                if let Some(array) = array
                    && self.array().is_some_and(|now| is_same(now, &array))
                {
                    self.note_durable(writer, array.rows, journal_len);
                }
                Ok(())
            }
            Err(error) => {
                writer.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    pub(super) fn note_durable(&self, writer: &mut Writer, rows: u64, journal_len: u64) {
        if rows <= writer.durable || journal_len == 0 {
            return;
        }
        match writer.journal.append(&[Record::Durable { rows }]) {
            Ok(()) => writer.durable = rows,
            // It only saves the next recovery some work.
            Err(error) => log::warn!("{}: cannot note what is durable: {error}", self.label()),
        }
    }

    /// The array has a new file, whose name is not on the disk yet.
    pub(crate) fn entries_changed(&self) {
        crate::lock(&self.syncs.state).entries = false;
    }

    /// Once: the names of the files, and of the directories up to the store's root.
    pub(super) fn sync_entries(&self) -> Result<()> {
        if crate::lock(&self.syncs.state).entries || self.array().is_none() {
            return Ok(());
        }
        let failed = || "cannot sync the dataset's directory".to_owned();
        self.folder.sync(Path::new(CONTROL)).context(failed)?;
        self.folder.sync(Path::new(".")).context(failed)?;
        let mut above = PathBuf::new();
        for _ in 0..self.options.depth {
            above.push("..");
            self.folder.sync(&above).context(failed)?;
        }
        crate::lock(&self.syncs.state).entries = true;
        Ok(())
    }

    /// Ends a writer's work: all on the disk, and the journal says so.
    pub(crate) fn settle(&self, writer: &mut Writer) -> Result<()> {
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        let rows = self.array().map_or(0, |array| array.rows);
        if let Some(array) = self.array() {
            // Another program finds the end of the rows at the end of the file.
            if let Some(end) = array.layout.offset(array.rows)
                && writer.array_recorded
            {
                let data = &array.layout.data;
                let cut = || {
                    if data.len()? > end {
                        array.layout.cut(end)
                    } else {
                        Ok(())
                    }
                };
                cut().context(|| "cannot cut what lies after the rows of data.npy".into())?;
            }
            array
                .layout
                .data
                .sync()
                .context(|| "cannot sync data.npy".into())?;
        }
        let failed = || "cannot sync the journal".to_owned();
        writer.journal.blob().sync().context(failed)?;
        let closed = writer.journal.append(&[Record::Closed { rows }]);
        closed.map_err(|error| error.context("cannot close the journal"))?;
        writer.journal.blob().sync().context(failed)?;
        self.keep_time_of_entries();
        self.sync_entries()
    }
}

/// Writes again what may have been lost on its way to the disk, if a sync failed in this boot: the kernel takes the pages that it could not write for written, so the next sync that
/// succeeds says nothing of them. These are the journal from byte `from` on, and of the array the
/// header and the rows after `durable`, which recovery has verified. The same bytes are written, so
/// no reader notices. The journal is not synced yet.
pub(crate) fn write_again(
    array: Option<&Array>,
    durable: u64,
    journal: &Journal,
    from: u64,
    stop: &Stop,
) -> Result<()> {
    let failed = || "cannot write again what a failed sync may have lost".to_owned();
    if let Some(array) = array {
        let layout = &array.layout;
        let data = &*layout.data;
        copy(data, 0, data, 0, layout.header_len()).context(failed)?;
        // No write was lost of what is a hole.
        if let (Some(start), Some(end)) = (layout.offset(durable), layout.offset(array.rows)) {
            let len = end.saturating_sub(start);
            copy_data(data, start, data, start, len, stop).context(failed)?;
        }
        data.sync().context(failed)?;
    }
    let blob = &**journal.blob();
    copy(blob, from, blob, from, journal.len().saturating_sub(from)).context(failed)
}
