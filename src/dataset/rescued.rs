//! `.npyfs/rescued/`: what no limit removes.
//!
//! Rows that recovery sets aside, rows of an array that was replaced under its daemon, and bytes of
//! unfinished chunks that an `fsync` had confirmed. A file here is on the disk, with its name, before
//! what it was taken from is cut or removed. The names begin with the time, so they sort by age.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CONTROL;
use super::disk::{Blob, Folder, Open};
use super::rejected::file_name;
use crate::error::{Context, Result};

/// The directory, within a dataset's.
pub(crate) const RESCUED: &str = ".npyfs/rescued";

#[derive(Debug)]
pub(crate) struct Rescued {
    folder: Arc<dyn Folder>,
}

impl Rescued {
    pub(crate) fn new(folder: Arc<dyn Folder>) -> Self {
        Self { folder }
    }

    /// Keeps rows of the array, with its owner and mode, under a name made of `name`. They are on the
    /// disk when this returns that name.
    pub(crate) fn keep_rows(
        &self,
        name: &OsStr,
        fill: impl FnOnce(&dyn Blob) -> io::Result<()>,
    ) -> Result<String> {
        let path = self.new_path(name)?;
        let kept = self
            .folder
            .open(&path, Open::CreateNew)
            .and_then(|blob| {
                fill(&*blob)?;
                self.folder.hand_over(&*blob)?;
                blob.sync()
            })
            .and_then(|()| self.sync_names());
        if kept.is_err() {
            // Half a file would be taken for all of it.
            self.folder
                .remove(&path)
                .unwrap_or_else(|error| log::debug!("{}: {error}", path.display()));
        }
        kept.context(|| format!("cannot write to {RESCUED}"))?;
        Ok(path.display().to_string())
    }

    /// Moves a file of the dataset here, whose name is on the disk when this returns.
    pub(crate) fn keep_file(&self, from: &Path, name: &OsStr) -> Result<String> {
        let path = self.new_path(name)?;
        self.folder
            .rename(from, &path)
            .and_then(|()| self.sync_names())
            .context(|| format!("cannot move {} to {RESCUED}", from.display()))?;
        Ok(path.display().to_string())
    }

    fn new_path(&self, name: &OsStr) -> Result<PathBuf> {
        let directory = Path::new(RESCUED);
        self.folder
            .make_dir(directory)
            .context(|| format!("cannot make {RESCUED}"))?;
        Ok(directory.join(file_name(name)))
    }

    /// Makes the names durable, that of the directory too.
    fn sync_names(&self) -> io::Result<()> {
        for directory in [RESCUED, CONTROL, "."] {
            self.folder.sync(Path::new(directory))?;
        }
        Ok(())
    }
}
