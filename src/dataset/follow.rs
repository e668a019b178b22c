//! Following: a dataset that this daemon does not write to.
//!
//! Others may: another daemon, or, while none holds the lock, any program that rewrites
//! the array. What is on the disk is looked at before each answer, which costs a read of the header
//! and of the journal's size, and is taken in from where the last look ended.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::published::Published;
use super::recovery::{Copied, Copies, Found, Verified};
use super::verifying::Verifying;
use crate::array::Array;
use crate::dataset::{Dataset, recovery};
use crate::disk::Open;
use crate::disk::paths::{DATA, JOURNAL, LOCK};
use crate::error::{Context, Errno, Result};
use crate::journal::{FIRST, Reader};
use crate::npy::{Header, Prefix};
use crate::stop::Stop;
use std::sync::atomic::Ordering;

/// What the last look at the disk found.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    /// Which file `data.npy` was.
    identity: Option<(u64, u64)>,
    /// How far the journal has been taken in.
    journal_len: u64,
    /// Another daemon held the lock.
    pub(crate) live: bool,
    /// What is on the disk is known to be wrong beyond what was taken in, and it must not be repaired
    /// here: the rows stay as they were found, as long as the journal has this many bytes.
    frozen: Option<u64>,
    /// It is a copy, and shown as far as this has verified it.
    pub(super) verifying: Option<Arc<Verifying>>,
}

impl Follow {
    /// What was written here up to now is all that there is.
    pub(super) fn ended_owning(&mut self, identity: Option<(u64, u64)>, journal_len: u64) {
        *self = Self {
            identity,
            journal_len,
            live: false,
            frozen: None,
            verifying: None,
        };
    }

    /// A copy is to be shown, of which nothing is verified yet.
    pub(super) fn begin_copy(&mut self, verifying: Arc<Verifying>) {
        self.ended_owning(self.identity, FIRST);
        self.verifying = Some(verifying);
    }
}

impl Dataset {
    pub(crate) fn begin_following(&self) -> Result<()> {
        match self.settle_in(None)? {
            None => Ok(()),
            Some(copy) => self.verify(copy),
        }
    }

    /// Takes in what is on the disk; where there is something to recover it is owned for that. A copy
    /// that is not known to be verified is answered, and nothing is done. `verifier` stops who has
    /// verified it.
    pub(super) fn settle_in(&self, verifier: Option<&Stop>) -> Result<Option<Box<Copied>>> {
        let live = self.is_locked();
        let verified = self.verified();
        let known = Copies::Known(verified.as_deref());
        let look = self.look(Open::Read, live, known);
        match recovery::survey_if_settled(&self.folder, &look)? {
            Found::Surveyed(survey) => {
                self.take_in(*survey, live, false);
                return Ok(None);
            }
            Found::Unverified(copy) => return Ok(Some(copy)),
            Found::Unsettled => {}
        }
        let error = match self.acquire_if_verified(verifier) {
            Ok(unverified) => return Ok(unverified),
            Err(error) => error,
        };
        match error.errno() {
            // Another thread is at it.
            Errno::EBUSY if verifier.is_none() && self.is_verifying() => Ok(None),
            Errno::EBUSY => {
                let look = self.look(Open::Read, true, known);
                let survey = recovery::survey(&self.folder, &look)?;
                self.take_in(survey, true, false);
                Ok(None)
            }
            // It can be read.
            _ if self.damage().is_some() => Ok(None),
            Errno::EROFS | Errno::EACCES | Errno::EPERM => {
                let survey = match recovery::survey_unless_unverified(&self.folder, &look)? {
                    Found::Surveyed(survey) => *survey,
                    Found::Unverified(copy) => return Ok(Some(copy)),
                    Found::Unsettled => return Err(error),
                };
                for note in &survey.notes {
                    log::warn!("{}: {note} (in memory only: {error})", self.label());
                }
                self.take_in(survey, false, true);
                Ok(None)
            }
            _ => Err(error),
        }
    }

    /// How this dataset is looked at, without its lock, where `live` says that another
    /// daemon does.
    pub(super) fn look<'a>(
        &'a self,
        how: Open,
        live: bool,
        copies: Copies<'a>,
    ) -> recovery::Look<'a> {
        recovery::Look {
            how,
            boot: self.boot(),
            live,
            distrust: self.distrust.load(Ordering::Acquire),
            accept: false,
            stop: &self.options.stop,
            copies,
        }
    }

    /// What was found of the rows of a copy.
    pub(super) fn verified(&self) -> Option<Arc<Verified>> {
        crate::lock(&self.verified).clone()
    }

    pub(super) fn take_in(&self, survey: recovery::Survey, live: bool, frozen: bool) {
        let mut follow = crate::lock(&self.follow);
        if self.owned.load(Ordering::Acquire) {
            return;
        }
        if let Some(verifying) = follow.verifying.take() {
            verifying.cancel();
        }
        self.follow_identity(&mut follow);
        follow.journal_len = survey.journal_len;
        follow.live = live;
        follow.frozen = frozen.then(|| self.journal_len_on_disk().unwrap_or(0));
        *crate::write(&self.damage) = survey.damage;
        *self.published_mut() = Published {
            array: survey.array,
            catalog: survey.catalog,
        };
    }

    /// Notes which file `data.npy` is. What was committed to another is not in the store any more.
    pub(super) fn follow_identity(&self, follow: &mut Follow) {
        let now = self.data_identity();
        if follow.identity.is_some() && follow.identity != now {
            let what = "data.npy was replaced or removed in the store";
            self.epoch.end(&err!(ESTALE, "{what}"));
        }
        follow.identity = now;
    }

    /// Takes in what others committed up to now.
    pub(crate) fn refresh(&self) -> Result<()> {
        if self.owned.load(Ordering::Acquire) {
            return Ok(());
        }
        let follow = crate::lock(&self.follow);
        if let Some(verifying) = follow.verifying.clone() {
            let same_array = self.data_identity() == follow.identity;
            let (known, journal_len) = (follow.journal_len, verifying.files.journal_len());
            drop(follow);
            if !same_array || self.journal_len_on_disk()? != journal_len {
                return self.reload();
            }
            let rows = verifying.rows();
            return match self.array() {
                Some(array) if array.rows < rows => self.catch_up(&array, rows, known),
                _ => Ok(()),
            };
        }
        if let Some(known) = follow.frozen {
            // Until another daemon has recovered it.
            let same_array = self.data_identity() == follow.identity;
            drop(follow);
            return if !same_array || self.is_locked() || self.journal_len_on_disk()? != known {
                self.reload()
            } else {
                Ok(())
            };
        }
        let identity = match self.folder.identity(Path::new(DATA)) {
            Ok(identity) => Some(identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(crate::Error::io(error, "cannot look at data.npy")),
        };
        let Some(array) = self.array().filter(|_| identity == follow.identity) else {
            if identity.is_none() && follow.identity.is_none() {
                return Ok(());
            }
            drop(follow);
            return self.reload();
        };
        let count = count_on_disk(&array)?;
        let known = follow.journal_len;
        drop(follow);
        match count {
            // Names and attributes may have changed, or the names of rows that were seen before.
            Some(count) if count == array.rows && known == self.journal_len_on_disk()? => Ok(()),
            Some(count) if count >= array.rows => self.catch_up(&array, count, known),
            _ => self.reload(),
        }
    }

    fn data_identity(&self) -> Option<(u64, u64)> {
        self.folder.identity(Path::new(DATA)).ok()
    }

    /// 0 where there is no journal.
    fn journal_len_on_disk(&self) -> Result<u64> {
        let failed = || "cannot look at the journal".to_owned();
        match self.folder.open(Path::new(JOURNAL), Open::Read) {
            Ok(blob) => blob.len().context(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(crate::Error::io(error, failed())),
        }
    }

    /// Takes in the records that came after the ones known.
    fn catch_up(&self, array: &Array, count: u64, journal_len: u64) -> Result<()> {
        let failed = || "cannot read the journal".to_owned();
        let blob = match self.folder.open(Path::new(JOURNAL), Open::Read) {
            Ok(blob) if journal_len > 0 => blob,
            Ok(_) => return self.reload(),
            // An array without a journal grows by another program's hand.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.reload(),
            Err(error) => return Err(crate::Error::io(error, failed())),
        };
        let mut follow = crate::lock(&self.follow);
        if self.owned.load(Ordering::Acquire) {
            return Ok(());
        }
        let is_same = |now: Array| Arc::ptr_eq(&now.layout, &array.layout);
        if !self.array().is_some_and(is_same) {
            // Another thread has looked later, and found another array.
            return Ok(());
        }
        let len = blob.len().context(failed)?;
        if len < follow.journal_len {
            // Records were taken back.
            drop(follow);
            return self.reload();
        }
        let mut reader = Reader::resume(blob, follow.journal_len);
        let mut published = self.published_mut();
        loop {
            let at = reader.offset();
            let Some(record) = reader.next()? else {
                if at == follow.journal_len && at < len && follow.verifying.is_none() {
                    // Where the last look ended no record begins: a backup goes on in the place of the
                    // record that closed it.
                    drop(published);
                    drop(follow);
                    return self.reload();
                }
                break;
            };
            if record.end().is_some_and(|end| end > count) {
                // Not published yet: it may still be taken back.
                follow.journal_len = at;
                break;
            }
            if published.catalog.apply(&record).is_err() {
                drop(published);
                drop(follow);
                return self.reload();
            }
            follow.journal_len = reader.offset();
        }
        let modified = published.catalog.last_commit();
        if published
            .array
            .as_ref()
            .is_some_and(|now| now.rows > count && Arc::ptr_eq(&now.layout, &array.layout))
        {
            // Another thread has looked later.
            return Ok(());
        }
        published.array = Some(Array {
            layout: array.layout.clone(),
            rows: count,
            modified: modified.unwrap_or(array.modified),
        });
        Ok(())
    }

    fn reload(&self) -> Result<()> {
        let live = self.is_locked();
        let verified = self.verified();
        let copies = match self.options.patience {
            // Those who wait for it may hold what who would repair it needs.
            None => Copies::Read(&|_| ()),
            Some(_) => Copies::Known(verified.as_deref()),
        };
        let look = self.look(Open::Read, live, copies);
        let survey = match recovery::survey_unless_unverified(&self.folder, &look)? {
            Found::Unverified(copy) => return self.verify(copy),
            Found::Surveyed(survey) => *survey,
            Found::Unsettled => return Err(err!(EIO, "the dataset was not looked at")),
        };
        let unsettled = self.options.read_only && !survey.clean && !live;
        let frozen = unsettled || survey.damage.is_some();
        self.take_in(survey, live, frozen);
        Ok(())
    }

    pub(super) fn is_locked(&self) -> bool {
        self.folder.is_locked(Path::new(LOCK)).unwrap_or(false)
    }
}

/// The count in the backing header; `None` where the header is not what it was.
fn count_on_disk(array: &Array) -> Result<Option<u64>> {
    let layout = &array.layout;
    let mut bytes = vec![0; layout.header_len() as usize];
    // A read that meets the writer between the words of a carry may see no number at all.
    for _ in 0..3 {
        let got = layout
            .data
            .read_at(&mut bytes, 0)
            .context(|| "cannot read the header of data.npy".into())?;
        if let Ok(Prefix::Complete(header)) = Header::parse(&bytes[..got]) {
            let same = header.len() == layout.header_len()
                && header.dtype() == layout.dtype()
                && header.row_shape() == layout.row_shape();
            return Ok(same.then(|| header.rows()));
        }
    }
    Ok(None)
}
