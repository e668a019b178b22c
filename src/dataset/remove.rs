//! Removing: a chunk's name, or then the whole array.
//!
//! Forgetting a name is a record of the journal; the rows stay. Removing the array takes its rows
//! and all names with it, in an order that a crash may interrupt anywhere: the rename of `data.npy`
//! to [`REMOVED`] decides it, and as long as that file is there without a `data.npy`, recovery takes
//! the journal for empty and finishes the work. Who has the array open keeps it.

use crate::disk::paths::REMOVED;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::published::Published;
use super::writer::Writer;
use crate::dataset::Dataset;
use crate::disk::Lock;
use crate::disk::clock;
use crate::disk::paths::{CONTROL, DATA};
use crate::error::{Context, Result};
use crate::journal::{Journal, Record};
use crate::printable;

impl Dataset {
    /// Forgets the name of a committed chunk. Its rows stay in the array, and the name is free.
    ///
    /// # Errors
    /// `ESTALE` where the name is not committed, and those of the journal.
    pub fn forget(&self, name: &OsStr) -> Result<()> {
        let _held = self.hold_for(name)?;
        self.change_chunk(Record::Forgotten {
            name: name.as_bytes(),
            at: Some(clock::now()),
        })?;
        self.note(&format!(
            "{} forgotten; its rows stay",
            printable::name(name)
        ));
        Ok(())
    }

    /// Removes the array with its rows, none of whose chunks has a name any more: who keeps a dataset the same as
    /// another directory must not empty it by one name that is not there. The dataset is empty then: the
    /// next chunk sets its dtype and row shape. Chunks in flight go on.
    ///
    /// # Errors
    /// `ENOENT` where there is no array, `EBUSY` where chunks have names, and what the store answers. After a failure in the middle
    /// the array is gone, and writes are refused until the store works again.
    pub fn remove_array(&self) -> Result<()> {
        let _held = self.hold()?;
        self.mine().map(drop)?;
        let mut guard = self.mine_by_name()?;
        let writer = self.usable(&mut guard)?;
        let rows = match self.array() {
            Some(array) => array.rows,
            None => return Err(err!(ENOENT, "the dataset has no array")),
        };
        let named = self.published().catalog.len();
        if named > 0 {
            return Err(err!(
                EBUSY,
                "{named} of its chunks still have names: {DATA} can be removed after all of them"
            ));
        }
        self.folder
            .rename(Path::new(DATA), Path::new(REMOVED))
            .context(|| "cannot remove data.npy".into())?;
        writer.names.data_changed(&*self.folder)?;
        // Chunks that stream after its last row go on there, in a file without a name.
        writer.tail.clear();
        *self.published_mut() = Published::default();
        if let Err(error) = self.begin_anew(writer) {
            writer.failed = Some(error.clone());
            return Err(error);
        }
        drop(guard);
        self.note(&format!("data.npy removed, with {rows} rows"));
        Ok(())
    }

    /// Closes the dataset and answers its lock, without which nothing of it may be removed; `None` where
    /// it has no `.npyfs`, and so nothing to lock.
    ///
    /// # Errors
    /// `EBUSY` where another daemon writes to it, and those of closing it.
    pub(crate) fn close_for_removal(&self) -> Result<Option<Box<dyn Lock>>> {
        self.refuse_while_verifying()?;
        let mut guard = self.mine_by_name()?;
        if let Some(mut writer) = guard.take() {
            self.owned.store(false, Ordering::Release);
            self.settle(&mut writer)?;
            return Ok(Some(writer.lock));
        }
        match self.folder.identity(Path::new(CONTROL)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => self.lock().map(Some),
        }
    }

    /// An empty journal, and then no trace of the array.
    pub(super) fn begin_anew(&self, writer: &mut Writer) -> Result<()> {
        let failed = || "cannot begin a new journal".to_owned();
        self.folder
            .sync(Path::new("."))
            .and_then(|()| self.folder.sync(Path::new(CONTROL)))
            .context(failed)?;
        writer.array_recorded = false;
        writer.durable = 0;
        writer.journal = Journal::resume(writer.journal.blob().clone(), 0).context(failed)?;
        let opened = self.opened_now(&writer.journal, None)?;
        let begun = writer.journal.append(&[opened]);
        begun.map_err(|error| error.context(failed()))?;
        writer.journal.blob().sync().context(failed)?;
        self.folder
            .remove(Path::new(REMOVED))
            .context(|| format!("cannot remove {REMOVED}"))
    }
}
