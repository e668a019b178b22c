//! Owning a dataset: the right to write, from the first write to the close.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::mine::names::Names;
use super::published::Published;
use super::recovery::{Copied, Copies, Damage, Found};
use super::writer::Writer;
use crate::array::tail::Tail;
use crate::dataset::{Dataset, recovery, sync};
use crate::disk;
use crate::disk::clock;
use crate::disk::paths::{CONTROL, LOCK};
use crate::disk::{Open, Place, StoreFile};
use crate::error::{Context, Error, Result};
use crate::journal::{Journal, Opened, Record, Whence};
use crate::stop::Stop;
use crate::wait;

/// What became of taking a dataset.
pub(super) enum Taken {
    Owned(Box<Writer>),
    /// Nothing: it is a copy whose rows are not verified.
    Unverified(Box<Copied>),
}

impl Dataset {
    /// Whether this daemon holds the lock.
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }

    pub(super) fn owner(&self) -> &'static str {
        if self.owned.load(Ordering::Acquire) {
            "this daemon"
        } else if crate::lock(&self.follow).live {
            "another daemon"
        } else {
            "nobody"
        }
    }

    /// Acquires the right to write: takes the lock and recovers what is to be recovered.
    ///
    /// # Errors
    /// `EBUSY` where another daemon has the lock, `EROFS` where nothing may be written, and those
    /// of recovery.
    pub fn acquire(&self) -> Result<()> {
        let Some(copy) = self.acquire_if_verified(None)? else {
            return Ok(());
        };
        self.verify(copy)?;
        match self.acquire_if_verified(None)? {
            None => Ok(()),
            Some(_) => Err(err!(EBUSY, "the copy was changed while it was verified")),
        }
    }

    /// As [`Dataset::acquire`], but for a copy whose rows are not verified, which is answered. `verifier` stops
    /// the thread that has verified it, which nothing keeps from owning it then.
    pub(super) fn acquire_if_verified(
        &self,
        verifier: Option<&Stop>,
    ) -> Result<Option<Box<Copied>>> {
        if self.owned.load(Ordering::Acquire) {
            return Ok(None);
        }
        if self.options.read_only {
            return Err(err!(EROFS, "the store is mounted read-only"));
        }
        wait::may_wait()?;
        if verifier.is_none() {
            if self.damage().is_some() {
                // It may have been put in order since.
                self.refresh()?;
            }
            self.refuse_while_verifying()?;
        }
        let mut guard = self.writer()?;
        if guard.is_some() {
            return Ok(None);
        }
        if let Some(stop) = verifier {
            // A close of the dataset sets it before it takes the writer.
            stop.check()?;
        }
        if let Some(damage) = self.damage() {
            return Err(self.refused_for(&damage));
        }
        self.stays_in_store()?;
        self.folder
            .make_dir(Path::new(CONTROL))
            .context(|| "cannot make .npyfs in the dataset".into())?;
        let lock = self.lock()?;
        match self.take_over(lock, false)? {
            Taken::Owned(writer) => *guard = Some(*writer),
            Taken::Unverified(copy) => return Ok(Some(copy)),
        }
        Ok(None)
    }

    fn refused_for(&self, damage: &Damage) -> Error {
        err!(
            EIO,
            "this copy of a dataset is DAMAGED: {damage}. It can be read; nothing is written to it until `npyfs check --accept DATASET` lets writes go on with it as it is"
        )
    }

    /// As [`Dataset::acquire`], of a copy that is damaged: its rows are taken as they are. Answers what was
    /// damaged, in a sentence each.
    ///
    /// # Errors
    /// As there.
    #[doc(hidden)]
    pub fn accept_damage(&self) -> Result<Vec<String>> {
        let mut guard = self.writer()?;
        let Some(damage) = self.damage() else {
            return Ok(Vec::new());
        };
        let lock = self.lock()?;
        match self.take_over(lock, true)? {
            Taken::Owned(writer) => *guard = Some(*writer),
            Taken::Unverified(_) => {
                return Err(err!(
                    EBUSY,
                    "the copy was changed since it was verified: check it again"
                ));
            }
        }
        Ok(damage.lines(&self.published().catalog).collect())
    }

    pub(super) fn lock(&self) -> Result<Box<dyn disk::Lock>> {
        let failed = || "cannot lock the dataset".to_owned();
        let lock = loop {
            if let Some(lock) = self.folder.lock(Path::new(LOCK)).context(failed)? {
                break lock;
            }
            if let Some(refused) = self.refused_by_holder() {
                return Err(refused);
            }
        };
        if !lock.is_named().context(failed)? {
            return Err(err!(
                ESTALE,
                "{LOCK} was removed, with the dataset perhaps, before it was locked"
            ));
        }
        Ok(lock)
    }

    pub(super) fn take_over(&self, lock: Box<dyn disk::Lock>, accept: bool) -> Result<Taken> {
        let verified = self.verified();
        self.follow_identity(&mut crate::lock(&self.follow));
        let look = recovery::Look {
            accept,
            ..self.look(Open::Write, false, Copies::Known(verified.as_deref()))
        };
        let mut survey = match recovery::survey_unless_unverified(&self.folder, &look)? {
            Found::Surveyed(survey) => *survey,
            Found::Unverified(copy) => return Ok(Taken::Unverified(copy)),
            Found::Unsettled => return Err(err!(EIO, "the dataset was not looked at")),
        };
        if let Some(damage) = survey.damage.clone() {
            for note in &survey.notes {
                self.note(&format!("DAMAGED: {note}"));
            }
            let refused = self.refused_for(&damage);
            self.note(&refused.to_string());
            self.take_in(survey, false, true);
            return Err(refused);
        }
        let keepers = recovery::Keepers {
            rescued: &self.rescued,
            rejected: &self.rejected,
        };
        let owed = recovery::repair(&self.folder, &mut survey, keepers, look.stop)?;
        let mut journal = recovery::open_journal(&self.folder, &survey)?;
        // Other files than those that were synced. What was verified of them, or believed, is on this
        // disk before the journal says that they are where the dataset is.
        let anew = survey.copied || owed.foreign_rows > 0;
        if anew && let Some(array) = &survey.array {
            array
                .layout
                .data
                .sync()
                .context(|| "cannot sync data.npy".into())?;
        }
        if survey.copied {
            journal
                .blob()
                .sync()
                .context(|| "cannot sync the journal".into())?;
        }
        match survey.doubtful_from {
            None => {}
            Some(_) if survey.copied => {}
            // All before that record was synced before it was written.
            Some(at) if survey.clean => {
                sync::write_again(None, 0, &journal, at, &self.options.stop)?
            }
            Some(_) => {
                let array = survey.array.as_ref();
                sync::write_again(array, survey.durable, &journal, 0, &self.options.stop)?;
            }
        }
        // Also where its first line is the new one already: the sync of that may have failed. That
        // of a new journal is synced with its first record.
        if survey.journal_len > 0 && !survey.raised {
            raise_version(&mut journal)?;
        }
        let header;
        let mut records = Vec::new();
        if !survey.array_recorded
            && let Some(array) = &survey.array
        {
            header = array.layout.header_bytes(0);
            records.push(Record::Array { header: &header });
        }
        if owed.foreign_rows > 0 {
            let foreign = Record::Foreign {
                first_row: survey.catalog.rows(),
                rows: owed.foreign_rows,
            };
            survey
                .catalog
                .apply(&foreign)
                .map_err(|out| err!(EIO, "cannot adopt rows: {}", out.0))?;
            records.push(foreign);
        }
        if survey.copied
            && !survey.closed
            && let Some(array) = &survey.array
        {
            // All of it was verified, or accepted, and is on the disk.
            survey.durable = array.rows;
            records.push(Record::Durable { rows: array.rows });
        }
        let data = survey.array.as_ref().map(|array| &*array.layout.data);
        records.push(self.opened_now(&journal, data)?);
        journal.append(&records)?;
        // A power cut that takes the records to come must not take this one: without it, a count
        // in the header that did reach the disk would pass for another program's rows.
        journal
            .blob()
            .sync()
            .context(|| "cannot sync the journal".into())?;
        if survey.journal_len == 0 {
            let failed = || "cannot sync the dataset's directory".to_owned();
            self.folder.sync(Path::new(CONTROL)).context(failed)?;
            self.folder.sync(Path::new(".")).context(failed)?;
        }
        let names = Names::look(&*self.folder)?;
        if let Some(array) = &survey.array
            && let Some(end) = array.layout.offset(array.rows)
        {
            array.layout.reaches(end);
        }
        // Only now that the journal tells of nothing that went with it.
        recovery::finish_removal(&self.folder, &journal)?;
        for line in survey.kept.iter() {
            self.note(line);
        }
        for note in &survey.notes {
            self.note(&note.to_string());
        }
        let writer = Writer {
            journal,
            array_recorded: survey.array.is_some(),
            tail: Tail::default(),
            new_array: None,
            durable: survey.durable,
            dirty: true,
            failed: None,
            names,
            first_row: survey.array.as_ref().map_or(0, |array| array.rows),
            lock,
        };
        // With the lock of those that look at the disk: none of them may replace this with what it
        // saw before.
        let mut follow = crate::lock(&self.follow);
        follow.verifying = None;
        *self.published_mut() = Published {
            array: survey.array,
            catalog: survey.catalog,
        };
        *crate::write(&self.damage) = None;
        *crate::lock(&self.verified) = None;
        self.distrust.store(false, Ordering::Release);
        self.owned.store(true, Ordering::Release);
        Ok(Taken::Owned(Box::new(writer)))
    }

    /// The record of this daemon's taking the dataset, now, whose array is `data`.
    pub(super) fn opened_now(
        &self,
        journal: &Journal,
        data: Option<&dyn StoreFile>,
    ) -> Result<Record<'static>> {
        let failed = || "cannot see where the dataset lies".to_owned();
        let here = journal.blob().whereabouts().context(failed)?;
        let data = match data {
            Some(data) => data.whereabouts().context(failed)?.place,
            None => Place::default(),
        };
        Ok(Record::Opened(Opened {
            boot: self.boot(),
            at: clock::now(),
            whence: Some(Whence {
                host: [0; 16],
                mount: here.mount,
                data,
                journal: here.place,
            }),
        }))
    }

    /// Lets the dataset go: all of it on the disk, the journal closed, the lock free. It goes on as
    /// a follower.
    ///
    /// # Errors
    /// What the disk answers; the next to open the dataset recovers it.
    pub fn close(&self) -> Result<()> {
        if let Some(verifying) = self.verifying() {
            verifying.cancel();
        }
        // Of files that are not the store's any more nothing is settled.
        let looked = match self.is_owned() {
            true => self.look_at_files(),
            false => Ok(()),
        };
        self.settle_and_free().and(looked)
    }

    fn settle_and_free(&self) -> Result<()> {
        let mut guard = match self.writer.lock() {
            Ok(guard) => guard,
            Err(poisoned) => {
                // Nothing that memory says is settled on the disk; the next to open it, here or
                // elsewhere, recovers it, and must find the lock free.
                poisoned.into_inner().take();
                self.owned.store(false, Ordering::Release);
                self.writer.clear_poison();
                return Err(err!(
                    EIO,
                    "a failure inside npyfs left this dataset open; it is recovered when it is opened again"
                ));
            }
        };
        let Some(mut writer) = guard.take() else {
            return Ok(());
        };
        crate::lock(&self.follow).ended_owning(writer.names.data(), writer.journal.len());
        self.owned.store(false, Ordering::Release);
        let settled = self.settle(&mut writer);
        drop(writer);
        drop(guard);
        settled
    }
}

/// Raises the journal's version before the first record that only the new one has.
fn raise_version(journal: &mut Journal) -> Result<()> {
    journal
        .raise_version()
        .and_then(|()| journal.blob().sync())
        .context(|| "cannot raise the version of the journal".into())
}

impl Drop for Dataset {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{}: not closed cleanly: {error}", self.label());
        }
    }
}
