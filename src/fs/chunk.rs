//! Chunks: in flight, and committed.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attr::{TTL, chunk_attr, in_flight_attr};
use super::control::GeneratedFile;
use super::descriptors::Closing;
use super::handle::{Chunk, Handle, OpenChunk};
use super::inodes::Inode;
use super::{AllowDelete, Attr, Caller, Fs, Mode, Opened, numbers};
use crate::chunk::status::Start;
use crate::dataset::{self, ChunkHandle, Dataset, Found, PendingChunk};
use crate::disk::Face;
use crate::error::{Errno, Result};
use crate::{store, wait};

impl Fs {
    /// Opens what a chunk's name stands for; `None` where that is a file of the store, or nothing.
    pub(super) fn open_chunk_name(
        &self,
        node: &Inode,
        flags: i32,
        write: bool,
        caller: &Caller,
    ) -> Result<Option<Opened>> {
        let name = &node.name;
        let dataset = self.dataset(node.parent)?;
        match dataset.find(&node.name)? {
            Some(Found::Committed(chunk)) if !write => {
                self.opened_chunk(&dataset, *chunk, node).map(Some)
            }
            Some(Found::InFlight(incoming)) if !write => {
                // Where a name is reused, it shows what it stood for until the next is whole.
                if let Some(chunk) = dataset.chunk(name)? {
                    return self.opened_chunk(&dataset, chunk, node).map(Some);
                }
                // What was created and closed reads as the empty file that it is.
                if incoming.face().len == 0 {
                    let fh = self
                        .handles
                        .insert(Handle::GeneratedFile(GeneratedFile::Whole(Arc::default())));
                    let mode = Mode::Direct;
                    return Ok(Some(Opened { fh, mode }));
                }
                Err(err!(EBUSY, "{} is still being written", name.display()))
            }
            Some(Found::Committed(chunk)) => {
                let attributes = chunk.receipt.attributes;
                let face = Face {
                    len: 0,
                    mode: attributes.mode,
                    uid: attributes.uid,
                    gid: attributes.gid,
                    mtime: None,
                };
                self.open_chunk(node, face, flags, caller).map(Some)
            }
            Some(Found::InFlight(incoming)) => {
                let face = Face {
                    len: 0,
                    mtime: None,
                    ..incoming.face()
                };
                let opened = self.open_chunk(node, face, flags, caller)?;
                if incoming.face().len == 0 {
                    // Its last handle may have left it as an empty file meanwhile.
                    dataset.remove_placeholder(name);
                }
                Ok(Some(opened))
            }
            None if write => self.open_placeholder(node, flags, caller).map(Some),
            None => Ok(None),
        }
    }

    /// Ends a chunk in flight, or removes the name of a committed one where the mount allows it, or a file of
    /// that name that was never committed.
    pub(super) fn remove_chunk(&self, dir: u64, name: &OsStr) -> Result<()> {
        let dataset = self.dataset(dir)?;
        match dataset.find(name)? {
            Some(Found::InFlight(incoming)) => dataset.abort(&incoming)?,
            Some(Found::Committed(_)) if self.options.allow_delete != AllowDelete::Nothing => {
                dataset.forget(name)?;
            }
            Some(Found::Committed(_)) => {
                let reason = err!(
                    EPERM,
                    "{} is committed and cannot be removed: its rows are part of data.npy",
                    name.display()
                );
                return self.reported(&dataset, name, Err(reason));
            }
            None => self.remove_file(dir, name)?,
        }
        Ok(())
    }

    /// A new chunk, or a committed one again, of this mode and group.
    pub(super) fn create_chunk(
        &self,
        dir: u64,
        name: &OsStr,
        (mode, gid): (u32, u32),
        flags: i32,
        caller: &Caller,
    ) -> Result<(Attr, Opened)> {
        let face = Face {
            len: 0,
            mode: mode & 0o7777,
            uid: caller.uid,
            gid,
            mtime: None,
        };
        let start = if flags & libc::O_EXCL != 0 {
            Start::New
        } else {
            start_of(flags)
        };
        let dataset = self.dataset(dir)?;
        // Before it begins: what has begun is to be released.
        let number = numbers::of_chunk(&dataset, name)?;
        let writer = dataset.begin_as(name, face, start, wants_write(flags))?;
        let mut attr = in_flight_attr(&writer.face(), number);
        if attr.size == 0 {
            // Until the first write, which the kernel takes as the end of what it knows.
            attr.attr_ttl = TTL;
        }
        let node = self.name_node(dir, name, false, None);
        let opened = self.opened_chunk_for_writing(writer, (node, number), flags, caller);
        Ok((attr.at(node), opened))
    }

    pub(super) fn opened_chunk_for_writing(
        &self,
        writer: ChunkHandle,
        (ino, number): (u64, u64),
        flags: i32,
        caller: &Caller,
    ) -> Opened {
        let fh = self.handles.insert(Handle::Chunk(Chunk {
            writer,
            ino,
            number,
            flags,
            opener: caller.pid,
            closes: AtomicU64::new(0),
        }));
        Opened {
            fh,
            mode: Mode::Direct,
        }
    }

    pub(super) fn open_chunk(
        &self,
        node: &Inode,
        face: Face,
        flags: i32,
        caller: &Caller,
    ) -> Result<Opened> {
        let dataset = self.dataset(node.parent)?;
        let number = numbers::of_chunk(&dataset, &node.name)?;
        let writer = dataset.begin_as(&node.name, face, start_of(flags), wants_write(flags))?;
        Ok(self.opened_chunk_for_writing(writer, (node.ino, number), flags, caller))
    }

    pub(super) fn opened_chunk(
        &self,
        dataset: &dataset::Dataset,
        chunk: dataset::Committed,
        node: &Inode,
    ) -> Result<Opened> {
        // The pages of an inode are shared by all who have it open, and a reused name has one inode.
        let mode = if dataset.reuses_names() {
            Mode::Direct
        } else {
            Mode::Cached
        };
        let number = numbers::of_chunk(dataset, &node.name)?;
        let fh = self.handles.insert(Handle::View(OpenChunk {
            attr: chunk_attr(&chunk, number).at(node.ino),
            view: chunk.view,
            ino: node.ino,
        }));
        Ok(Opened { fh, mode })
    }

    /// Writing to a file of the store that has a chunk's name: an empty one becomes a chunk.
    pub(super) fn open_placeholder(
        &self,
        node: &Inode,
        flags: i32,
        caller: &Caller,
    ) -> Result<Opened> {
        let place = self.same_place(node.parent)?;
        let stat = place
            .find(&node.name)?
            .filter(store::is_file)
            .ok_or_else(|| err!(ESTALE, "{} is gone", node.name.display()))?;
        self.check(node.ino, &stat)?;
        if stat.st_size > 0 {
            return Err(err!(
                EEXIST,
                "{} is a file of the store that was never committed; rename it to commit it",
                node.name.display()
            ));
        }
        let face = Face {
            len: 0,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: None,
        };
        let dataset = self.dataset(node.parent)?;
        let number = numbers::of_chunk(&dataset, &node.name)?;
        let writer = dataset.begin_as(&node.name, face, start_of(flags), wants_write(flags))?;
        match place.remove(&node.name) {
            // Another handle of the same chunk was faster.
            Err(error) if error.errno() != Errno::ENOENT => {
                writer.release();
                Err(error)
            }
            _ => {
                self.inodes.became_chunk(node.ino);
                Ok(self.opened_chunk_for_writing(writer, (node.ino, number), flags, caller))
            }
        }
    }

    /// A descriptor is being closed: for a chunk this is where it is committed.
    ///
    /// # Errors
    /// Why the chunk is refused.
    pub fn flush(&self, fh: u64, caller: &Caller) -> Result<()> {
        match &*self.handles.get(fh)? {
            Handle::Chunk(chunk) => {
                self.wait_if_parted()?;
                let node = self.inodes.get(chunk.ino);
                let closed = chunk.writer.flush(&Closing {
                    device: self.device.get().map(String::as_str),
                    ino: chunk.number,
                    name: node.as_ref().map_or(OsStr::new(""), |node| &node.name),
                    flags: chunk.flags,
                    opener: chunk.opener,
                    closer: caller.pid,
                    closes: &chunk.closes,
                });
                if !closed.as_ref().is_err_and(crate::Error::would_wait) {
                    self.let_go_after(chunk.ino);
                }
                closed
            }
            _ => Ok(()),
        }
    }

    /// Notes that a close has come, which [`Fs::flush`] will answer.
    pub fn note_close(&self, fh: u64) {
        if let Ok(handle) = self.handles.get(fh)
            && let Handle::Chunk(chunk) = &*handle
        {
            chunk.closes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Once the mount is out of sight, the end of a chunk in flight may let go of its dataset.
    pub(super) fn wait_if_parted(&self) -> Result<()> {
        match self.is_parted() {
            true => wait::may_wait(),
            false => Ok(()),
        }
    }

    pub(super) fn rename_chunk(
        &self,
        dataset: &Dataset,
        from_dir: u64,
        name: &OsStr,
        to_dir: u64,
        newname: &OsStr,
    ) -> Result<()> {
        if from_dir != to_dir || dataset::Kind::of(newname) != dataset::Kind::Chunk {
            return Err(err!(
                EPERM,
                "{} is committed: it can be renamed to another chunk's name in its own dataset only, not to {}",
                name.display(),
                newname.display()
            ));
        }
        if self.place(to_dir)?.find(newname)?.is_some() {
            return Err(err!(
                EEXIST,
                "{} is a file that was never committed",
                newname.display()
            ));
        }
        dataset.rename(name, newname)
    }

    /// Whether an empty file may get a chunk's name: a rename that fails changes nothing.
    pub(super) fn admit_empty(&self, dir: u64, name: &OsStr) -> Result<()> {
        let dataset = self.dataset(dir)?;
        let refused = match dataset.find(name)? {
            Some(Found::Committed(_)) if !dataset.reuses_names() => {
                err!(
                    EEXIST,
                    "{} is committed, and an empty file is not the same",
                    name.display()
                )
            }
            Some(Found::InFlight(other)) if !waits_for_bytes(&other) => {
                err!(
                    EBUSY,
                    "{} is being written by another handle",
                    name.display()
                )
            }
            _ => return Ok(()),
        };
        self.reported(&dataset, name, Err(refused))
    }
}

pub(super) fn wants_write(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

pub(super) fn start_of(flags: i32) -> Start {
    if flags & libc::O_TRUNC != 0 {
        Start::Truncate
    } else {
        Start::Keep
    }
}

/// Whether a chunk in flight is no more than an empty file.
pub(super) fn waits_for_bytes(incoming: &PendingChunk) -> bool {
    incoming.face().len == 0 && incoming.may_be_replaced()
}
