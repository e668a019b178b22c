//! Opening a dataset: what journal, header and rows say together, and what is to be done when they
//! disagree.
//!
//! [`survey`] only reads: it finds the longest good prefix of the commit order and says what must
//! change on the disk for all to check_compatible with it. A reader uses its result as it is. [`repair()`]
//! carries it out for a daemon that holds the lock.
//!
//! How much of a dataset that was not closed is believed depends on [`Since`]: what a daemon that died
//! has written, what had reached the disk, or, of a copy, nothing.

mod absent;
mod copy;
mod damage;
mod inspect;
mod layout;
mod left;
mod place;
mod repair;
mod replay;
mod rows;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::array::Array;
use crate::disk::paths::NEW_DATA;
use crate::disk::paths::REMOVED;
use crate::disk::paths::{DATA, JOURNAL};
use crate::disk::{Open, StoreDir, StoreFile};
use crate::error::{Context, Error, Result};
use crate::journal::catalog::Catalog;
use crate::stop::Stop;
use absent::{never_arrived, survey_of_nothing, without_data};
pub(crate) use copy::{Copied, Files, Verified};
pub(crate) use damage::Damage;
pub(crate) use inspect::{lost_chunks, pending};
use layout::{read_layout, rows_in};
pub(crate) use left::Keepers;
use place::{Since, since};
pub(crate) use repair::{finish_removal, open_journal, publish_from_disk, remove_if_there, repair};
use replay::{Reading, Replay, Unverified, read_replay};
pub(crate) use rows::Step;
use rows::{Rows, Verdict};

/// How a dataset is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) how: Open,
    /// This boot's id.
    pub(crate) boot: [u8; 16],
    /// Another daemon is at work there: then what the header counts is good.
    pub(crate) live: bool,
    /// Another program has written into the files: nothing of them is believed.
    pub(crate) distrust: bool,
    /// What is damaged of a copy is to be taken as it is.
    pub(crate) accept: bool,
    pub(crate) stop: &'a Stop,
    pub(crate) copies: Copies<'a>,
}

/// What is done with the rows of a copy.
#[derive(Clone, Copy)]
pub(crate) enum Copies<'a> {
    /// They are verified there and then, and this is told how far that is.
    Read(&'a dyn Fn(Step)),
    /// They are not read: this is believed, if it is of these files.
    Known(Option<&'a Verified>),
}

/// What a look has found.
#[derive(Debug)]
pub(crate) enum Found {
    Surveyed(Box<Survey>),
    /// There is something to recover, which was not looked into.
    Unsettled,
    /// It is a copy of which no row is verified.
    Unverified(Box<Copied>),
}

impl std::fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

impl Look<'_> {
    fn reading(&self) -> Reading<'_> {
        Reading {
            until: u64::MAX,
            copied: false,
            stop: self.stop,
        }
    }
}

/// What is on the disk.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) catalog: Catalog,
    pub(crate) array: Option<Array>,
    /// Rows that the journal says have reached the disk.
    pub(crate) durable: u64,
    /// The array's header is in the journal.
    pub(crate) array_recorded: bool,
    /// The end of the journal's good part, 0 where there is no journal.
    pub(crate) journal_len: u64,
    /// The journal has a record that only the newest version has.
    pub(crate) raised: bool,
    /// What was written in this boot, from this byte of the journal on, may be in memory only, and
    /// pass for written: the sync of it may have failed. `None` where that cannot be.
    pub(crate) doubtful_from: Option<u64>,
    /// The last daemon closed the dataset.
    pub(crate) closed: bool,
    /// Its files lie elsewhere than where the last daemon took them: nothing is known to have reached
    /// this disk.
    pub(crate) copied: bool,
    /// Rows that were compared with their checksums, and are as they were committed, but for those of
    /// `damage`.
    pub(crate) compared: Range<u64>,
    /// Of a copy: what is damaged in the middle, so that nothing may be changed.
    pub(crate) damage: Option<Arc<Damage>>,
    /// The last daemon closed the dataset, or there never was one, and nothing disagrees.
    pub(crate) clean: bool,
    plan: Plan,
    /// For the log: how it was found, and what is kept.
    pub(crate) kept: Option<String>,
    /// For the log: what was out of order, and what is dropped.
    pub(crate) notes: Vec<Finding>,
}

/// Something that recovery has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Rows are lost.
    Loss(String),
    /// A chunk that goes, and why.
    Dropped(String, String),
    /// What is set aside.
    SetAside(String),
    /// Something was found out of order, and nothing is lost. A crash explains it.
    Repair(String),
    /// Another program's work, or what is only to be told.
    Info(String),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finding::Loss(line) | Finding::Repair(line) | Finding::Info(line) => f.write_str(line),
            Finding::Dropped(name, why) => write!(f, "{name} dropped by recovery: {why}"),
            Finding::SetAside(what) => write!(f, "{what}: set aside in .npyfs/rescued"),
        }
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// `data.npy` is still at its birthplace.
    install_new: bool,
    /// The header is to be written anew, whole.
    rewrite_header: bool,
    /// Its block was inserted, and the header may be in it in part.
    finish_insertion: bool,
    /// The count in the header on the disk, where there is one.
    count_on_disk: Option<u64>,
    /// Rows after the good ones that may be garbage, to be kept aside.
    reject_rows: u64,
    /// Rows after the journal's that another program appended.
    foreign_rows: u64,
    /// Something after the good rows or records is to be cut off.
    cut: bool,
    /// `data.npy` is the rest of an array that never reached the disk.
    set_array_aside: bool,
}

fn dropped_note(replay: &Replay, commit: &Unverified, since: Since) -> Finding {
    let why = match since {
        Since::Copied => "are not in this copy",
        Since::Died | Since::Restarted => "had not reached the disk",
    };
    Finding::Dropped(
        replay.name(commit).into_owned(),
        format!("its {} rows {why}", commit.rows),
    )
}

pub(crate) fn open_if_there(
    folder: &Arc<dyn StoreDir>,
    path: &str,
    how: Open,
) -> Result<Option<Arc<dyn StoreFile>>> {
    match folder.open(Path::new(path), how) {
        Ok(blob) => Ok(Some(blob)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, format!("cannot open {path}"))),
    }
}

/// Reads a dataset's state, if nothing has to be recovered: then no rows are read.
pub(crate) fn survey_if_settled(folder: &Arc<dyn StoreDir>, look: &Look<'_>) -> Result<Found> {
    look_at(folder, look, false)
}

/// Reads a dataset's state, and the rows that nothing else speaks for. Of a copy these are only read
/// where `look` says so.
pub(crate) fn survey_unless_unverified(
    folder: &Arc<dyn StoreDir>,
    look: &Look<'_>,
) -> Result<Found> {
    look_at(folder, look, true)
}

/// Reads a dataset's state, and the rows that nothing else speaks for.
pub(crate) fn survey(folder: &Arc<dyn StoreDir>, look: &Look<'_>) -> Result<Survey> {
    match look_at(folder, look, true)? {
        Found::Surveyed(survey) => Ok(*survey),
        Found::Unsettled | Found::Unverified(_) => Err(err!(EIO, "the dataset was not looked at")),
    }
}

/// `deep`: what is to be recovered is looked into.
fn look_at(folder: &Arc<dyn StoreDir>, look: &Look<'_>, deep: bool) -> Result<Found> {
    let (live, boot) = (look.live, &look.boot);
    let journal = open_if_there(folder, JOURNAL, Open::Read)?;
    let mut replay = match &journal {
        Some(blob) => match read_replay(blob, look.reading())? {
            // The end of the file may have been read while another daemon was writing it.
            replay if replay.durable_after_damage.is_some() && live => {
                read_replay(blob, look.reading())?
            }
            replay => replay,
        },
        None => Replay::default(),
    };
    let mut plan = Plan::default();
    let mut data = open_if_there(folder, DATA, look.how)?;
    if data.is_none() && open_if_there(folder, REMOVED, Open::Read)?.is_some() {
        // Its removal was decided, and with it that of all that the journal tells.
        replay = Replay {
            damaged: true,
            ..Replay::default()
        };
        let mut survey = without_data(replay, true)?;
        survey.clean = false;
        return Ok(survey.into());
    }
    if let Some(rows) = replay.durable_after_damage {
        return Err(err!(
            EIO,
            "the journal is damaged at byte {}: what comes after says that {rows} rows were on the disk. Nothing is changed: put a good copy of .npyfs/chunks.log in its place, or remove .npyfs to keep the rows and lose the names of their chunks",
            replay.end
        ));
    }
    let has_journal = replay.end > 0;
    let unsettled = has_journal && !replay.closed && !live;
    if data.is_none() && replay.catalog.has_commits() {
        data = open_if_there(folder, NEW_DATA, look.how)?;
        plan.install_new = data.is_some();
    }
    // Also where the kernel tells no boot from another.
    let doubtful_from = (has_journal && replay.boot() == Some(boot)).then_some(replay.closed_at);
    let mut since = match &journal {
        Some(_) if has_journal && !live && look.distrust => Since::Copied,
        Some(journal) if has_journal && !live => {
            since(replay.opened.as_ref(), boot, journal, data.as_ref())?
        }
        _ => Since::Died,
    };
    if unsettled && !deep && since != Since::Copied {
        return Ok(Found::Unsettled);
    }
    if let Some(journal) = &journal
        && since != Since::Died
        && replay.never_durable()
        && never_arrived(data.as_ref(), &replay)?
    {
        if !deep {
            return Ok(Found::Unsettled);
        }
        let remains = data.is_some();
        let survey = survey_of_nothing(journal, replay, since, remains, look)?;
        return Ok(survey.into());
    }
    let Some(data) = data else {
        if unsettled && !deep {
            return Ok(Found::Unsettled);
        }
        let survey = Survey {
            doubtful_from,
            copied: since == Since::Copied,
            ..without_data(replay, has_journal)?
        };
        return Ok(survey.into());
    };
    let mut notes = Vec::new();
    let (layout, count) = read_layout(&data, &replay, &mut plan, &mut notes)?;
    let layout = Arc::new(layout);
    let file_len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    let reaches = |rows: u64| layout.offset(rows).is_some_and(|end| end <= file_len);
    if let Some(count) = count
        && has_journal
        && !live
        && count < replay.durable
        && (!replay.closed || reaches(replay.durable))
    {
        // What the journal says to have reached the disk was counted before it said so. So these files
        // are of different moments, though they lie where they were: a copy was written into them. Of a
        // closed dataset whose rows are not even there another program has made a shorter array.
        since = Since::Copied;
        notes.push(Finding::Loss(format!(
            "the header of data.npy counts {count} rows, and {} had reached the disk: the files are of different moments, or were written to; each row is verified",
            replay.durable
        )));
    }
    // Before any of it is read: what is written meanwhile makes others of them.
    let files = match &journal {
        Some(journal) if since == Since::Copied => Some(Files::of(&*data, &**journal)?),
        _ => None,
    };
    if since == Since::Copied && replay.closed {
        // The journal was copied after the array, and the dataset was closed in between.
        let known = replay.catalog.rows();
        replay.closed = count.is_some_and(|count| count >= known) && reaches(known);
    }
    let rows_of = Rows {
        layout: &layout,
        file_len,
        stop: look.stop,
    };
    let verdict = if replay.closed || live || !has_journal {
        Verdict {
            cut: rows_of.first_bad(&replay.unverified, 0)?,
            damaged: Vec::new(),
        }
    } else if let Some((journal, files)) = journal.as_ref().zip(files) {
        let reading = Reading {
            copied: true,
            ..look.reading()
        };
        let copied = Copied {
            layout: layout.clone(),
            counted: count.unwrap_or(0),
            replay: read_replay(journal, reading)?,
            files,
        };
        let verdict = match look.copies {
            Copies::Known(known) => known.and_then(|known| known.of(&files)),
            Copies::Read(_) if !deep => None,
            Copies::Read(watch) => Some(copied.verify(look.stop, watch)?.verdict),
        };
        match verdict {
            None => return Ok(Found::Unverified(Box::new(copied))),
            Some(_) if !deep => return Ok(Found::Unsettled),
            Some(verdict) => {
                replay = copied.replay;
                replay.closed = false;
                verdict
            }
        }
    } else {
        // Also where the daemon died: pages that the disk did not take may be gone from memory since.
        Verdict {
            cut: rows_of.first_bad(&replay.unverified, replay.unverified.len())?,
            damaged: Vec::new(),
        }
    };
    let believed = replay.closed || live || !has_journal;
    let compared_from = match replay.unverified.first() {
        Some(first) if !believed => first.first_row,
        _ => u64::MAX,
    };
    let mut damage = Damage::of(&replay, &verdict.damaged);
    if let Some(index) = verdict.cut {
        let dropped = &replay.unverified[index..];
        notes.extend(
            dropped
                .iter()
                .map(|commit| dropped_note(&replay, commit, since)),
        );
        let at = replay.unverified[index].at;
        if let Some(blob) = &journal {
            let reading = Reading {
                until: at,
                copied: since == Since::Copied,
                ..look.reading()
            };
            replay = read_replay(blob, reading)?;
        }
        plan.cut = true;
    } else if replay.damaged {
        notes.push(Finding::Repair(format!(
            "the journal was cut off after its last good record, at byte {}",
            replay.end
        )));
        plan.cut = true;
    }

    let known = replay.catalog.rows();
    let mut rows = known;
    let adopts = !has_journal || replay.closed || live;
    match count {
        Some(count) if count > known && adopts && verdict.cut.is_none() => {
            if !reaches(count) {
                return Err(err!(
                    EIO,
                    "data.npy is damaged: its header counts {count} rows, the file of {file_len} bytes holds fewer"
                ));
            }
            plan.foreign_rows = count - known;
            rows = count;
            if has_journal {
                // Rows are counted after they are recorded; a daemon at work may have done both since
                // the journal was read.
                notes.push(Finding::Info(format!(
                    "adopted {} rows that another program appended after row {known}",
                    count - known
                )));
            }
        }
        Some(count) if count > known => {
            let there = rows_in(&layout, file_len).clamp(known, count);
            if there > known {
                plan.reject_rows = there - known;
                notes.push(Finding::SetAside(format!(
                    "{} rows after row {known} have no record and may be garbage",
                    there - known
                )));
            }
            if there < count {
                notes.push(Finding::Repair(format!(
                    "the header counted {count} rows, the file holds {there}: counted again"
                )));
                plan.cut = true;
            }
        }
        Some(count) if count < known => {
            notes.push(Finding::Repair(format!(
                "the header counted {count} rows, the journal {known}: counted again"
            )));
        }
        _ => {}
    }
    let has_bytes = rows > 0 && layout.row_bytes() > 0;
    if has_bytes && !reaches(rows) {
        return Err(err!(
            EIO,
            "data.npy is damaged: {rows} rows are known to have been in it, the file of {file_len} bytes holds fewer"
        ));
    }
    plan.count_on_disk = count;
    let compared = compared_from.min(known)..known;
    if let Some(damage) = damage.take_if(|_| look.accept) {
        notes.push(Finding::Info(format!("accepted as it is: {damage}")));
    }
    if let Some(damage) = &damage {
        // Nothing of what would be done is done.
        plan = Plan::default();
        notes = damage.lines(&replay.catalog).map(Finding::Loss).collect();
        if verdict.cut.is_some() {
            notes.push(Finding::Loss(format!(
                "what was committed after row {known} is not in this copy"
            )));
        }
    }
    let clean = notes.is_empty() && (replay.closed || !has_journal) && !plan.install_new;
    if !clean && !deep && !live {
        return Ok(Found::Unsettled);
    }
    let modified = replay
        .catalog
        .last_commit()
        .map_or_else(|| file_mtime(&data), Ok)?;
    let copied = since == Since::Copied;
    let survey = Survey {
        closed: replay.closed,
        copied,
        kept: (has_journal && !replay.closed).then(|| replay.kept(since, &look.boot)),
        durable: if copied && !replay.closed {
            0
        } else {
            replay.durable.min(rows)
        },
        doubtful_from,
        array_recorded: replay.array_header.is_some(),
        journal_len: replay.end,
        raised: replay.raised,
        catalog: replay.catalog,
        array: Some(Array {
            layout,
            rows,
            modified,
        }),
        clean,
        plan,
        notes,
        compared,
        damage: damage.map(Arc::new),
    };
    Ok(survey.into())
}

impl From<Survey> for Found {
    fn from(survey: Survey) -> Self {
        Found::Surveyed(Box::new(survey))
    }
}

fn file_mtime(data: &Arc<dyn StoreFile>) -> Result<i64> {
    crate::disk::modified(&**data).context(|| "cannot see the time of data.npy".into())
}
