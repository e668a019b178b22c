//! Names and attributes.

use std::ffi::OsStr;

use nix::sys::stat::FileStat;

use super::attr::{chunk_attr, control_attr, file_attr, in_flight_attr, view_attr};
use super::handle::Handle;
use super::inodes::{Control, Inode, Kept, Kind, ROOT};
use super::{Attr, Fs, control, numbers};
use crate::array::View;
use crate::array::view::Version;
use crate::dataset;
use crate::dataset::{Dataset, Found};
use crate::disk::clock;
use crate::disk::paths::{CONTROL, DATA};
use crate::error::{Context, Errno, Result};
use crate::store::{Place, Seen};

impl Fs {
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

    fn view_entry(
        &self,
        dir: u64,
        name: &OsStr,
        view: View,
        dataset: &Dataset,
        thread: u32,
    ) -> Result<Attr> {
        let set = dataset.array_attributes();
        let attr = view_attr(&view.version(), name, self.same_place(dir)?.stat(), set);
        Ok(attr.at(self.inodes.version(dir, name, view, thread)))
    }

    fn view_attr(&self, dir: u64, name: &OsStr, view: &Version) -> Result<Attr> {
        let set = match self.dataset(dir) {
            Ok(dataset) => dataset.array_attributes(),
            // It is open as it was; what was set of it is with the array that is there now.
            Err(error) => {
                log::debug!("{}: {error}", name.display());
                None
            }
        };
        Ok(view_attr(view, name, self.same_place(dir)?.stat(), set))
    }

    /// A directory as its chunks have changed it, where they are known. It has the number `ino`, if any.
    pub(super) fn directory_attr(&self, ino: Option<u64>, place: &Place<'_>) -> Result<Attr> {
        let dataset = ino.and_then(|ino| self.inodes.dataset(ino));
        // The kernel asks after each chunk that is created: as little as possible is looked at.
        let has_control = dataset.as_ref().is_some_and(|dataset| dataset.is_owned());
        let mut attr = file_attr(place.stat());
        attr.nlink = place.links(has_control)?;
        if let Some(dataset) = dataset {
            let times = (
                clock::from_system(attr.mtime),
                clock::from_system(attr.ctime),
            );
            let (mtime, ctime) = dataset.directory_times(times);
            attr.mtime = clock::to_system(mtime);
            attr.ctime = clock::to_system(ctime);
        }
        Ok(attr)
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
            attr = self.directory_attr(self.inodes.number(dir, name), &within)?;
        }
        Ok(Some((attr, Some(Seen::of(&stat)))))
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

    fn entry_node_attr(&self, node: &Inode) -> Result<Attr> {
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
    fn attr_in_place(&self, node: &Inode) -> Result<Option<Attr>> {
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

    fn lookup_control(&self, dir: &Inode, control: &Control, name: &OsStr) -> Result<Attr> {
        let missing = || err!(ENOENT, "{CONTROL}/{} does not exist", name.display());
        let found = match control {
            Control::Dir => control::named(name, dir.parent == ROOT).ok_or_else(missing)?,
            &Control::Kept(kept) => Control::KeptFile(kept, name.into()),
            _ => return Err(err!(ENOTDIR, "not a directory")),
        };
        if let Some(text) = self.text(dir.parent, &found)? {
            return self.text_entry(dir.parent, text);
        }
        self.control_entry(dir.parent, &found)?.ok_or_else(missing)
    }

    fn control_entry(&self, dir: u64, control: &Control) -> Result<Option<Attr>> {
        let Some((stat, dir_stat)) = self.control_stat(dir, control)? else {
            return Ok(None);
        };
        let node = self.inodes.control(dir, control, Seen::of(&stat));
        let attr = control_attr(&stat, (dir, &dir_stat), control);
        Ok(Some(attr.at(node)))
    }

    /// What a control file is in the store, or for texts the dataset's directory itself; and that
    /// directory.
    fn control_stat(&self, dir: u64, control: &Control) -> Result<Option<(FileStat, FileStat)>> {
        let place = self.same_place(dir)?;
        let stored = match control.stored() {
            Some((within, name)) => match enter(&place, within)? {
                Some(within) => within.find(name)?,
                None => None,
            },
            None => None,
        };
        let dir = *place.stat();
        Ok(match stored {
            // What was never needed reads as empty.
            None if !matches!(control, Control::KeptFile(..)) => Some((dir, dir)),
            stored => stored.map(|stat| (stat, dir)),
        })
    }

    /// The kernel forgets an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }
}

impl Control {
    /// Where it is stored: the directories to it, from the dataset's, and its name.
    pub(super) fn stored(&self) -> Option<(&'static [&'static str], &OsStr)> {
        match self {
            Control::Log => Some((&[CONTROL], OsStr::new("log"))),
            Control::Kept(kept) => Some((&kept.way()[..1], OsStr::new(kept.way()[1]))),
            Control::KeptFile(kept, name) => Some((kept.way(), name)),
            Control::Dir
            | Control::Status
            | Control::Chunks
            | Control::Daemon
            | Control::Losses => None,
        }
    }
}

impl Kept {
    /// The way to it from a dataset's directory.
    pub(super) fn way(self) -> &'static [&'static str; 2] {
        match self {
            Kept::Rejected => &[CONTROL, "rejected"],
            Kept::Rescued => &[CONTROL, "rescued"],
        }
    }
}

/// A directory within another; `None` where it is missing.
pub(super) fn enter<'a>(place: &Place<'a>, names: &[&str]) -> Result<Option<Place<'a>>> {
    let mut names = names.iter().map(OsStr::new);
    let Some(first) = names.next() else {
        return Ok(None);
    };
    let mut within = place.enter(first)?;
    for name in names {
        within = match within {
            Some(within) => within.enter(name)?,
            None => return Ok(None),
        };
    }
    Ok(within)
}

fn gone(node: &Inode) -> crate::Error {
    err!(ESTALE, "{} is gone", node.name.display())
}

/// Whether a name is one of the array's own.
pub(super) fn is_array(name: &OsStr) -> bool {
    name == DATA || matches!(dataset::Kind::of(name), dataset::Kind::Slice { .. })
}
