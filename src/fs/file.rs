//! Ordinary files, and their commit by a rename to a chunk's name.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::stat::FileStat;

use super::attr::file_attr;
use super::handle::{Handle, OpenFile};
use super::inodes::Inode;
use super::{Attr, Caller, Fs, Mode, Opened};
use crate::dataset::{self, Dataset, Found};
use crate::disk::{OsFile, StoreFile};
use crate::error::{Context, Errno, Result};
use crate::store::{self, Maker, Place, Seen};

impl Fs {
    /// Commits a file by giving it a chunk's name; one of no bytes only gets the name. True where the new name
    /// had been looked up before, and goes on with the inode that it has.
    pub(super) fn commit_by_rename(
        &self,
        (from, name, ino): (&Place<'_>, &OsStr, u64),
        stat: &FileStat,
        to_dir: u64,
        newname: &OsStr,
        caller: &Caller,
    ) -> Result<bool> {
        let placeholder = stat.st_size == 0 && dataset::Kind::of(name) == dataset::Kind::Chunk;
        if !placeholder {
            may_read(caller, &from.path().join(name), stat)?;
        }
        let open = self.written_back(ino)?;
        let held = self.commit_file((from, name, ino), to_dir, newname, placeholder)?;
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
        Ok(held)
    }

    pub(super) fn open_file(
        &self,
        node: &Inode,
        flags: i32,
        write: bool,
        caller: &Caller,
    ) -> Result<Opened> {
        let (file, stat) = self.same_place(node.parent)?.open_file(&node.name, write)?;
        self.check(node.ino, &stat)?;
        if flags & libc::O_TRUNC != 0 {
            if caller.uid != 0 {
                drop_set_id_bits(&file, &stat)?;
            }
            file.set_len(0)
                .context(|| "cannot truncate the file".into())?;
        }
        Ok(self.opened_file(node.ino, file, flags))
    }

    pub(super) fn create_file(
        &self,
        dir: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
        caller: &Caller,
    ) -> Result<(Attr, Opened)> {
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

    pub(super) fn opened_file(&self, ino: u64, file: std::fs::File, flags: i32) -> Opened {
        let open = OpenFile::new(ino, file, flags);
        let fh = self.handles.insert(Handle::File(open));
        Opened {
            fh,
            mode: Mode::Cached,
        }
    }

    pub(super) fn found(&self, place: &Place<'_>, name: &OsStr) -> Result<FileStat> {
        place
            .find(name)?
            .ok_or_else(|| store::not_found(&place.path().join(name)))
    }

    /// As [`Fs::check_owner`], of what a name stands for; answers its number.
    pub(super) fn check_name(&self, dir: u64, name: &OsStr, stat: &FileStat) -> Result<u64> {
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
    pub(super) fn remove_file(&self, dir: u64, name: &OsStr) -> Result<()> {
        let place = self.place(dir)?;
        self.check_name(dir, name, &self.found(&place, name)?)?;
        place.remove(name)
    }

    /// The open files of a name, with all that their mappings have changed in the store. Runs on a
    /// worker thread: the kernel's writes come to the others meanwhile.
    pub(super) fn written_back(&self, ino: u64) -> Result<Vec<Arc<Handle>>> {
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

    /// An ordinary file gets a chunk's name, which commits it. `true`: it was committed before, and
    /// held the same.
    pub(super) fn commit_file(
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
pub(super) fn drop_set_id_bits(
    file: &std::fs::File,
    stat: &nix::sys::stat::FileStat,
) -> Result<()> {
    let bits = libc::S_ISUID | libc::S_ISGID;
    if stat.st_mode & bits == 0 {
        return Ok(());
    }
    let mode = nix::sys::stat::Mode::from_bits_truncate(stat.st_mode & 0o7777 & !bits);
    nix::sys::stat::fchmod(file, mode).context(|| "cannot change the file's mode".into())
}

/// Whether the caller may read a file that is about to become rows, which others read. The kernel
/// has not asked: to rename a file one need not be able to read it.
pub(super) fn may_read(caller: &Caller, path: &Path, stat: &FileStat) -> Result<()> {
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

pub(super) fn append(
    dataset: &Dataset,
    name: &OsStr,
    blob: &dyn StoreFile,
    stat: &FileStat,
) -> Result<()> {
    dataset
        .append_blob(name, blob, attributes_of(stat))
        .map_err(|error| match error.errno() {
            Errno::EINVAL => error.with_errno(Errno::EBADMSG),
            _ => error,
        })
}
