//! Still mine? What this daemon writes to must be what has the names in the store.
//!
//! A program beside npyfs may put a backup back by renames, remove `data.npy` or `.npyfs`, or cut a
//! file. Commits would go on into files that no name leads to, or leave holes that pass for rows. So a
//! commit looks at both files by their descriptors: whether they still have a name, whether they are as
//! long as they were left, and whether `data.npy` has the header that was written last. Each sync, each
//! closing, once a second while it is written and every few seconds else a look at the names follows, and
//! at where the directory lies. If something differs, the dataset is given up (`loss`).

pub(crate) mod epoch;
mod loss;
pub(crate) mod names;

use std::fmt;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use crate::array::view::Layout;
use crate::dataset::Dataset;
use crate::dataset::writer::Writer;
use crate::disk::paths::{DATA, JOURNAL};
use crate::error::{Context, Result};
use names::{Names, identity};

/// How the store differs from what this daemon writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// `data.npy` is another file, or none.
    Data,
    /// `data.npy` was cut to this many bytes.
    Cut(u64),
    /// The header of `data.npy` was overwritten.
    Header,
    /// The dataset's directory was moved out of the store, or removed.
    Directory,
    /// This is another file or directory, or none.
    Other(&'static str),
    /// The journal has this many bytes, and had others.
    Journal(u64),
}

/// When a loss is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is the answer to what is asked.
    Now,
    /// It is the answer to the next commit or sync.
    Later,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Data => write!(f, "data.npy was replaced or removed in the store"),
            Loss::Cut(len) => write!(f, "data.npy was cut to {len} bytes in the store"),
            Loss::Header => write!(f, "data.npy was overwritten in the store"),
            Loss::Directory => write!(f, "its directory was moved out of the store or removed"),
            Loss::Other(what) => write!(f, "{what} was replaced or removed in the store"),
            Loss::Journal(len) => write!(
                f,
                "{JOURNAL} was changed by another program: it has {len} bytes"
            ),
        }
    }
}

impl Dataset {
    /// The writer, if this daemon has the right to write and the files of it are those of the store.
    ///
    /// # Errors
    /// `ESTALE` and `EIO` where they are not: the dataset was given up; and those of looking.
    pub(crate) fn mine(&self) -> Result<MutexGuard<'_, Option<Writer>>> {
        self.look_at_descriptors(Told::Now)
    }

    fn look_at_descriptors(&self, told: Told) -> Result<MutexGuard<'_, Option<Writer>>> {
        let guard = self.writer()?;
        match guard.as_ref().and_then(|writer| self.glance(writer)) {
            None => Ok(guard),
            Some(loss) => Err(self.give_up(guard, loss, told)),
        }
    }

    /// As [`Dataset::mine`], by the names in the store.
    pub(crate) fn mine_by_name(&self) -> Result<MutexGuard<'_, Option<Writer>>> {
        self.look_at_names(Told::Now)
    }

    fn look_at_names(&self, told: Told) -> Result<MutexGuard<'_, Option<Writer>>> {
        let guard = self.writer()?;
        let Some(writer) = guard.as_ref() else {
            return Ok(guard);
        };
        let loss = match writer.names.differ(&Names::look(&*self.folder)?) {
            Some(DATA) => Some(Loss::Data),
            Some(other) => Some(Loss::Other(other)),
            None => (!self.is_in_store()?).then_some(Loss::Directory),
        };
        match loss {
            None => Ok(guard),
            Some(loss) => Err(self.give_up(guard, loss, told)),
        }
    }

    /// Whether its directory still lies in the store. Where a store's root is not known, it does.
    fn is_in_store(&self) -> Result<bool> {
        match self.options.root {
            None => Ok(true),
            Some(root) => self
                .folder
                .is_within(root)
                .context(|| "cannot see where the dataset's directory lies".into()),
        }
    }

    /// # Errors
    /// `ESTALE` where the dataset's directory does not lie in the store any more.
    pub(crate) fn stays_in_store(&self) -> Result<()> {
        match self.is_in_store()? {
            true => Ok(()),
            false => Err(err!(ESTALE, "{}", Loss::Directory)),
        }
    }

    /// Looks at the files and the names of an owned dataset, where something was written lately or `always`.
    /// What is found is the answer to the next commit or sync.
    #[doc(hidden)]
    pub fn look_if_mine(&self, always: bool) {
        if !self.is_owned() || !(self.written.swap(false, Ordering::Relaxed) || always) {
            return;
        }
        if let Err(error) = self.look_at_all(Told::Later) {
            log::debug!("{}: {error}", self.label());
        }
    }

    /// Looks at the files and at their names.
    pub(crate) fn look_at_files(&self) -> Result<()> {
        self.look_at_all(Told::Now)
    }

    fn look_at_all(&self, told: Told) -> Result<()> {
        self.look_at_descriptors(told).map(drop)?;
        self.look_at_names(told).map(drop)
    }

    /// The answer that a look has left for the next commit or sync. Not for an open, which the kernel
    /// tries again by itself after `ESTALE`.
    pub(crate) fn pay(&self) -> Result<()> {
        match crate::lock(&self.owed).take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// By the descriptors. A store that does not even answer this fails what is asked of it next, and
    /// after a failure the disk is compared with memory before anything is written (`resume`).
    fn glance(&self, writer: &Writer) -> Option<Loss> {
        if writer.failed.is_some() {
            return None;
        }
        let array = self.array().filter(|_| writer.array_recorded);
        let Some(array) = array else {
            // What has come there is not to lose its place to the first commit.
            let now = identity(&*self.folder, DATA).ok()?;
            return (now != writer.names.data()).then_some(Loss::Data);
        };
        let (names, len) = array.layout.data.glance().ok()?;
        if names == 0 {
            return Some(Loss::Data);
        }
        if array.layout.offset(array.rows).is_some_and(|end| len < end) {
            return Some(Loss::Cut(len));
        }
        if !has_header(&array.layout, array.rows) {
            return Some(Loss::Header);
        }
        let journal = &writer.journal;
        let (names, len) = journal.blob().glance().ok()?;
        if names == 0 {
            return Some(Loss::Other(JOURNAL));
        }
        (len != journal.len()).then_some(Loss::Journal(len))
    }
}

/// Whether the header on the disk is the one that was written last, with this count. One that cannot
/// be read is told by what reads it next.
fn has_header(layout: &Layout, rows: u64) -> bool {
    let expected = layout.header_bytes(rows);
    let mut found = vec![0; expected.len()];
    match layout.data.read_at(&mut found, 0) {
        Ok(got) => found[..got] == expected[..],
        Err(_) => true,
    }
}
