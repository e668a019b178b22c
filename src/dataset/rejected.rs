//! `.npyfs/rejected/`: bytes that a `write` had accepted before their chunk was refused.
//!
//! A pipe cannot send them again. The newest are kept, up to a limit in bytes; the file names begin
//! with the time, so they sort by age.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::disk::{Blob, Folder, Open, set_attributes};
use super::rescued::make_loadable;
use super::staged::Staged;
use super::{Face, clock};
use crate::error::{Context, Result};

/// The directory, within a dataset's.
pub(crate) const REJECTED: &str = ".npyfs/rejected";

#[derive(Debug)]
pub(crate) struct Rejected {
    folder: Arc<dyn Folder>,
    limit: u64,
    /// What was removed to make room, for the log.
    evicted: Mutex<Vec<String>>,
}

/// How many files are kept, so that the look at them costs no more than milliseconds.
const MOST_FILES: usize = 1000;

impl Rejected {
    pub(crate) fn new(folder: Arc<dyn Folder>, limit: u64) -> Self {
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
        fill: impl FnOnce(&dyn Blob) -> io::Result<()>,
    ) -> Result<Option<String>> {
        match self.make_room(name, len)? {
            Some(path) => {
                let fill = |blob: &dyn Blob| {
                    fill(blob)?;
                    set_attributes(blob, face)
                };
                self.write(&path, fill).map(Some)
            }
            None => Ok(None),
        }
    }

    fn write(&self, path: &Path, fill: impl FnOnce(&dyn Blob) -> io::Result<()>) -> Result<String> {
        let kept = self
            .folder
            .open(path, Open::CreateNew)
            .and_then(|blob| fill(&*blob));
        if kept.is_err() {
            // Half a file would be taken for all that was received.
            self.folder
                .remove(path)
                .unwrap_or_else(|error| log::debug!("{}: {error}", path.display()));
        }
        kept.context(|| "cannot write to .npyfs/rejected".into())?;
        Ok(path.display().to_string())
    }

    /// Keeps a staged file, with the owner and mode of `face`.
    pub(crate) fn keep_file(
        &self,
        name: &OsStr,
        face: &Face,
        len: u64,
        file: Staged,
    ) -> Result<Option<String>> {
        let Some(path) = self.make_room(name, len)? else {
            return Ok(None);
        };
        make_loadable(file.blob())?;
        set_attributes(file.blob(), face)
            .and_then(|()| file.keep_as(&path))
            .context(|| "cannot write to .npyfs/rejected".into())?;
        Ok(Some(path.display().to_string()))
    }

    fn make_room(&self, name: &OsStr, len: u64) -> Result<Option<PathBuf>> {
        if !self.fits(len) {
            return Ok(None);
        }
        let directory = Path::new(REJECTED);
        self.folder
            .make_dir(directory)
            .context(|| "cannot make .npyfs/rejected".into())?;
        let mut kept = self
            .folder
            .list(directory)
            .context(|| "cannot list .npyfs/rejected".into())?;
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
        Ok(Some(directory.join(file_name(name))))
    }
}

pub(super) fn file_name(name: &OsStr) -> OsString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
    let mut file = format!("{}-{n:03}-", clock::compact(clock::now())).into_bytes();
    let room = 255 - file.len();
    let bytes = name.as_bytes();
    file.extend_from_slice(&bytes[bytes.len().saturating_sub(room)..]);
    OsString::from_vec(file)
}
