//! A dataset's directory, for which idle datasets give up their descriptors where none is left.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use super::registry::Registry;
use crate::disk::{DirEntry, Holder, Lock, Open, StoreDir, StoreFile};

/// How often the reserve is tried.
const RESERVE_ATTEMPTS: u32 = 20;

#[derive(Debug)]
pub(super) struct Sparing {
    folder: Arc<dyn StoreDir>,
    registry: Weak<Registry>,
}

impl Sparing {
    pub(super) fn new(folder: Arc<dyn StoreDir>, registry: &Arc<Registry>) -> Self {
        Self {
            folder,
            registry: Arc::downgrade(registry),
        }
    }

    fn sparing<T>(&self, mut work: impl FnMut(&dyn StoreDir) -> io::Result<T>) -> io::Result<T> {
        let done = work(&*self.folder);
        let Some(registry) = self.registry.upgrade() else {
            return done;
        };
        let done = match done {
            Err(error) if is_shortage(&error) && registry.relieve() => {
                registry.sparing(is_shortage, || work(&*self.folder))
            }
            done => done,
        };
        // What the reserve gives up another thread may take first.
        let mut done = done;
        for _ in 0..RESERVE_ATTEMPTS {
            match &done {
                Err(error) if is_shortage(error) => {
                    done = registry.with_reserve(|| work(&*self.folder));
                }
                _ => break,
            }
            std::thread::yield_now();
        }
        done
    }
}

/// Whether there is no descriptor left, for this process or in the system.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl StoreDir for Sparing {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>> {
        self.sparing(|folder| folder.open(path, how))
    }

    fn open_closed(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        self.sparing(|folder| folder.open_closed(path))
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.sparing(|folder| folder.identity(path))
    }

    fn is_within(&self, root: (u64, u64)) -> io::Result<bool> {
        self.folder.is_within(root)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sparing(|folder| folder.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.sparing(|folder| folder.remove(path))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.sparing(|folder| folder.make_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.sparing(|folder| folder.list(path))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.sparing(|folder| folder.sync(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.sparing(|folder| folder.lock(path))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.sparing(|folder| folder.is_locked(path))
    }

    fn holder(&self, path: &Path) -> io::Result<Option<Holder>> {
        self.sparing(|folder| folder.holder(path))
    }

    fn hand_over(&self, array: &dyn StoreFile) -> io::Result<()> {
        self.folder.hand_over(array)
    }
}
