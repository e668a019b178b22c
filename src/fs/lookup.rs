//! Names and attributes.

use std::ffi::OsStr;
use std::time::SystemTime;

use nix::sys::stat::FileStat;

use super::control;
use super::handle::Handle;
use super::inodes::{Control, Inode, Kept, Kind, ROOT, shown_number};
use super::{Attr, Fs, NEVER, READ_SIZE, TTL, WRITE_SIZE};
use crate::array::View;
use crate::array::view::Version;
use crate::dataset;
use crate::dataset::Found;
use crate::disk::paths::{CONTROL, DATA};
use crate::disk::{Face, clock};
use crate::error::{Context, Errno, Result};
use crate::store::{self, Place, Seen};

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
                let view = self.dataset(dir)?.snapshot()?.ok_or_else(missing)?;
                self.view_entry(dir, name, view, thread)
            }
            dataset::Kind::Slice { start, stop } if dir != ROOT => {
                let view = self.dataset(dir)?.slice(start, stop)?.ok_or_else(missing)?;
                self.view_entry(dir, name, view, thread)
            }
            dataset::Kind::Array | dataset::Kind::Slice { .. } => Err(missing()),
            kind => {
                let is_chunk = kind == dataset::Kind::Chunk;
                let found = self.entry_attr(dir, name, is_chunk, Self::place)?;
                let (attr, seen) = found.ok_or_else(missing)?;
                let node = self.name_node(dir, name, attr.is_dir, seen);
                Ok(attr.numbered(node))
            }
        }
    }

    fn view_entry(&self, dir: u64, name: &OsStr, view: View, thread: u32) -> Result<Attr> {
        let mut attr = self.view_attr(dir, &view.version())?;
        attr.node = self.inodes.version(dir, name, view, thread);
        attr.ino = shown_number(dir, name);
        Ok(attr)
    }

    /// A version of the array, or a slice: read-only, owned by the owner of the dataset.
    fn view_attr(&self, dir: u64, view: &Version) -> Result<Attr> {
        let place = self.same_place(dir)?;
        let stat = place.stat();
        Ok(Attr {
            node: 0,
            ino: 0,
            is_dir: false,
            size: view.len(),
            blocks: view.len().div_ceil(512),
            mtime: clock::to_system(view.modified()),
            mode: readable_like(stat.st_mode),
            nlink: 1,
            uid: stat.st_uid,
            gid: stat.st_gid,
            blksize: READ_SIZE,
            attr_ttl: TTL,
            entry_ttl: NEVER,
        })
    }

    /// An entry's attributes but for its number, and what was seen of it unless it is a chunk;
    /// `None` where nothing has the name. `place` opens the directory.
    pub(super) fn entry_attr<'a>(
        &'a self,
        dir: u64,
        name: &OsStr,
        is_chunk: bool,
        place: impl FnOnce(&'a Self, u64) -> Result<Place<'a>>,
    ) -> Result<Option<(Attr, Option<Seen>)>> {
        if is_chunk && dir != ROOT {
            match self.dataset(dir)?.find(name)? {
                Some(Found::InFlight(incoming)) => {
                    return Ok(Some((in_flight_attr(&incoming.face()), None)));
                }
                Some(Found::Committed(chunk)) => return Ok(Some((chunk_attr(&chunk), None))),
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
        let found = place(self, dir)?.find(name)?;
        Ok(found.map(|stat| (file_attr(&stat), Some(Seen::of(&stat)))))
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
            return Ok(in_flight_attr(&chunk.writer.face()).numbered(ino));
        }
        let attr = match &node.kind {
            Kind::Dir => {
                let place = self.same_place(ino)?;
                self.inodes.see(ino, Seen::of(place.stat()));
                file_attr(place.stat())
            }
            Kind::Entry => self.entry_node_attr(&node)?,
            Kind::Array(view) => self.view_attr(node.parent, view)?,
            Kind::Control(control) => {
                let stats = self.control_stat(node.parent, control)?;
                let (stat, dir) = stats.ok_or_else(|| gone(&node))?;
                self.inodes.see(ino, Seen::of(&stat));
                control_attr(&stat, &dir, control)
            }
        };
        let mut attr = attr.numbered(ino);
        if let Kind::Array(_) = node.kind {
            attr.ino = shown_number(node.parent, &node.name);
            self.inodes.tell(ino, thread);
        }
        Ok(attr)
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
            Some(Handle::Chunk(chunk)) => Ok(in_flight_attr(&chunk.writer.face())),
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
        self.control_entry(dir.parent, &found)?.ok_or_else(missing)
    }

    fn control_entry(&self, dir: u64, control: &Control) -> Result<Option<Attr>> {
        let Some((stat, dir_stat)) = self.control_stat(dir, control)? else {
            return Ok(None);
        };
        let ino = self.inodes.control(dir, control, Seen::of(&stat));
        Ok(Some(control_attr(&stat, &dir_stat, control).numbered(ino)))
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

impl Attr {
    pub(super) fn numbered(mut self, number: u64) -> Self {
        (self.node, self.ino) = (number, number);
        self
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

/// Read permission for those who have it on `mode`.
fn readable_like(mode: u32) -> u32 {
    mode & 0o444
}

pub(super) fn file_attr(stat: &FileStat) -> Attr {
    let is_dir = store::is_dir(stat);
    Attr {
        node: 0,
        ino: 0,
        is_dir,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        mtime: store::mtime_system(stat),
        mode: stat.st_mode & 0o7777,
        nlink: if is_dir { 2 } else { 1 },
        uid: stat.st_uid,
        gid: stat.st_gid,
        blksize: WRITE_SIZE,
        attr_ttl: TTL,
        entry_ttl: TTL,
    }
}

/// What was refused is its producer's; everything else is said to those who may read the dataset's
/// directory, `dir`, whosever the file is in the store.
fn control_attr(stat: &FileStat, dir: &FileStat, control: &Control) -> Attr {
    let is_dir = matches!(control, Control::Dir | Control::Kept(_));
    let mut attr = file_attr(stat);
    if !store::is_file(stat) {
        attr.size = 0;
        attr.blocks = 0;
    }
    if !matches!(control, Control::KeptFile(..)) {
        (attr.uid, attr.gid) = (dir.st_uid, dir.st_gid);
        attr.mode = match control {
            // What was refused is removed by those who may remove such a file from the dataset.
            Control::Kept(_) => dir.st_mode & 0o1777,
            Control::Dir => dir.st_mode & 0o555,
            _ => readable_like(dir.st_mode),
        };
    }
    attr.is_dir = is_dir;
    attr.nlink = if is_dir { 2 } else { 1 };
    (attr.attr_ttl, attr.entry_ttl) = (NEVER, NEVER);
    attr
}

fn chunk_attr(chunk: &dataset::Committed) -> Attr {
    let attributes = &chunk.receipt.attributes;
    Attr {
        node: 0,
        ino: 0,
        is_dir: false,
        size: chunk.view.len(),
        blocks: 0,
        mtime: clock::to_system(attributes.mtime),
        mode: attributes.mode,
        nlink: 1,
        uid: attributes.uid,
        gid: attributes.gid,
        blksize: WRITE_SIZE,
        attr_ttl: TTL,
        entry_ttl: TTL,
    }
}

pub(super) fn in_flight_attr(face: &Face) -> Attr {
    Attr {
        node: 0,
        ino: 0,
        is_dir: false,
        size: face.len,
        blocks: 0,
        mtime: face.mtime.map_or_else(SystemTime::now, clock::to_system),
        mode: face.mode,
        nlink: 1,
        uid: face.uid,
        gid: face.gid,
        blksize: WRITE_SIZE,
        // A refusal takes the name away, and the kernel is to see that at once.
        attr_ttl: NEVER,
        entry_ttl: NEVER,
    }
}

/// Whether a name is one of the array's own.
pub(super) fn is_array(name: &OsStr) -> bool {
    name == DATA || matches!(dataset::Kind::of(name), dataset::Kind::Slice { .. })
}
