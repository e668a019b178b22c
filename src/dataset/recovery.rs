//! Opening a dataset: what journal, header and rows say together, and what is to be done when they
//! disagree.
//!
//! [`survey`] only reads: it finds the longest good prefix of the commit order and says what must
//! change on the disk for all to agree with it. A reader uses its result as it is. [`repair`]
//! carries it out for a daemon that holds the lock, in an order that lets it be interrupted and run
//! again: the count in the header comes down before the journal is cut, so that rows which lose
//! their record are never taken for another program's.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use super::adopt::interrupted_insertion;
use super::catalog::Catalog;
use super::commit::NEWBORN;
use super::disk::{Blob, Folder, Open, read_exact_at, read_pieces};
use super::journal::{self, Reader, Record, Start};
use super::judge::read_header;
use super::rejected::{REJECTED, Rejected};
use super::remove::REMOVED;
use super::staged::INCOMING;
use super::view::{Form, Layout};
use super::{Array, DATA, JOURNAL, shape_text};
use crate::error::{Context, Error, Result};
use crate::npy::{Header, Prefix, Published};

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
    /// What was written in this boot, from this byte of the journal on, may be in memory only, and
    /// pass for written: the sync of it may have failed. `None` where that cannot be.
    pub(crate) doubtful_from: Option<u64>,
    /// The last daemon closed the dataset, or there never was one, and nothing disagrees.
    pub(crate) clean: bool,
    plan: Plan,
    /// For the log: what was found, kept and dropped.
    pub(crate) notes: Vec<Note>,
}

/// Something that recovery has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Rows are lost.
    Lost(String),
    /// Something was found out of order, and nothing is lost.
    Mended(String),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::Lost(line) | Note::Mended(line) => f.write_str(line),
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

/// The journal's story, read to its first bad record.
#[derive(Debug, Default)]
struct Story {
    catalog: Catalog,
    array_header: Option<Vec<u8>>,
    durable: u64,
    boot: Option<[u8; 16]>,
    closed: bool,
    /// Where the last record begins that says so.
    closed_at: u64,
    /// Chunks that may not have reached the disk, in commit order.
    unsure: Vec<Unsure>,
    end: u64,
    damaged: bool,
}

#[derive(Debug)]
struct Unsure {
    /// Where its record begins in the journal.
    at: u64,
    name: Vec<u8>,
    first_row: u64,
    rows: u64,
    crc: u32,
}

impl Story {
    /// Nothing that the journal knows was ever said to be on the disk, and nothing was there before
    /// the first chunk.
    fn never_durable(&self) -> bool {
        let ours = match self.unsure.first() {
            Some(first) => first.first_row == 0,
            None => self.catalog.rows() == 0,
        };
        self.boot.is_some() && !self.closed && self.durable == 0 && ours
    }
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
fn survey_of_nothing(journal: &Arc<dyn Blob>, story: Story, remains: bool) -> Result<Survey> {
    let dropped = story.unsure.iter().map(dropped_note);
    let mut notes: Vec<Note> = dropped.collect();
    if remains {
        let line = "data.npy had not reached the disk: set aside in .npyfs/rejected";
        notes.push(Note::Lost(line.into()));
    }
    let story = match story.unsure.first() {
        Some(first) => read_story(journal, first.at)?,
        None => story,
    };
    Ok(Survey {
        catalog: story.catalog,
        array: None,
        durable: 0,
        doubtful_from: None,
        array_recorded: false,
        journal_len: story.end,
        clean: false,
        plan: Plan {
            cut: true,
            set_array_aside: remains,
            ..Plan::default()
        },
        notes,
    })
}

fn dropped_note(chunk: &Unsure) -> Note {
    Note::Lost(format!(
        "{} dropped by recovery: its {} rows had not reached the disk",
        OsString::from_vec(chunk.name.clone()).display(),
        chunk.rows
    ))
}

fn read_story(blob: &Arc<dyn Blob>, until: u64) -> Result<Story> {
    let failed = || "cannot read the journal".to_owned();
    let (start, mut reader) = Reader::open(blob.clone()).context(failed)?;
    let mut story = Story::default();
    match start {
        Start::Good => {}
        Start::Nothing => {
            story.damaged = blob.len().context(failed)? > 0;
            return Ok(story);
        }
        Start::Foreign => {
            return Err(err!(EIO, "the journal was written by a newer npyfs"));
        }
    }
    story.catalog.expect(blob.len().context(failed)?.min(until));
    loop {
        let at = reader.offset();
        story.end = at;
        if at >= until {
            break;
        }
        let Some(record) = reader.next().context(failed)? else {
            break;
        };
        if story.catalog.apply(&record).is_err() {
            break;
        }
        match record {
            Record::Array { header } => story.array_header = Some(header.to_vec()),
            Record::Chunk(chunk) => story.unsure.push(Unsure {
                at,
                name: chunk.name.to_vec(),
                first_row: chunk.first_row,
                rows: chunk.rows,
                crc: chunk.crc,
            }),
            Record::Durable { rows } => {
                story.durable = rows;
                story.unsure.retain(|chunk| chunk.first_row >= rows);
            }
            Record::Opened { boot, .. } => {
                story.boot = Some(boot);
                story.closed = false;
            }
            Record::Closed { rows } => {
                story.durable = rows;
                story.closed = true;
                story.closed_at = at;
                story.unsure.clear();
            }
            _ => {}
        }
    }
    story.damaged = story.end < blob.len().context(failed)?.min(until);
    Ok(story)
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

/// Reads a dataset's state. `boot` is this boot's id: what was written in it is in the page cache
/// still, whoever was killed.
///
/// `live` says that another daemon is at work there: then what the header counts is good.
pub(crate) fn survey(
    folder: &Arc<dyn Folder>,
    how: Open,
    boot: &[u8; 16],
    live: bool,
) -> Result<Survey> {
    let journal = open_if_there(folder, JOURNAL, Open::Read)?;
    let mut story = match &journal {
        Some(blob) => read_story(blob, u64::MAX)?,
        None => Story::default(),
    };
    let mut plan = Plan::default();
    let mut data = open_if_there(folder, DATA, how)?;
    if data.is_none() && open_if_there(folder, REMOVED, Open::Read)?.is_some() {
        // Its removal was decided, and with it that of all that the journal tells.
        story = Story {
            damaged: true,
            ..Story::default()
        };
        let mut survey = without_data(story, true)?;
        survey.clean = false;
        return Ok(survey);
    }
    let has_journal = story.end > 0;
    if data.is_none() && story.catalog.next_id() > 0 {
        data = open_if_there(folder, NEWBORN, how)?;
        plan.give_birth = data.is_some();
    }
    // Also where the kernel tells no boot from another.
    let doubtful_from =
        (has_journal && story.boot.as_ref() == Some(boot)).then_some(story.closed_at);
    let same_boot = live || (story.boot.as_ref() == Some(boot) && boot != &[0; 16]);
    if let Some(journal) = &journal
        && !same_boot
        && story.never_durable()
        && never_arrived(data.as_ref(), &story)?
    {
        return survey_of_nothing(journal, story, data.is_some());
    }
    let Some(data) = data else {
        return Ok(Survey {
            doubtful_from,
            ..without_data(story, has_journal)?
        });
    };
    let trusted = !has_journal || story.closed || same_boot;
    let mut notes = Vec::new();
    let (layout, count) = read_layout(&data, &story, &mut plan, &mut notes)?;
    let file_len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;

    // In this boot too: pages that the disk did not take may be gone from memory since.
    let doubtful = if story.closed || live {
        0
    } else {
        story.unsure.len()
    };
    let bad = first_bad(&layout, &story.unsure, doubtful, file_len)?;
    if let Some(index) = bad {
        let dropped = &story.unsure[index..];
        notes.extend(dropped.iter().map(dropped_note));
        let at = story.unsure[index].at;
        if let Some(blob) = &journal {
            story = read_story(blob, at)?;
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
    match count {
        Some(count) if count > known && trusted && bad.is_none() => {
            if layout.offset(count).is_none_or(|end| end > file_len) {
                return Err(err!(
                    EIO,
                    "data.npy is damaged: its header counts {count} rows, the file of {file_len} bytes holds fewer"
                ));
            }
            plan.foreign_rows = count - known;
            rows = count;
            if has_journal {
                notes.push(Note::Mended(format!(
                    "adopted {} rows that another program appended behind row {known}",
                    count - known
                )));
            }
        }
        Some(count) if count > known => {
            plan.reject_rows = count - known;
            notes.push(Note::Lost(format!(
                "{} rows behind row {known} have no record and may be garbage: set aside in .npyfs/rejected",
                count - known
            )));
        }
        Some(count) if count < known => {
            notes.push(Note::Mended(format!(
                "the header counted {count} rows, the journal {known}: counted again"
            )));
        }
        _ => {}
    }
    let has_bytes = rows > 0 && layout.row_bytes() > 0;
    if has_bytes && layout.offset(rows).is_none_or(|end| end > file_len) {
        return Err(err!(
            EIO,
            "data.npy is damaged: {rows} rows are known to have been in it, the file of {file_len} bytes holds fewer"
        ));
    }
    plan.count_on_disk = count;
    let clean = notes.is_empty() && (story.closed || !has_journal) && !plan.give_birth;
    let modified = story
        .catalog
        .last()
        .map_or_else(|| file_mtime(&data), |last| Ok(last.committed))?;
    Ok(Survey {
        durable: story.durable.min(rows),
        doubtful_from,
        array_recorded: story.array_header.is_some(),
        journal_len: story.end,
        catalog: story.catalog,
        array: Some(Array {
            layout: Arc::new(layout),
            rows,
            modified,
        }),
        clean,
        plan,
        notes,
    })
}

fn without_data(story: Story, has_journal: bool) -> Result<Survey> {
    let rows = story.catalog.rows();
    if rows > 0 || story.catalog.next_id() > 0 {
        return Err(err!(
            EIO,
            "data.npy is gone, and the journal knows {rows} rows of it: put it back, or remove .npyfs to begin anew"
        ));
    }
    let clean = story.closed || !has_journal;
    Ok(Survey {
        catalog: story.catalog,
        array: None,
        durable: 0,
        doubtful_from: None,
        array_recorded: false,
        journal_len: story.end,
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
    let form = |form| Layout {
        form,
        data: data.clone(),
    };
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

/// The first chunk whose rows are not all in the file, or, among the first `doubtful`, whose
/// checksum is wrong.
fn first_bad(
    layout: &Layout,
    chunks: &[Unsure],
    doubtful: usize,
    file_len: u64,
) -> Result<Option<usize>> {
    for (index, chunk) in chunks.iter().enumerate() {
        let Some((start, end)) = layout
            .offset(chunk.first_row)
            .zip(layout.offset(chunk.first_row.saturating_add(chunk.rows)))
        else {
            return Ok(Some(index));
        };
        if end > file_len && chunk.rows > 0 {
            return Ok(Some(index));
        }
        if index < doubtful {
            let mut crc = 0;
            read_pieces(&*layout.data, start, end - start, |piece| {
                crc = crc32c::crc32c_append(crc, piece);
                Ok(())
            })
            .context(|| "cannot read the rows of data.npy".into())?;
            if crc != chunk.crc {
                return Ok(Some(index));
            }
        }
    }
    Ok(None)
}

/// What the next to own the dataset will repair or adopt, for `check`.
pub(crate) fn pending(folder: &Arc<dyn Folder>, live: bool) -> Result<Vec<Note>> {
    let boot = super::disk::boot_id();
    Ok(survey(folder, Open::Read, &boot, live)?.notes)
}

/// What [`repair`] has left for the journal's writer to record.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    pub(crate) foreign_rows: u64,
}

/// Makes the disk agree with the survey. The lock is held.
pub(crate) fn repair(
    folder: &Arc<dyn Folder>,
    survey: &mut Survey,
    rejected: &Rejected,
) -> Result<Owed> {
    remove_orphans(folder)?;
    let plan = std::mem::take(&mut survey.plan);
    if plan.give_birth {
        folder
            .rename(Path::new(NEWBORN), Path::new(DATA))
            .context(|| "cannot create data.npy".into())?;
    } else {
        remove_if_there(folder, NEWBORN)?;
    }
    if plan.set_array_aside {
        let failed = || "cannot set data.npy aside".to_owned();
        folder.make_dir(Path::new(REJECTED)).context(failed)?;
        let aside = Path::new(REJECTED).join("data.npy.unreadable");
        folder.rename(Path::new(DATA), &aside).context(failed)?;
    }
    let Some(array) = &mut survey.array else {
        return Ok(Owed::default());
    };
    if plan.reject_rows > 0 {
        set_rows_aside(array, plan.reject_rows, rejected)?;
    }
    let foreign_rows = plan.foreign_rows;
    if let Form::Plain { header, .. } = &array.layout.form {
        let layout = super::adopt::give_room(folder, header, &array.layout.data, array.rows)?;
        array.layout = Arc::new(layout);
    } else if plan.finish_insertion {
        super::adopt::write_inserted(&array.layout, array.rows)?;
    } else if plan.rewrite_header {
        let header = array.layout.header_bytes(array.rows);
        array
            .layout
            .data
            .write_at(&header, 0)
            .context(|| "cannot write the header of data.npy".into())?;
    } else if let Some(count) = plan.count_on_disk
        && count != array.rows
    {
        publish_from_disk(&array.layout, array.rows)?;
    }
    let lowered = plan.cut || plan.reject_rows > 0;
    if lowered || !survey.clean {
        cut(array, lowered)?;
    }
    Ok(Owed { foreign_rows })
}

/// Sets the count in a header that a dead daemon may have left between two steps.
pub(super) fn publish_from_disk(layout: &Layout, rows: u64) -> Result<()> {
    let Form::Published(header) = &layout.form else {
        return Err(err!(EIO, "the header of data.npy has no count field"));
    };
    let mut bytes = vec![0; header.len() as usize];
    read_exact_at(&*layout.data, &mut bytes, 0)
        .context(|| "cannot read the header of data.npy".into())?;
    for (offset, word) in header.steps_from(&bytes, rows)? {
        layout
            .data
            .write_at(&word, offset)
            .context(|| "cannot write the row count of data.npy".into())?;
    }
    Ok(())
}

/// Cuts off what lies behind the rows. Where their count has come down, it must be on the disk
/// before the journal is cut.
fn cut(array: &Array, lowered: bool) -> Result<()> {
    let data = &array.layout.data;
    let Some(end) = array.layout.offset(array.rows) else {
        return Err(err!(EIO, "the array would have more bytes than a file can"));
    };
    if lowered {
        data.sync().context(|| "cannot sync data.npy".into())?;
    }
    if data
        .len()
        .context(|| "cannot see the size of data.npy".into())?
        > end
    {
        data.set_len(end)
            .context(|| "cannot cut what lies behind the rows of data.npy".into())?;
    }
    Ok(())
}

fn set_rows_aside(array: &Array, rows: u64, rejected: &Rejected) -> Result<()> {
    let layout = &array.layout;
    let (Some(start), Some(end)) = (
        layout.offset(array.rows),
        layout.offset(array.rows.saturating_add(rows)),
    ) else {
        return Ok(());
    };
    let file_len = layout
        .data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    let len = end.min(file_len).saturating_sub(start);
    let mut shape = vec![len.checked_div(layout.row_bytes()).unwrap_or(rows)];
    shape.extend_from_slice(layout.row_shape());
    let header = Header::encode(layout.dtype(), &shape)?;
    let total = header.len() as u64 + len;
    rejected.keep("rows-without-record.npy".as_ref(), total, |blob| {
        blob.write_at(&header, 0)?;
        super::disk::copy(&*layout.data, start, blob, header.len() as u64, len)
    })?;
    Ok(())
}

pub(super) fn remove_if_there(folder: &Arc<dyn Folder>, path: &str) -> Result<()> {
    match folder.remove(Path::new(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(error, format!("cannot remove {path}")))
        }
        _ => Ok(()),
    }
}

/// Takes the last trace of an array away whose removal was interrupted.
pub(crate) fn finish_removal(folder: &Arc<dyn Folder>, journal: &journal::Journal) -> Result<()> {
    if open_if_there(folder, REMOVED, Open::Read)?.is_some() {
        journal
            .blob()
            .sync()
            .context(|| "cannot sync the journal".into())?;
        remove_if_there(folder, REMOVED)?;
    }
    Ok(())
}

/// Chunks that were in flight when a daemon died.
fn remove_orphans(folder: &Arc<dyn Folder>) -> Result<()> {
    let found = match folder.list(Path::new(INCOMING)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| "cannot list .npyfs/incoming".into())?,
    };
    for file in found {
        let path = Path::new(INCOMING).join(&file.name);
        folder
            .remove(&path)
            .context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Opens the journal for writing behind its good part; `make` where there was none.
pub(crate) fn open_journal(folder: &Arc<dyn Folder>, survey: &Survey) -> Result<journal::Journal> {
    let failed = || "cannot open the journal".to_owned();
    let blob = folder
        .open(Path::new(JOURNAL), Open::Create)
        .context(failed)?;
    journal::Journal::resume(blob, survey.journal_len).context(failed)
}
