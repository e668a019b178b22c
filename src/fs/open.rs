//! Opening, reading, writing and closing.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attr::{TTL, chunk_attr, file_attr, in_flight_attr};
use super::control::GeneratedFile;
use super::descriptors::Closing;
use super::handle::{Chunk, Handle, OpenChunk, OpenFile};
use super::inodes::{Control, Inode, Kind, ROOT};
use super::lookup::{enter, is_array};
use super::telling::LateLog;
use super::{Attr, Caller, Fs, Mode, Opened, numbers, read_file};
use crate::array::View;
use crate::chunk::status::Start;
use crate::dataset;
use crate::dataset::{ChunkHandle, Found, Waiter};
use crate::disk::Face;
use crate::error::{Context, Errno, Result};
use crate::store::{self, Maker, Seen};
use crate::wait;

fn wants_write(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

fn start_of(flags: i32) -> Start {
    if flags & libc::O_TRUNC != 0 {
        Start::Truncate
    } else {
        Start::Keep
    }
}

impl Fs {
    /// Creates a chunk or an ordinary file and opens it.
    ///
    /// # Errors
    /// `EPERM` for names that are npyfs's own and for chunks in the root, `EBUSY` for names in
    /// flight, and those of the store.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
        caller: &Caller,
    ) -> Result<(Attr, Opened)> {
        let (dir, seen) = self.directory_seen(parent)?;
        let dir = dir.ino;
        self.writable()?;
        match dataset::Kind::of(name) {
            dataset::Kind::Chunk => {
                let inherited = seen.and_then(|seen| seen.group_for_others());
                let face = Face {
                    len: 0,
                    mode: mode & 0o7777,
                    uid: caller.uid,
                    gid: inherited.unwrap_or(caller.gid),
                    mtime: None,
                };
                let start = if flags & libc::O_EXCL != 0 {
                    Start::New
                } else {
                    start_of(flags)
                };
                let dataset = self.dataset(dir)?;
                let writer = dataset.begin_as(name, face, start, wants_write(flags))?;
                let number = numbers::of_chunk(&dataset, name)?;
                let mut attr = in_flight_attr(&writer.face(), number);
                if attr.size == 0 {
                    // Until the first write, which the kernel takes as the end of what it knows.
                    attr.attr_ttl = TTL;
                }
                let node = self.name_node(dir, name, false, None);
                let opened = self.opened_chunk_for_writing(writer, (node, number), flags, caller);
                Ok((attr.at(node), opened))
            }
            dataset::Kind::Ordinary => {
                let maker = Maker {
                    mode,
                    uid: caller.uid,
                    gid: caller.gid,
                };
                let (file, stat) = self.place(dir)?.create(name, flags, &maker)?;
                self.note_ordinary(dir, name);
                let node = self.name_node(dir, name, false, Some(Seen::of(&stat)));
                let opened = self.opened_file(node, file, flags);
                Ok((file_attr(&stat).at(node), opened))
            }
            _ => Err(reserved(name)),
        }
    }

    fn opened_chunk_for_writing(
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

    fn open_chunk(&self, node: &Inode, face: Face, flags: i32, caller: &Caller) -> Result<Opened> {
        let dataset = self.dataset(node.parent)?;
        let number = numbers::of_chunk(&dataset, &node.name)?;
        let writer = dataset.begin_as(&node.name, face, start_of(flags), wants_write(flags))?;
        Ok(self.opened_chunk_for_writing(writer, (node.ino, number), flags, caller))
    }

    fn opened_chunk(
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

    fn opened_file(&self, ino: u64, file: std::fs::File, flags: i32) -> Opened {
        let open = OpenFile::new(ino, file, flags);
        let fh = self.handles.insert(Handle::File(open));
        Opened {
            fh,
            mode: Mode::Cached,
        }
    }

    /// Opens what an inode stands for now.
    ///
    /// # Errors
    /// `EPERM` for writing to the array or a slice, `EBUSY` for a chunk in flight, `EEXIST` for
    /// writing where a file that is no chunk has a chunk's name, and those of the store.
    pub fn open(&self, ino: u64, flags: i32, caller: &Caller) -> Result<Opened> {
        let node = self.inodes.get(ino)?;
        let write = wants_write(flags) || flags & libc::O_TRUNC != 0;
        if write {
            self.writable()?;
        }
        match &node.kind {
            Kind::Dir => Err(err!(EISDIR, "{} is a directory", node.name.display())),
            Kind::Array(_) if write => Err(reserved(&node.name)),
            Kind::Array(_) => {
                let view = self.open_version(ino, caller)?;
                let mode =
                    if view.is_backing_prefix() && is_array(&node.name) && !self.options.cached {
                        Mode::Passthrough(view.clone())
                    } else {
                        Mode::Kept
                    };
                let fh = self.handles.insert(Handle::Version(view, ino));
                Ok(Opened { fh, mode })
            }
            Kind::Control(_) | Kind::Text(_) if write => Err(err!(EPERM, ".npyfs is npyfs's own")),
            Kind::Control(control) => self.open_control(&node, control),
            Kind::Text(text) => self.open_text(&node, text),
            Kind::Entry => self.open_entry(&node, flags, write, caller),
        }
    }

    fn open_version(&self, ino: u64, caller: &Caller) -> Result<View> {
        let (view, doubtful) = self.inodes.open_version(ino, caller.pid)?;
        if doubtful && let Some(kernel) = self.kernel.get() {
            kernel
                .forget_attributes(ino)
                .inspect_err(|_| self.inodes.close_version(ino))
                .context(|| "cannot have the kernel forget the array's size".into())?;
        }
        Ok(view)
    }

    fn open_entry(&self, node: &Inode, flags: i32, write: bool, caller: &Caller) -> Result<Opened> {
        let name = &node.name;
        if node.gone {
            return Err(err!(ESTALE, "{} is gone", name.display()));
        }
        let truncate = flags & libc::O_TRUNC != 0;
        let is_chunk = dataset::Kind::of(name) == dataset::Kind::Chunk;
        if is_chunk && node.parent != ROOT {
            let dataset = self.dataset(node.parent)?;
            match dataset.find(name)? {
                Some(Found::Committed(chunk)) if !write => {
                    return self.opened_chunk(&dataset, *chunk, node);
                }
                Some(Found::InFlight(incoming)) if !write => {
                    // Where a name is reused, it shows what it stood for until the next is whole.
                    if let Some(chunk) = dataset.chunk(name)? {
                        return self.opened_chunk(&dataset, chunk, node);
                    }
                    // What was created and closed reads as the empty file that it is.
                    if incoming.face().len == 0 {
                        let fh = self
                            .handles
                            .insert(Handle::GeneratedFile(GeneratedFile::Whole(Arc::default())));
                        return Ok(Opened {
                            fh,
                            mode: Mode::Direct,
                        });
                    }
                    return Err(err!(EBUSY, "{} is still being written", name.display()));
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
                    return self.open_chunk(node, face, flags, caller);
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
                    return Ok(opened);
                }
                None if write => {
                    return self.open_placeholder(node, flags, caller);
                }
                None => {}
            }
        }
        let (file, stat) = self.same_place(node.parent)?.open_file(name, write)?;
        self.check(node.ino, &stat)?;
        if truncate {
            if caller.uid != 0 {
                drop_set_id_bits(&file, &stat)?;
            }
            file.set_len(0)
                .context(|| "cannot truncate the file".into())?;
        }
        Ok(self.opened_file(node.ino, file, flags))
    }

    /// Writing to a file of the store that has a chunk's name: an empty one becomes a chunk.
    fn open_placeholder(&self, node: &Inode, flags: i32, caller: &Caller) -> Result<Opened> {
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

    fn open_control(&self, node: &Inode, control: &Control) -> Result<Opened> {
        let handle = match control {
            Control::Dir | Control::Kept(_) => {
                return Err(err!(EISDIR, "{} is a directory", dataset::CONTROL));
            }
            Control::Daemon | Control::Losses | Control::Status | Control::Chunks => {
                return Err(err!(ESTALE, "{} is looked up first", node.name.display()));
            }
            Control::Log | Control::KeptFile(..) => match self.open_stored(node, control)? {
                Some(file) => Handle::File(OpenFile::new(node.ino, file, libc::O_RDONLY)),
                None if matches!(control, Control::Log) => {
                    Handle::LateLog(LateLog::new(node.clone()))
                }
                None => Handle::GeneratedFile(GeneratedFile::Whole(Arc::default())),
            },
        };
        // The log grows while it is read. What is kept stays as it is, and may be mapped.
        let mode = match control {
            Control::KeptFile(..) => Mode::Cached,
            _ => Mode::Direct,
        };
        Ok(Opened {
            fh: self.handles.insert(handle),
            mode,
        })
    }

    fn open_stored(&self, node: &Inode, control: &Control) -> Result<Option<std::fs::File>> {
        let Some((within, name)) = control.stored() else {
            return Ok(None);
        };
        let place = self.same_place(node.parent)?;
        let Some(within) = enter(&place, within)? else {
            return Ok(None);
        };
        if within.find(name)?.is_none() {
            return Ok(None);
        }
        let (file, stat) = match control {
            // Shown with other attributes than its own, so it must be what it passes for.
            Control::Log => place.open_log()?,
            _ => within.open_file(name, false)?,
        };
        // Another than was told of, or one that has come since: the kernel is to look again.
        self.check(node.ino, &stat)?;
        Ok(Some(file))
    }

    /// The view that a handle reads, where it is one.
    pub fn view(&self, fh: u64) -> Option<View> {
        match self.handles.get(fh).as_deref() {
            Ok(Handle::View(OpenChunk { view, .. }) | Handle::Version(view, _)) => {
                Some(view.clone())
            }
            _ => None,
        }
    }

    /// Fills `buffer` from `offset` on, as far as there is something, and says how far.
    ///
    /// # Errors
    /// `EBADF`, the refusal of a chunk, and those of the store.
    pub fn read(&self, fh: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match &*self.handles.get(fh)? {
            Handle::View(OpenChunk { view, .. }) | Handle::Version(view, _) => {
                view.read_at(buffer, offset)
            }
            Handle::File(open) => read_file(&open.file, offset, buffer),
            Handle::GeneratedFile(text) => {
                let text = text.read(offset, buffer.len())?;
                buffer[..text.len()].copy_from_slice(&text);
                Ok(text.len())
            }
            Handle::LateLog(log) => self.read_late(log, offset, buffer),
            Handle::Dir(_) => Err(err!(EISDIR, "handle {fh} is a directory")),
            Handle::Chunk(chunk) => chunk.writer.read(buffer, offset),
        }
    }

    /// Writes all of `data`. `ack` is called once, as soon as the answer is known to be good; then
    /// the result only matters for the log.
    ///
    /// # Errors
    /// `EBADF`, why a chunk is refused, and those of the store.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8], ack: impl FnOnce()) -> Result<()> {
        match &*self.handles.get(fh)? {
            Handle::File(open) => {
                if open.committed.load(Ordering::Acquire) {
                    return Err(err!(
                        EPERM,
                        "its rename has committed what was written before"
                    ));
                }
                let failed = || "cannot write the file".to_owned();
                // With O_APPEND the kernel has put the offset at the end that it knows of.
                let offset = if open.append {
                    open.file.metadata().context(failed)?.len()
                } else {
                    offset
                };
                open.file.write_all_at(data, offset).context(failed)?;
                ack();
                Ok(())
            }
            Handle::Chunk(chunk) => chunk.writer.write(data, offset, ack),
            Handle::View(_)
            | Handle::Version(..)
            | Handle::GeneratedFile(_)
            | Handle::LateLog(_)
            | Handle::Dir(_) => Err(err!(EBADF, "handle {fh} is not open for writing")),
        }
    }

    /// Reserves room, which extends what is shorter.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for anything but plain reservation of a file, and those of writing.
    pub fn fallocate(&self, fh: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let end = offset
            .checked_add(len)
            .ok_or_else(|| err!(EFBIG, "a file cannot be that long"))?;
        match &*self.handles.get(fh)? {
            Handle::File(open) => {
                let flags = nix::fcntl::FallocateFlags::from_bits_retain(mode);
                nix::fcntl::fallocate(&open.file, flags, offset as i64, len as i64)
                    .context(|| "cannot reserve space for the file".into())
            }
            Handle::Chunk(chunk) if mode == 0 => chunk.writer.reserve(end),
            Handle::Chunk(_) if mode == libc::FALLOC_FL_KEEP_SIZE => Ok(()),
            _ => Err(err!(EOPNOTSUPP, "only plain reservation is supported here")),
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
    fn wait_if_parted(&self) -> Result<()> {
        match self.is_parted() {
            true => wait::may_wait(),
            false => Ok(()),
        }
    }

    /// Does what an fsync does before the dataset that it answers, if any, [is synced](Fs::sync_dataset).
    ///
    /// # Errors
    /// Why a chunk is refused, and those of syncing a file.
    pub fn begin_fsync(&self, ino: u64, fh: u64) -> Result<Option<Arc<dataset::Dataset>>> {
        let handle = self.handles.get(fh)?;
        match &*handle {
            Handle::Chunk(chunk) => chunk.writer.commit_if_complete()?,
            Handle::File(open) => {
                open.file
                    .sync_all()
                    .context(|| "cannot sync the file".into())?;
                return Ok(None);
            }
            Handle::GeneratedFile(_) | Handle::LateLog(_) => return Ok(None),
            Handle::View(_) | Handle::Version(..) | Handle::Dir(_) => {}
        }
        let node = self.inodes.get(ino)?;
        Ok(Some(self.dataset(node.parent)?))
    }

    /// As [`Fs::begin_fsync`], for a directory.
    ///
    /// # Errors
    /// Those of syncing it.
    pub fn begin_fsyncdir(&self, ino: u64) -> Result<Option<Arc<dataset::Dataset>>> {
        let place = self.same_place(ino)?;
        self.store.sync_dir(&place)?;
        if ino == ROOT {
            return Ok(None);
        }
        self.dataset(ino).map(Some)
    }

    /// Makes all rows committed so far durable; `done` is told, from a thread that waited for the disk.
    pub fn sync_dataset(&self, dataset: Arc<dataset::Dataset>, done: Waiter) {
        if dataset.sync_later(done) {
            self.workers.run(move || dataset.run_syncs());
        }
    }

    /// The last descriptor of a handle is gone.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn release(&self, fh: u64) -> Result<()> {
        let handle = self.handles.get(fh)?;
        if let Handle::Chunk(chunk) = &*handle {
            self.wait_if_parted()?;
            chunk.writer.try_release()?;
        }
        self.handles.remove(fh)?;
        match &*handle {
            Handle::Version(_, ino) => self.inodes.close_version(*ino),
            Handle::Chunk(chunk) => self.let_go_after(chunk.ino),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn end(handle: &Handle) {
        if let Handle::Chunk(chunk) = handle {
            chunk.writer.release();
        }
    }

    /// The filesystem of the store.
    ///
    /// # Errors
    /// The operating system's.
    pub fn statfs(&self) -> Result<nix::sys::statvfs::Statvfs> {
        self.store.statfs()
    }
}

pub(super) fn reserved(name: &OsStr) -> crate::Error {
    err!(
        EPERM,
        "{} is npyfs's own: it grows when chunks are written beside it",
        name.display()
    )
}

/// For callers that hold a stat.
pub(super) fn attributes_of(stat: &nix::sys::stat::FileStat) -> dataset::Attributes {
    dataset::Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: store::mtime(stat),
    }
}

/// What the kernel leaves to the filesystem where an open truncates: the owner's rights are given to
/// the bytes that he put there, not to those that another user puts in their place. Root keeps them.
fn drop_set_id_bits(file: &std::fs::File, stat: &nix::sys::stat::FileStat) -> Result<()> {
    let bits = libc::S_ISUID | libc::S_ISGID;
    if stat.st_mode & bits == 0 {
        return Ok(());
    }
    let mode = nix::sys::stat::Mode::from_bits_truncate(stat.st_mode & 0o7777 & !bits);
    nix::sys::stat::fchmod(file, mode).context(|| "cannot change the file's mode".into())
}
