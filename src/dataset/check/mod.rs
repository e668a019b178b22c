//! `npyfs check`: every checksum, and header, journal and rows against each other.
//!
//! Nothing is changed. What is reported is enough to know which chunks to send again.

mod verify;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::array::View;
use crate::dataset::check::verify::{Known, Until, Verified, verify};
use crate::dataset::recovery::Copies;
use crate::dataset::{Dataset, Options, recovery};
use crate::disk::paths::{DATA, JOURNAL, LOCK};
use crate::disk::{Directory, Open, StoreDir, boot_id};
use crate::error::{Context, Result};
use crate::stop::Stop;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Rows of the array.
    pub rows: u64,
    /// Bytes of these rows.
    pub bytes: u64,
    /// Chunks whose checksum was compared.
    pub chunks: u64,
    /// How many of them have no name any more: it was forgotten, or written again.
    pub nameless: u64,
    /// Rows of which the journal has no checksum: another program's.
    pub unverified_rows: u64,
    /// One sentence for each damage, with the name of the chunk.
    pub damage: Vec<String>,
    /// What the next daemon will repair or adopt when it opens the dataset.
    pub pending: Vec<String>,
}

/// How often what seems to be wrong is looked at again, while the dataset changes.
const LOOKS: u32 = 20;
/// How long to wait for who changes it.
const PAUSE: Duration = Duration::from_millis(10);

/// Where a dataset cannot be opened: one sentence for each chunk whose rows or record are damaged.
///
/// # Errors
/// Those of reading the store.
pub fn lost_chunks(directory: &Path) -> Result<Vec<String>> {
    recovery::lost_chunks(&open_folder(directory)?)
}

/// Opens a dataset to look at it: nothing is written, and what another process is changing just then is
/// no reason to refuse it.
///
/// # Errors
/// Those of [`Dataset::open`].
pub fn open_to_check(directory: &Path) -> Result<Arc<Dataset>> {
    let folder = open_folder(directory)?;
    let options = || Options {
        read_only: true,
        ..Options::default()
    };
    looked_at_in_peace(
        &folder,
        |_| Dataset::open_in(folder.clone(), directory, options()),
        |_| true,
    )
}

/// Lets writes go on to a copy that is damaged, with its rows as they are. Answers what was damaged, one
/// sentence for each chunk; none where there was nothing to accept.
///
/// # Errors
/// `EBUSY` where a daemon writes to it, and those of [`Dataset::open`].
pub fn accept_damage(directory: &Path) -> Result<Vec<String>> {
    let dataset = Dataset::open(directory, Options::default())?;
    let accepted = dataset.accept_damage()?;
    dataset.close()?;
    Ok(accepted)
}

fn open_folder(directory: &Path) -> Result<Arc<dyn StoreDir>> {
    let folder =
        Directory::open(directory).context(|| format!("cannot open {}", directory.display()))?;
    Ok(Arc::new(folder))
}

/// What tells whether another process has changed a dataset in between.
#[derive(Debug, PartialEq)]
struct Moment {
    data: Option<(u64, u64)>,
    journal: Option<(u64, u64)>,
    journal_len: u64,
    /// A daemon is at work there.
    live: bool,
}

impl Moment {
    fn of(folder: &Arc<dyn StoreDir>) -> Result<Self> {
        let identity = |path: &str| match folder.identity(Path::new(path)) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("cannot look at {path}")),
        };
        let journal = recovery::open_if_there(folder, JOURNAL, Open::Read)?;
        let journal_len = match &journal {
            Some(blob) => blob
                .len()
                .context(|| "cannot look at the journal".to_owned())?,
            None => 0,
        };
        Ok(Self {
            live: folder.is_locked(Path::new(LOCK)).unwrap_or(false),
            data: identity(DATA)?,
            journal: identity(JOURNAL)?,
            journal_len,
        })
    }

    /// Whether what was seen from here to `later` is what one state of the dataset shows. A daemon at
    /// work only adds to it, unless it removes the array.
    fn holds_until(&self, later: &Self) -> bool {
        let same_files = self.data == later.data && self.journal == later.journal;
        let only_grown = self.live && later.live && self.journal_len <= later.journal_len;
        self == later || (same_files && only_grown)
    }
}

/// What `look` finds. Where it is not `sound` it is believed only if it was found of one state, and an
/// error only if nothing at all has changed: files that are read one after the other disagree while
/// another process opens, closes or removes the dataset. `look` is told whether a daemon is at work.
fn looked_at_in_peace<T>(
    folder: &Arc<dyn StoreDir>,
    mut look: impl FnMut(bool) -> Result<T>,
    sound: impl Fn(&T) -> bool,
) -> Result<T> {
    for _ in 1..LOOKS {
        let before = Moment::of(folder)?;
        let found = look(before.live);
        let later = Moment::of(folder)?;
        let believed = match &found {
            Ok(found) => sound(found) || before.holds_until(&later),
            Err(_) => before == later,
        };
        if believed {
            return found;
        }
        sleep(PAUSE);
    }
    look(Moment::of(folder)?.live)
}

impl Dataset {
    /// Whether it is a copy that was damaged, which nothing is written to.
    #[doc(hidden)]
    pub fn is_damaged(&self) -> bool {
        self.damage().is_some()
    }

    /// Verifies the dataset; `progress` is told the bytes verified so far, and of how many.
    ///
    /// # Errors
    /// Those of reading the store. Damage is not an error but in the report.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        check_in(&self.folder, self.boot(), progress)
    }
}

/// As [`Dataset::check`], of a dataset that is not opened for it.
///
/// # Errors
/// As there, and why it cannot be opened.
pub fn check(directory: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    check_in(&open_folder(directory)?, boot_id(), progress)
}

fn check_in(
    folder: &Arc<dyn StoreDir>,
    boot: [u8; 16],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let sound = |report: &Report| report.damage.is_empty() && report.pending.is_empty();
    looked_at_in_peace(
        folder,
        |live| look_through(folder, boot, live, progress),
        sound,
    )
}

/// Each row is read once: what a survey has compared, nothing compares again.
fn look_through(
    folder: &Arc<dyn StoreDir>,
    boot: [u8; 16],
    live: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let survey = {
        let progress = RefCell::new(&mut *progress);
        let look = recovery::Look {
            how: Open::Read,
            boot,
            live,
            distrust: false,
            accept: false,
            stop: &Stop::default(),
            copies: Copies::Read(&|step| progress.borrow_mut()(step.done, step.total)),
        };
        recovery::survey(folder, &look)?
    };
    let pending = recovery::pending(&survey, live);
    let mut report = Report {
        damage: pending.damage,
        pending: pending.mendable,
        ..Report::default()
    };
    let Some(array) = survey.array else {
        return Ok(report);
    };
    let array = View::of_array(array);
    let until = if live {
        Until::LastRow
    } else {
        Until::Byte(survey.journal_len)
    };
    let total = array.body_len();
    let known = Known {
        rows: survey.compared,
        damage: survey.damage,
    };
    let mut done = known.bytes(&array);
    let verified = match recovery::open_if_there(folder, JOURNAL, Open::Read)? {
        Some(journal) => verify(&journal, until, &array, known, &mut |bytes| {
            done += bytes;
            progress(done, total);
        })?,
        None => Verified::default(),
    };
    progress(total, total);
    report.rows = array.rows();
    report.bytes = total;
    report.chunks = verified.chunks;
    report.nameless = verified.nameless;
    report.unverified_rows = array.rows().saturating_sub(verified.rows);
    let lines = verified
        .findings
        .into_lines(|name| survey.catalog.find(name).is_some());
    report.damage.extend(lines);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ROUNDS: u32 = 3;

    /// How often is looked at a dataset that `change` changes during each of the first looks, where
    /// each look during a change answers `during`.
    fn looks(live: bool, change: impl Fn(&Path, u32), during: Result<bool>) -> u32 {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join(".npyfs")).unwrap();
        fs::write(root.join(DATA), "array").unwrap();
        fs::write(root.join(JOURNAL), "records").unwrap();
        let folder = open_folder(root).unwrap();
        let lock = live.then(|| folder.lock(Path::new(LOCK)).unwrap().unwrap());
        let mut looks = 0;
        let look = |told| {
            assert_eq!(told, live);
            looks += 1;
            if looks <= ROUNDS {
                change(root, looks);
            }
            during.clone()
        };
        let found = looked_at_in_peace(&folder, look, |found| *found);
        assert_eq!(found.is_ok(), during.is_ok());
        drop(lock);
        looks
    }

    fn append_record(root: &Path, look: u32) {
        fs::write(root.join(JOURNAL), "records".repeat(1 + look as usize)).unwrap();
    }

    fn replace_array(root: &Path, _: u32) {
        fs::write(root.join("new"), "array").unwrap();
        fs::rename(root.join("new"), root.join(DATA)).unwrap();
    }

    fn begin_journal_anew(root: &Path, look: u32) {
        fs::write(root.join(JOURNAL), &"record"[look as usize..]).unwrap();
    }

    #[test]
    fn what_is_in_order_is_believed_at_once() {
        assert_eq!(looks(false, append_record, Ok(true)), 1);
        assert_eq!(looks(true, replace_array, Ok(true)), 1);
    }

    #[test]
    fn damage_is_believed_of_one_state_of_the_dataset_only() {
        assert_eq!(looks(false, |_, _| {}, Ok(false)), 1);
        for change in [append_record, replace_array, begin_journal_anew] {
            assert_eq!(looks(false, change, Ok(false)), ROUNDS + 1);
        }
    }

    #[test]
    fn damage_of_a_dataset_that_only_grows_is_believed() {
        assert_eq!(looks(true, append_record, Ok(false)), 1);
        for change in [replace_array, begin_journal_anew] {
            assert_eq!(looks(true, change, Ok(false)), ROUNDS + 1);
        }
    }

    #[test]
    fn an_error_is_believed_where_nothing_has_changed() {
        let error = || Err(err!(EIO, "the journal is damaged"));
        assert_eq!(looks(true, |_, _| {}, error()), 1);
        for change in [append_record, replace_array, begin_journal_anew] {
            assert_eq!(looks(true, change, error()), ROUNDS + 1);
        }
    }

    #[test]
    fn a_dataset_that_never_rests_is_reported_in_the_end() {
        let forever = |root: &Path, _| replace_array(root, 0);
        let directory = tempfile::tempdir().unwrap();
        let folder = open_folder(directory.path()).unwrap();
        let mut looks = 0;
        let found = looked_at_in_peace(
            &folder,
            |_| {
                looks += 1;
                forever(directory.path(), looks);
                Ok(looks)
            },
            |_| false,
        );
        assert_eq!(found.unwrap(), LOOKS);
    }
}
