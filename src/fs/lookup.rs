//! Names and attributes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use nix::sys::stat::FileStat;

use super::control;
use super::handle::Handle;
use super::node::{Control, Kind, Node, ROOT, shown_number};
use super::{Attr, Fs, NEVER, READ_SIZE, TTL, WRITE_SIZE};
use crate::dataset::{self, CONTROL, DATA, Face, Found, View, clock};
use crate::error::{Context, Result};
use crate::store;

impl Fs {
    /// What a name in a directory stands for now. The answer, which is for `thread`, counts as one
    /// lookup of its inode.
    ///
    /// # Errors
    /// `ENOENT`, and those of the store.
    pub fn lookup(&self, parent: u64, name: &OsStr, thread: u32) -> Result<Attr> {
        let dir = self.nodes.get(parent)?;
        if let Kind::Control(control) = &dir.kind {
            return self.lookup_control(&dir, control, name);
        }
        let dir = self.directory(parent)?.ino;
        let missing = || err!(ENOENT, "{} does not exist", name.display());
        match dataset::Kind::of(name) {
            dataset::Kind::Control => {
                let ino = self.nodes.control(dir, &Control::Dir);
                self.control_attr(dir, ino, &Control::Dir)
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
                let attr = self.entry_attr(dir, name, kind == dataset::Kind::Chunk)?;
                let attr = attr.ok_or_else(missing)?;
                let node = self.name_node(dir, name, attr.is_dir);
                if attr.is_dir {
                    self.follow_directory(node);
                }
                Ok(attr.numbered(node))
            }
        }
    }

    /// A directory that was replaced in the store, behind our back, is another dataset.
    fn follow_directory(&self, ino: u64) {
        let Some(known) = self.nodes.dataset(ino) else {
            return;
        };
        let there = self.nodes.path(ino).map(|path| self.store.dataset(&path));
        if let Ok(Ok(dataset)) = there
            && !Arc::ptr_eq(&known, &dataset)
        {
            self.nodes.set_dataset(ino, &dataset);
        }
    }

    fn view_entry(&self, dir: u64, name: &OsStr, view: View, thread: u32) -> Result<Attr> {
        let mut attr = self.view_attr(dir, &view)?;
        attr.node = self.nodes.version(dir, name, view, thread);
        attr.ino = shown_number(dir, name);
        Ok(attr)
    }

    /// A version of the array, or a slice: read-only, owned by whoever owns the dataset.
    fn view_attr(&self, dir: u64, view: &View) -> Result<Attr> {
        let stat = self.dir_stat(dir)?;
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

    fn dir_stat(&self, dir: u64) -> Result<FileStat> {
        let path = self.nodes.path(dir)?;
        self.store
            .stat(&path)?
            .ok_or_else(|| err!(ESTALE, "{} is gone", path.display()))
    }

    /// An entry's attributes but for its number; `None` where nothing has the name.
    pub(super) fn entry_attr(
        &self,
        dir: u64,
        name: &OsStr,
        is_chunk: bool,
    ) -> Result<Option<Attr>> {
        if is_chunk && dir != ROOT {
            match self.dataset(dir)?.find(name)? {
                Some(Found::InFlight(incoming)) => {
                    return Ok(Some(in_flight_attr(&incoming.face())));
                }
                Some(Found::Committed(chunk)) => return Ok(Some(chunk_attr(&chunk))),
                None => {}
            }
        }
        Ok(self
            .store
            .stat(&self.path(dir, name)?)?
            .map(|stat| file_attr(&stat)))
    }

    /// The attributes of an inode, for `thread`.
    ///
    /// # Errors
    /// `ESTALE` where its name is gone, and those of the store.
    pub fn getattr(&self, ino: u64, thread: u32) -> Result<Attr> {
        let node = self.nodes.get(ino)?;
        let attr = match &node.kind {
            Kind::Dir => {
                let path = self.nodes.path(ino)?;
                let stat = self.store.stat(&path)?.filter(store::is_dir);
                file_attr(&stat.ok_or_else(|| gone(&node))?)
            }
            Kind::Entry => self.entry_node_attr(&node)?,
            Kind::Array(view) => self.view_attr(node.parent, view)?,
            Kind::Control(control) => self.control_attr(node.parent, ino, control)?,
        };
        let mut attr = attr.numbered(ino);
        if let Kind::Array(_) = node.kind {
            attr.ino = shown_number(node.parent, &node.name);
            self.nodes.tell(ino, thread);
        }
        Ok(attr)
    }

    fn entry_node_attr(&self, node: &Node) -> Result<Attr> {
        if node.gone {
            // An unlinked file that somebody still has open.
            return match self.handles.files_of(node.ino).first().map(|open| &**open) {
                Some(Handle::File(open)) => {
                    let stat = nix::sys::stat::fstat(&open.file);
                    Ok(file_attr(
                        &stat.context(|| "cannot look at the file".into())?,
                    ))
                }
                _ => Err(gone(node)),
            };
        }
        let is_chunk = dataset::Kind::of(&node.name) == dataset::Kind::Chunk;
        self.entry_attr(node.parent, &node.name, is_chunk)?
            .filter(|attr| !attr.is_dir)
            .ok_or_else(|| gone(node))
    }

    fn lookup_control(&self, dir: &Node, control: &Control, name: &OsStr) -> Result<Attr> {
        let missing = || err!(ENOENT, "{CONTROL}/{} does not exist", name.display());
        let found = match control {
            Control::Dir => control::named(name, dir.parent == ROOT).ok_or_else(missing)?,
            Control::Rejected => Control::RejectedFile(name.into()),
            _ => return Err(err!(ENOTDIR, "not a directory")),
        };
        self.control_stat(dir.parent, &found)?.ok_or_else(missing)?;
        let ino = self.nodes.control(dir.parent, &found);
        self.control_attr(dir.parent, ino, &found)
    }

    /// The stored file or directory behind a control file; the directory's own for texts.
    fn control_stat(&self, dir: u64, control: &Control) -> Result<Option<FileStat>> {
        let path = self.nodes.path(dir)?;
        match control.stored() {
            Some(stored) => match self.store.stat(&path.join(stored))? {
                // What was never needed reads as empty.
                None if !matches!(control, Control::RejectedFile(_)) => self.store.stat(&path),
                other => Ok(other),
            },
            None => self.store.stat(&path),
        }
    }

    fn control_attr(&self, dir: u64, ino: u64, control: &Control) -> Result<Attr> {
        let stat = self
            .control_stat(dir, control)?
            .ok_or_else(|| err!(ESTALE, "the dataset of inode {ino} is gone"))?;
        let is_dir = matches!(control, Control::Dir | Control::Rejected);
        let mut attr = file_attr(&stat);
        if !store::is_file(&stat) {
            attr.size = 0;
            attr.blocks = 0;
        }
        attr.mode = readable_like(stat.st_mode) | if is_dir { 0o111 & stat.st_mode } else { 0 };
        // What was rejected may be removed by whoever may remove a file from the dataset.
        if *control == Control::Rejected {
            attr.mode |= stat.st_mode & 0o222;
        }
        attr.is_dir = is_dir;
        attr.nlink = if is_dir { 2 } else { 1 };
        (attr.attr_ttl, attr.entry_ttl) = (NEVER, NEVER);
        Ok(attr.numbered(ino))
    }

    /// The kernel forgets an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.nodes.forget(ino, count);
    }
}

impl Attr {
    pub(super) fn numbered(mut self, number: u64) -> Self {
        (self.node, self.ino) = (number, number);
        self
    }
}

impl Control {
    /// Where it is stored, below the dataset's directory.
    pub(super) fn stored(&self) -> Option<std::path::PathBuf> {
        match self {
            Control::Log => Some(".npyfs/log".into()),
            Control::Rejected => Some(".npyfs/rejected".into()),
            Control::RejectedFile(name) => {
                Some(std::path::Path::new(".npyfs/rejected").join(&**name))
            }
            Control::Dir | Control::Status | Control::Chunks | Control::Daemon => None,
        }
    }
}

fn gone(node: &Node) -> crate::Error {
    err!(ESTALE, "{} is gone", node.name.display())
}

/// Read permission for those who have it on `mode`.
fn readable_like(mode: u32) -> u32 {
    mode & 0o444
}

fn file_attr(stat: &FileStat) -> Attr {
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
