//! Renaming, removing, setting attributes, making directories.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handle::{Chunk, Handle};
use super::node::{Control, Kind, ROOT};
use super::open::{attributes_of, own_name};
use super::{Attr, Caller, Fs, SetAttr};
use crate::dataset::disk::{Blob, DiskFile};
use crate::dataset::{self, Change, Dataset, Found, Writing, clock};
use crate::error::{Context, Errno, Result};
use crate::store::{self, Maker};

impl Fs {
    /// Sets attributes. The size of a committed chunk stays what it is.
    ///
    /// # Errors
    /// `EPERM` for what is npyfs's own and for the size of committed chunks, and those of the
    /// store.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        self.writable()?;
        let node = self.nodes.get(ino)?;
        match &node.kind {
            Kind::Array(_) => return Err(own_name(&node.name)),
            Kind::Control(_) => return Err(err!(EPERM, ".npyfs is npyfs's own")),
            Kind::Dir | Kind::Entry => {}
        }
        if let Some(size) = set.size {
            match set.fh {
                Some(fh) => self.set_len(fh, size)?,
                None => self.truncate(node.parent, &node.name, size)?,
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
                self.store.set_attributes(&self.nodes.path(ino)?, &change)?;
            } else if !node.gone {
                self.change_entry(node.parent, &node.name, &change)?;
            }
        }
        // It is no array: who is told does not matter.
        self.getattr(ino, 0)
    }

    fn change_entry(&self, dir: u64, name: &OsStr, change: &Change) -> Result<()> {
        if dataset::Kind::of(name) == dataset::Kind::Chunk && dir != ROOT {
            let dataset = self.dataset(dir)?;
            match dataset.find(name)? {
                Some(Found::InFlight(incoming)) => return incoming.set_attributes(change),
                Some(Found::Committed(_)) => return dataset.set_attributes(name, change),
                None => {}
            }
        }
        self.store.set_attributes(&self.path(dir, name)?, change)
    }

    fn set_len(&self, fh: u64, len: u64) -> Result<()> {
        match &*self.handles.get(fh)? {
            Handle::Chunk(Chunk { writing, .. }) => match writing {
                Writing::New(incoming) => incoming.set_len(len),
                Writing::Again(rewrite) => rewrite.set_len(len),
            },
            Handle::File(open) => open
                .file
                .set_len(len)
                .context(|| "cannot resize the file".into()),
            _ => Err(err!(EPERM, "handle {fh} is read-only")),
        }
    }

    /// Truncation by name, not through a handle.
    fn truncate(&self, dir: u64, name: &OsStr, len: u64) -> Result<()> {
        if dataset::Kind::of(name) == dataset::Kind::Chunk && dir != ROOT {
            let dataset = self.dataset(dir)?;
            match dataset.find(name)? {
                Some(Found::InFlight(_)) => {
                    return Err(err!(
                        EBUSY,
                        "{} is being written by somebody else",
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
        self.store
            .open_file(&self.path(dir, name)?, true, false)?
            .set_len(len)
            .context(|| "cannot resize the file".into())
    }

    /// A refusal that is nobody's chunk in flight goes to the log from here.
    fn reported<T>(&self, dataset: &Dataset, name: &OsStr, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            dataset.report(name, error);
        }
        result
    }

    /// Makes a directory: a dataset.
    ///
    /// # Errors
    /// `EPERM` for a chunk's name or npyfs's own, and those of the store.
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, caller: &Caller) -> Result<Attr> {
        let dir = self.directory(parent)?.ino;
        self.writable()?;
        self.dir_name(name)?;
        let maker = Maker {
            mode,
            uid: caller.uid,
            gid: caller.gid,
        };
        self.store.make_dir(&self.path(dir, name)?, &maker)?;
        self.lookup(dir, name, caller.pid)
    }

    fn dir_name(&self, name: &OsStr) -> Result<()> {
        match dataset::Kind::of(name) {
            dataset::Kind::Ordinary => Ok(()),
            dataset::Kind::Chunk => Err(err!(
                EPERM,
                "{} is a name for a chunk, not for a directory",
                name.display()
            )),
            _ => Err(own_name(name)),
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
            return Err(own_name(name));
        }
        let path = self.path(dir, name)?;
        match self.store.stat(&path)? {
            None => return Err(store::not_found(&path)),
            Some(stat) if !store::is_dir(&stat) => {
                return Err(err!(ENOTDIR, "{} is not a directory", path.display()));
            }
            Some(_) => {}
        }
        self.store.remove_dir(&path)?;
        self.nodes.removed(dir, name);
        Ok(())
    }

    /// Removes an ordinary file, ends a chunk in flight, or removes a rejected chunk's bytes; where
    /// the mount allows it, forgets a chunk's name or removes the array.
    ///
    /// # Errors
    /// `EPERM` for npyfs's own and, unless the mount allows it, for committed chunks and the array;
    /// and those of the store.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.writable()?;
        let node = self.nodes.get(parent)?;
        if let Kind::Control(Control::Rejected) = node.kind {
            let stored = Control::RejectedFile(name.into()).stored();
            let path = self
                .nodes
                .path(node.parent)?
                .join(stored.unwrap_or_default());
            return self.store.remove(&path);
        }
        let dir = self.directory(parent)?.ino;
        match dataset::Kind::of(name) {
            dataset::Kind::Chunk if dir != ROOT => {
                let dataset = self.dataset(dir)?;
                match dataset.find(name)? {
                    Some(Found::InFlight(incoming)) => dataset.abort(&incoming)?,
                    Some(Found::Committed(_)) if self.options.allow_delete => {
                        dataset.forget(name)?;
                    }
                    Some(Found::Committed(_)) => {
                        let reason = err!(
                            EPERM,
                            "{} is committed, and its rows are part of data.npy",
                            name.display()
                        );
                        return self.reported(&dataset, name, Err(reason));
                    }
                    None => self.store.remove(&self.path(dir, name)?)?,
                }
            }
            dataset::Kind::Chunk | dataset::Kind::Ordinary => {
                self.store.remove(&self.path(dir, name)?)?;
            }
            dataset::Kind::Array if dir != ROOT && self.options.allow_delete => {
                self.dataset(dir)?.remove_array()?;
            }
            _ => return Err(own_name(name)),
        }
        self.nodes.removed(dir, name);
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
        let (from, to) = (self.path(from_dir, name)?, self.path(to_dir, newname)?);
        if no_replace && self.lookup_exists(to_dir, newname)? {
            return Err(err!(EEXIST, "{} is there already", newname.display()));
        }
        let is_chunk = |name| dataset::Kind::of(name) == dataset::Kind::Chunk;
        if matches!(
            dataset::Kind::of(name),
            dataset::Kind::Array | dataset::Kind::Control | dataset::Kind::Slice { .. }
        ) {
            return Err(own_name(name));
        }
        if is_chunk(name) && from_dir != ROOT {
            let dataset = self.dataset(from_dir)?;
            match dataset.find(name)? {
                Some(Found::InFlight(_)) => {
                    return Err(err!(EBUSY, "{} is still being written", name.display()));
                }
                Some(Found::Committed(_)) => {
                    let renamed = self.rename_chunk(&dataset, from_dir, name, to_dir, newname);
                    self.reported(&dataset, name, renamed)?;
                    self.nodes.renamed(from_dir, name, to_dir, newname);
                    return Ok(());
                }
                None => {}
            }
        }
        let stat = self
            .store
            .stat(&from)?
            .ok_or_else(|| store::not_found(&from))?;
        if store::is_dir(&stat) {
            self.dir_name(newname)?;
            self.store.rename(&from, &to, no_replace)?;
        } else if is_chunk(newname) {
            let placeholder = stat.st_size == 0 && is_chunk(name);
            let open = self.written_back(from_dir, name)?;
            let held = self.commit_file(&from, &stat, to_dir, newname, placeholder)?;
            for handle in &open {
                if let Handle::File(open) = &**handle {
                    open.committed.store(!placeholder, Ordering::Release);
                }
            }
            if held {
                self.nodes.joined(from_dir, name, to_dir, newname);
                return Ok(());
            }
        } else {
            self.dir_name(newname)?;
            self.store.rename(&from, &to, no_replace)?;
        }
        self.nodes.renamed(from_dir, name, to_dir, newname);
        Ok(())
    }

    /// The open files of a name, with all that their mappings have changed in the store. Runs on a
    /// worker thread: the kernel's writes come to the others meanwhile.
    fn written_back(&self, dir: u64, name: &OsStr) -> Result<Vec<Arc<Handle>>> {
        let Some(ino) = self.nodes.number(dir, name) else {
            return Ok(Vec::new());
        };
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
        Ok(self.entry_attr(dir, name, is_chunk)?.is_some())
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
                "{} is committed, and can only have another chunk's name in the same dataset, not {}",
                name.display(),
                newname.display()
            ));
        }
        if self.store.stat(&self.path(to_dir, newname)?)?.is_some() {
            return Err(err!(
                EEXIST,
                "{} is a file that was never committed",
                newname.display()
            ));
        }
        dataset.rename(name, newname)
    }

    /// An ordinary file gets a chunk's name, which commits it. `true`: it was committed before, and
    /// held the same.
    fn commit_file(
        &self,
        from: &Path,
        stat: &nix::sys::stat::FileStat,
        to_dir: u64,
        newname: &OsStr,
        placeholder: bool,
    ) -> Result<bool> {
        let dataset = self.dataset(to_dir)?;
        let to = self.path(to_dir, newname)?;
        let mut paused = None;
        let committed = match dataset.find(newname)? {
            // Taken over only by what is a chunk: a rename that fails changes nothing.
            Some(Found::InFlight(incoming)) if incoming.is_paused() && !placeholder => {
                paused = Some(incoming);
                false
            }
            Some(Found::InFlight(_)) => {
                return Err(err!(
                    EBUSY,
                    "{} is being written by somebody else",
                    newname.display()
                ));
            }
            Some(Found::Committed(_)) => !dataset.reuses_names(),
            None => false,
        };
        if !committed {
            if let Some(there) = self.store.stat(&to)?
                && there.st_size > 0
            {
                return Err(err!(
                    EEXIST,
                    "{} is a file that was never committed",
                    newname.display()
                ));
            }
            if placeholder {
                self.store.rename(from, &to, false)?;
                return Ok(false);
            }
        }
        let blob = DiskFile::new(self.store.open_file(from, false, false)?);
        let appended = if committed {
            dataset.compare_blob(newname, &blob)
        } else {
            append(&dataset, newname, &blob, stat)
        };
        self.reported(&dataset, newname, appended)?;
        if let Some(incoming) = paused {
            dataset.supersede(&incoming);
        }
        if let Err(error) = self.store.remove(from) {
            log::warn!(
                "{} is committed as {}: {error}",
                from.display(),
                newname.display()
            );
        }
        Ok(committed)
    }

    /// Whether a rename has a chunk to copy, or one that holds the writer to wait for.
    pub fn rename_is_slow(&self, name: &OsStr, newname: &OsStr) -> bool {
        let is_chunk = |name| dataset::Kind::of(name) == dataset::Kind::Chunk;
        is_chunk(newname) || is_chunk(name)
    }

    /// Whether setting attributes has to wait for a lock that is held for long.
    pub fn setattr_is_slow(&self, ino: u64, set: &SetAttr) -> bool {
        let Ok(node) = self.nodes.get(ino) else {
            return false;
        };
        let resizes = set
            .size
            .zip(set.fh)
            .is_some_and(|(size, fh)| self.write_is_slow(fh, size));
        let waits = matches!(node.kind, Kind::Entry)
            && node.parent != ROOT
            && self
                .dataset(node.parent)
                .is_ok_and(|dataset| dataset.is_busy());
        resizes || waits
    }
}

fn append(
    dataset: &Dataset,
    name: &OsStr,
    blob: &dyn Blob,
    stat: &nix::sys::stat::FileStat,
) -> Result<()> {
    dataset
        .append_blob(name, blob, attributes_of(stat))
        .map_err(|error| match error.errno() {
            Errno::EINVAL => error.with_errno(Errno::EBADMSG),
            _ => error,
        })
}
