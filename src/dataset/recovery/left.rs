//! What a daemon that died has left in `.npyfs/incoming/` of the chunks that it was receiving.
//!
//! What an fsync had confirmed goes to `rescued/`, and if it cannot, the opening fails; what was only
//! accepted goes to `rejected/`, as the bytes of a chunk that is refused.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::compare::Stored;
use super::super::lookup::Entry;
use super::super::rejected::Rejected;
use super::super::rescued::Rescued;
use super::{Finding, Survey};
use crate::disk::paths::INCOMING;
use crate::disk::temp;
use crate::disk::temp::Holds;
use crate::disk::{DirEntry, StoreDir};
use crate::error::{Context, Result};

/// Where recovery keeps what it takes out of the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keepers<'a> {
    pub(crate) rescued: &'a Rescued,
    pub(crate) rejected: &'a Rejected,
}

/// Empties `.npyfs/incoming/`, but for what this process has in use. To be done before anything else
/// is changed.
pub(super) fn clear_incoming(
    folder: &Arc<dyn StoreDir>,
    survey: &Survey,
    keepers: Keepers<'_>,
) -> Result<Vec<Finding>> {
    let mut found = match folder.list(Path::new(INCOMING)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(|| "cannot list .npyfs/incoming".into())?,
    };
    // The oldest is the first that a limit takes.
    found.sort_by_key(|file| temp::age(&file.name));
    let mut left = Left {
        folder,
        survey,
        keepers,
        notes: Vec::new(),
        nameless: (0, 0),
    };
    for file in found {
        let path = Path::new(INCOMING).join(&file.name);
        if !temp::is_in_use(folder, &path) {
            left.take_in(&file, &path)?;
        }
    }
    if left.nameless.0 > 0 {
        let (files, bytes) = left.nameless;
        left.note(format!(
            "dropped {files} files of .npyfs/incoming with {bytes} bytes that nothing tells the chunks of"
        ));
    }
    Ok(left.notes)
}

struct Left<'a> {
    folder: &'a Arc<dyn StoreDir>,
    survey: &'a Survey,
    keepers: Keepers<'a>,
    notes: Vec<Finding>,
    /// Files of no known chunk, and their bytes.
    nameless: (usize, u64),
}

impl Left<'_> {
    fn take_in(&mut self, file: &DirEntry, path: &Path) -> Result<()> {
        let DirEntry { name, len, .. } = file;
        let (chunk, confirmed) = match Holds::of(name) {
            _ if *len == 0 => return self.remove(path),
            Holds::Other => {
                self.nameless.0 += 1;
                self.nameless.1 += len;
                return self.remove(path);
            }
            Holds::Scattered(chunk) => {
                self.say(chunk, "what came of it is not kept, as it lay after the array's rows but for its beginning, or was to be converted and in no order of its rows");
                return self.remove(path);
            }
            Holds::Chunk(chunk) => (chunk, false),
            Holds::Confirmed(chunk) => (chunk, true),
        };
        if self.is_committed(chunk, path, *len) {
            return self.remove(path);
        }
        if confirmed {
            let kept = self.keepers.rescued.take_in(path, chunk)?;
            self.say(
                chunk,
                &format!("its {len} bytes, up to the last fsync at least, are kept as {kept}"),
            );
            return Ok(());
        }
        match self.keepers.rejected.take_in(path, chunk, *len) {
            Ok(Some(kept)) => {
                // Only in the boot that has written them is it certain that they are all there.
                let how = match self.survey.doubtful_from {
                    Some(_) if !self.survey.copied => "",
                    _ => ", as far as they had reached the disk",
                };
                self.say(chunk, &format!("{len} bytes of it are kept as {kept}{how}"));
            }
            Ok(None) => {
                let why = self.keepers.rejected.limit_text();
                self.say(chunk, &format!("its {len} bytes are not kept: {why}"));
                self.remove(path)?;
            }
            // The next opening tries again.
            Err(error) => {
                self.say(
                    chunk,
                    &format!("its {len} bytes stay where they are: {error}"),
                );
            }
        }
        for evicted in self.keepers.rejected.take_evicted() {
            self.note(format!(
                "{evicted} was removed from .npyfs/rejected to make room"
            ));
        }
        Ok(())
    }

    /// Whether the chunk has been committed after all, and only its file was not removed any more.
    fn is_committed(&self, chunk: &OsStr, path: &Path, len: u64) -> bool {
        let Some(array) = &self.survey.array else {
            return false;
        };
        let same = || -> Result<bool> {
            let Some(entry) = Entry::find(&self.survey.catalog, chunk) else {
                return Ok(false);
            };
            let blob = self.folder.open_closed(path);
            let blob = blob.context(|| format!("cannot open {}", path.display()))?;
            let stored = Stored {
                view: &entry.view(array)?,
                converted: entry.receipt.converted,
                original: &entry.original,
            };
            stored.is_same(&*blob, len)
        };
        same().unwrap_or_else(|error| {
            log::debug!("{} is kept: {error}", path.display());
            false
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.folder
            .remove(path)
            .context(|| format!("cannot remove {}", path.display()))
    }

    fn say(&mut self, chunk: &OsStr, what: &str) {
        let chunk = chunk.display();
        self.note(format!(
            "{chunk} was being written when the daemon died: {what}"
        ));
    }

    fn note(&mut self, line: String) {
        self.notes.push(Finding::Info(line));
    }
}
