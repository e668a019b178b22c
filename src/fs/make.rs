//! Making directories, and files of no bytes.

use std::ffi::OsStr;

use super::attr::file_attr;
use super::{Attr, Caller, Fs};
use crate::error::Result;
use crate::store::{Maker, Seen};

impl Fs {
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
        let stat = self.place(dir)?.make_dir(name, &maker)?;
        let node = self.name_node(dir, name, true, Some(Seen::of(&stat)));
        Ok(file_attr(&stat).at(node))
    }

    /// Creates a chunk or an ordinary file, of no bytes.
    ///
    /// # Errors
    /// Those of [`Fs::create`].
    pub fn make_file(&self, dir: u64, name: &OsStr, mode: u32, caller: &Caller) -> Result<Attr> {
        let flags = libc::O_WRONLY | libc::O_EXCL;
        let (attr, opened) = self.create(dir, name, mode, flags, caller)?;
        self.release(opened.fh)?;
        Ok(attr)
    }
}
