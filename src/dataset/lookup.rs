//! What a reader finds: the array, slices of it, and chunks by name.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::array::Array;
use crate::array::view::{Layout, View};
use crate::chunk::ChunkId;
use crate::chunk::name;
use crate::dataset::{Committed, Dataset, Found};
use crate::error::{Context, Result};
use crate::journal::catalog::{Catalog, CatalogEntry};
use crate::npy::Header;

impl Dataset {
    /// The array with all rows committed so far; `None` before the first chunk.
    ///
    /// # Errors
    /// Those of reading what another daemon has written.
    pub fn snapshot(&self) -> Result<Option<View>> {
        self.refresh()?;
        Ok(self.array().map(View::of_array))
    }

    /// A slice of the array as it is now, by Python's rules.
    ///
    /// # Errors
    /// Those of reading what another daemon has written.
    pub fn slice(&self, start: Option<i64>, stop: Option<i64>) -> Result<Option<View>> {
        self.refresh()?;
        let Some(array) = self.array() else {
            return Ok(None);
        };
        let rows = name::slice_rows(start, stop, array.rows);
        let count = rows.end - rows.start;
        let header = plain_header(&array.layout, count)?;
        Ok(Some(View::new(
            header,
            array.layout,
            rows.start,
            count,
            array.modified,
        )))
    }

    /// What a chunk's name stands for, if anything.
    ///
    /// # Errors
    /// Those of reading what another daemon has written.
    #[doc(hidden)]
    pub fn find(&self, name: &OsStr) -> Result<Option<Found>> {
        if let Some(incoming) = crate::lock(&self.in_flight).get(name) {
            return Ok(Some(Found::InFlight(incoming.clone())));
        }
        Ok(self
            .chunk(name)?
            .map(|chunk| Found::Committed(Box::new(chunk))))
    }

    /// A committed chunk by its name.
    ///
    /// # Errors
    /// Those of reading what another daemon has written.
    #[doc(hidden)]
    pub fn chunk(&self, name: &OsStr) -> Result<Option<Committed>> {
        self.refresh()?;
        let found = {
            let published = self.published();
            Entry::find(&published.catalog, name).zip(published.array.clone())
        };
        let Some((entry, array)) = found else {
            return Ok(None);
        };
        let damage = self.damage();
        let damaged = damage.is_some_and(|damage| damage.is_of(&entry.receipt));
        let view = entry.view(&array)?.damaged(damaged);
        Ok(Some(Committed {
            id: self.chunk_id(entry.index),
            receipt: entry.receipt,
            view,
            original: entry.original,
            changed: entry.changed,
        }))
    }

    /// Device and inode of its directory.
    ///
    /// # Errors
    /// The operating system's.
    #[doc(hidden)]
    pub fn identity(&self) -> Result<(u64, u64)> {
        self.folder
            .identity(Path::new("."))
            .context(|| "cannot look at the dataset's directory".into())
    }

    /// Whether its directory has anything of this name, known to the dataset or not.
    ///
    /// # Errors
    /// The operating system's.
    #[doc(hidden)]
    pub fn has_entry(&self, name: &OsStr) -> Result<bool> {
        match self.folder.identity(Path::new(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context(|| format!("cannot look at {}", name.display())),
        }
    }

    /// Whether a committed name may be written again.
    #[doc(hidden)]
    pub fn reuses_names(&self) -> bool {
        self.options.reuse_names
    }

    /// The name that the chunk of this id has now.
    pub(crate) fn name_of(&self, chunk: ChunkId) -> Result<OsString> {
        self.still_has(chunk)?;
        let published = self.published();
        published
            .catalog
            .get(chunk.index)
            .map(|(name, _)| name)
            .ok_or_else(|| err!(ESTALE, "the chunk's name was removed"))
    }

    /// The next committed chunk in commit order from id `id` on: its name, and the id after it.
    #[doc(hidden)]
    pub fn next_name(&self, id: u32) -> Option<(OsString, u32)> {
        next_named(&self.published().catalog, id)
    }

    /// Every chunk committed so far has a smaller id.
    #[doc(hidden)]
    pub fn end_id(&self) -> u32 {
        self.published().catalog.next_id()
    }

    /// The names of the chunks in flight, in no order.
    #[doc(hidden)]
    pub fn in_flight_names(&self) -> Vec<OsString> {
        crate::lock(&self.in_flight).keys().cloned().collect()
    }

    /// Whether the dataset has neither rows nor chunks, committed or in flight.
    ///
    /// # Errors
    /// Those of reading what another daemon has written, and `EBUSY` while it is a copy that is being
    /// verified.
    #[doc(hidden)]
    pub fn is_empty(&self) -> Result<bool> {
        self.refresh()?;
        self.refuse_while_verifying()?;
        Ok(self.array().is_none() && crate::lock(&self.in_flight).is_empty())
    }
}

/// As [`Dataset::next_name`], of its catalog.
pub(super) fn next_named(catalog: &Catalog, id: u32) -> Option<(OsString, u32)> {
    (id..catalog.next_id()).find_map(|id| catalog.get(id).map(|(name, _)| (name, id + 1)))
}

/// What the catalog says of a committed chunk.
pub(super) struct Entry {
    index: u32,
    pub(super) receipt: CatalogEntry,
    /// The header that it came with.
    pub(super) original: Arc<[u8]>,
    changed: i64,
}

impl Entry {
    pub(super) fn find(catalog: &Catalog, name: &OsStr) -> Option<Self> {
        let (index, receipt) = catalog.find(name)?;
        Some(Self {
            index,
            receipt: *receipt,
            original: catalog.header(receipt.header),
            changed: catalog.changed(index),
        })
    }

    /// Its header and rows as a file.
    pub(super) fn view(&self, array: &Array) -> Result<View> {
        let receipt = &self.receipt;
        let header = if receipt.converted {
            plain_header(&array.layout, receipt.rows)?
        } else {
            self.original.clone()
        };
        Ok(View::new(
            header,
            array.layout.clone(),
            receipt.first_row,
            receipt.rows,
            receipt.attributes.mtime,
        ))
    }
}

/// The header that numpy would write for `rows` rows of the array.
fn plain_header(layout: &Layout, rows: u64) -> Result<Arc<[u8]>> {
    let mut shape = Vec::with_capacity(1 + layout.row_shape().len());
    shape.push(rows);
    shape.extend_from_slice(layout.row_shape());
    Ok(Header::encode(layout.dtype(), &shape)?.into())
}
