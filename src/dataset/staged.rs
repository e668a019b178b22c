//! Chunks in flight that do not fit the fast path: files in `.npyfs/incoming/`, and the memory
//! that the others may take.
//!
//! A staged file holds the chunk's bytes at their own offsets, header first; that of a stream that
//! was displaced may hold the body in [`Bands`](super::bands::Bands). It is removed with its value,
//! unless it was moved to `.npyfs/rejected/` or `rescued/`; what a killed daemon left there belongs to nobody and
//! is removed by recovery.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::disk::{Blob, Folder, Open, set_attributes};
use super::{CONTROL, Face};

/// The directory of the staged files.
pub(crate) const INCOMING: &str = ".npyfs/incoming";

/// Bounds of [`Budget::share`].
const LEAST_SHARE: usize = 1 << 20;
const MOST_SHARE: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Staged {
    folder: Arc<dyn Folder>,
    path: PathBuf,
    /// Its number among this process's.
    number: u64,
    blob: Arc<dyn Blob>,
    kept: bool,
}

/// The numbers of those that are in use.
static IN_USE: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// The name of the chunk whose bytes a file in [`INCOMING`] holds, if an fsync has confirmed them.
pub(crate) fn confirmed_name(name: &OsStr) -> Option<&OsStr> {
    let bytes = name.as_bytes();
    let plus = bytes.iter().position(|byte| *byte == b'+')?;
    Some(OsStr::from_bytes(&bytes[plus + 1..]))
}

/// Whether a file in [`INCOMING`] is one that this process has in use: then it is no dead daemon's,
/// also where the dataset is recovered by the daemon that had given it up.
pub(crate) fn is_in_use(name: &OsStr) -> bool {
    let Some((process, number)) = name.to_str().and_then(|name| name.split_once('-')) else {
        return false;
    };
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    process.parse() == Ok(std::process::id())
        && number[..digits]
            .parse()
            .is_ok_and(|number| crate::lock(&IN_USE).contains(&number))
}

impl Staged {
    /// An empty file under a name that no other has, with the owner and mode of `face`; with none
    /// it is the daemon's, and private.
    pub(crate) fn create(folder: &Arc<dyn Folder>, face: Option<&Face>) -> io::Result<Staged> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(INCOMING).join(format!("{}-{n}", std::process::id()));
        let blob = match folder.open(&path, Open::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                folder.make_dir(Path::new(INCOMING))?;
                folder.open(&path, Open::CreateNew)?
            }
            other => other?,
        };
        crate::lock(&IN_USE).insert(n);
        // Removed with its value if it cannot be given away.
        let staged = Staged {
            folder: folder.clone(),
            path,
            number: n,
            blob,
            kept: false,
        };
        if let Some(face) = face {
            set_attributes(&*staged.blob, face)?;
        }
        Ok(staged)
    }

    /// Has its bytes, which are those of the chunk `name`, survive the daemon and a power loss.
    pub(crate) fn confirm(&mut self, name: &OsStr) -> io::Result<()> {
        self.blob.sync()?;
        let directory = Path::new(INCOMING);
        let mut own = format!("{}-{}+", std::process::id(), self.number).into_bytes();
        let room = 255 - own.len();
        let name = name.as_bytes();
        own.extend_from_slice(&name[name.len().saturating_sub(room)..]);
        let path = directory.join(OsStr::from_bytes(&own));
        if path != self.path {
            self.folder.rename(&self.path, &path)?;
            self.path = path;
            self.folder.sync(directory)?;
            self.folder.sync(Path::new(CONTROL))?;
        }
        Ok(())
    }

    pub(crate) fn blob(&self) -> &dyn Blob {
        &*self.blob
    }

    pub(crate) fn shared_blob(&self) -> Arc<dyn Blob> {
        self.blob.clone()
    }

    /// Moves the file elsewhere in the dataset's directory, where it stays.
    pub(crate) fn keep_as(mut self, path: &Path) -> io::Result<()> {
        self.folder.rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        crate::lock(&IN_USE).remove(&self.number);
        if !self.kept
            && let Err(error) = self.folder.remove(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The memory that all chunks in flight may take together, in bytes.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    left: AtomicUsize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            total: bytes,
            left: AtomicUsize::new(bytes),
        })
    }

    /// What one thread may use for a conversion, in bytes: two take half of the budget.
    pub(crate) fn share(&self) -> usize {
        (self.total / 4).clamp(LEAST_SHARE, MOST_SHARE)
    }

    /// Takes a share for each thread that a conversion should have: one at least, even if none is
    /// left.
    pub(crate) fn threads(self: &Arc<Self>) -> (usize, Vec<Permit>) {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let most = cores.min(self.total / 2 / self.share());
        let permits: Vec<_> = (0..most).map_while(|_| self.take(self.share())).collect();
        (permits.len().max(1), permits)
    }

    /// Takes `bytes` out of the budget for as long as the permit lives; `None` if they are not left.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .ok()?;
        Some(Permit {
            budget: self.clone(),
            bytes,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_its_bytes_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(60).is_none());
        drop(first);
        assert!(budget.take(60).is_some());
    }
}
