//! The datasets of a store: opening, looking at and closing them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::Store;
use super::registry::Key;
use super::sparing::Sparing;
use crate::dataset::Dataset;
use crate::disk::Directory;
use crate::error::{Context, Error, Result};

/// How long those that want a dataset wait for its rows to be verified, if it is a copy.
const PATIENCE: Duration = Duration::from_secs(1);

/// Device and inode; `None` where nothing is there.
fn identity_of(path: &Path) -> io::Result<Option<Key>> {
    match path.symlink_metadata() {
        Ok(stat) => Ok(Some((stat.dev(), stat.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_shortage(error: &Error) -> bool {
    matches!(error.errno(), Errno::EMFILE | Errno::ENFILE)
}

impl Store {
    /// The dataset of a directory. Opening it may take long, and is waited for by those that want
    /// this dataset only.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn dataset(&self, path: &Path) -> Result<Arc<Dataset>> {
        let registry = &self.registry;
        let dataset = registry.sparing(is_shortage, || {
            let fd = self.directory(path)?;
            let stat = fstat(&fd).context(|| format!("cannot look at {}", path.display()))?;
            registry.get((stat.st_dev, stat.st_ino), || {
                registry
                    .reserve
                    .fill()
                    .context(|| "too few descriptors are left for one more dataset".into())?;
                let directory = (self.options.door.0)(path, Directory::from_fd(fd));
                self.open_dataset(path, Sparing::new(directory, registry))
            })
        })?;
        registry.touch(&dataset);
        if registry.count() > registry.limit {
            registry.close_idle(registry.limit / 4 * 3);
        }
        Ok(dataset)
    }

    fn open_dataset(&self, path: &Path, folder: Sparing) -> Result<Arc<Dataset>> {
        let root = fstat(&self.fd).context(|| "cannot look at the store's root".into())?;
        let options = crate::Options {
            read_only: self.options.read_only,
            memory: self.memory.clone(),
            rejected_limit: self.options.rejected_limit,
            reuse_names: self.options.reuse_names,
            depth: path.components().count(),
            root: Some((root.st_dev, root.st_ino)),
            stop: self.stop.clone(),
            patience: Some(PATIENCE),
            losses: self.losses.clone(),
            boot: None,
        };
        let folder = Arc::new(folder);
        Dataset::open_in(folder.clone(), path, options).map_err(|error| {
            let error = error.context(format!("cannot open the dataset {}", path.display()));
            self.report_unopened(path, error, folder)
        })
    }

    /// How many datasets may be open that are not in use.
    pub fn most_idle(&self) -> usize {
        self.registry.limit
    }

    /// Notes that a dataset is in use: those that are not are closed first.
    pub fn touch(&self, dataset: &Dataset) {
        self.registry.touch(dataset);
    }

    /// Syncs what was committed since the last time.
    pub fn sync_dirty(&self) {
        for dataset in self.one_by_one() {
            if dataset.is_dirty()
                && let Err(error) = dataset.sync()
            {
                log::error!("{error}");
            }
        }
    }

    /// The datasets that are open now.
    pub fn open_datasets(&self) -> Vec<Arc<Dataset>> {
        self.registry.datasets()
    }

    /// Looks whether the datasets that were written lately, or `all` that are owned, are still what the
    /// store has.
    pub fn look_if_mine(&self, all: bool) {
        self.one_by_one().for_each(|it| it.look_if_mine(all));
        self.look_at_root();
    }

    /// Tells the logs how often what they have told of was refused since: to be called about once a
    /// second.
    pub fn report_counts(&self) {
        self.one_by_one().for_each(|it| it.report_counts());
        self.telling.tell_counts();
    }

    /// Whether the store's path still leads to the directory that was opened. Its datasets are written
    /// in that one, wherever it was moved to, so all is there that was acknowledged; but the next to mount
    /// the path does not find it.
    fn look_at_root(&self) {
        let (Ok(own), Ok(now)) = (fstat(&self.fd), identity_of(&self.root)) else {
            return;
        };
        let is_there = now == Some((own.st_dev, own.st_ino));
        if !is_there && !self.moved.swap(true, Ordering::Relaxed) {
            self.losses.fetch_add(1, Ordering::Relaxed);
            log::error!(
                "the store {} was moved or replaced: this mount goes on in the directory that it was mounted from, wherever that is now. Unmount it, and put that directory back or mount it",
                self.root.display()
            );
        }
    }

    /// The datasets that are open, of which no more than one is in use because of that.
    fn one_by_one(&self) -> impl Iterator<Item = Arc<Dataset>> + use<> {
        let datasets = self.registry.datasets();
        let all: Vec<Weak<Dataset>> = datasets.iter().map(Arc::downgrade).collect();
        all.into_iter().filter_map(|dataset| dataset.upgrade())
    }

    /// As [`Store::losses`], after a look at all datasets that are owned.
    pub fn losses_by_now(&self) -> u64 {
        self.look_if_mine(true);
        self.losses()
    }

    /// How often a dataset was given up because its files were replaced in the store.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Closes all datasets: the end of a mount.
    ///
    /// # Errors
    /// The first that could not be closed cleanly; all are tried.
    pub fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for dataset in self.registry.datasets() {
            if let Err(error) = dataset.close() {
                log::error!("{error}");
                if first.is_ok() {
                    first = Err(error);
                }
            }
        }
        self.registry.clear();
        let losses = self.losses();
        if first.is_ok() && losses > 0 {
            return Err(err!(
                ESTALE,
                "files were replaced in the store {losses} times while they were written: see the datasets' logs"
            ));
        }
        first
    }

    /// A dataset's directory is about to be removed.
    pub(super) fn forget(&self, path: &Path) -> Result<()> {
        if let Some(stat) = self.stat(path)? {
            self.registry.forget((stat.st_dev, stat.st_ino));
        }
        Ok(())
    }
}
