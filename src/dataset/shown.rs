//! What `stat` and listings show of a dataset's names, beside the chunks themselves: numbers, the attributes of
//! the array, and when the directory changed.
//!
//! A chunk that comes, goes or is renamed changes the directory, and not the store's. So the directory was changed
//! when the catalog or the store says, whichever is later; until a user sets its time, and then at that, up to
//! the next change. When the dataset is closed the store's directory gets the time, for those who look
//! at it without opening the dataset.

use std::ffi::{OsStr, OsString};
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use fnv::FnvHasher;

use super::lookup::next_named;
use crate::dataset::Dataset;
use crate::disk::{Change, clock};
use crate::error::Result;
use crate::journal::{Attributes, Record};

/// By how much a time that the kernel gives a file may be earlier than the clock's, in nanoseconds: a tick of a slow
/// kernel.
const TICK: i64 = 10_000_000;

#[derive(Debug)]
pub(super) struct Shown {
    /// The inode number of its directory, once it was asked for.
    number: OnceLock<u64>,
    /// The last change of names when it was opened.
    opened: AtomicI64,
    /// Changes of names up to this moment do not count: the directory's time was set after them, or has them.
    /// Not known as long as it is the least.
    settled: AtomicI64,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            number: OnceLock::new(),
            opened: AtomicI64::new(0),
            settled: AtomicI64::new(i64::MIN),
        }
    }
}

impl Dataset {
    /// A number for the chunk of this name, committed or to be. It is the same in every process and over
    /// renames, and no other chunk of the store has it, as far as a hash can say so.
    ///
    /// # Errors
    /// The operating system's.
    #[doc(hidden)]
    pub fn number_of(&self, name: &OsStr) -> Result<u64> {
        let directory = self.directory_number()?;
        let published = self.published();
        let catalog = &published.catalog;
        Ok(number(directory, catalog.origin(name.as_bytes())))
    }

    /// As [`Dataset::next_name`], with the chunk's number in the middle.
    ///
    /// # Errors
    /// The operating system's.
    #[doc(hidden)]
    pub fn next_numbered(&self, id: u32) -> Result<Option<(OsString, u64, u32)>> {
        let directory = self.directory_number()?;
        let published = self.published();
        let catalog = &published.catalog;
        let next = next_named(catalog, id);
        Ok(next.map(|(name, next)| {
            let number = number(directory, catalog.origin_by_id(next - 1));
            (name, number, next)
        }))
    }

    fn directory_number(&self) -> Result<u64> {
        if let Some(number) = self.shown.number.get() {
            return Ok(*number);
        }
        let (_, inode) = self.identity()?;
        Ok(*self.shown.number.get_or_init(|| inode))
    }

    /// Mode, owner and time that were set of `data.npy` itself, and when, if any were, as far as is known from
    /// the last look.
    #[doc(hidden)]
    pub fn array_attributes(&self) -> Option<(Attributes, i64)> {
        if !self.is_owned()
            && let Some(verifying) = self.verifying()
        {
            return verifying.of_array;
        }
        self.published().catalog.of_array()
    }

    /// Sets mode, owner or time of `data.npy`; what is left as it is and was never set is as in `shown`.
    ///
    /// # Errors
    /// `ESTALE` where there is no array any more, and those of the journal.
    #[doc(hidden)]
    pub fn set_array_attributes(&self, change: &Change, shown: &Attributes) -> Result<()> {
        let _held = self.hold()?;
        let modified = match self.array() {
            Some(array) => array.modified,
            None => return Err(err!(ESTALE, "the array was removed")),
        };
        let set = self.array_attributes();
        let old = set.map_or(*shown, |(set, _)| set);
        let now = Attributes {
            mode: change.mode.unwrap_or(old.mode) & 0o7777,
            uid: change.uid.unwrap_or(old.uid),
            gid: change.gid.unwrap_or(old.gid),
            mtime: change.mtime.unwrap_or(array_modified(modified, set)),
        };
        let at = clock::now();
        self.change_chunk(Record::ArrayAttributes { set: now, at })
    }

    pub(super) fn begin_showing(&self) {
        let listed = self.published().catalog.listed();
        self.shown.opened.store(listed, Ordering::Relaxed);
    }

    /// When the directory was changed last, as far as its chunks know, where the store says that its entries
    /// were at `mtime` and anything of it at `ctime`: the same two. Answers from the last look at what other
    /// daemons write, as no request waits for it here.
    #[doc(hidden)]
    pub fn directory_times(&self, (mtime, ctime): (i64, i64)) -> (i64, i64) {
        let listed = self.published().catalog.listed();
        let mut settled = self.shown.settled.load(Ordering::Relaxed);
        if settled == i64::MIN {
            let opened = self.shown.opened.load(Ordering::Relaxed);
            // Its time was set since, or it was changed otherwise.
            let later = opened <= ctime.saturating_add(TICK);
            settled = if later { opened } else { i64::MIN + 1 };
            self.shown.settled.store(settled, Ordering::Relaxed);
        }
        let modified = match listed > settled {
            true => mtime.max(listed),
            false => mtime,
        };
        (modified, ctime.max(listed))
    }

    /// When a chunk came, went or was renamed last.
    #[doc(hidden)]
    pub fn names_changed(&self) -> i64 {
        self.published().catalog.listed()
    }

    /// The time of the directory was set in the store, after names had been changed at `names_changed`.
    #[doc(hidden)]
    pub fn directory_time_was_set(&self, names_changed: i64) {
        self.shown.settled.store(names_changed, Ordering::Relaxed);
    }

    /// Gives the directory in the store the time of the last change of its chunks.
    pub(super) fn keep_time_of_entries(&self) {
        let listed = self.published().catalog.listed();
        let opened = self.shown.opened.load(Ordering::Relaxed);
        let settled = match self.shown.settled.load(Ordering::Relaxed) {
            i64::MIN => opened,
            settled => settled,
        };
        if listed <= settled {
            return;
        }
        match self.folder.set_entries_changed(listed) {
            Ok(()) => self.shown.settled.store(listed, Ordering::Relaxed),
            // Its owner and root may; the next to open the dataset sees that it is earlier.
            Err(error) => log::debug!("{}: its time stays: {error}", self.label()),
        }
    }
}

/// When an array was changed last whose last rows came at `modified`, in nanoseconds since 1970.
pub(crate) fn array_modified(modified: i64, set: Option<(Attributes, i64)>) -> i64 {
    match set {
        Some((set, at)) if at >= modified => set.mtime,
        _ => modified,
    }
}

/// The number of a chunk in the directory of this number that was called so first, after so many others.
fn number(directory: u64, (name, before): (&[u8], u32)) -> u64 {
    hash(directory, name, before)
}

/// The number of what npyfs itself shows in the directory of this number.
pub(crate) fn number_in(directory: u64, name: &OsStr) -> u64 {
    hash(directory, name.as_bytes(), u32::MAX)
}

/// It must not change from one npyfs to the next: backups go by it.
fn hash(directory: u64, name: &[u8], before: u32) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(&directory.to_le_bytes());
    hasher.write(name);
    hasher.write(&before.to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_million_names_have_numbers_of_their_own_that_never_change() {
        assert_eq!(number(2, (b"a.npy", 0)) >> 3, 389_230_416_995_585_205);
        let name = |n: u32| format!("chunk-{n:07}.npy");
        let numbers: HashSet<u64> = (0..1_000_000)
            .map(|n| number(123_456, (name(n).as_bytes(), 0)) >> 3)
            .collect();
        assert_eq!(numbers.len(), 1_000_000);
    }
}
