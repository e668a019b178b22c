//! Finding datasets in a store.
//!
//! A mount that is met is not entered: what it shows is in its store, which is searched instead.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use npyfs::dataset::{CONTROL, DATA};

use crate::mountinfo::{self, Entry};

/// What is at and below a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Directories that hold a `data.npy` or a journal, by name.
    pub(super) datasets: Vec<PathBuf>,
    /// Directories that cannot be searched, and why.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

/// The datasets at and below a directory.
pub(super) fn search(directory: &Path, table: &[Entry]) -> Found {
    let mut search = Search {
        table,
        visited: HashSet::new(),
        found: Found::default(),
    };
    search.visit(directory, &mut |_| true);
    search.found
}

/// The first dataset below a directory.
pub(super) fn first_below(directory: &Path, table: &[Entry]) -> Option<PathBuf> {
    let mut search = Search {
        table,
        visited: HashSet::new(),
        found: Found::default(),
    };
    search.visit(directory, &mut |found| found == directory);
    search.found.datasets.pop().filter(|it| it != directory)
}

/// A directory in this one, as a store has for each of its datasets.
pub(super) fn first_directory(directory: &Path) -> Option<PathBuf> {
    directories(directory).ok()?.into_iter().min()
}

/// Whether the directory itself is a dataset.
pub(super) fn is_dataset(directory: &Path) -> bool {
    directory.join(DATA).is_file() || directory.join(CONTROL).join("chunks.log").is_file()
}

struct Search<'a> {
    table: &'a [Entry],
    visited: HashSet<PathBuf>,
    found: Found,
}

impl Search<'_> {
    /// Goes on as long as `more` answers true to each dataset that is found.
    fn visit(&mut self, directory: &Path, more: &mut dyn FnMut(&Path) -> bool) -> bool {
        let mount = mountinfo::at_in(self.table, directory).filter(|entry| entry.is_npyfs());
        let directory = match mount {
            Some(mount) => mount.stored(directory),
            None => directory.to_owned(),
        };
        if !self.visited.insert(directory.clone()) {
            return true;
        }
        if is_dataset(&directory) {
            self.found.datasets.push(directory.clone());
            if !more(&directory) {
                return false;
            }
        }
        let mut below = match directories(&directory) {
            Ok(below) => below,
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => return true,
            Err(error) => {
                self.found.unreadable.push((directory, error));
                return true;
            }
        };
        below.sort();
        below.iter().all(|below| self.visit(below, more))
    }
}

/// The directories in a directory, but for what npyfs keeps there.
fn directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != CONTROL {
            below.push(entry.path());
        }
    }
    Ok(below)
}
