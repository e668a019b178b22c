//! One handle of a chunk that is open for writing: a new chunk, or a committed one once more.
//!
//! Several handles may have one chunk open; the one that writes first has it. A handle answers for
//! what was written through it, and for nothing else: one through which nothing was written judges
//! nothing, and one of whose writes was refused says so at each further write and at each close:
//! nothing is committed by a close that reports an error.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::compare::Comparison;
use crate::chunk::status::{HandleId, Start};
use crate::dataset::Dataset;
use crate::dataset::pending::{Descriptors, PendingChunk};
use crate::disk::Face;
use crate::error::{Error, Result};
use crate::wait;

/// A chunk that is open for writing.
#[derive(Debug)]
pub struct ChunkHandle {
    target: Mutex<Target>,
    /// Something was written through it, and not refused.
    wrote: AtomicBool,
    /// The answer of a change through it that was refused.
    refused: Mutex<Option<Error>>,
}

/// What a handle writes to. It changes where a committed chunk is truncated to nothing.
#[derive(Clone, Debug)]
enum Target {
    /// A chunk in flight, as this handle of it.
    New(HandleId, Arc<PendingChunk>),
    /// A committed one: the bytes are compared.
    Again(Arc<Comparison>),
}

impl ChunkHandle {
    pub(super) fn next_id() -> HandleId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn new(id: HandleId, incoming: Arc<PendingChunk>) -> Self {
        Self::of(Target::New(id, incoming))
    }

    pub(super) fn again(rewrite: Comparison) -> Self {
        Self::of(Target::Again(Arc::new(rewrite)))
    }

    fn of(target: Target) -> Self {
        Self {
            target: Mutex::new(target),
            wrote: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }

    fn target(&self) -> Target {
        crate::lock(&self.target).clone()
    }

    fn has_written(&self) -> bool {
        self.wrote.load(Ordering::Acquire)
    }

    fn refusal(&self) -> Result<()> {
        crate::lock(&self.refused).clone().map_or(Ok(()), Err)
    }

    /// Whether the handle writes a new chunk, and does not compare with a committed one.
    pub fn is_new(&self) -> bool {
        matches!(*crate::lock(&self.target), Target::New(..))
    }

    /// Mode, owner and size as the handle sees them.
    pub fn face(&self) -> Face {
        match self.target() {
            Target::New(_, incoming) => incoming.face(),
            Target::Again(rewrite) => rewrite.face(),
        }
    }

    /// Writes at `offset`. `ack` is called as soon as nothing that the bytes say can refuse them,
    /// which may be before they are stored; a failure to store them is the answer to the next call.
    ///
    /// # Errors
    /// `EINVAL` for what the header shows to be wrong, `EBUSY` where another handle of the chunk
    /// writes, `ECANCELED` when the name is lost, `EEXIST` for other bytes than the committed ones,
    /// and what the store answers.
    pub fn write(&self, data: &[u8], offset: u64, ack: impl FnOnce()) -> Result<()> {
        self.refusal()?;
        let written = self.has_written();
        self.leave_committed(written)?;
        // Noted before the answer: the close may come before this returns.
        let ack = || {
            self.wrote.store(true, Ordering::Release);
            ack();
        };
        let done = match self.target() {
            Target::New(id, incoming) => incoming.write(id, written, data, offset, ack),
            Target::Again(rewrite) => rewrite.write(data, offset).map(|()| ack()),
        };
        self.note(done.map(|()| true))
    }

    /// Remembers what a change through this handle came to; `true`: there was one.
    fn note(&self, done: Result<bool>) -> Result<()> {
        match &done {
            Ok(changed) => {
                self.wrote.fetch_or(*changed, Ordering::Release);
            }
            Err(error) if error.would_wait() => {}
            Err(error) => *crate::lock(&self.refused) = Some(error.clone()),
        }
        done.map(drop)
    }

    /// Reads back what was written, from `offset`.
    ///
    /// # Errors
    /// The chunk's refusal, or what the store answers.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match self.target() {
            Target::New(_, incoming) => incoming.read(buffer, offset),
            Target::Again(rewrite) => rewrite.read(buffer, offset),
        }
    }

    /// Cuts or extends the chunk to `len` bytes. A committed one that is cut to nothing is as if it
    /// had been opened with `O_TRUNC`: what is written from now on is compared, or is a new chunk
    /// where names may be reused.
    ///
    /// # Errors
    /// As [`ChunkHandle::write`]; `EPERM` for another length of a committed chunk.
    pub fn set_len(&self, len: u64) -> Result<()> {
        if len == 0
            && let Some((dataset, name)) = self.committed()?
        {
            return self.begin_anew(&dataset, &name);
        }
        self.refusal()?;
        let done = match self.target() {
            Target::New(id, incoming) => incoming.set_len(id, self.has_written(), len),
            Target::Again(rewrite) => rewrite.set_len(len),
        };
        self.note(done)
    }

    /// The dataset and name of its chunk, if that is committed.
    fn committed(&self) -> Result<Option<(Arc<Dataset>, OsString)>> {
        match self.target() {
            Target::New(_, incoming) => incoming.committed(),
            Target::Again(rewrite) => rewrite.place().map(Some),
        }
    }

    /// Another handle has committed the chunk that this one shared while it was empty: where names may be
    /// written again, what comes through this one is the next.
    fn leave_committed(&self, written: bool) -> Result<()> {
        let Target::New(_, incoming) = self.target() else {
            return Ok(());
        };
        if written || !incoming.is_of_reused_names() {
            return Ok(());
        }
        match incoming.committed()? {
            Some((dataset, name)) => self.begin_anew(&dataset, &name),
            None => Ok(()),
        }
    }

    fn begin_anew(&self, dataset: &Arc<Dataset>, name: &OsStr) -> Result<()> {
        let face = Face {
            len: 0,
            mtime: None,
            ..self.face()
        };
        let fresh = dataset.begin(name, face, Start::Truncate)?.target();
        let old = std::mem::replace(&mut *crate::lock(&self.target), fresh);
        wait::allowed(|| old.release())?;
        self.wrote.store(false, Ordering::Release);
        *crate::lock(&self.refused) = None;
        Ok(())
    }

    /// Reserves room up to `end`, which extends what is shorter.
    ///
    /// # Errors
    /// As [`ChunkHandle::set_len`].
    pub fn reserve(&self, end: u64) -> Result<()> {
        if end > self.face().len {
            self.set_len(end)
        } else {
            Ok(())
        }
    }

    /// A descriptor of this handle is being closed. The answer is `close`'s.
    ///
    /// # Errors
    /// Why the chunk was refused, or a write through this handle, now or before.
    pub fn flush(&self, left: &dyn Descriptors) -> Result<()> {
        self.refusal().inspect_err(|_| {
            if let Target::New(_, incoming) = self.target() {
                incoming.leave_if_refused();
            }
        })?;
        if !self.has_written() {
            return Ok(());
        }
        match self.target() {
            Target::New(id, incoming) => incoming.flush(id, left),
            Target::Again(rewrite) => rewrite.flush(left),
        }
    }

    /// `fsync`: a complete chunk is committed, so that a sync of the dataset covers it.
    ///
    /// # Errors
    /// Why the chunk was refused, now or before.
    pub fn commit_if_complete(&self) -> Result<()> {
        match self.target() {
            Target::New(_, incoming) => incoming.commit_if_complete(),
            Target::Again(_) => Ok(()),
        }
    }

    /// The last descriptor of this handle is gone, and no process hears of what is left to say.
    ///
    /// # Errors
    /// Only that it has to wait, on a thread that may not: then the handle is as it was.
    pub(crate) fn try_release(&self) -> Result<()> {
        self.target().release()
    }

    /// As [`ChunkHandle::try_release`], on a thread that may wait.
    pub fn release(&self) {
        if let Err(error) = wait::allowed(|| self.try_release()) {
            log::error!("the end of a handle was not judged: {error}");
        }
    }
}

impl Target {
    fn release(&self) -> Result<()> {
        match self {
            Target::New(id, incoming) => incoming.release(*id),
            Target::Again(rewrite) => rewrite.release(),
        }
    }
}
