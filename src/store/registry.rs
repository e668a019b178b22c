//! Which datasets are open: each once, from its first use until it is closed as idle.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::stat::fstat;

use super::Store;
use crate::dataset::Dataset;
use crate::dataset::disk::Directory;
use crate::error::{Context, Result};

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// By device and inode of their directories.
    open: Mutex<HashMap<(u64, u64), Arc<Dataset>>>,
    /// Counts the times that a dataset was asked for.
    moment: AtomicU64,
}

impl Store {
    /// The dataset of a directory.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn dataset(&self, path: &Path) -> Result<Arc<Dataset>> {
        let fd = self.directory(path)?;
        let stat = fstat(&fd).context(|| format!("cannot look at {}", path.display()))?;
        let key = (stat.st_dev, stat.st_ino);
        let mut open = crate::lock(&self.registry.open);
        if let Some(dataset) = open.get(&key) {
            self.touch(dataset);
            return Ok(dataset.clone());
        }
        let options = crate::DatasetOptions {
            read_only: self.options.read_only,
            memory: self.memory.clone(),
            rejected_limit: self.options.rejected_limit,
            reuse_names: self.options.reuse_names,
            depth: path.components().count(),
            boot: None,
        };
        let folder = (self.options.door.0)(path, Directory::from_fd(fd));
        let dataset = Dataset::open_in(folder, path, options).map_err(|error| {
            error.context(format!("cannot open the dataset {}", path.display()))
        })?;
        self.touch(&dataset);
        open.insert(key, dataset.clone());
        let too_many = open.len() > self.options.idle_datasets;
        drop(open);
        if too_many {
            self.close_idle();
        }
        Ok(dataset)
    }

    /// Notes that a dataset is in use: those that are not are closed first.
    pub fn touch(&self, dataset: &Dataset) {
        dataset.touch(self.registry.moment.fetch_add(1, Ordering::Relaxed));
    }

    /// Closes the datasets that were used longest ago and are not in use, down to three quarters of
    /// the limit.
    fn close_idle(&self) {
        let mut idle: Vec<_> = crate::lock(&self.registry.open)
            .iter()
            .filter(|(_, dataset)| Arc::strong_count(dataset) == 1)
            .map(|(key, dataset)| (*key, dataset.clone()))
            .collect();
        idle.sort_unstable_by_key(|(_, dataset)| dataset.last_used());
        for (key, dataset) in idle {
            // Closed while it is still in the table: whoever comes for it meanwhile finds this one,
            // and takes its lock again, instead of another that would find the lock taken.
            if let Err(error) = dataset.close() {
                log::error!("{error}");
            }
            let mut open = crate::lock(&self.registry.open);
            if Arc::strong_count(&dataset) == 2 {
                open.remove(&key);
            }
            if open.len() <= self.options.idle_datasets / 4 * 3 {
                return;
            }
        }
    }

    /// The datasets that are open now.
    pub fn open_datasets(&self) -> Vec<Arc<Dataset>> {
        crate::lock(&self.registry.open).values().cloned().collect()
    }

    /// Syncs what was committed since the last time.
    pub fn sync_dirty(&self) {
        for dataset in self.open_datasets() {
            if dataset.is_dirty()
                && let Err(error) = dataset.sync()
            {
                log::error!("{error}");
            }
        }
    }

    /// Closes all datasets: the end of a mount.
    ///
    /// # Errors
    /// The first that could not be closed cleanly; all are tried.
    pub fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for dataset in self.open_datasets() {
            if let Err(error) = dataset.close() {
                log::error!("{error}");
                if first.is_ok() {
                    first = Err(error);
                }
            }
        }
        crate::lock(&self.registry.open).clear();
        first
    }

    /// A dataset's directory is about to be removed.
    pub(super) fn forget(&self, path: &Path) -> Result<()> {
        if let Some(stat) = self.stat(path)? {
            crate::lock(&self.registry.open).remove(&(stat.st_dev, stat.st_ino));
        }
        Ok(())
    }
}
