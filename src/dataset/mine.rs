//! Still mine? What this daemon writes to must be what has the names in the store.
//!
//! A program beside npyfs may put a backup back by renames, remove `data.npy` or `.npyfs`, or cut a
//! file. Commits would go on into files that no name leads to, or leave holes that pass for rows. So a
//! commit looks at both files by their descriptors: whether they still have a name, and whether they
//! are as long as they were left. Each sync, each closing, and once a second a look at the names
//! follows. If something differs, the dataset is given up: what was acknowledged and is in no file of
//! the store any more is written to `.npyfs`, the log tells of it, the lock is freed, and what is there
//! now is opened anew.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::commit::Writer;
use super::disk::{Blob, Folder, copy};
use super::follow::Follow;
use super::journal::{AppendError, Record};
use super::{Array, CONTROL, DATA, Dataset, JOURNAL, LOCK, catalog};
use crate::error::{Error, Result};
use crate::npy::Header;

/// Device and inode of what a name stands for.
type Identity = (u64, u64);

/// What the names stood for when the dataset was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Names {
    data: Option<Identity>,
    journal: Option<Identity>,
    lock: Option<Identity>,
    control: Option<Identity>,
}

/// How the store differs from what this daemon writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// `data.npy` is another file, or none.
    Data,
    /// `data.npy` was cut to this many bytes.
    Cut(u64),
    /// This is another file or directory, or none.
    Other(&'static str),
    /// The journal has this many bytes, and had others.
    Journal(u64),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Data => write!(f, "data.npy was replaced or removed in the store"),
            Loss::Cut(len) => write!(f, "data.npy was cut to {len} bytes in the store"),
            Loss::Other(what) => write!(f, "{what} was replaced or removed in the store"),
            Loss::Journal(len) => write!(
                f,
                "{JOURNAL} was changed by another program: it has {len} bytes"
            ),
        }
    }
}

/// `None` where nothing has the name.
fn identity(folder: &dyn Folder, path: &str) -> Result<Option<Identity>> {
    match folder.identity(Path::new(path)) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, format!("cannot look at {path}"))),
    }
}

impl Names {
    pub(super) fn look(folder: &dyn Folder) -> Result<Self> {
        Ok(Self {
            data: identity(folder, DATA)?,
            journal: identity(folder, JOURNAL)?,
            lock: identity(folder, LOCK)?,
            control: identity(folder, CONTROL)?,
        })
    }

    /// `data.npy` is a new file of this daemon's, or was removed by it.
    pub(super) fn data_changed(&mut self, folder: &dyn Folder) -> Result<()> {
        self.data = identity(folder, DATA)?;
        Ok(())
    }

    /// The first difference.
    fn differ(&self, now: &Self) -> Option<Loss> {
        if self.data != now.data {
            return Some(Loss::Data);
        }
        let others = [
            (CONTROL, self.control, now.control),
            (JOURNAL, self.journal, now.journal),
            (LOCK, self.lock, now.lock),
        ];
        let other = others.into_iter().find(|(_, then, now)| then != now);
        other.map(|(what, ..)| Loss::Other(what))
    }
}

impl Dataset {
    /// The writer, if this daemon has the right to write and the files of it are those of the store.
    ///
    /// # Errors
    /// `ESTALE` and `EIO` where they are not: the dataset was given up; and those of looking.
    pub(super) fn mine(&self) -> Result<MutexGuard<'_, Option<Writer>>> {
        let guard = self.writer()?;
        match guard.as_ref().and_then(|writer| self.glance(writer)) {
            None => Ok(guard),
            Some(loss) => Err(self.give_up(guard, loss)),
        }
    }

    /// As [`Dataset::mine`], by the names in the store.
    pub(super) fn mine_by_name(&self) -> Result<MutexGuard<'_, Option<Writer>>> {
        let guard = self.writer()?;
        let Some(writer) = guard.as_ref() else {
            return Ok(guard);
        };
        match writer.names.differ(&Names::look(&*self.folder)?) {
            None => Ok(guard),
            Some(loss) => Err(self.give_up(guard, loss)),
        }
    }

    /// Looks at the names, where something was written lately. What is found is the answer to the next
    /// commit or sync.
    pub fn look_if_mine(&self) {
        if !self.is_owned() || !self.written.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.look_at_files() {
            crate::lock(&self.owed).get_or_insert(error);
        }
    }

    /// Looks at the files and at their names.
    pub(super) fn look_at_files(&self) -> Result<()> {
        self.mine().map(drop)?;
        self.mine_by_name().map(drop)
    }

    /// The answer that a look has left for the next commit or sync.
    pub(super) fn pay(&self) -> Result<()> {
        match crate::lock(&self.owed).take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// By the descriptors. A store that does not even answer this fails what is asked of it next, and
    /// after a failure the disk is compared with memory before anything is written (`mend`).
    fn glance(&self, writer: &Writer) -> Option<Loss> {
        if writer.failed.is_some() {
            return None;
        }
        let array = self.array().filter(|_| writer.array_recorded);
        let Some(array) = array else {
            // What has come there is not to lose its place to the first commit.
            let now = identity(&*self.folder, DATA).ok()?;
            return (now != writer.names.data).then_some(Loss::Data);
        };
        let (names, len) = array.layout.data.glance().ok()?;
        if names == 0 {
            return Some(Loss::Data);
        }
        if array.layout.offset(array.rows).is_some_and(|end| len < end) {
            return Some(Loss::Cut(len));
        }
        let journal = &writer.journal;
        let (names, len) = journal.blob().glance().ok()?;
        if names == 0 {
            return Some(Loss::Other(JOURNAL));
        }
        (len != journal.len()).then_some(Loss::Journal(len))
    }

    /// Lets go of files that are not the store's any more, and takes in what is there now.
    pub(super) fn give_up(&self, mut guard: MutexGuard<'_, Option<Writer>>, loss: Loss) -> Error {
        let _busy = self.busy.enter();
        let Some(mut writer) = guard.take() else {
            return err!(ESTALE, "{loss}");
        };
        if loss == Loss::Data && !writer.array_recorded {
            // Nothing was committed: what has come is another program's from its first row on.
            let mut closed = Vec::new();
            Record::Closed { rows: 0 }.encode(&mut closed);
            if let Err(AppendError::Undone(error) | AppendError::Torn(error)) =
                writer.journal.append(&closed)
            {
                log::warn!("{}: cannot close the journal: {error}", self.label());
            }
        }
        let first_row = writer.first_row;
        let unborn = writer.unborn.as_ref().map(|unborn| unborn.layout.clone());
        // The lock too: who takes the dataset next, here or elsewhere, finds it free.
        drop(writer);
        let (array, catalog) = {
            let mut follow = crate::lock(&self.follow);
            *follow = Follow::default();
            let catalog = std::mem::take(&mut *self.catalog_mut());
            let array = crate::write(&self.array).take();
            self.owned.store(false, Ordering::Release);
            (array, catalog)
        };
        let error = match loss {
            Loss::Cut(_) => err!(EIO, "{loss}"),
            _ => err!(ESTALE, "{loss}"),
        };
        for layout in array.iter().map(|array| &array.layout).chain(&unborn) {
            layout.lose(&error);
        }
        let line = match (&array, loss) {
            (Some(array), Loss::Data) => self.rescue(array, first_row),
            (Some(array), Loss::Cut(len)) => missing(array, &catalog, len),
            (None, _) => "no rows had been committed".into(),
            (Some(array), _) => {
                let rows = array.rows;
                format!(
                    "the {rows} rows are in data.npy; what is left of the journal knows their names"
                )
            }
        };
        self.given_up.store(true, Ordering::Release);
        self.losses.fetch_add(1, Ordering::Relaxed);
        log::error!("{}: {loss}: {line}", self.label());
        self.note(&format!("{loss}: {line}; the dataset is opened anew"));
        drop(guard);
        if let Err(error) = self.begin_following() {
            log::error!("{}: cannot be opened anew: {error}", self.label());
        }
        error.context(line)
    }

    /// Writes the rows that were committed since this daemon took the dataset to a file that stays, and
    /// says where.
    fn rescue(&self, array: &Array, first_row: u64) -> String {
        let rows = array.rows.saturating_sub(first_row);
        if rows == 0 {
            return "no rows had been committed since this daemon took it".into();
        }
        let range = format!("rows {first_row} to {}", array.rows);
        match self.write_rows(array, first_row, rows) {
            Ok(kept) => format!("{range}, which this daemon had acknowledged, are kept as {kept}"),
            Err(error) => {
                format!("{range}, which this daemon had acknowledged, are LOST: {error}")
            }
        }
    }

    fn write_rows(&self, array: &Array, first_row: u64, rows: u64) -> Result<String> {
        let layout = &array.layout;
        let (Some(start), Some(end)) = (layout.offset(first_row), layout.offset(array.rows)) else {
            return Err(err!(EFBIG, "the array has more bytes than a file can"));
        };
        let mut shape = vec![rows];
        shape.extend_from_slice(layout.row_shape());
        let header = Header::encode(layout.dtype(), &shape)?;
        self.rescued
            .keep_rows("acknowledged-rows.npy".as_ref(), |blob: &dyn Blob| {
                blob.write_at(&header, 0)?;
                copy(&*layout.data, start, blob, header.len() as u64, end - start)
            })
    }
}

/// Which rows and chunks went with the end of a file of `len` bytes.
fn missing(array: &Array, catalog: &catalog::Catalog, len: u64) -> String {
    let layout = &array.layout;
    let room = len.saturating_sub(layout.header_len());
    let left = room.checked_div(layout.row_bytes()).unwrap_or(array.rows);
    let mut names = catalog.names_from_row(left);
    let chunks = match (names.next(), names.last()) {
        (None, _) => "of no named chunk".into(),
        (Some(first), None) => format!("of {first}"),
        (Some(first), Some(last)) => format!("of {first} to {last}"),
    };
    format!(
        "rows {left} to {} are missing, {chunks}: send them again",
        array.rows
    )
}
