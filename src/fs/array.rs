//! `data.npy` and slices of it: views that never change, each an inode of its own.

use std::ffi::OsStr;

use super::attr::view_attr;
use super::handle::Handle;
use super::inodes::Inode;
use super::{AllowDelete, Attr, Caller, Fs, Mode, Opened};
use crate::array::View;
use crate::array::view::Version;
use crate::dataset::{self, Dataset};
use crate::disk::paths::DATA;
use crate::disk::{Change, clock};
use crate::error::{Context, Errno, Result};
use crate::store::Seen;

impl Fs {
    /// Removes the array, where the mount allows that.
    pub(super) fn remove_array(&self, dir: u64, name: &OsStr) -> Result<()> {
        let dataset = self.dataset(dir)?;
        let removed = match self.options.allow_delete {
            AllowDelete::All => dataset.remove_array(),
            _ => Err(err!(
                EPERM,
                "{} holds all rows: only where the mount says allow_delete=all it can be removed",
                name.display()
            )),
        };
        self.reported(&dataset, name, removed)
    }

    /// Opens the version of the array, or of a slice of it, that an inode is.
    pub(super) fn open_array(&self, node: &Inode, caller: &Caller) -> Result<Opened> {
        let view = self.open_version(node.ino, caller)?;
        let mode = if view.is_backing_prefix() && is_array(&node.name) && !self.options.cached {
            Mode::Passthrough(view.clone())
        } else {
            Mode::Kept
        };
        let fh = self.handles.insert(Handle::Version(view, node.ino));
        Ok(Opened { fh, mode })
    }

    pub(super) fn open_version(&self, ino: u64, caller: &Caller) -> Result<View> {
        let (view, doubtful) = self.inodes.open_version(ino, caller.pid)?;
        if doubtful && let Some(kernel) = self.kernel.get() {
            kernel
                .forget_attributes(ino)
                .inspect_err(|_| self.inodes.close_version(ino))
                .context(|| "cannot have the kernel forget the array's size".into())?;
        }
        Ok(view)
    }

    pub(super) fn change_array(&self, node: &Inode, change: &Change) -> Result<()> {
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

    pub(super) fn view_entry(
        &self,
        dir: u64,
        name: &OsStr,
        view: View,
        dataset: &Dataset,
        thread: u32,
    ) -> Result<Attr> {
        let set = dataset.array_attributes();
        self.inodes.see_set(dir, set);
        let attr = view_attr(
            &view.version(),
            name,
            &Seen::of(self.same_place(dir)?.stat()),
            set,
        );
        Ok(attr.at(self.inodes.version(dir, name, view, thread)))
    }

    pub(super) fn view_attr(&self, dir: u64, name: &OsStr, view: &Version) -> Result<Attr> {
        // What is open is told of without its dataset, whose opening may take long.
        let set = match self.inodes.dataset(dir) {
            Some(dataset) => dataset.array_attributes(),
            None => self.inodes.seen_set(dir),
        };
        let dir = match self.same_place(dir) {
            Ok(place) => Seen::of(place.stat()),
            // It is gone, and what is open of it stays as it was.
            Err(error) if error.errno() == Errno::ESTALE => {
                return match self.inodes.seen(dir) {
                    Some(seen) => Ok(view_attr(view, name, &seen, set).unlinked()),
                    None => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        Ok(view_attr(view, name, &dir, set))
    }
}

pub(super) fn reserved(name: &OsStr) -> crate::Error {
    err!(
        EPERM,
        "{} is npyfs's own: it grows when chunks are written beside it",
        name.display()
    )
}

/// Whether a name is one of the array's own.
pub(super) fn is_array(name: &OsStr) -> bool {
    name == DATA || matches!(dataset::Kind::of(name), dataset::Kind::Slice { .. })
}
