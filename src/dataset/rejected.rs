//! `.npyfs/rejected/`: bytes that a `write` had accepted before their chunk was refused.
//!
//! A pipe cannot send them again. The newest are kept, up to a limit in bytes; the file names begin
//! with the time, so they sort by age.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::rescued::make_loadable;
use crate::disk::Face;
use crate::disk::kept_name::move_into;
use crate::disk::paths::REJECTED;
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{StoreDir, StoreFile, set_attributes};
use crate::error::{Context, Result};

#[derive(Debug)]
pub(crate) struct Rejected {
    folder: Arc<dyn StoreDir>,
    limit: u64,
    /// What was removed to make room, for the log.
    evicted: Mutex<Vec<String>>,
}

/// How many files are kept, so that the look at them costs no more than milliseconds.
const MOST_FILES: usize = 1000;

impl Rejected {
    pub(crate) fn new(folder: Arc<dyn StoreDir>, limit: u64) -> Self {
        Self {
            folder,
            limit,
            evicted: Mutex::default(),
        }
    }

    /// What was removed since this was asked last.
    pub(crate) fn take_evicted(&self) -> Vec<String> {
        std::mem::take(&mut crate::lock(&self.evicted))
    }

    /// Why bytes were not kept.
    pub(crate) fn limit_text(&self) -> String {
        format!("rejected_limit is {} bytes", self.limit)
    }

    pub(crate) fn fits(&self, len: u64) -> bool {
        len <= self.limit
    }

    /// Keeps what `fill` writes, `len` bytes, under a name made of `name`, with the owner and mode of
    /// `face`. Answers that name; `None` where it is more than the limit.
    pub(crate) fn keep(
        &self,
        name: &OsStr,
        face: &Face,
        len: u64,
        fill: impl FnOnce(&dyn StoreFile) -> io::Result<()>,
    ) -> Result<Option<String>> {
        if !self.make_room(len)? {
            return Ok(None);
        }
        // Half a file would be taken for all that was received: it comes whole, or is removed.
        let kept =
            TempFile::create(&self.folder, Holds::Chunk(name), Some(face)).and_then(|file| {
                fill(file.blob())?;
                file.keep_in(REJECTED, refused(name))
            });
        let path = kept.context(|| format!("cannot write to {REJECTED}"))?;
        Ok(Some(path.display().to_string()))
    }

    /// Keeps a staged file, with the owner and mode of `face`.
    pub(crate) fn keep_file(
        &self,
        name: &OsStr,
        face: &Face,
        len: u64,
        file: TempFile,
    ) -> Result<Option<String>> {
        if !self.make_room(len)? {
            return Ok(None);
        }
        make_loadable(file.blob())?;
        let path = set_attributes(file.blob(), face)
            .and_then(|()| file.keep_in(REJECTED, refused(name)))
            .context(|| format!("cannot write to {REJECTED}"))?;
        Ok(Some(path.display().to_string()))
    }

    /// Keeps the bytes of a chunk that a dead daemon has left, with the owner and mode that they have.
    pub(crate) fn take_in(&self, left: &Path, name: &OsStr, len: u64) -> Result<Option<String>> {
        if !self.make_room(len)? {
            return Ok(None);
        }
        let failed = || format!("cannot move {} to {REJECTED}", left.display());
        let blob = self.folder.open_closed(left).context(failed)?;
        make_loadable(&*blob)?;
        let path = move_into(&*self.folder, REJECTED, refused(name), left).context(failed)?;
        Ok(Some(path.display().to_string()))
    }

    /// `false`: that many bytes are more than the limit.
    fn make_room(&self, len: u64) -> Result<bool> {
        if !self.fits(len) {
            return Ok(false);
        }
        let directory = Path::new(REJECTED);
        self.folder
            .make_dir(directory)
            .context(|| "cannot make .npyfs/rejected".into())?;
        let mut kept = self
            .folder
            .list(directory)
            .context(|| "cannot list .npyfs/rejected".into())?;
        kept.retain(|file| !is_set_aside(&file.name));
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        let mut total: u64 = kept.iter().map(|file| file.len).sum();
        let mut count = kept.len();
        for file in kept {
            if total + len <= self.limit && count < MOST_FILES {
                break;
            }
            self.folder
                .remove(&directory.join(&file.name))
                .context(|| "cannot make room in .npyfs/rejected".into())?;
            total -= file.len;
            count -= 1;
            crate::lock(&self.evicted).push(file.name.display().to_string());
        }
        Ok(true)
    }
}

/// Under which an earlier version kept rows that recovery had set aside.
const SET_ASIDE: &str = "rows-without-record.npy";

/// Whether a file has such rows, which no limit removes: after the time and a number its name is that.
fn is_set_aside(file: &OsStr) -> bool {
    let name = file.as_bytes().splitn(3, |byte| *byte == b'-').nth(2);
    name == Some(SET_ASIDE.as_bytes())
}

/// The name that a refused chunk's bytes are kept under: a producer cannot have them pass for such rows.
fn refused(name: &OsStr) -> &OsStr {
    match name == SET_ASIDE {
        true => OsStr::new("refused-rows-without-record.npy"),
        false => name,
    }
}
