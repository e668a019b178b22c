//! A mount that is out of sight while something of it is open, or a bind mount shows it.
//!
//! The next daemon of the store is to write what it is asked to, so this one owns no dataset for longer
//! than a chunk in flight needs it. What else owns one, as a rename does, lets it go with the next
//! [`Fs::let_go`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fs;
use crate::dataset::Dataset;

impl Fs {
    /// The mount is gone from where it was made. Lets go of all datasets that have no chunk in flight,
    /// each on a thread of its own; to be called again from time to time.
    pub fn let_go(&self) {
        self.parted.store(true, Ordering::SeqCst);
        for dataset in self.store.open_datasets() {
            if dataset.is_owned() {
                self.workers.run(move || let_go_of(&dataset));
            }
        }
    }

    pub(super) fn is_parted(&self) -> bool {
        self.parted.load(Ordering::SeqCst)
    }

    /// A descriptor of the chunk with this inode was closed.
    pub(super) fn let_go_after(&self, ino: u64) {
        if self.is_parted()
            && let Ok(node) = self.inodes.get(ino)
            && let Some(dataset) = self.inodes.dataset(node.parent)
        {
            let_go_of(&dataset);
        }
    }
}

fn let_go_of(dataset: &Arc<Dataset>) {
    if let Err(error) = dataset.let_go() {
        log::error!("{error}");
    }
}
