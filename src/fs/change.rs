//! Renaming, removing, setting attributes, making directories.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::stat::FileStat;

use super::handle::Handle;
use super::inodes::{Control, Inode, Kind, ROOT};
use super::lookup::enter;
use super::open::{attributes_of, reserved};
use super::{AllowDelete, Attr, Caller, Fs, SetAttr};
use crate::dataset;
use crate::dataset::{Dataset, Found, Incoming};
use crate::disk::paths::DATA;
use crate::disk::{Change, OsFile, StoreFile, clock};
use crate::error::{Context, Errno, Result};
use crate::store::{self, Place, Seen};

impl Fs {
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

    fn change_directory(&self, ino: u64, mut change: Change) -> Result<()> {
        let place = self.same_place(ino)?;
        let dataset = self.inodes.dataset(ino);
        let names_changed = dataset.as_ref().map(|dataset| dataset.names_changed());
        if dataset.is_some() && change.mtime.is_none() {
            // With any other change the store's directory gets the time that it is shown with: after it, the
            // store's own time tells of the last chunk no more that it came later.
            let shown = self.directory_attr(Some(ino), &place)?.mtime;
            change.mtime =
                (shown != store::mtime_system(place.stat())).then(|| clock::from_system(shown));
        }
        let directory = place.into_entry();
        if ino != ROOT {
            self.check_owner(ino, directory.stat())?;
        }
        directory.set_attributes(&change)?;
        if let Some((dataset, at)) = dataset.zip(names_changed)
            && change.mtime.is_some()
        {
            dataset.directory_time_was_set(at);
        }
        Ok(())
    }

    fn change_array(&self, node: &Inode, change: &Change) -> Result<()> {
        let shown = self.getattr(node.ino, None, 0)?;
        let shown = dataset::Attributes {
            mode: shown.mode,
            uid: shown.uid,
            gid: shown.gid,
            mtime: clock::from_system(shown.mtime),
        };
        let set = self.dataset(node.parent)?;
        set.set_array_attributes(change, &shown)
    }

    fn change_entry(&self, node: &Inode, change: &Change) -> Result<()> {
        let (dir, name) = (node.parent, &*node.name);
        if dataset::Kind::of(name) == dataset::Kind::Chunk && dir != ROOT {
            let dataset = self.dataset(dir)?;
            match dataset.find(name)? {
                Some(Found::InFlight(incoming)) => return incoming.set_attributes(change),
                Some(Found::Committed(_)) => return dataset.set_attributes(name, change),
                None => {}
            }
        }
        let place = self.same_place(dir)?;
        let entry = place.entry(name)?;
        self.check_owner(node.ino, entry.stat())?;
        entry.set_attributes(change)
    }

    fn set_len(&self, fh: u64, len: u64) -> Result<()> {
        match &*self.handles.get(fh)? {
            Handle::Chunk(chunk) => chunk.writer.set_len(len),
            Handle::File(open) => open
                .file
                .set_len(len)
                .context(|| "cannot resize the file".into()),
            _ => Err(err!(EPERM, "handle {fh} is read-only")),
        }
    }

    /// Truncation by name, not through a handle.
    fn truncate(&self, node: &Inode, len: u64) -> Result<()> {
        let (dir, name) = (node.parent, &*node.name);
        if dataset::Kind::of(name) == dataset::Kind::Chunk && dir != ROOT {
            let dataset = self.dataset(dir)?;
            match dataset.find(name)? {
                Some(Found::InFlight(incoming)) if len == 0 && incoming.face().len == 0 => {
                    return Ok(());
                }
                Some(Found::InFlight(_)) => {
                    return Err(err!(
                        EBUSY,
                        "{} is being written by another handle",
                        name.display()
                    ));
                }
                Some(Found::Committed(_)) => {
                    return self.reported(&dataset, name, dataset.truncate_committed(name, len));
                }
                None if len > 0 => {
                    return Err(err!(
                        EPERM,
                        "{} is empty and waits for its bytes",
                        name.display()
                    ));
                }
                None => {}
            }
        }
        let (file, stat) = self.same_place(dir)?.open_file(name, true)?;
        self.check(node.ino, &stat)?;
        file.set_len(len)
            .context(|| "cannot resize the file".into())
    }

    /// A refusal that concerns no chunk in flight goes to the log from here.
    fn reported<T>(&self, dataset: &Dataset, name: &OsStr, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            dataset.report(name, &error);
            error.logged()
        })
    }

    pub(super) fn dir_name(&self, name: &OsStr) -> Result<()> {
        match dataset::Kind::of(name) {
            dataset::Kind::Ordinary => Ok(()),
            dataset::Kind::Chunk => Err(err!(
                EPERM,
                "{} is a name for a chunk, not for a directory",
                name.display()
            )),
            _ => Err(reserved(name)),
        }
    }

    /// Removes a directory that has neither rows nor files.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `EPERM` for npyfs's own, and those of the store.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let dir = self.directory(parent)?.ino;
        self.writable()?;
        if dataset::Kind::of(name) == dataset::Kind::Control {
            return Err(reserved(name));
        }
        let place = self.place(dir)?;
        let stat = self.found(&place, name)?;
        if !store::is_dir(&stat) {
            let path = place.path().join(name);
            return Err(err!(ENOTDIR, "{} is not a directory", path.display()));
        }
        let ino = self.check_name(dir, name, &stat)?;
        self.store
            .remove_dir(&place, name, &self.same_place(ino)?)?;
        self.inodes.removed(dir, name);
        Ok(())
    }

    fn found(&self, place: &Place<'_>, name: &OsStr) -> Result<FileStat> {
        place
            .find(name)?
            .ok_or_else(|| store::not_found(&place.path().join(name)))
    }

    /// As [`Fs::check_owner`], of what a name stands for; answers its number.
    fn check_name(&self, dir: u64, name: &OsStr, stat: &FileStat) -> Result<u64> {
        let ino = self.inodes.number(dir, name).ok_or_else(
            // The kernel looks up what it removes or renames.
            || err!(ESTALE, "{} was not looked up", name.display()),
        )?;
        let waits = store::is_file(stat) && stat.st_size == 0;
        if waits
            && dataset::Kind::of(name) == dataset::Kind::Chunk
            && self.inodes.seen(ino).is_none()
        {
            // A chunk of no bytes became the empty file that it is when its last handle ended.
            self.inodes.became_file(dir, name, Seen::of(stat));
        }
        self.check_owner(ino, stat)?;
        Ok(ino)
    }

    /// Removes an ordinary file.
    fn remove_file(&self, dir: u64, name: &OsStr) -> Result<()> {
        let place = self.place(dir)?;
        self.check_name(dir, name, &self.found(&place, name)?)?;
        place.remove(name)
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
            let place = self.same_place(node.parent)?;
            let missing = || store::not_found(&place.path().join(name));
            let rejected = enter(&place, kept.way())?.ok_or_else(missing)?;
            return rejected.remove(name);
        }
        let dir = self.directory(parent)?.ino;
        let deletes = self.options.allow_delete;
        match dataset::Kind::of(name) {
            dataset::Kind::Chunk if dir != ROOT => {
                let dataset = self.dataset(dir)?;
                match dataset.find(name)? {
                    Some(Found::InFlight(incoming)) => dataset.abort(&incoming)?,
                    Some(Found::Committed(_)) if deletes != AllowDelete::Nothing => {
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
            }
            dataset::Kind::Chunk | dataset::Kind::Ordinary => {
                self.remove_file(dir, name)?;
            }
            dataset::Kind::Array if dir != ROOT && deletes != AllowDelete::Nothing => {
                let dataset = self.dataset(dir)?;
                let removed = match deletes {
                    AllowDelete::All => dataset.remove_array(),
                    _ => Err(err!(
                        EPERM,
                        "{} holds all rows: only where the mount says allow_delete=all it can be removed",
                        name.display()
                    )),
                };
                self.reported(&dataset, name, removed)?;
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
            let placeholder = stat.st_size == 0 && is_chunk(name);
            if !placeholder {
                may_read(caller, &from.path().join(name), &stat)?;
            }
            let open = self.written_back(ino)?;
            let held = self.commit_file((&from, name, ino), to_dir, newname, placeholder)?;
            for handle in &open {
                if let Handle::File(open) = &**handle {
                    open.committed.store(!placeholder, Ordering::Release);
                }
            }
            if !placeholder {
                self.inodes.became_chunk(ino);
                // It has another number now, by which its descriptors are found.
                if let Some(kernel) = self.kernel.get()
                    && let Err(error) = kernel.forget_attributes(ino)
                {
                    log::debug!(
                        "the kernel keeps the number of {}: {error}",
                        newname.display()
                    );
                }
            }
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

    /// Renames a directory or an ordinary file in the store.
    fn move_entry(
        &self,
        (from, from_dir, name): (&Place<'_>, u64, &OsStr),
        to_dir: u64,
        newname: &OsStr,
        no_replace: bool,
    ) -> Result<()> {
        let other = match from_dir == to_dir {
            true => None,
            false => Some(self.place(to_dir)?),
        };
        let to = other.as_ref().unwrap_or(from);
        let replaced = to.find(newname)?.filter(|_| !no_replace);
        if let Some(stat) = &replaced {
            self.check_name(to_dir, newname, stat)?;
        }
        let renamed = self
            .store
            .rename((from, name), (to, newname), replaced.is_some());
        match renamed {
            Err(error) if error.errno() == Errno::EEXIST && !no_replace => Err(to.taken(newname)?),
            renamed => renamed,
        }
    }

    /// The open files of a name, with all that their mappings have changed in the store. Runs on a
    /// worker thread: the kernel's writes come to the others meanwhile.
    fn written_back(&self, ino: u64) -> Result<Vec<Arc<Handle>>> {
        let open = self.handles.files_of(ino);
        let mappable =
            |handle: &Arc<Handle>| matches!(&**handle, Handle::File(open) if open.mappable);
        if open.iter().any(mappable)
            && let Some(kernel) = self.kernel.get()
        {
            kernel
                .write_back(ino)
                .context(|| "cannot have the file's mappings written back".into())?;
        }
        Ok(open)
    }

    fn lookup_exists(&self, dir: u64, name: &OsStr) -> Result<bool> {
        let is_chunk = dataset::Kind::of(name) == dataset::Kind::Chunk;
        let found = self.entry_attr(dir, name, is_chunk, Self::place)?;
        Ok(found.is_some())
    }

    fn rename_chunk(
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
    fn admit_empty(&self, dir: u64, name: &OsStr) -> Result<()> {
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

    /// An ordinary file gets a chunk's name, which commits it. `true`: it was committed before, and
    /// held the same.
    fn commit_file(
        &self,
        (from, name, ino): (&Place<'_>, &OsStr, u64),
        to_dir: u64,
        newname: &OsStr,
        placeholder: bool,
    ) -> Result<bool> {
        let dataset = self.dataset(to_dir)?;
        let to = self.place(to_dir)?;
        let mut paused = None;
        let committed = match dataset.find(newname)? {
            Some(Found::InFlight(incoming))
                if placeholder && dataset.place_as_empty_file(&incoming)? =>
            {
                false
            }
            // Taken over only by what is a chunk: a rename that fails changes nothing.
            Some(Found::InFlight(incoming)) if incoming.may_be_replaced() && !placeholder => {
                paused = Some(incoming);
                false
            }
            Some(Found::InFlight(_)) => {
                return Err(err!(
                    EBUSY,
                    "{} is being written by another handle",
                    newname.display()
                ));
            }
            Some(Found::Committed(_)) => !dataset.reuses_names(),
            None => false,
        };
        if !committed {
            let there = to.find(newname)?;
            if let Some(there) = there
                && there.st_size > 0
            {
                return Err(err!(
                    EEXIST,
                    "{} is a file that was never committed",
                    newname.display()
                ));
            }
            if placeholder {
                let replaced = there.filter(store::is_file);
                if let Some(stat) = &replaced {
                    self.check_name(to_dir, newname, stat)?;
                }
                let renamed = self
                    .store
                    .rename((from, name), (&to, newname), replaced.is_some());
                return renamed.map(|()| false);
            }
        }
        let (file, stat) = from.open_file(name, false)?;
        self.check(ino, &stat)?;
        let blob = OsFile::new(file);
        let appended = if committed {
            dataset.compare_blob(newname, &blob)
        } else {
            append(&dataset, newname, &blob, &stat)
        };
        self.reported(&dataset, newname, appended)?;
        if let Some(incoming) = paused {
            dataset.supersede(&incoming);
        }
        // Unless another has come to its name while it was read.
        let removed = from.find(name).and_then(|now| match now {
            Some(now) if Seen::of(&now).is_inode_of(&Seen::of(&stat)) => from.remove(name),
            _ => Ok(()),
        });
        if let Err(error) = removed {
            log::warn!(
                "{} is committed as {}: {error}",
                from.path().join(name).display(),
                newname.display()
            );
        }
        Ok(committed)
    }
}

/// Whether the caller may read a file that is about to become rows, which others read. The kernel
/// has not asked: to rename a file one need not be able to read it.
fn may_read(caller: &Caller, path: &Path, stat: &FileStat) -> Result<()> {
    // Its owner may give that permission at any time.
    let class = if caller.uid == 0 || caller.uid == stat.st_uid {
        return Ok(());
    } else if caller.is_in(stat.st_gid) {
        0o040
    } else {
        0o004
    };
    if stat.st_mode & class == 0 {
        return Err(err!(
            EACCES,
            "user {} may not read {}, whose mode is {:o}",
            caller.uid,
            path.display(),
            stat.st_mode & 0o7777
        ));
    }
    Ok(())
}

/// Whether a chunk in flight is no more than an empty file.
fn waits_for_bytes(incoming: &Incoming) -> bool {
    incoming.face().len == 0 && incoming.may_be_replaced()
}

fn append(dataset: &Dataset, name: &OsStr, blob: &dyn StoreFile, stat: &FileStat) -> Result<()> {
    dataset
        .append_blob(name, blob, attributes_of(stat))
        .map_err(|error| match error.errno() {
            Errno::EINVAL => error.with_errno(Errno::EBADMSG),
            _ => error,
        })
}
