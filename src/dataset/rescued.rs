//! `.npyfs/rescued/`: what no limit removes.
//!
//! Rows of the array that lost their place, and bytes of a chunk that an fsync had confirmed before it
//! came to nothing. A file is whole and on the disk before what it saves is cut off or let go of.

use crate::disk::paths::RESCUED;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunk::validate::read_header;
use crate::disk::Face;
use crate::disk::kept_name::move_into;
use crate::disk::paths::{CONTROL, DATA};
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{StoreDir, StoreFile, set_attributes};
use crate::error::{Context, Result};
use crate::npy;

#[derive(Debug)]
pub(crate) struct Rescued(Arc<dyn StoreDir>);

impl Rescued {
    pub(crate) fn new(folder: Arc<dyn StoreDir>) -> Self {
        Self(folder)
    }

    /// Keeps rows of the array, with its owner and mode. Answers the file's name.
    pub(crate) fn keep_rows(
        &self,
        name: &OsStr,
        fill: impl FnOnce(&dyn StoreFile) -> io::Result<()>,
    ) -> Result<String> {
        self.make_dir()?;
        let failed = || format!("cannot write to {RESCUED}");
        // Half a file would pass for all that there was: it comes whole, or is removed.
        let kept = TempFile::create(&self.0, Holds::Other, None).and_then(|file| {
            fill(file.blob())?;
            self.0.hand_over(file.blob())?;
            file.blob().sync()?;
            let path = file.keep_in(RESCUED, name)?;
            self.sync()?;
            Ok(path)
        });
        Ok(kept.context(failed)?.display().to_string())
    }

    /// Keeps the bytes of a chunk, with the owner and mode of `face`. Where they cannot be moved, they
    /// stay where the next recovery finds them.
    pub(crate) fn keep_file(
        &self,
        name: &OsStr,
        face: &Face,
        mut file: TempFile,
    ) -> Result<String> {
        let path = self.move_here(name, face, &mut file);
        file.leave();
        Ok(path?.display().to_string())
    }

    fn move_here(&self, name: &OsStr, face: &Face, file: &mut TempFile) -> Result<PathBuf> {
        self.make_dir()?;
        let failed = || format!("cannot write to {RESCUED}");
        set_attributes(file.blob(), face).context(failed)?;
        make_loadable(file.blob())?;
        file.blob().sync().context(failed)?;
        let path = file.move_to(RESCUED, name).context(failed)?;
        self.sync().context(failed)?;
        Ok(path)
    }

    /// Keeps the bytes of a chunk that a dead daemon has left.
    pub(crate) fn take_in(&self, left: &Path, name: &OsStr) -> Result<String> {
        self.make_dir()?;
        let failed = || format!("cannot move {} to {RESCUED}", left.display());
        let blob = self.0.open_closed(left).context(failed)?;
        make_loadable(&*blob)?;
        blob.sync().context(failed)?;
        let path = move_into(&*self.0, RESCUED, name, left).context(failed)?;
        self.sync().context(failed)?;
        Ok(path.display().to_string())
    }

    /// Sets a `data.npy` aside that is no array.
    pub(crate) fn take_array(&self) -> Result<()> {
        self.make_dir()?;
        let failed = || format!("cannot move data.npy to {RESCUED}");
        let name = "data.npy.unreadable".as_ref();
        move_into(&*self.0, RESCUED, name, Path::new(DATA)).context(failed)?;
        self.sync().context(failed)
    }

    fn make_dir(&self) -> Result<()> {
        let failed = || format!("cannot make {RESCUED}");
        self.0.make_dir(Path::new(CONTROL)).context(failed)?;
        self.0.make_dir(Path::new(RESCUED)).context(failed)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync(Path::new(RESCUED))?;
        self.0.sync(Path::new(CONTROL))
    }
}

/// Makes the header of a chunk of which a part came count the rows that are there, so that numpy loads
/// it. What has no such header stays as it came.
pub(crate) fn make_loadable(blob: &dyn StoreFile) -> Result<()> {
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
