//! Which chunks are in flight.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::chunk_handle::ChunkHandle;
use super::commit::{ChunkCommit, Rows};
use crate::chunk::status::Start;
use crate::chunk::status::{Abort, Reopened};
use crate::chunk::validate::{check_len, read_header};
use crate::dataset::{Comparison, Dataset, PendingChunk};
use crate::disk::Face;
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{Open, StoreFile};
use crate::error::{Context, Result};
use crate::journal::Attributes;
use crate::printable;

impl Dataset {
    /// Opens the chunk `name` for writing: a new one, one in flight that no handle is writing, or a
    /// committed one once more. A `start` that is empty begins a new chunk where names may be reused.
    ///
    /// # Errors
    /// `EBUSY` where another handle is writing that name, or another daemon this dataset; `EPERM`
    /// where the name is not a chunk's; `EROFS`.
    #[doc(hidden)]
    pub fn begin(self: &Arc<Self>, name: &OsStr, face: Face, start: Start) -> Result<ChunkHandle> {
        self.begin_as(name, face, start, true)
    }

    /// As [`Dataset::begin`]; `writes` says whether the handle can write at all.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_as(
        self: &Arc<Self>,
        name: &OsStr,
        face: Face,
        start: Start,
        writes: bool,
    ) -> Result<ChunkHandle> {
        crate::chunk::name::check_chunk_name(name)?;
        let _held = self.hold_for(name)?;
        self.resume_if_failed()?;
        let id = ChunkHandle::next_id();
        // Held while the catalog is asked: a chunk is in the catalog before it leaves this table, so
        // a name that is in neither is free.
        let mut in_flight = crate::lock(&self.in_flight);
        let committed = self.chunk(name)?;
        let other = in_flight.get(name).filter(|_| match committed {
            Some(_) => self.options.reuse_names,
            None => true,
        });
        if let Some(other) = other {
            match other.reopen(id, start, writes) {
                Reopened::Joined => return Ok(ChunkHandle::new(id, other.clone())),
                Reopened::Replaced => {}
                // What the name stood for before can be compared with.
                Reopened::Busy if committed.is_some() && start == Start::Keep => {}
                Reopened::Busy => {
                    return Err(err!(
                        EBUSY,
                        "{} is being written by another handle",
                        name.display()
                    ));
                }
            }
        }
        if let Some(committed) = committed
            && !(start != Start::Keep && self.options.reuse_names)
        {
            let truncated = start != Start::Keep;
            let again = Comparison::new(self.clone(), name.to_owned(), committed, truncated);
            return Ok(ChunkHandle::again(again));
        }
        let incoming = PendingChunk::new(self.clone(), name.to_owned(), face);
        incoming.opened();
        in_flight.insert(name.to_owned(), incoming.clone());
        Ok(ChunkHandle::new(id, incoming))
    }

    /// A chunk of no bytes becomes an empty file under its name, as it does when its last handle is
    /// gone; a handle that is still open has lost it. `false`: some bytes were written.
    ///
    /// # Errors
    /// The store's.
    #[doc(hidden)]
    pub fn place_as_empty_file(&self, incoming: &PendingChunk) -> Result<bool> {
        self.end_empty(incoming, false)
    }

    /// The last handle of a chunk of no bytes is gone. One that another has opened again meanwhile
    /// goes on.
    ///
    /// # Errors
    /// The store's: then the name is free.
    pub(super) fn leave_empty_file(&self, incoming: &PendingChunk) -> Result<()> {
        self.end_empty(incoming, true).map(drop)
    }

    fn end_empty(&self, incoming: &PendingChunk, unheld: bool) -> Result<bool> {
        // Under the table's lock: between the chunk and the file no lookup misses both, and no open
        // finds a chunk that has lost its name.
        let mut in_flight = crate::lock(&self.in_flight);
        let Some(face) = incoming.lose_name_if_empty(unheld) else {
            return Ok(false);
        };
        // A name that is reused stands for its last chunk again.
        let placed = match self.chunk(incoming.name()) {
            Ok(Some(_)) if unheld => Ok(()),
            _ => self.place_empty(incoming.name(), &face),
        };
        if in_flight
            .get(incoming.name())
            .is_some_and(|holder| std::ptr::eq(&**holder, incoming))
        {
            in_flight.remove(incoming.name());
        }
        placed.map(|()| true)
    }

    /// The chunk is no longer in flight under its name, if it still had it.
    pub(super) fn leave(&self, incoming: &PendingChunk) {
        let mut in_flight = crate::lock(&self.in_flight);
        if in_flight
            .get(incoming.name())
            .is_some_and(|holder| std::ptr::eq(&**holder, incoming))
        {
            in_flight.remove(incoming.name());
        }
    }

    /// Removes an empty file that held the name until now. One with bytes is its owner's.
    pub(crate) fn remove_placeholder(&self, name: &OsStr) {
        let path = Path::new(name);
        let is_empty = |blob: Arc<dyn StoreFile>| blob.len().map(|len| len == 0);
        let removed = match self.folder.open(path, Open::Read).and_then(is_empty) {
            Ok(true) => self.folder.remove(path),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!(
                    "{}: cannot remove the empty file {}: {error}",
                    self.label(),
                    name.display()
                );
            }
            _ => {}
        }
    }

    /// Takes the name of a chunk in flight away from its writer, as `unlink` does. One that was
    /// refused, and is still open, only loses its name.
    ///
    /// # Errors
    /// `EBUSY` where its commit is under way.
    #[doc(hidden)]
    pub fn abort(&self, incoming: &PendingChunk) -> Result<()> {
        let name = printable::name(incoming.name());
        let aborted = incoming.abort();
        if aborted == Abort::Committing {
            return Err(err!(EBUSY, "{name} is being committed"));
        }
        self.leave(incoming);
        if aborted == Abort::Withdrawn(true) {
            self.note(&format!("{name} unlinked while it was in flight"));
        }
        Ok(())
    }

    /// A file was committed under the name of a chunk that may be replaced: its handles have lost the
    /// name. One that has gone on meanwhile hears of that when it would commit.
    #[doc(hidden)]
    pub fn supersede(&self, incoming: &PendingChunk) {
        if incoming.take_over() {
            self.leave(incoming);
        }
    }

    /// Appends a file of the store under a chunk's name, as a rename onto that name does. The file
    /// stays where it is.
    ///
    /// # Errors
    /// As those of a chunk's close.
    #[doc(hidden)]
    pub fn append_blob(
        &self,
        name: &OsStr,
        blob: &dyn StoreFile,
        attributes: Attributes,
    ) -> Result<()> {
        crate::chunk::name::check_chunk_name(name)?;
        let len = blob.len().context(|| "cannot see the file's size".into())?;
        let (header, bytes) = read_header(blob, len)?;
        check_len(&header, len)?;
        let _held = self.hold()?;
        self.check_compatible(&header)?;
        let candidate = ChunkCommit {
            name,
            head: &bytes,
            header: &header,
            attributes,
        };
        self.commit(&candidate, Rows::File(blob))?;
        self.remove_placeholder(name);
        Ok(())
    }

    pub(super) fn stage(&self, holds: Holds<'_>, face: Option<&Face>) -> Result<TempFile> {
        TempFile::create(&self.folder, holds, face)
            .context(|| "cannot make a file in .npyfs/incoming".into())
    }
}
