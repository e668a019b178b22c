//! What is under `.npyfs`: found, listed, opened, removed. The texts among it are in `texts`.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::sys::stat::FileStat;

use super::attr::control_attr;
use super::control::{self, Control, GeneratedFile, Kept, enter};
use super::dir::listed;
use super::handle::{Handle, Names, OpenFile};
use super::inodes::{Inode, ROOT};
use super::telling::LateLog;
use super::{Attr, Fs, Mode, Opened, numbers};
use crate::dataset;
use crate::disk::paths::CONTROL;
use crate::error::Result;
use crate::store::{self, Seen};

impl Fs {
    /// Removes a file of those that are kept.
    pub(super) fn remove_kept(&self, node: &Inode, kept: Kept, name: &OsStr) -> Result<()> {
        let place = self.same_place(node.parent)?;
        let missing = || store::not_found(&place.path().join(name));
        let within = enter(&place, kept.way())?.ok_or_else(missing)?;
        within.remove(name)
    }

    pub(super) fn open_control(&self, node: &Inode, control: &Control) -> Result<Opened> {
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

    pub(super) fn open_stored(
        &self,
        node: &Inode,
        control: &Control,
    ) -> Result<Option<std::fs::File>> {
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

    pub(super) fn lookup_control(
        &self,
        dir: &Inode,
        control: &Control,
        name: &OsStr,
    ) -> Result<Attr> {
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

    pub(super) fn control_entry(&self, dir: u64, control: &Control) -> Result<Option<Attr>> {
        let Some((stat, dir_stat)) = self.control_stat(dir, control)? else {
            return Ok(None);
        };
        let node = self.inodes.control(dir, control, Seen::of(&stat));
        let attr = control_attr(&stat, (dir, &dir_stat), control);
        Ok(Some(attr.at(node)))
    }

    /// What a control file is in the store, or for texts the dataset's directory itself; and that
    /// directory.
    pub(super) fn control_stat(
        &self,
        dir: u64,
        control: &Control,
    ) -> Result<Option<(FileStat, FileStat)>> {
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

    /// Of something in the `.npyfs` of `dir`.
    pub(super) fn control_names(&self, dir: u64, control: &Control) -> Result<Names> {
        let place = self.same_place(dir)?;
        let number = |control: &Control| numbers::of_control(place.stat(), control);
        let mut others = Vec::new();
        if let Control::Kept(kept) = control {
            others.extend([listed(".", true, number(control))]);
            others.extend([listed("..", true, number(&Control::Dir))]);
            let mut files = match enter(&place, kept.way())? {
                Some(directory) => directory.list()?,
                None => Vec::new(),
            };
            // Newest first.
            files.sort_by(|a, b| b.cmp(a));
            others.extend(files);
        } else {
            others.extend([listed(".", true, number(control))]);
            others.extend([listed("..", true, place.stat().st_ino)]);
            let at_root = dir == ROOT;
            for &(name, is_dir) in control::names(at_root) {
                if let Some(control) = control::named(OsStr::new(name), at_root) {
                    others.push(listed(name, is_dir, number(&control)));
                }
            }
        }
        Ok(Names {
            others,
            ..Names::default()
        })
    }
}
