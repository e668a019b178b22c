//! Which chunks are in flight.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::commit::{Candidate, Rows};
use super::disk::Blob;
use super::incoming::Abort;
use super::journal::Attributes;
use super::judge::{check_len, read_header};
use super::staged::Staged;
use super::{Closer, Dataset, Face, Incoming, Rewrite, Writing};
use crate::error::{Context, Result};

impl Dataset {
    /// Opens the chunk `name` for writing: a new one, or a committed one once more. `truncate` says
    /// that the writer expects an empty file: where names may be reused, that begins a new chunk.
    ///
    /// # Errors
    /// `EBUSY` where somebody else is writing that name, or another daemon this dataset; `EPERM`
    /// where the name is not a chunk's; `EROFS`.
    pub fn begin(self: &Arc<Self>, name: &OsStr, face: Face, truncate: bool) -> Result<Writing> {
        self.check_chunk_name(name)?;
        self.own()?;
        self.mend_if_failed();
        // Held while the catalog is asked: a chunk is in the catalog before it leaves this table, so
        // a name that is in neither is free.
        let mut in_flight = crate::lock(&self.in_flight);
        if let Some(committed) = self.chunk(name)?
            && !(truncate && self.options.reuse_names)
        {
            let again = Rewrite::new(self.clone(), name.to_owned(), committed, truncate);
            return Ok(Writing::Again(Arc::new(again)));
        }
        if let Some(other) = in_flight.get(name)
            && !other.give_way()
        {
            return Err(err!(
                EBUSY,
                "{} is being written by somebody else",
                name.display()
            ));
        }
        let incoming = Incoming::new(self.clone(), name.to_owned(), face);
        in_flight.insert(name.to_owned(), incoming.clone());
        Ok(Writing::New(incoming))
    }

    /// The chunk is no longer in flight under its name, if it still had it.
    pub(super) fn leave(&self, incoming: &Incoming) {
        let mut in_flight = crate::lock(&self.in_flight);
        if in_flight
            .get(incoming.name())
            .is_some_and(|holder| std::ptr::eq(&**holder, incoming))
        {
            in_flight.remove(incoming.name());
        }
    }

    /// An empty file that held the name until now.
    pub(super) fn remove_placeholder(&self, name: &OsStr) {
        match self.folder.remove(Path::new(name)) {
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
    pub fn abort(&self, incoming: &Incoming) -> Result<()> {
        let name = incoming.name().display();
        let aborted = incoming.abort();
        if aborted == Abort::TooLate {
            return Err(err!(EBUSY, "{name} is being committed"));
        }
        self.leave(incoming);
        if aborted == Abort::Withdrawn {
            self.note(&format!("{name} unlinked while it was in flight"));
        }
        Ok(())
    }

    /// A file was committed under the name of a chunk that was closed incomplete: its writer has
    /// lost the name. One that has gone on meanwhile hears of that when it would commit.
    pub fn supersede(&self, incoming: &Incoming) {
        if incoming.give_way() {
            self.leave(incoming);
        }
    }

    /// Appends a file of the store under a chunk's name, as a rename onto that name does. The file
    /// stays where it is.
    ///
    /// # Errors
    /// As those of a chunk's close.
    pub fn append_blob(&self, name: &OsStr, blob: &dyn Blob, attributes: Attributes) -> Result<()> {
        self.check_chunk_name(name)?;
        let len = blob.len().context(|| "cannot see the file's size".into())?;
        let (header, bytes) = read_header(blob, len)?;
        check_len(&header, len)?;
        self.own()?;
        self.admit(&header)?;
        let candidate = Candidate {
            name,
            head: &bytes,
            header: &header,
            attributes,
        };
        self.commit(&candidate, Rows::File(blob))?;
        self.remove_placeholder(name);
        Ok(())
    }

    /// Appends a chunk from memory: the bytes of a whole `.npy` file. The same bytes under the same
    /// name once more append nothing.
    ///
    /// # Errors
    /// As writing and closing a chunk.
    pub fn append(self: &Arc<Self>, name: impl AsRef<OsStr>, bytes: &[u8]) -> Result<()> {
        let face = Face {
            len: 0,
            mode: 0o644,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mtime: None,
        };
        match self.begin(name.as_ref(), face, true)? {
            Writing::New(incoming) => {
                let done = incoming
                    .write(bytes, 0, || ())
                    .and_then(|()| incoming.flush(|| Closer::Opener));
                incoming.release();
                done
            }
            Writing::Again(rewrite) => {
                rewrite.write(bytes, 0)?;
                rewrite.flush(|| Closer::Opener)
            }
        }
    }

    pub(super) fn stage(&self, face: Option<&Face>) -> Result<Staged> {
        Staged::create(&self.folder, face)
            .context(|| "cannot make a file in .npyfs/incoming".into())
    }
}
