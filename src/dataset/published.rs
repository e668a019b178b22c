//! What readers are shown, and the one way in which it changes.
//!
//! Every change of what is committed takes these steps, under the dataset's writer, each a small write
//! that waits for no disk:
//!
//! 1. the journal has its records;
//! 2. the backing file shows it: the count in its header, or its name where it is new;
//! 3. memory shows it: the array and the catalog, under one lock.
//!
//! A step that fails undoes those before it. If that fails too, the disk may say other than memory does:
//! the writer is marked failed, and refuses until the store works again, while reads go on.

use std::path::Path;
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::writer::Writer;
use crate::array::Array;
use crate::array::view::{HeaderKind, Layout};
use crate::dataset::Dataset;
use crate::disk::paths::{DATA, NEW_DATA};
use crate::error::{Context, Result};
use crate::journal::Record;
use crate::journal::catalog::Catalog;

/// The array, and what its rows are called.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) array: Option<Array>,
    pub(super) catalog: Catalog,
}

/// What becomes of the array with a change.
pub(super) enum ArrayChange {
    /// It stays as it is.
    None,
    /// It has more rows.
    Grown(Array),
    /// There is one, whose file is complete under the name [`NEW_DATA`].
    New(Array),
}

impl Dataset {
    pub(super) fn published(&self) -> RwLockReadGuard<'_, Published> {
        crate::read(&self.published)
    }

    pub(super) fn published_mut(&self) -> RwLockWriteGuard<'_, Published> {
        crate::write(&self.published)
    }

    pub(super) fn array(&self) -> Option<Array> {
        self.published().array.clone()
    }

    /// Makes a change, or nothing of it.
    ///
    /// # Errors
    /// Those of the store; `ESTALE` where the records do not fit what is committed.
    pub(super) fn change(
        &self,
        writer: &mut Writer,
        records: &[Record<'_>],
        change: ArrayChange,
    ) -> Result<()> {
        let before = writer.journal.len();
        let rows_before = self
            .published()
            .array
            .as_ref()
            .map_or(0, |array| array.rows);
        writer
            .journal
            .append(records)
            .inspect_err(|_| writer.failed = writer.journal.torn().cloned())?;
        writer.dirty = true;
        let shown = match &change {
            ArrayChange::None => Ok(()),
            ArrayChange::Grown(array) => publish(&array.layout, rows_before, array.rows),
            ArrayChange::New(_) => self.install_new(),
        };
        if let Err(error) = shown {
            roll_back(writer, before, rows_before, &change);
            return Err(error);
        }
        let mut published = self.published_mut();
        for (n, record) in records.iter().enumerate() {
            if let Err(out) = published.catalog.apply(record) {
                let error = err!(ESTALE, "the dataset has changed: {}", out.0);
                roll_back(writer, before, rows_before, &change);
                if n > 0 {
                    // Memory has a part of it.
                    writer.failed.get_or_insert_with(|| error.clone());
                }
                return Err(error);
            }
        }
        match change {
            ArrayChange::None => {}
            ArrayChange::Grown(array) | ArrayChange::New(array) => published.array = Some(array),
        }
        Ok(())
    }

    fn install_new(&self) -> Result<()> {
        self.folder
            .rename(Path::new(NEW_DATA), Path::new(DATA))
            .context(|| "cannot create data.npy".into())
    }
}

/// Undoes what the journal and the header have of a change.
fn roll_back(writer: &mut Writer, journal_len: u64, rows_before: u64, change: &ArrayChange) {
    // Both, whatever becomes of the other: recovery believes the journal first.
    let cut = writer.journal.cut(journal_len);
    let counted = match change {
        ArrayChange::Grown(array) => publish(&array.layout, array.rows, rows_before),
        ArrayChange::None | ArrayChange::New(_) => Ok(()),
    };
    if let Err(error) = cut.and(counted) {
        writer.failed = Some(error);
    }
}

/// Takes the count in the backing header from `old` to `new`.
fn publish(layout: &Layout, old: u64, new: u64) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let HeaderKind::Growable(header) = &layout.form else {
        return Err(err!(EIO, "the header of data.npy has no count field"));
    };
    for (offset, word) in header.count_writes(old, new) {
        layout
            .data
            .write_at(&word, offset)
            .context(|| "cannot write the row count of data.npy".into())?;
    }
    Ok(())
}
