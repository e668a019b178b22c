//! A name that may stand for a chunk or for a file of the store: which of the two it is now.

use std::ffi::OsStr;

use super::attr::{chunk_attr, file_attr, in_flight_attr};
use super::handle::Handle;
use super::inodes::{Inode, ROOT};
use super::{Attr, Caller, Fs, Opened, numbers};
use crate::dataset::{self, Dataset, Found};
use crate::disk::Change;
use crate::error::{Context, Errno, Result};
use crate::store::{Place, Seen};

impl Fs {
    pub(super) fn open_entry(
        &self,
        node: &Inode,
        flags: i32,
        write: bool,
        caller: &Caller,
    ) -> Result<Opened> {
        let name = &node.name;
        if node.gone {
            return Err(err!(ESTALE, "{} is gone", name.display()));
        }
        let is_chunk = dataset::Kind::of(name) == dataset::Kind::Chunk;
        if is_chunk && node.parent != ROOT {
            let opened = self.open_chunk_name(node, flags, write, caller)?;
            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
        self.open_file(node, flags, write, caller)
    }

    pub(super) fn change_entry(&self, node: &Inode, change: &Change) -> Result<()> {
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

    /// Truncation by name, not through a handle.
    pub(super) fn truncate(&self, node: &Inode, len: u64) -> Result<()> {
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
    pub(super) fn reported<T>(
        &self,
        dataset: &Dataset,
        name: &OsStr,
        result: Result<T>,
    ) -> Result<T> {
        result.map_err(|error| {
            dataset.report(name, &error);
            error.logged()
        })
    }

    pub(super) fn lookup_exists(&self, dir: u64, name: &OsStr) -> Result<bool> {
        let is_chunk = dataset::Kind::of(name) == dataset::Kind::Chunk;
        let found = self.entry_attr(dir, name, is_chunk, Self::place)?;
        Ok(found.is_some())
    }

    /// An entry's attributes but for its node, and what was seen of it unless it is a chunk;
    /// `None` where nothing has the name. `place` opens the directory.
    pub(super) fn entry_attr<'a>(
        &'a self,
        dir: u64,
        name: &OsStr,
        is_chunk: bool,
        place: impl FnOnce(&'a Self, u64) -> Result<Place<'a>>,
    ) -> Result<Option<(Attr, Option<Seen>)>> {
        if is_chunk && dir != ROOT {
            let dataset = self.dataset(dir)?;
            let number = || numbers::of_chunk(&dataset, name);
            match dataset.find(name)? {
                Some(Found::InFlight(incoming)) => {
                    return Ok(Some((in_flight_attr(&incoming.face(), number()?), None)));
                }
                Some(Found::Committed(chunk)) => {
                    return Ok(Some((chunk_attr(&chunk, number()?), None)));
                }
                None => {}
            }
        }
        // Whatever is created is looked up before: the descriptor that the dataset has tells that
        // there is nothing, without a way to it.
        if let Some(dataset) = self.inodes.dataset(dir)
            && !dataset.has_entry(name)?
        {
            return Ok(None);
        }
        let place = place(self, dir)?;
        let Some(stat) = place.find(name)? else {
            return Ok(None);
        };
        let mut attr = file_attr(&stat);
        if !attr.is_dir {
            attr.ino = self.file_number(dir, name, attr.ino)?;
        } else if let Some(within) = place.enter(name)? {
            // What the kernel is told and what is remembered are of one look: another directory may have the
            // name by now, of another owner.
            attr = self.directory_attr(self.inodes.number(dir, name), &within)?;
            return Ok(Some((attr, Some(Seen::of(within.stat())))));
        }
        Ok(Some((attr, Some(Seen::of(&stat)))))
    }

    pub(super) fn entry_node_attr(&self, node: &Inode) -> Result<Attr> {
        if !node.gone
            && let Some(attr) = self.attr_in_place(node)?
        {
            return Ok(attr);
        }
        // Unlinked, refused, or no longer where it was, and still open.
        match self.handles.files_of(node.ino).first().map(|open| &**open) {
            Some(Handle::File(open)) => {
                let stat = nix::sys::stat::fstat(&open.file);
                Ok(file_attr(
                    &stat.context(|| "cannot look at the file".into())?,
                ))
            }
            Some(Handle::Chunk(chunk)) => {
                let attr = in_flight_attr(&chunk.writer.face(), chunk.number);
                Ok(attr.unlinked())
            }
            Some(Handle::View(open)) => Ok(open.attr.clone().unlinked()),
            _ => Err(gone(node)),
        }
    }

    /// `None` where the node's name stands for another file now, or for none.
    pub(super) fn attr_in_place(&self, node: &Inode) -> Result<Option<Attr>> {
        let is_chunk = dataset::Kind::of(&node.name) == dataset::Kind::Chunk;
        let (attr, now) = match self.entry_attr(node.parent, &node.name, is_chunk, Self::same_place)
        {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) if error.errno() == Errno::ESTALE => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(now) = now else {
            return Ok(Some(attr));
        };
        let seen = self.inodes.seen(node.ino);
        let is_same = seen.is_some_and(|seen| seen.is_inode_of(&now)) && !attr.is_dir;
        if is_same {
            self.inodes.see(node.ino, now);
        }
        Ok(is_same.then_some(attr))
    }
}

pub(super) fn gone(node: &Inode) -> crate::Error {
    err!(ESTALE, "{} is gone", node.name.display())
}
