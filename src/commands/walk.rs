//! Finding datasets in a store that is not mounted.

use std::fs;
use std::path::{Path, PathBuf};

use npyfs::dataset::{CONTROL, DATA};

use crate::exit::{Exit, Failure, OrExit};

/// The directories at and below `directory` that hold a `data.npy` or a journal, by name.
pub(super) fn datasets(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    visit(directory, &mut found)?;
    Ok(found)
}

fn visit(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = || format!("cannot read {}", directory.display());
    if directory.join(DATA).is_file() || directory.join(CONTROL).join("chunks.log").is_file() {
        found.push(directory.to_owned());
    }
    let mut below = Vec::new();
    for entry in fs::read_dir(directory).or_exit(Exit::Failed, failed)? {
        let entry = entry.or_exit(Exit::Failed, failed)?;
        let is_dir = entry.file_type().or_exit(Exit::Failed, failed)?.is_dir();
        if is_dir && entry.file_name() != CONTROL {
            below.push(entry.path());
        }
    }
    below.sort();
    below.iter().try_for_each(|below| visit(below, found))
}
