//! Opening a dataset: what journal, header and rows say together, and what is to be done when they
//! disagree.
//!
//! [`survey`] only reads: it finds the longest good prefix of the commit order and says what must
//! change on the disk for all to agree with it. A reader uses its result as it is. [`repair()`]
//! carries it out for a daemon that holds the lock.
//!
//! How much of a dataset that was not closed is believed depends on [`Since`]: what a daemon that died
//! has written, what had reached the disk, or, of a copy, nothing.

mod damage;
mod inspect;
mod place;
mod repair;
mod rows;
mod story;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::adopt::interrupted_insertion;
use super::catalog::Catalog;
use super::commit::NEWBORN;
use super::disk::{Blob, Folder, Open};
use super::judge::read_header;
use super::remove::REMOVED;
use super::stop::Stop;
use super::view::{Form, Layout};
use super::{Array, DATA, JOURNAL, shape_text};
use crate::error::{Context, Error, Result};
use crate::npy::{Header, Prefix, Published};
pub(crate) use damage::Damage;
pub(crate) use inspect::{lost_chunks, pending};
use place::{Since, since};
pub(crate) use repair::{finish_removal, open_journal, publish_from_disk, remove_if_there, repair};
use rows::{Rows, Verdict};
use story::{Reading, Story, Unsure, read_story};

/// How a dataset is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) how: Open,
    /// This boot's id.
    pub(crate) boot: [u8; 16],
    /// Another daemon is at work there: then what the header counts is good.
    pub(crate) live: bool,
    /// What is damaged of a copy is to be taken as it is.
    pub(crate) accept: bool,
    pub(crate) stop: &'a Stop,
    /// Is told how far it is with what takes long.
    pub(crate) told: &'a dyn Fn(&str),
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
    /// Of a copy: what is damaged in the middle, so that nothing may be changed.
    pub(crate) damage: Option<Arc<Damage>>,
    /// The last daemon closed the dataset, or there never was one, and nothing disagrees.
    pub(crate) clean: bool,
    plan: Plan,
    /// For the log: how it was found, and what is kept.
    pub(crate) kept: Option<String>,
    /// For the log: what was out of order, and what is dropped.
    pub(crate) notes: Vec<Note>,
}

/// Something that recovery has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Rows are lost.
    Lost(String),
    /// Something was found out of order, and nothing is lost. A crash explains it.
    Mended(String),
    /// Another program's work, or what is only to be told.
    Told(String),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::Lost(line) | Note::Mended(line) | Note::Told(line) => f.write_str(line),
        }
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// `data.npy` is still at its birthplace.
    give_birth: bool,
    /// The header is to be written anew, whole.
    rewrite_header: bool,
    /// Its block was inserted, and the header may be in it in part.
    finish_insertion: bool,
    /// The count in the header on the disk, where there is one.
    count_on_disk: Option<u64>,
    /// Rows behind the good ones that may be garbage, to be kept aside.
    reject_rows: u64,
    /// Rows behind the journal's that another program appended.
    foreign_rows: u64,
    /// Something behind the good rows or records is to be cut off.
    cut: bool,
    /// `data.npy` is the rest of an array that never reached the disk.
    set_array_aside: bool,
}

/// Whether a power cut has taken the whole array: its name, or its header before the journal had
/// that.
fn never_arrived(data: Option<&Arc<dyn Blob>>, story: &Story) -> Result<bool> {
    let Some(data) = data else {
        return Ok(!story.unsure.is_empty());
    };
    let len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    match read_header(&**data, len) {
        Err(error) if error.errno() == crate::error::Errno::EINVAL => {
            Ok(story.array_header.is_none())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// The dataset begins anew, behind the records that came before its first chunk.
fn survey_of_nothing(
    journal: &Arc<dyn Blob>,
    story: Story,
    since: Since,
    remains: bool,
    look: &Look<'_>,
) -> Result<Survey> {
    let dropped = story
        .unsure
        .iter()
        .map(|commit| dropped_note(&story, commit, since));
    let mut notes: Vec<Note> = dropped.collect();
    if remains {
        let line = "data.npy had not reached the disk: set aside in .npyfs/rescued";
        notes.push(Note::Lost(line.into()));
    }
    let story = match story.unsure.first() {
        Some(first) => read_story(
            journal,
            Reading {
                until: first.at,
                ..look.reading()
            },
        )?,
        None => story,
    };
    Ok(Survey {
        kept: Some(story.kept(since, &look.boot)),
        closed: false,
        copied: since == Since::Copied,
        damage: None,
        catalog: story.catalog,
        array: None,
        durable: 0,
        doubtful_from: None,
        array_recorded: false,
        journal_len: story.end,
        raised: story.raised,
        clean: false,
        plan: Plan {
            cut: true,
            set_array_aside: remains,
            ..Plan::default()
        },
        notes,
    })
}

fn dropped_note(story: &Story, commit: &Unsure, since: Since) -> Note {
    let why = match since {
        Since::Copied => "are not in this copy",
        Since::Died | Since::Restarted => "had not reached the disk",
    };
    Note::Lost(format!(
        "{} dropped by recovery: its {} rows {why}",
        story.name(commit),
        commit.rows
    ))
}

pub(crate) fn open_if_there(
    folder: &Arc<dyn Folder>,
    path: &str,
    how: Open,
) -> Result<Option<Arc<dyn Blob>>> {
    match folder.open(Path::new(path), how) {
        Ok(blob) => Ok(Some(blob)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, format!("cannot open {path}"))),
    }
}

/// Reads a dataset's state, if nothing has to be recovered: then no rows are read.
pub(crate) fn survey_if_settled(
    folder: &Arc<dyn Folder>,
    look: &Look<'_>,
) -> Result<Option<Survey>> {
    look_at(folder, look, false)
}

/// Reads a dataset's state, and the rows that nothing else speaks for.
pub(crate) fn survey(folder: &Arc<dyn Folder>, look: &Look<'_>) -> Result<Survey> {
    look_at(folder, look, true)?.ok_or_else(|| err!(EIO, "the dataset was not looked at"))
}

/// `None`: there is something to recover, and `deep` did not say to look into it.
fn look_at(folder: &Arc<dyn Folder>, look: &Look<'_>, deep: bool) -> Result<Option<Survey>> {
    let (live, boot) = (look.live, &look.boot);
    let journal = open_if_there(folder, JOURNAL, Open::Read)?;
    let mut story = match &journal {
        Some(blob) => match read_story(blob, look.reading())? {
            // The end of the file may have been read while another daemon was writing it.
            story if story.proof.is_some() && live => read_story(blob, look.reading())?,
            story => story,
        },
        None => Story::default(),
    };
    let mut plan = Plan::default();
    let mut data = open_if_there(folder, DATA, look.how)?;
    if data.is_none() && open_if_there(folder, REMOVED, Open::Read)?.is_some() {
        // Its removal was decided, and with it that of all that the journal tells.
        story = Story {
            damaged: true,
            ..Story::default()
        };
        let mut survey = without_data(story, true)?;
        survey.clean = false;
        return Ok(Some(survey));
    }
    if let Some(rows) = story.proof {
        return Err(err!(
            EIO,
            "the journal is damaged at byte {}: what is behind says that {rows} rows were on the disk. Nothing is changed: put a good copy of .npyfs/chunks.log in its place, or remove .npyfs to keep the rows and lose the names of their chunks",
            story.end
        ));
    }
    let has_journal = story.end > 0;
    if has_journal && !story.closed && !live && !deep {
        return Ok(None);
    }
    if data.is_none() && story.catalog.has_commits() {
        data = open_if_there(folder, NEWBORN, look.how)?;
        plan.give_birth = data.is_some();
    }
    // Also where the kernel tells no boot from another.
    let doubtful_from = (has_journal && story.boot() == Some(boot)).then_some(story.closed_at);
    let since = match &journal {
        Some(journal) if has_journal && !live => {
            since(story.opened.as_ref(), boot, journal, data.as_ref())?
        }
        _ => Since::Died,
    };
    if let Some(journal) = &journal
        && since != Since::Died
        && story.never_durable()
        && never_arrived(data.as_ref(), &story)?
    {
        let remains = data.is_some();
        return survey_of_nothing(journal, story, since, remains, look).map(Some);
    }
    let Some(data) = data else {
        return Ok(Some(Survey {
            doubtful_from,
            copied: since == Since::Copied,
            ..without_data(story, has_journal)?
        }));
    };
    let mut notes = Vec::new();
    let (layout, count) = read_layout(&data, &story, &mut plan, &mut notes)?;
    let file_len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    let reaches = |rows: u64| layout.offset(rows).is_some_and(|end| end <= file_len);
    if since == Since::Copied && story.closed {
        // The journal was copied after the array, and the dataset was closed in between.
        let known = story.catalog.rows();
        story.closed = count.is_some_and(|count| count >= known) && reaches(known);
        if !story.closed && !deep {
            return Ok(None);
        }
    }
    let rows_of = Rows {
        layout: &layout,
        file_len,
        stop: look.stop,
    };
    let verdict = if story.closed || live || !has_journal {
        Verdict {
            cut: rows_of.first_bad(&story.unsure, 0)?,
            damaged: Vec::new(),
        }
    } else if since == Since::Copied
        && let Some(journal) = &journal
    {
        story = read_story(
            journal,
            Reading {
                copied: true,
                ..look.reading()
            },
        )?;
        story.closed = false;
        rows_of.judge_copy(&story.unsure, count.unwrap_or(0), look.told)?
    } else {
        // Also where the daemon died: pages that the disk did not take may be gone from memory since.
        Verdict {
            cut: rows_of.first_bad(&story.unsure, story.unsure.len())?,
            damaged: Vec::new(),
        }
    };
    let mut damage = Damage::of(&story, &verdict.damaged);
    if let Some(index) = verdict.cut {
        let dropped = &story.unsure[index..];
        notes.extend(
            dropped
                .iter()
                .map(|commit| dropped_note(&story, commit, since)),
        );
        let at = story.unsure[index].at;
        if let Some(blob) = &journal {
            let reading = Reading {
                until: at,
                copied: since == Since::Copied,
                ..look.reading()
            };
            story = read_story(blob, reading)?;
        }
        plan.cut = true;
    } else if story.damaged {
        notes.push(Note::Mended(format!(
            "the journal was cut off behind its last good record, at byte {}",
            story.end
        )));
        plan.cut = true;
    }

    let known = story.catalog.rows();
    let mut rows = known;
    let adopts = !has_journal || story.closed || live;
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
                notes.push(Note::Told(format!(
                    "adopted {} rows that another program appended behind row {known}",
                    count - known
                )));
            }
        }
        Some(count) if count > known => {
            let there = rows_in(&layout, file_len).clamp(known, count);
            if there > known {
                plan.reject_rows = there - known;
                notes.push(Note::Lost(format!(
                    "{} rows behind row {known} have no record and may be garbage: set aside in .npyfs/rescued",
                    there - known
                )));
            }
            if there < count {
                notes.push(Note::Mended(format!(
                    "the header counted {count} rows, the file holds {there}: counted again"
                )));
                plan.cut = true;
            }
        }
        Some(count) if count < known => {
            notes.push(Note::Mended(format!(
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
    if let Some(damage) = damage.take_if(|_| look.accept) {
        notes.push(Note::Told(format!("accepted as it is: {damage}")));
    }
    if let Some(damage) = &damage {
        // Nothing of what would be done is done.
        plan = Plan::default();
        notes = damage.lines(&story.catalog).map(Note::Lost).collect();
        if verdict.cut.is_some() {
            notes.push(Note::Lost(format!(
                "what was committed behind row {known} is not in this copy"
            )));
        }
    }
    let clean = notes.is_empty() && (story.closed || !has_journal) && !plan.give_birth;
    if !clean && !deep && !live {
        return Ok(None);
    }
    let modified = story
        .catalog
        .last_commit()
        .map_or_else(|| file_mtime(&data), Ok)?;
    let copied = since == Since::Copied;
    Ok(Some(Survey {
        closed: story.closed,
        copied,
        kept: (has_journal && !story.closed).then(|| story.kept(since, &look.boot)),
        durable: if copied && !story.closed {
            0
        } else {
            story.durable.min(rows)
        },
        doubtful_from,
        array_recorded: story.array_header.is_some(),
        journal_len: story.end,
        raised: story.raised,
        catalog: story.catalog,
        array: Some(Array {
            layout: Arc::new(layout),
            rows,
            modified,
        }),
        clean,
        plan,
        notes,
        damage: damage.map(Arc::new),
    }))
}

/// How many whole rows the file has room for.
fn rows_in(layout: &Layout, file_len: u64) -> u64 {
    let bytes = file_len.saturating_sub(layout.header_len());
    bytes.checked_div(layout.row_bytes()).unwrap_or(u64::MAX)
}

fn without_data(story: Story, has_journal: bool) -> Result<Survey> {
    let rows = story.catalog.rows();
    if rows > 0 || story.catalog.has_commits() {
        return Err(err!(
            EIO,
            "data.npy is gone, and the journal knows {rows} rows of it: put it back, or remove .npyfs to begin anew"
        ));
    }
    let clean = story.closed || !has_journal;
    Ok(Survey {
        kept: None,
        closed: story.closed,
        copied: false,
        damage: None,
        catalog: story.catalog,
        array: None,
        durable: 0,
        doubtful_from: None,
        array_recorded: false,
        journal_len: story.end,
        raised: story.raised,
        clean,
        plan: Plan {
            cut: story.damaged,
            ..Plan::default()
        },
        notes: Vec::new(),
    })
}

fn file_mtime(data: &Arc<dyn Blob>) -> Result<i64> {
    super::disk::modified(&**data).context(|| "cannot see the time of data.npy".into())
}

/// The array's layout, and the count in its header if that can be read.
fn read_layout(
    data: &Arc<dyn Blob>,
    story: &Story,
    plan: &mut Plan,
    notes: &mut Vec<Note>,
) -> Result<(Layout, Option<u64>)> {
    let len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    let on_disk = read_header(&**data, len);
    let recorded = match &story.array_header {
        Some(bytes) => recorded_header(bytes)?,
        None => None,
    };
    let form = |form| Layout::new(form, data.clone());
    match (on_disk, recorded) {
        (Ok((header, bytes)), recorded) => {
            if header.fortran_order() {
                return Err(err!(
                    EINVAL,
                    "data.npy is in Fortran order, whose rows cannot be appended to"
                ));
            }
            if let Some(recorded) = recorded
                && (recorded.dtype() != header.dtype()
                    || recorded.row_shape() != header.row_shape())
            {
                return Err(err!(
                    EIO,
                    "data.npy was replaced: it holds {} rows of shape {}, the journal is of {} and {}",
                    header.dtype(),
                    shape_text(header.row_shape()),
                    recorded.dtype(),
                    shape_text(recorded.row_shape())
                ));
            }
            let count = header.rows();
            match Published::adopt(&bytes)? {
                Some(published) => Ok((form(Form::Published(published)), Some(count))),
                None => Ok((form(Form::Plain { header, bytes }), Some(count))),
            }
        }
        (Err(error), Some(recorded)) if error.errno() == crate::error::Errno::EINVAL => {
            notes.push(Note::Mended(format!(
                "the header of data.npy was unreadable ({error}): written anew from the journal"
            )));
            plan.rewrite_header = true;
            Ok((form(Form::Published(recorded)), None))
        }
        (Err(error), _) => match interrupted_insertion(data, len)? {
            Some((header, published)) => {
                notes.push(Note::Mended(
                    "the header of data.npy was being moved: finished".into(),
                ));
                plan.finish_insertion = true;
                Ok((form(Form::Published(published)), Some(header.rows())))
            }
            None => Err(error.context("data.npy is not an array that can be appended to")),
        },
    }
}

fn recorded_header(bytes: &[u8]) -> Result<Option<Published>> {
    match Header::parse(bytes)? {
        Prefix::Complete(_) => Ok(Published::adopt(bytes)?),
        Prefix::Incomplete { .. } => Err(err!(EIO, "the journal's header record is damaged")),
    }
}
