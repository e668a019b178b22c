//! Refusals that no open dataset tells of: those in the root, and those of a dataset that cannot be
//! opened.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::sparing::Sparing;
use super::{Place, Store};
use crate::dataset::events::{Events, Recent, append, line};
use crate::disk::paths::CONTROL;
use crate::disk::{Directory, StoreDir};
use crate::error::{Errno, Error, Result};
use crate::printable;

/// The root's log, and what was told lately in others.
#[derive(Debug)]
pub(super) struct Telling {
    root: Events,
    /// By paths and names.
    recent: Mutex<Recent>,
    read_only: bool,
}

impl Telling {
    pub(super) fn new(root: Directory, read_only: bool) -> Self {
        Self {
            root: Events::new(Arc::new(root), read_only),
            recent: Mutex::default(),
            read_only,
        }
    }

    pub(super) fn tell_counts(&self) {
        if let Err(error) = self.root.tell_counts() {
            log::warn!("{error}");
        }
    }
}

impl Store {
    /// Tells the root's log why a name was refused. False where it has told the same of that name just
    /// now.
    pub fn report(&self, name: &OsStr, error: &Error) -> bool {
        if !error.is_to_be_logged() {
            return true;
        }
        let told = self.telling.root.refusal(name, error, None);
        told.unwrap_or_else(|failure| {
            log::warn!("{} refused: {error}: {failure}", name.display());
            true
        })
    }

    /// As [`Store::report`], of a name in the dataset at `place`, which need not be open: its own log
    /// tells.
    pub fn report_in(&self, place: &Place<'_>, name: &OsStr, error: &Error) -> bool {
        if !error.is_to_be_logged() {
            return true;
        }
        let folder = || -> Result<Arc<dyn StoreDir>> {
            let directory = Directory::from_fd(place.directory()?);
            Ok(Arc::new(Sparing::new(Arc::new(directory), &self.registry)))
        };
        self.tell(place.path(), name, error, folder)
    }

    /// Notes in the log of the dataset at `place`, which need not be open, what is to be known of a name,
    /// if it was not told just now.
    pub fn note_in(&self, place: &Place<'_>, name: &OsStr, what: &str) {
        if self.telling.read_only {
            return;
        }
        let path = place.path();
        let whole = path.join(name);
        let admitted = crate::lock(&self.telling.recent).admit(whole.as_os_str(), what);
        if admitted.is_none() {
            return;
        }
        let line = format!("{} {what}", printable::name(name));
        let written = place
            .directory()
            .and_then(|fd| append(&Directory::from_fd(fd), &line));
        if let Err(failure) = written {
            log::warn!("{}: {line}: {failure}", path.display());
        }
    }

    /// The dataset at `path` could not be opened.
    pub(super) fn report_unopened(
        &self,
        path: &Path,
        error: Error,
        folder: Arc<dyn StoreDir>,
    ) -> Error {
        match error.errno() {
            _ if !error.is_to_be_logged() => error,
            // It is tried again.
            Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ESTALE => error,
            _ => {
                // The directory that has the path now may be another than the one asked for: nothing new is
                // made in it.
                let own = || match folder.identity(Path::new(CONTROL)) {
                    Ok(_) => Ok(folder),
                    Err(failure) => Err(Error::io(failure, "it has no log")),
                };
                self.tell(path, OsStr::new(""), &error, own);
                error.logged()
            }
        }
    }

    fn tell(
        &self,
        path: &Path,
        name: &OsStr,
        error: &Error,
        folder: impl FnOnce() -> Result<Arc<dyn StoreDir>>,
    ) -> bool {
        if self.telling.read_only {
            return true;
        }
        let reason = error.to_string();
        let whole = path.join(name);
        let admitted = crate::lock(&self.telling.recent).admit(whole.as_os_str(), &reason);
        let Some(counts) = admitted else {
            return false;
        };
        // By paths from the root, some of other datasets.
        for count in counts {
            if let Err(failure) = self.telling.root.note(&count) {
                log::warn!("{count}: {failure}");
            }
        }
        let written = folder().and_then(|folder| append(&*folder, &line(name, &reason)));
        // Where its own log cannot be written, the root's can.
        if let Err(failure) = written {
            log::debug!("{}: {failure}", path.display());
            self.report(whole.as_os_str(), error);
        }
        true
    }
}
