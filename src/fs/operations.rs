//! One method for each operation: what a name or handle stands for is found, and the operation handed to its kind.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::array::reserved;
use super::attr::{control_attr, in_flight_attr};
use super::chunk::{waits_for_bytes, wants_write};
use super::control::Control;
use super::entry::gone;
use super::handle::{Handle, OpenChunk};
use super::inodes::{Kind, ROOT};
use super::{AllowDelete, Attr, Caller, Fs, Opened, SetAttr, read_file};
use crate::array::View;
use crate::dataset::{self, Found, Waiter};
use crate::disk::paths::DATA;
use crate::disk::{Change, clock};
use crate::error::{Context, Result};
use crate::store::{self, Seen};
use crate::wait;

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
                let gid = inherited.unwrap_or(caller.gid);
                self.create_chunk(dir, name, (mode, gid), flags, caller)
            }
            dataset::Kind::Ordinary => self.create_file(dir, name, mode, flags, caller),
            _ => Err(reserved(name)),
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
            Kind::Array(_) => self.open_array(&node, caller),
            Kind::Control(_) | Kind::Text(_) if write => Err(err!(EPERM, ".npyfs is npyfs's own")),
            Kind::Control(control) => self.open_control(&node, control),
            Kind::Text(text) => self.open_text(&node, text),
            Kind::Entry => self.open_entry(&node, flags, write, caller),
        }
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

    /// Sets attributes. The size of a committed chunk stays what it is.
    ///
    /// # Errors
    /// `EPERM` for what is npyfs's own and for the size of committed chunks, and those of the
    /// store.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        self.writable()?;
        let node = self.inodes.get(ino)?;
        match &node.kind {
            Kind::Array(_) if &*node.name != DATA || set.size.is_some() => {
                return Err(reserved(&node.name));
            }
            Kind::Control(_) | Kind::Text(_) => {
                return Err(err!(EPERM, ".npyfs is npyfs's own"));
            }
            Kind::Array(_) | Kind::Dir | Kind::Entry => {}
        }
        if let Some(size) = set.size {
            match set.fh {
                Some(fh) => self.set_len(fh, size)?,
                None => self.truncate(&node, size)?,
            }
        }
        let change = Change {
            mode: set.mode.map(|mode| mode & 0o7777),
            uid: set.uid,
            gid: set.gid,
            mtime: set.mtime.map(clock::from_system),
        };
        if change != Change::default() {
            if let Kind::Dir = node.kind {
                self.change_directory(ino, change)?;
            } else if let Kind::Array(_) = node.kind {
                self.change_array(&node, &change)?;
            } else if !node.gone {
                self.change_entry(&node, &change)?;
            }
        }
        // It is no array: which thread is told does not matter.
        self.getattr(ino, set.fh, 0)
    }

    pub(super) fn set_len(&self, fh: u64, len: u64) -> Result<()> {
        match &*self.handles.get(fh)? {
            Handle::Chunk(chunk) => chunk.writer.set_len(len),
            Handle::File(open) => open
                .file
                .set_len(len)
                .context(|| "cannot resize the file".into()),
            _ => Err(err!(EPERM, "handle {fh} is read-only")),
        }
    }

    /// Removes an ordinary file, ends a chunk in flight, or removes a rejected chunk's bytes; where
    /// the mount allows it, forgets a chunk's name or removes the array.
    ///
    /// # Errors
    /// `EPERM` for npyfs's own and, unless the mount allows it, for committed chunks and the array;
    /// `EBUSY` for the array of chunks that have names; and those of the store.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.writable()?;
        let node = self.inodes.get(parent)?;
        if let Kind::Control(Control::Kept(kept)) = node.kind {
            return self.remove_kept(&node, kept, name);
        }
        let dir = self.directory(parent)?.ino;
        let deletes = self.options.allow_delete;
        match dataset::Kind::of(name) {
            dataset::Kind::Chunk if dir != ROOT => self.remove_chunk(dir, name)?,
            dataset::Kind::Chunk | dataset::Kind::Ordinary => {
                self.remove_file(dir, name)?;
            }
            dataset::Kind::Array if dir != ROOT && deletes != AllowDelete::Nothing => {
                self.remove_array(dir, name)?;
            }
            _ => return Err(reserved(name)),
        }
        self.inodes.removed(dir, name);
        Ok(())
    }

    /// Renames: a directory, an ordinary file, a chunk's receipt; or commits an ordinary file by
    /// giving it a chunk's name.
    ///
    /// # Errors
    /// `EBADMSG` where the file is not a chunk that fits (never `EINVAL`, which mv misreports),
    /// `EEXIST` where the name holds other bytes, `EPERM`, `EBUSY`, and those of the store.
    pub fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        newparent: u64,
        newname: &OsStr,
        flags: u32,
        caller: &Caller,
    ) -> Result<()> {
        self.writable()?;
        let from_dir = self.directory(parent)?.ino;
        let to_dir = self.directory(newparent)?.ino;
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(err!(EINVAL, "names cannot be exchanged here"));
        }
        if from_dir == to_dir && name == newname {
            return Ok(());
        }
        let no_replace = flags & libc::RENAME_NOREPLACE != 0;
        if no_replace && self.lookup_exists(to_dir, newname)? {
            return Err(err!(EEXIST, "{} is there already", newname.display()));
        }
        let is_chunk = |name| dataset::Kind::of(name) == dataset::Kind::Chunk;
        if matches!(
            dataset::Kind::of(name),
            dataset::Kind::Array | dataset::Kind::Control | dataset::Kind::Slice { .. }
        ) {
            return Err(reserved(name));
        }
        let mut was_in_flight = false;
        if is_chunk(name) && from_dir != ROOT {
            let dataset = self.dataset(from_dir)?;
            match dataset.find(name)? {
                // One of no bytes is a file of no bytes, as it is once its last handle is gone.
                Some(Found::InFlight(incoming)) => {
                    let waits = waits_for_bytes(&incoming);
                    if waits && is_chunk(newname) {
                        self.admit_empty(to_dir, newname)?;
                    }
                    if !waits || !dataset.place_as_empty_file(&incoming)? {
                        return Err(err!(EBUSY, "{} is still being written", name.display()));
                    }
                    was_in_flight = true;
                }
                Some(Found::Committed(_)) => {
                    let renamed = self.rename_chunk(&dataset, from_dir, name, to_dir, newname);
                    self.reported(&dataset, name, renamed)?;
                    self.inodes.renamed(from_dir, name, to_dir, newname);
                    return Ok(());
                }
                None => {}
            }
        }
        let from = self.place(from_dir)?;
        let stat = self.found(&from, name)?;
        if was_in_flight {
            self.inodes.became_file(from_dir, name, Seen::of(&stat));
        }
        let ino = self.check_name(from_dir, name, &stat)?;
        if store::is_file(&stat) && is_chunk(newname) {
            let held = self.commit_by_rename((&from, name, ino), &stat, to_dir, newname, caller)?;
            if held {
                self.inodes.joined(from_dir, name, to_dir, newname);
                return Ok(());
            }
        } else {
            self.dir_name(newname)?;
            self.move_entry((&from, from_dir, name), to_dir, newname, no_replace)?;
            if store::is_file(&stat) {
                self.note_ordinary(to_dir, newname);
            }
        }
        self.inodes.renamed(from_dir, name, to_dir, newname);
        Ok(())
    }

    /// What a name in a directory stands for now. The answer, which is for `thread`, counts as one
    /// lookup of its inode.
    ///
    /// # Errors
    /// `ENOENT`, and those of the store.
    pub fn lookup(&self, parent: u64, name: &OsStr, thread: u32) -> Result<Attr> {
        let dir = self.inodes.get(parent)?;
        if let Kind::Control(control) = &dir.kind {
            return self.lookup_control(&dir, control, name);
        }
        let dir = self.directory(parent)?.ino;
        let missing = || err!(ENOENT, "{} does not exist", name.display());
        match dataset::Kind::of(name) {
            dataset::Kind::Control => {
                let attr = self.control_entry(dir, &Control::Dir)?;
                attr.ok_or_else(missing)
            }
            dataset::Kind::Array if dir != ROOT => {
                let dataset = self.dataset(dir)?;
                let view = dataset.snapshot()?.ok_or_else(missing)?;
                self.view_entry(dir, name, view, &dataset, thread)
            }
            dataset::Kind::Slice { start, stop } if dir != ROOT => {
                let dataset = self.dataset(dir)?;
                let view = dataset.slice(start, stop)?.ok_or_else(missing)?;
                self.view_entry(dir, name, view, &dataset, thread)
            }
            dataset::Kind::Array | dataset::Kind::Slice { .. } => Err(missing()),
            kind => {
                let is_chunk = kind == dataset::Kind::Chunk;
                let found = self.entry_attr(dir, name, is_chunk, Self::place)?;
                let (attr, seen) = found.ok_or_else(missing)?;
                let node = self.name_node(dir, name, attr.is_dir, seen);
                Ok(attr.at(node))
            }
        }
    }

    /// The attributes of an inode, for `thread`; as the handle `fh` sees them, where one is given.
    ///
    /// # Errors
    /// `ESTALE` where its name is gone and it is not open, and those of the store.
    pub fn getattr(&self, ino: u64, fh: Option<u64>, thread: u32) -> Result<Attr> {
        let node = self.inodes.get(ino)?;
        // A committed chunk that is written again has the length of what is there again.
        if let Some(fh) = fh
            && let Ok(handle) = self.handles.get(fh)
            && let Handle::Chunk(chunk) = &*handle
            && !chunk.writer.is_new()
        {
            return Ok(in_flight_attr(&chunk.writer.face(), chunk.number).at(ino));
        }
        let attr = match &node.kind {
            Kind::Dir => {
                let place = self.same_place(ino)?;
                self.inodes.see(ino, Seen::of(place.stat()));
                self.directory_attr(Some(ino), &place)?
            }
            Kind::Entry => self.entry_node_attr(&node)?,
            Kind::Array(view) => {
                self.inodes.tell(ino, thread);
                let attr = self.view_attr(node.parent, &node.name, view)?;
                match view.is_unlinked() {
                    true => attr.unlinked(),
                    false => attr,
                }
            }
            Kind::Text(text) => self.text_attr(node.parent, text)?,
            Kind::Control(control) => {
                let stats = self.control_stat(node.parent, control)?;
                let (stat, dir) = stats.ok_or_else(|| gone(&node))?;
                self.inodes.see(ino, Seen::of(&stat));
                control_attr(&stat, (node.parent, &dir), control)
            }
        };
        Ok(attr.at(ino))
    }

    /// The kernel forgets an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// Creates a chunk or an ordinary file, of no bytes.
    ///
    /// # Errors
    /// Those of [`Fs::create`].
    pub fn make_file(&self, dir: u64, name: &OsStr, mode: u32, caller: &Caller) -> Result<Attr> {
        let flags = libc::O_WRONLY | libc::O_EXCL;
        let (attr, opened) = self.create(dir, name, mode, flags, caller)?;
        // It is there: the request cannot be begun anew.
        wait::allowed(|| self.release(opened.fh))?;
        Ok(attr)
    }
}
