//! Going on after the store failed where it must not, once it works again.
//!
//! Where the end of a commit, its undoing or a sync fails, the disk may have more or less than
//! memory says, and writes are refused. Memory is right: it has what was acknowledged, and nothing
//! that was refused. So the disk is made to check_compatible with it, and all that the failure may have kept
//! from it is written again; only when the disk has taken all of it do writes go on. Rows that the
//! kernel has lost meanwhile are noticed by their checksums, and then writes go on being refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::recovery::Copies;
use super::{Dataset, recovery, sync};
use crate::dataset::writer::Writer;
use crate::disk::Open;
use crate::disk::paths::NEW_DATA;
use crate::disk::paths::REMOVED;
use crate::error::{Context, Result};
use crate::wait;

/// When to try next: a store that goes on failing is not to be kept busy by it.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    until: Option<Instant>,
}

impl Backoff {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    fn renew(&mut self, took: Duration) {
        self.until = Some(Instant::now() + 4 * took);
    }
}

impl Dataset {
    /// Whether writes are refused because the store failed: the next may have to wait for the disk.
    #[doc(hidden)]
    pub fn has_failed(&self) -> bool {
        match self.writer.try_lock() {
            Ok(writer) => writer.as_ref().is_some_and(|it| it.failed.is_some()),
            // A commit is under way. Or it is poisoned, and stays so.
            Err(_) => false,
        }
    }

    /// Lets writes go on if they are refused because the store failed, and it works again. Whether
    /// it does is seen by the next write.
    pub(super) fn resume_if_failed(&self) -> Result<()> {
        if !self.has_failed() {
            return Ok(());
        }
        wait::may_wait()?;
        if let Ok(mut guard) = self.mine()
            && let Some(writer) = guard.as_mut()
        {
            self.resume(writer);
        }
        Ok(())
    }

    pub(super) fn resume(&self, writer: &mut Writer) {
        if writer.failed.is_none() || !crate::lock(&self.backoff).is_over() {
            return;
        }
        // A commit meanwhile waits for the disk, on a thread that may.
        let _busy = self.busy.enter();
        let start = Instant::now();
        // Of memory it changes only what is known of the disk, and that at its end: a panic in it is
        // one more failure.
        let agreed = catch_unwind(AssertUnwindSafe(|| self.reconcile(writer)))
            .unwrap_or_else(|_| Err(err!(EIO, "a failure inside npyfs")));
        match agreed {
            Ok(()) => {
                writer.failed = None;
                self.note("the store works again: writes go on, and nothing was lost");
            }
            Err(error) => {
                crate::lock(&self.backoff).renew(start.elapsed());
                log::debug!("{}: still failing: {error}", self.label());
            }
        }
    }

    fn reconcile(&self, writer: &mut Writer) -> Result<()> {
        let array = self.array();
        let Some(array) = array else {
            if recovery::open_if_there(&self.folder, REMOVED, Open::Read)?.is_some() {
                return self.begin_anew(writer);
            }
            recovery::remove_if_there(&self.folder, NEW_DATA)?;
            self.cut_journal(writer)?;
            self.compare(writer, 0)?;
            return self.write_all_again(writer);
        };
        // The count before the records, as in recovery: were it the other way round, rows that lose
        // their record would pass for another program's.
        recovery::publish_from_disk(&array.layout, array.rows)?;
        self.cut_journal(writer)?;
        self.compare(writer, array.rows)?;
        self.write_all_again(writer)?;
        self.note_durable(writer, array.rows, writer.journal.len());
        Ok(())
    }

    fn cut_journal(&self, writer: &mut Writer) -> Result<()> {
        let len = writer.journal.len();
        writer.journal.cut(len)
    }

    /// What a recovery would find must be what memory has.
    fn compare(&self, writer: &Writer, rows: u64) -> Result<()> {
        let look = self.look(Open::Read, false, Copies::Read(&|_| ()));
        let found = recovery::survey(&self.folder, &look)?;
        let published = self.published();
        let catalog = &published.catalog;
        let same = found.array.map_or(0, |array| array.rows) == rows
            && found.journal_len == writer.journal.len()
            && found.catalog.next_id() == catalog.next_id()
            && found.catalog.runs() == catalog.runs()
            && found.catalog.len() == catalog.len();
        if same {
            return Ok(());
        }
        let lost: Vec<String> = found.notes.iter().map(ToString::to_string).collect();
        Err(err!(
            EIO,
            "the store has lost what was committed: {}",
            lost.join("; ")
        ))
    }

    fn write_all_again(&self, writer: &mut Writer) -> Result<()> {
        let (array, stop) = (self.array(), &self.options.stop);
        sync::write_again(array.as_ref(), writer.durable, &writer.journal, 0, stop)?;
        writer
            .journal
            .blob()
            .sync()
            .context(|| "cannot sync the journal".into())?;
        if self.array().is_some() {
            self.entries_changed();
            self.sync_entries()?;
        } else {
            self.folder
                .sync(Path::new(crate::disk::paths::CONTROL))
                .context(|| "cannot sync the dataset's directory".into())?;
        }
        writer.dirty = false;
        Ok(())
    }
}
