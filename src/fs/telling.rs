//! Why a request was refused, for those who cannot see the daemon's log: a line in the log of its
//! dataset, or of the root. And that log as a file, which can be followed before it has a line.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::control::{self, Control};
use super::inodes::{Inode, Kind, ROOT};
use super::{Fs, read_file};
use crate::dataset::CONTROL;
use crate::error::{Errno, Error, Result};

/// A log that was not there when it was opened.
#[derive(Debug)]
pub(crate) struct LateLog {
    node: Inode,
    opening: Mutex<()>,
    file: OnceLock<File>,
}

impl LateLog {
    pub(super) fn new(node: Inode) -> Self {
        Self {
            node,
            opening: Mutex::default(),
            file: OnceLock::new(),
        }
    }
}

/// Whether the answer says no more than what is there, or that the kernel is to ask again.
fn is_an_answer(errno: Errno) -> bool {
    super::is_expected(errno)
        || matches!(
            errno,
            Errno::EOPNOTSUPP
                | Errno::ENOTDIR
                | Errno::EISDIR
                | Errno::ENOTEMPTY
                | Errno::ENAMETOOLONG
                | Errno::EROFS
        )
}

impl Fs {
    /// Tells the log of the dataset, or of the root, why a request for `name` in the directory `ino`, or
    /// for `ino` itself, was refused. False where that has told the same of it just now.
    pub(crate) fn report(&self, ino: u64, name: Option<&OsStr>, error: &Error) -> bool {
        if !error.is_to_be_logged() || is_an_answer(error.errno()) {
            return true;
        }
        let Ok(node) = self.inodes.get(ino) else {
            return true;
        };
        let (dir, name) = match (&node.kind, name) {
            (Kind::Dir, name) => (ino, name.unwrap_or_default().into()),
            (Kind::Control(control), name) => {
                let within = control_path(control);
                let path = name.map_or_else(|| within.clone(), |name| within.join(name));
                (node.parent, path.into_os_string())
            }
            (Kind::Text(_), _) => {
                let path = Path::new(CONTROL).join(&*node.name);
                (node.parent, path.into_os_string())
            }
            (Kind::Entry | Kind::Array(_), _) => (node.parent, (*node.name).to_owned()),
        };
        if dir == ROOT {
            return self.store.report(&name, error);
        }
        if let Some(dataset) = self.inodes.dataset(dir) {
            return dataset.report(&name, error);
        }
        // Only in the directory that the request was for: another may have its name by now.
        let place = self.same_place(dir);
        place.map_or(true, |place| self.store.report_in(&place, &name, error))
    }

    /// Tells the log of a file that was made or renamed, and which its producer may take for a chunk.
    pub(super) fn note_ordinary(&self, dir: u64, name: &OsStr) {
        let what = match name.as_bytes() {
            [b'.', ..] => return,
            [.., b'.', b'n', b'p', b'z'] => {
                "stays a plain file: the arrays in an .npz are not appended; save each as a .npy"
            }
            [.., b'.', b'n', b'p', b'y'] => return,
            [.., dot, n, p, y] if [*dot, *n, *p, *y].eq_ignore_ascii_case(b".npy") => {
                "stays a plain file: the name of a chunk ends in .npy, in lower case"
            }
            _ => return,
        };
        if dir != ROOT
            && let Ok(place) = self.same_place(dir)
        {
            self.store.note_in(&place, name, what);
        }
    }

    /// Reads a log that was not there when it was opened, and may be by now.
    pub(super) fn read_late(&self, log: &LateLog, at: u64, buffer: &mut [u8]) -> Result<usize> {
        if log.file.get().is_none() {
            let _one_at_a_time = crate::lock(&log.opening);
            if log.file.get().is_none()
                && let Some(file) = self.stored_log(&log.node)?
            {
                log.file.get_or_init(|| file);
            }
        }
        match log.file.get() {
            Some(file) => read_file(file, at, buffer),
            None => Ok(0),
        }
    }

    fn stored_log(&self, node: &Inode) -> Result<Option<File>> {
        let place = self.same_place(node.parent)?;
        let Some((within, name)) = Control::Log.stored() else {
            return Ok(None);
        };
        let is_there = match super::control::enter(&place, within)? {
            Some(within) => within.find(name)?.is_some(),
            None => false,
        };
        match is_there {
            true => Ok(Some(place.open_log()?.0)),
            false => Ok(None),
        }
    }
}

/// What a control file is called, from its dataset's directory.
pub(super) fn control_path(control: &Control) -> PathBuf {
    let mut path = PathBuf::from(CONTROL);
    if let Control::KeptFile(kept, _) = control {
        path.push(kept.way()[1]);
    }
    path.extend(control::name_of(control));
    path
}
