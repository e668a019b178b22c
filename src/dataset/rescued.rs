//! `.npyfs/rescued/`: what no limit removes.
//!
//! Rows of the array that lost their place, and bytes of a chunk that an fsync had confirmed before it
//! came to nothing. A file is whole and on the disk before what it saves is cut off or let go of.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Blob, Folder, Open, set_attributes};
use super::judge::read_header;
use super::rejected::file_name;
use super::staged::Staged;
use super::{CONTROL, DATA, Face};
use crate::error::{Context, Result};
use crate::npy;

/// The directory, within a dataset's.
pub(crate) const RESCUED: &str = ".npyfs/rescued";

#[derive(Debug)]
pub(crate) struct Rescued(Arc<dyn Folder>);

impl Rescued {
    pub(crate) fn new(folder: Arc<dyn Folder>) -> Self {
        Self(folder)
    }

    /// Keeps rows of the array, with its owner and mode. Answers the file's name.
    pub(crate) fn keep_rows(
        &self,
        name: &OsStr,
        fill: impl FnOnce(&dyn Blob) -> io::Result<()>,
    ) -> Result<String> {
        let path = self.place(name)?;
        let kept = self
            .0
            .open(&path, Open::CreateNew)
            .and_then(|blob| {
                fill(&*blob)?;
                self.0.hand_over(&*blob)?;
                blob.sync()
            })
            .and_then(|()| self.sync());
        if kept.is_err() {
            // Half a file would pass for all that there was.
            self.0
                .remove(&path)
                .unwrap_or_else(|error| log::debug!("{}: {error}", path.display()));
        }
        kept.context(|| format!("cannot write to {RESCUED}"))?;
        Ok(path.display().to_string())
    }

    /// Keeps the bytes of a chunk, with the owner and mode of `face`.
    pub(crate) fn keep_file(&self, name: &OsStr, face: &Face, file: Staged) -> Result<String> {
        let path = self.place(name)?;
        let failed = || format!("cannot write to {RESCUED}");
        set_attributes(file.blob(), face).context(failed)?;
        make_loadable(file.blob())?;
        file.blob().sync().context(failed)?;
        file.keep_as(&path).context(failed)?;
        self.sync().context(failed)?;
        Ok(path.display().to_string())
    }

    /// Keeps the bytes of a chunk that a dead daemon has left.
    pub(crate) fn take_in(&self, left: &Path, name: &OsStr) -> Result<String> {
        let path = self.place(name)?;
        let failed = || format!("cannot move {} to {RESCUED}", left.display());
        let blob = self.0.open(left, Open::Write).context(failed)?;
        make_loadable(&*blob)?;
        blob.sync().context(failed)?;
        self.0.rename(left, &path).context(failed)?;
        self.sync().context(failed)?;
        Ok(path.display().to_string())
    }

    /// Sets a `data.npy` aside that is no array.
    pub(crate) fn take_array(&self) -> Result<()> {
        let path = self.place("data.npy.unreadable".as_ref())?;
        let failed = || format!("cannot move data.npy to {RESCUED}");
        self.0.rename(Path::new(DATA), &path).context(failed)?;
        self.sync().context(failed)
    }

    fn place(&self, name: &OsStr) -> Result<PathBuf> {
        let failed = || format!("cannot make {RESCUED}");
        self.0.make_dir(Path::new(CONTROL)).context(failed)?;
        let directory = Path::new(RESCUED);
        self.0.make_dir(directory).context(failed)?;
        Ok(directory.join(file_name(name)))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync(Path::new(RESCUED))?;
        self.0.sync(Path::new(CONTROL))
    }
}

/// Has the header of a chunk of which a part came count the rows that are there, so that numpy loads
/// it. What has no such header stays as it came.
pub(crate) fn make_loadable(blob: &dyn Blob) -> Result<()> {
    let failed = || "cannot write the header of what is kept".to_owned();
    let len = blob.len().context(failed)?;
    let Ok((header, bytes)) = read_header(blob, len) else {
        return Ok(());
    };
    match loadable(&header, &bytes, len) {
        Some(bytes) => blob.write_at(&bytes, 0).context(failed),
        None => Ok(()),
    }
}

/// The header of a chunk of which `len` bytes came, if it is to count fewer rows.
pub(crate) fn loadable(header: &npy::Header, bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    let rows = len
        .saturating_sub(header.len())
        .checked_div(header.row_bytes())?;
    (len < header.file_bytes()).then(|| npy::recounted(bytes, rows))?
}
