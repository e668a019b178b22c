//! Chunks in flight that do not fit the fast path: files in `.npyfs/incoming/`.
//!
//! A staged file holds the chunk's bytes at their own offsets, header first; what was spilled of a stream
//! may be in [`Bands`](crate::convert::bands::Bands), or the beginning of the body only. Its name
//! says which of these it is and whose ([`Holds`]), from its creation on: so much is known of it if the
//! daemon dies. It is removed with its value, unless it was moved to `.npyfs/rejected/` or `rescued/`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::disk::Face;
use crate::disk::kept_name::{append_name, move_into, with_any_name};
use crate::disk::paths::{CONTROL, INCOMING};
use crate::disk::{Open, StoreDir, StoreFile, set_attributes};

/// What a file in [`INCOMING`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds<'a> {
    /// No chunk, or one whose name is not known.
    Other,
    /// Some of the bytes of this chunk, or all of them in another order: no file to be kept.
    Scattered(&'a OsStr),
    /// What came of this chunk, each byte at its own offset.
    Chunk(&'a OsStr),
    /// The same, and an fsync has confirmed it.
    Confirmed(&'a OsStr),
}

impl<'a> Holds<'a> {
    /// What the name of a file says. Earlier versions have named only what was confirmed.
    pub(crate) fn of(file: &'a OsStr) -> Self {
        let Some((_, _, rest)) = numbers(file) else {
            return Holds::Other;
        };
        let Some((mark, name)) = rest.split_first() else {
            return Holds::Other;
        };
        let name = OsStr::from_bytes(name);
        match mark {
            b'~' => Holds::Scattered(name),
            b'-' => Holds::Chunk(name),
            b'+' => Holds::Confirmed(name),
            _ => Holds::Other,
        }
    }

    /// The name of this process's file of that number. `plain`: of ASCII, and short.
    fn file_name(self, number: u64, plain: bool) -> OsString {
        let mut file = format!("{}-{number}", std::process::id()).into_bytes();
        let (mark, name) = match self {
            Holds::Other => return OsString::from_vec(file),
            Holds::Scattered(name) => (b'~', name),
            Holds::Chunk(name) => (b'-', name),
            Holds::Confirmed(name) => (b'+', name),
        };
        file.push(mark);
        append_name(&mut file, name, plain);
        OsString::from_vec(file)
    }
}

/// The numbers in a file's name, of a process and of the file among that process's, and the rest.
fn numbers(file: &OsStr) -> Option<(u32, u64, &[u8])> {
    let (process, rest) = leading_number(file.as_bytes())?;
    let (number, rest) = leading_number(rest.strip_prefix(b"-")?)?;
    Some((u32::try_from(process).ok()?, number, rest))
}

fn leading_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (number, rest) = bytes.split_at(digits);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// Sorts files in the order in which their processes made them.
pub(crate) fn age(file: &OsStr) -> (u32, u64) {
    numbers(file).map_or((0, 0), |(process, number, _)| (process, number))
}

#[derive(Debug)]
pub(crate) struct TempFile {
    folder: Arc<dyn StoreDir>,
    path: PathBuf,
    /// Its number among this process's.
    number: u64,
    blob: Arc<dyn StoreFile>,
    kept: bool,
}

/// Those that are in use, by their numbers.
static IN_USE: Mutex<Option<HashMap<u64, Weak<dyn StoreFile>>>> = Mutex::new(None);

fn in_use<T>(with: impl FnOnce(&mut HashMap<u64, Weak<dyn StoreFile>>) -> T) -> T {
    with(crate::lock(&IN_USE).get_or_insert_default())
}

/// Whether a file in [`INCOMING`] is one that this process has in use: then it is no dead daemon's,
/// also where the dataset is recovered by the daemon that had given it up. A dead one may have had the
/// number of this process, as the first process of a container has.
pub(crate) fn is_in_use(folder: &Arc<dyn StoreDir>, path: &Path) -> bool {
    let Some((process, number, _)) = path.file_name().and_then(numbers) else {
        return false;
    };
    if process != std::process::id() {
        return false;
    }
    let Some(blob) = in_use(|all| all.get(&number).and_then(Weak::upgrade)) else {
        return false;
    };
    let Ok(held) = blob.whereabouts() else {
        return true;
    };
    match folder.open_closed(path).and_then(|it| it.whereabouts()) {
        Ok(found) => found.place == held.place,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

impl TempFile {
    /// An empty file under a name that no other has, with the owner and mode of `face`; with none
    /// it is the daemon's, and private.
    pub(crate) fn create(
        folder: &Arc<dyn StoreDir>,
        holds: Holds<'_>,
        face: Option<&Face>,
    ) -> io::Result<TempFile> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let (path, blob) = with_any_name(|plain| {
            let path = Path::new(INCOMING).join(holds.file_name(n, plain));
            let blob = match folder.open(&path, Open::CreateNew) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    folder.make_dir(Path::new(INCOMING))?;
                    folder.open(&path, Open::CreateNew)?
                }
                other => other?,
            };
            Ok((path, blob))
        })?;
        in_use(|all| all.insert(n, Arc::downgrade(&blob)));
        // Removed with its value if it cannot be given away.
        let staged = TempFile {
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

    /// Says that it holds something else from now on.
    pub(crate) fn becomes(&mut self, holds: Holds<'_>) -> io::Result<()> {
        with_any_name(|plain| {
            let path = Path::new(INCOMING).join(holds.file_name(self.number, plain));
            if path != self.path {
                self.folder.rename(&self.path, &path)?;
            }
            Ok(path)
        })
        .map(|path| self.path = path)
    }

    /// Makes its bytes, which are those of the chunk `name`, durable: they survive the daemon and a power loss.
    pub(crate) fn confirm(&mut self, name: &OsStr) -> io::Result<()> {
        self.blob.sync()?;
        let before = self.path.clone();
        self.becomes(Holds::Confirmed(name))?;
        if self.path != before {
            self.folder.sync(Path::new(INCOMING))?;
            self.folder.sync(Path::new(CONTROL))?;
        }
        Ok(())
    }

    pub(crate) fn blob(&self) -> &dyn StoreFile {
        &*self.blob
    }

    pub(crate) fn shared_blob(&self) -> Arc<dyn StoreFile> {
        self.blob.clone()
    }

    /// Moves the file to where it is kept, under a name made of that of its chunk.
    pub(crate) fn keep_in(mut self, directory: &str, name: &OsStr) -> io::Result<PathBuf> {
        self.move_to(directory, name)
    }

    /// As [`TempFile::keep_in`].
    pub(crate) fn move_to(&mut self, directory: &str, name: &OsStr) -> io::Result<PathBuf> {
        let path = move_into(&*self.folder, directory, name, &self.path)?;
        self.kept = true;
        Ok(path)
    }

    /// Lets go of the file and leaves it there, for the next recovery.
    pub(crate) fn leave(mut self) {
        self.kept = true;
    }

    /// Moves the file elsewhere in the dataset's directory, where it stays.
    pub(crate) fn persist(mut self, path: &Path) -> io::Result<()> {
        self.folder.rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        in_use(|all| all.remove(&self.number));
        if !self.kept
            && let Err(error) = self.folder.remove(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
