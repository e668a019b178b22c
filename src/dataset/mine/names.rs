//! What the names of a dataset's files stand for.

use std::io;
use std::path::Path;

use crate::disk::StoreDir;
use crate::disk::paths::{CONTROL, DATA, JOURNAL, LOCK};
use crate::error::{Error, Result};

/// Device and inode of what a name stands for.
type Identity = (u64, u64);

/// What the names stood for when the dataset was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Names {
    data: Option<Identity>,
    journal: Option<Identity>,
    lock: Option<Identity>,
    control: Option<Identity>,
}

/// `None` where nothing has the name.
pub(super) fn identity(folder: &dyn StoreDir, path: &str) -> Result<Option<Identity>> {
    match folder.identity(Path::new(path)) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, format!("cannot look at {path}"))),
    }
}

impl Names {
    pub(crate) fn look(folder: &dyn StoreDir) -> Result<Self> {
        Ok(Self {
            data: identity(folder, DATA)?,
            journal: identity(folder, JOURNAL)?,
            lock: identity(folder, LOCK)?,
            control: identity(folder, CONTROL)?,
        })
    }

    /// `data.npy` is a new file of this daemon's, or was removed by it.
    pub(crate) fn data_changed(&mut self, folder: &dyn StoreDir) -> Result<()> {
        self.data = identity(folder, DATA)?;
        Ok(())
    }

    pub(crate) fn data(&self) -> Option<Identity> {
        self.data
    }

    /// The first name that stands for something else in `now`.
    pub(crate) fn differ(&self, now: &Self) -> Option<&'static str> {
        let all = [
            (DATA, self.data, now.data),
            (CONTROL, self.control, now.control),
            (JOURNAL, self.journal, now.journal),
            (LOCK, self.lock, now.lock),
        ];
        let other = all.into_iter().find(|(_, then, now)| then != now);
        other.map(|(name, ..)| name)
    }
}
