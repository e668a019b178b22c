//! A second copy of a dataset that is brought up to date while daemons write the first.
//!
//! Array and journal only grow, so what is new since the last time is the end of both. What is copied
//! is the dataset as it was at one moment: the journal up to a record whose rows the header counts,
//! and those rows, which were written before their record. They are synced in the original first: a
//! power cut there takes nothing that the copy has.
//!
//! The copy is a dataset that was closed, at each moment one that can be opened: rows are written
//! where no count reaches them yet, then the journal tells of them, then the header counts them. Its
//! journal is that of the original up to there, and a closed record. A copy whose journal is not the
//! beginning of the original's is of another dataset, or has rows that the original lost: it is left
//! as it is.

mod told;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::array::view::{HeaderKind, Layout};
use crate::chunk::validate::read_header;
use crate::dataset::recovery::{open_if_there, publish_from_disk};
use crate::disk;
use crate::disk::paths::INCOMING;
use crate::disk::paths::NEW_DATA;
use crate::disk::paths::OLD_LOG;
use crate::disk::paths::REMOVED;
use crate::disk::paths::RESCUED;
use crate::disk::paths::{CONTROL, DATA, JOURNAL, LOCK, LOG};
use crate::disk::temp::{self, Holds, TempFile};
use crate::disk::{Open, Part, StoreDir, StoreFile, copy_attributes};
use crate::error::{Context, Error, Result};
use crate::journal::{FIRST, Record};
use crate::npy::GrowableHeader;
use told::{Checks, Told, same_bytes};

/// How often a header is read again that counts fewer rows than were there before: between two steps
/// of publishing a count, it may.
const LOOKS: usize = 50;

/// What a backup of one dataset has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows of the copy.
    pub rows: u64,
    /// How many of them were not there before.
    pub new_rows: u64,
    /// Bytes of rows that were written: holes of the original are not.
    pub bytes: u64,
    /// A line for each chunk whose rows are not what was committed.
    pub damage: Vec<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
}

/// Brings the copy `to` up to what `from` is now. `progress` is told bytes done, and of how many.
///
/// # Errors
/// `EBUSY` where a daemon writes to the copy, `EEXIST` where that is no earlier state of the
/// original, `EIO` for an original whose journal is damaged, `ESTALE` where it was replaced meanwhile,
/// and the operating system's. The copy is then as it was, or may have some of the new rows.
pub fn back_up(
    from: &Arc<dyn StoreDir>,
    to: &Arc<dyn StoreDir>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied> {
    let original = Original::open(from)?;
    if original.journal.is_none() && original.data.is_none() {
        clear_if_there(to)?;
        return Ok(Copied {
            notes: rows_of_nothing(to)?,
            ..Copied::default()
        });
    }
    let failed = || "cannot make .npyfs in the copy".to_owned();
    to.make_dir(Path::new(CONTROL)).context(failed)?;
    let _lock = to
        .lock(Path::new(LOCK))
        .context(|| "cannot lock the copy".into())?
        .ok_or_else(|| err!(EBUSY, "the copy is being written by a daemon: unmount it"))?;
    clear_incoming(to)?;
    let copied = match &original.journal {
        Some(journal) => with_journal(from, &original, journal, to, progress)?,
        None => without_journal(&original, to, progress)?,
    };
    copy_kept(from, to)?;
    Ok(copied)
}

/// Removes the files that a backup which was interrupted has left in the copy, whose lock is held: they
/// have no chunk's name. Those that have one are of a daemon, and recovery's.
fn clear_incoming(to: &Arc<dyn StoreDir>) -> Result<()> {
    for file in left_by_backups(to)? {
        if !temp::is_in_use(to, &file) {
            to.remove(&file)
                .context(|| format!("cannot remove {} of the copy", file.display()))?;
        }
    }
    Ok(())
}

/// As [`clear_incoming`], of a copy whose original has nothing any more. One that is being written is
/// left alone.
fn clear_if_there(to: &Arc<dyn StoreDir>) -> Result<()> {
    if left_by_backups(to)?.is_empty() {
        return Ok(());
    }
    let lock = to.lock(Path::new(LOCK));
    match lock.context(|| "cannot lock the copy".into())? {
        Some(_lock) => clear_incoming(to),
        None => Ok(()),
    }
}

fn left_by_backups(to: &Arc<dyn StoreDir>) -> Result<Vec<PathBuf>> {
    let directory = Path::new(INCOMING);
    let found = match to.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.context(|| format!("cannot list {INCOMING} of the copy"))?,
    };
    let files = found
        .into_iter()
        .filter(|file| !file.is_dir && Holds::of(&file.name) == Holds::Other);
    Ok(files.map(|file| directory.join(file.name)).collect())
}

/// The files of the dataset that is copied, opened once.
struct Original {
    journal: Option<Arc<dyn StoreFile>>,
    data: Option<(Layout, Arc<dyn StoreFile>)>,
}

impl Original {
    fn open(from: &Arc<dyn StoreDir>) -> Result<Self> {
        let journal = open_if_there(from, JOURNAL, Open::Read)?;
        let mut data = open_if_there(from, DATA, Open::Read)?;
        if data.is_none() && open_if_there(from, REMOVED, Open::Read)?.is_some() {
            // Its removal was decided, and with it that of all that the journal tells.
            let (journal, data) = (None, None);
            return Ok(Self { journal, data });
        }
        if data.is_none() && journal.is_some() && !is_written(from)? {
            // Its daemon died at the first commit.
            data = open_if_there(from, NEW_DATA, Open::Read)?;
        }
        let data = match data {
            None => None,
            Some(blob) => Some((layout_of(&blob)?.0, blob)),
        };
        Ok(Self { journal, data })
    }

    /// How many rows its header counts.
    fn counted(&self) -> Result<Option<u64>> {
        let Some((_, blob)) = &self.data else {
            return Ok(None);
        };
        Ok(Some(layout_of(blob)?.1))
    }

    /// How many rows there may be: of a daemon at work those that the header counts; of one that died
    /// before it counted them those that the file has room for, whose checksums decide.
    fn most(&self, live: bool) -> Result<Option<u64>> {
        match &self.data {
            Some((layout, blob)) if !live => {
                let len = blob
                    .len()
                    .context(|| "cannot see the size of data.npy".into())?;
                let room = len.saturating_sub(layout.header_len());
                Ok(Some(
                    room.checked_div(layout.row_bytes()).unwrap_or(u64::MAX),
                ))
            }
            _ => self.counted(),
        }
    }

    /// What the journal tells of those rows.
    fn told(
        &self,
        from: &Arc<dyn StoreDir>,
        journal: &Arc<dyn StoreFile>,
        base: u64,
    ) -> Result<Told> {
        let mut looks = 0;
        loop {
            // In this order: rows are counted after they are told of.
            let counted = self.most(is_written(from)?)?;
            let told = Told::read_counted(journal, counted, base)?;
            looks += 1;
            if told.has_boundary_at_base || !told.stopped || looks == LOOKS {
                told.must_be_whole(journal)?;
                return Ok(told);
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// What was copied must still be what has the names, all of it from one dataset.
    fn is_still(&self, from: &Arc<dyn StoreDir>) -> Result<()> {
        let now = Self::open(from)?;
        let place = |blob: Option<&Arc<dyn StoreFile>>| -> io::Result<_> {
            blob.map(|blob| Ok(blob.whereabouts()?.place)).transpose()
        };
        let failed = || "cannot look at the original".to_owned();
        let data = |it: &Self| place(it.data.as_ref().map(|(_, blob)| blob)).context(failed);
        let journal = |it: &Self| place(it.journal.as_ref()).context(failed);
        let header_len = |it: &Self| it.data.as_ref().map(|(layout, _)| layout.header_len());
        let is_same_data = match self.data {
            // The first commit may have come since.
            None => true,
            Some(_) => data(self)? == data(&now)? && header_len(self) == header_len(&now),
        };
        if journal(self)? != journal(&now)? || !is_same_data {
            return Err(err!(
                ESTALE,
                "the original was replaced while it was copied: back it up again"
            ));
        }
        Ok(())
    }
}

/// Whether a daemon writes to the dataset.
fn is_written(folder: &Arc<dyn StoreDir>) -> Result<bool> {
    match folder.is_locked(Path::new(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.context(|| "cannot look at the original's lock".into()),
    }
}

fn layout_of(blob: &Arc<dyn StoreFile>) -> Result<(Layout, u64)> {
    let len = blob
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    let (header, bytes) =
        read_header(&**blob, len).map_err(|error| error.context("data.npy has no whole header; if a daemon died, the next to write to the dataset puts it in order"))?;
    let rows = header.rows();
    let form = match GrowableHeader::adopt(&bytes)? {
        Some(published) => HeaderKind::Growable(published),
        None => HeaderKind::Fixed { header, bytes },
    };
    Ok((Layout::new(form, blob.clone()), rows))
}

/// What is to be said of a copy whose original has no rows.
fn rows_of_nothing(to: &Arc<dyn StoreDir>) -> Result<Vec<String>> {
    Ok(match open_if_there(to, DATA, Open::Read)? {
        Some(_) => vec!["the original has no rows any more: the copy keeps what it has".into()],
        None => Vec::new(),
    })
}

/// The array of a program that npyfs has not adopted: it has no checksums, and may be written in any
/// way.
fn without_journal(
    original: &Original,
    to: &Arc<dyn StoreDir>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied> {
    let Some((layout, blob)) = &original.data else {
        return Ok(Copied::default());
    };
    if open_if_there(to, JOURNAL, Open::Read)?.is_some() {
        return Err(err!(
            EEXIST,
            "the copy has a journal, the original has none: it is another dataset's; move it away or name another destination"
        ));
    }
    let rows = original.counted()?.unwrap_or(0);
    let failed = || "cannot copy data.npy".to_owned();
    let end = layout
        .offset(rows)
        .ok_or_else(|| err!(EFBIG, "data.npy says that it is longer than a file can be"))?
        .min(blob.len().context(failed)?);
    if let Some(old) = open_if_there(to, DATA, Open::Read)?
        && old.len().context(failed)? == end
        && disk::modified(&*old).context(failed)? == disk::modified(&**blob).context(failed)?
    {
        return Ok(Copied {
            rows,
            ..Copied::default()
        });
    }
    let modified = disk::modified(&**blob).context(failed)?;
    let new = TempFile::create(to, Holds::Other, None).context(failed)?;
    let bytes = copy_parts(&**blob, new.blob(), 0, end, &mut |_, done| {
        progress(done, end);
    })
    .context(failed)?;
    copy_attributes(&**blob, new.blob()).context(failed)?;
    set_modified(new.blob(), modified).context(failed)?;
    new.blob().sync().context(failed)?;
    new.persist(Path::new(DATA)).context(failed)?;
    to.sync(Path::new(".")).context(failed)?;
    Ok(Copied {
        rows,
        new_rows: rows,
        bytes,
        ..Copied::default()
    })
}

fn set_modified(blob: &dyn StoreFile, modified: i64) -> io::Result<()> {
    match blob.file() {
        Some(file) => file.set_modified(crate::disk::clock::to_system(modified)),
        None => Ok(()),
    }
}

/// Where the rows of the copy go.
enum Target {
    /// After those that it has.
    Grows(Arc<dyn StoreFile>),
    /// A new file, with all rows, which takes its place before the journal tells of them; where it has
    /// none, as recovery expects it, after.
    New(TempFile),
}

impl Target {
    /// The file of the copy that takes the rows after the first `had`. A copy that `has_rows` of its
    /// journal's is not written anew.
    fn find(to: &Arc<dyn StoreDir>, layout: &Layout, had: u64, has_rows: bool) -> Result<Self> {
        let HeaderKind::Growable(header) = &layout.form else {
            return Err(err!(
                EIO,
                "data.npy was replaced: its header is not the one that npyfs made"
            ));
        };
        let failed = || "cannot open data.npy of the copy".to_owned();
        if has_rows && let Some(old) = open_if_there(to, DATA, Open::Write)? {
            let mut bytes = vec![0; header.len() as usize];
            let got = old.read_at(&mut bytes, 0).context(failed)?;
            let len = old.len().context(failed)?;
            let is_same = got == bytes.len() && header.rows(&bytes).is_ok();
            if is_same && layout.offset(had).is_some_and(|end| end <= len) {
                return Ok(Target::Grows(old));
            }
        }
        let new = TempFile::create(to, Holds::Other, None)
            .context(|| "cannot create data.npy of the copy".into())?;
        Ok(Target::New(new))
    }

    fn blob(&self) -> &dyn StoreFile {
        match self {
            Target::Grows(blob) => &**blob,
            Target::New(file) => file.blob(),
        }
    }
}

fn with_journal(
    from: &Arc<dyn StoreDir>,
    original: &Original,
    journal: &Arc<dyn StoreFile>,
    to: &Arc<dyn StoreDir>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied> {
    let copy_of_journal = open_if_there(to, JOURNAL, Open::Read)?;
    // The copy's journal without the end that a backup gave it.
    let base = match &copy_of_journal {
        Some(blob) => Told::read(blob)?.without_end(),
        None => 0,
    };
    let mut told = original.told(from, journal, base)?;
    if let Some(old) = &copy_of_journal
        && base > FIRST
    {
        is_earlier_state(old, journal, base, &told)?;
    }
    let mut copied = Copied::default();
    let mut target = None;
    if let Some((layout, data)) = &original.data {
        let has_rows = base > FIRST;
        let new = Target::find(to, layout, told.rows_at_base, has_rows)?;
        let had = match &new {
            Target::Grows(_) => told.rows_at_base,
            Target::New(_) => 0,
        };
        if told.rows > had {
            // What is copied is what a power cut must leave.
            let failed = || "cannot sync the original".to_owned();
            data.sync().context(failed)?;
            journal.sync().context(failed)?;
        }
        let mut checks = Checks::new(&told, had, layout.row_bytes());
        copied.bytes = copy_rows(layout, &new, had, told.rows, &mut checks, progress)?;
        let bad = checks.finish();
        if let Some(cut) = bad.cut_at {
            // Rows that are not what was committed, and none after them that are.
            told = Told::read_until(journal, cut, base)?;
        }
        copied.damage = bad.lines(journal, told.end)?;
        copied.new_rows = told.rows.saturating_sub(had);
        target = Some(new);
    }
    copied.rows = told.rows;
    original.is_still(from)?;
    if told.stopped {
        let durable = Told::durable(journal)?;
        let there = original.most(is_written(from)?)?.unwrap_or(0);
        if durable > there {
            copied.damage.push(format!(
                "rows {there} to {durable}, which had reached the disk, are not in data.npy any more: npyfs check names their chunks"
            ));
        }
    }
    publish(original, journal, to, base, &told, target)?;
    if let Some(count) = original.counted()?
        && told.is_closed()
        && count > told.rows
    {
        copied.notes.push(format!(
            "{} rows of another program, which no daemon has adopted yet, are not in the copy",
            count - told.rows
        ));
    }
    Ok(copied)
}

fn is_earlier_state(
    old: &Arc<dyn StoreFile>,
    journal: &Arc<dyn StoreFile>,
    base: u64,
    told: &Told,
) -> Result<()> {
    let other = |at: u64| {
        err!(
            EEXIST,
            "the copy is no earlier state of the original: their journals differ at byte {at}; nothing was changed. Move the copy away, or name another destination"
        )
    };
    if told.end < base || !told.has_boundary_at_base {
        return Err(other(told.end.min(base)));
    }
    match same_bytes(&**old, &**journal, FIRST, base)? {
        None => Ok(()),
        Some(at) => Err(other(at)),
    }
}

fn copy_rows(
    layout: &Layout,
    target: &Target,
    had: u64,
    rows: u64,
    checks: &mut Checks<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64> {
    let (Some(start), Some(end)) = (layout.offset(had), layout.offset(rows)) else {
        return Err(err!(
            EFBIG,
            "the array would have more bytes than a file can"
        ));
    };
    let len = end.saturating_sub(start);
    copy_parts(
        &*layout.data,
        target.blob(),
        start,
        len,
        &mut |part, done| {
            checks.take(part);
            progress(done, len);
        },
    )
    .context(|| "cannot copy the rows of data.npy".into())
}

/// Copies `len` bytes from `start` on to the same place. `each` is told of each part and how many
/// bytes have passed. Answers how many were written: a hole stays one, unless an interrupted backup has
/// left something there.
fn copy_parts(
    from: &dyn StoreFile,
    to: &dyn StoreFile,
    start: u64,
    len: u64,
    each: &mut dyn FnMut(Part<'_>, u64),
) -> io::Result<u64> {
    let (mut done, mut written) = (0, 0);
    disk::read_parts(from, start, len, |part| {
        match part {
            Part::Bytes(piece) => {
                to.write_at(piece, start + done)?;
                written += part.len();
            }
            Part::Zeros(zeros) => disk::clear(to, start + done, zeros)?,
        }
        done += part.len();
        each(part, done);
        Ok(())
    })?;
    Ok(written)
}

/// Makes the copy say what it holds: each step leaves a dataset that recovery completes.
fn publish(
    original: &Original,
    journal: &Arc<dyn StoreFile>,
    to: &Arc<dyn StoreDir>,
    base: u64,
    told: &Told,
    grown: Option<Target>,
) -> Result<()> {
    let failed = || "cannot write data.npy of the copy".to_owned();
    let mut newborn = false;
    let data: Option<Arc<dyn StoreFile>> = match grown {
        None => None,
        Some(Target::Grows(blob)) => {
            blob.sync().context(failed)?;
            Some(blob)
        }
        Some(Target::New(file)) => {
            let Some((layout, _)) = &original.data else {
                return Err(err!(EIO, "the original's data.npy was lost"));
            };
            let known = open_if_there(to, DATA, Open::Read)?.is_some();
            newborn = !known;
            let counted = if known { told.rows_at_base } else { told.rows };
            let head = layout.header_bytes(counted);
            file.blob().write_at(&head, 0).context(failed)?;
            file.blob().sync().context(failed)?;
            let blob = file.shared_blob();
            let name = if known { DATA } else { NEW_DATA };
            file.persist(Path::new(name)).context(failed)?;
            Some(blob)
        }
    };
    write_journal(journal, to, base, told)?;
    if newborn {
        to.rename(Path::new(NEW_DATA), Path::new(DATA))
            .context(failed)?;
    }
    if let (Some((layout, blob)), Some(new)) = (&original.data, data)
        && let HeaderKind::Growable(header) = &layout.form
    {
        let layout = Layout::new(HeaderKind::Growable(header.clone()), new.clone());
        publish_from_disk(&layout, told.rows)?;
        copy_attributes(&**blob, &*new).context(failed)?;
        let modified = disk::modified(&**blob).context(failed)?;
        set_modified(&*new, modified).context(failed)?;
        new.sync().context(failed)?;
    }
    let failed = || "cannot sync the copy's directory".to_owned();
    to.sync(Path::new(CONTROL)).context(failed)?;
    to.sync(Path::new(".")).context(failed)
}

fn write_journal(
    journal: &Arc<dyn StoreFile>,
    to: &Arc<dyn StoreDir>,
    base: u64,
    told: &Told,
) -> Result<()> {
    let failed = || "cannot write the copy's journal".to_owned();
    let copy = to.open(Path::new(JOURNAL), Open::Create).context(failed)?;
    let mut first = vec![0; FIRST as usize];
    disk::read_exact_at(&**journal, &mut first, 0).context(failed)?;
    let mut old = vec![0; FIRST as usize];
    if copy.read_at(&mut old, 0).context(failed)? < old.len() || old != first {
        // A version that was raised, before the records that only the new one has.
        copy.write_at(&first, 0).context(failed)?;
        copy.sync().context(failed)?;
    }
    let from = base.max(FIRST);
    let mut end = told.end.max(from);
    disk::copy(&**journal, from, &*copy, from, end - from).context(failed)?;
    if !told.is_closed() {
        let mut closed = Vec::new();
        Record::Closed { rows: told.rows }.encode(&mut closed);
        copy.write_at(&closed, end).context(failed)?;
        end += closed.len() as u64;
    }
    copy.set_len(end).context(failed)?;
    copy.sync().context(failed)
}

/// The dataset's log, and what is kept for good beside it.
fn copy_kept(from: &Arc<dyn StoreDir>, to: &Arc<dyn StoreDir>) -> Result<()> {
    for log in [LOG, OLD_LOG] {
        copy_file(from, to, Path::new(log))?;
    }
    let directory = Path::new(RESCUED);
    let found = match from.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.context(|| format!("cannot list {RESCUED}"))?,
    };
    to.make_dir(directory)
        .context(|| format!("cannot make {RESCUED} in the copy"))?;
    for file in found.iter().filter(|file| !file.is_dir) {
        copy_file(from, to, &directory.join(&file.name))?;
    }
    to.sync(directory)
        .context(|| format!("cannot sync {RESCUED} of the copy"))
}

/// Copies a file unless the copy has one of its length and time of last change.
fn copy_file(from: &Arc<dyn StoreDir>, to: &Arc<dyn StoreDir>, path: &Path) -> Result<()> {
    let failed = || format!("cannot copy {}", path.display());
    let open = |folder: &Arc<dyn StoreDir>| match folder.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    };
    let Some(file) = open(from).context(failed)? else {
        return Ok(());
    };
    let seen = |blob: &dyn StoreFile| -> io::Result<_> { Ok((blob.len()?, disk::modified(blob)?)) };
    let (len, modified) = seen(&*file).context(failed)?;
    if let Some(old) = open(to).context(failed)?
        && seen(&*old).context(failed)? == (len, modified)
    {
        return Ok(());
    }
    let new = TempFile::create(to, Holds::Other, None).context(failed)?;
    disk::copy_sparse(&*file, new.blob(), len).context(failed)?;
    copy_attributes(&*file, new.blob()).context(failed)?;
    set_modified(new.blob(), modified).context(failed)?;
    new.blob().sync().context(failed)?;
    new.persist(path).context(failed)
}

impl From<told::Damaged> for Error {
    fn from(told::Damaged { at }: told::Damaged) -> Self {
        err!(
            EIO,
            "the journal is damaged at byte {at}, and what comes after it cannot be copied: npyfs check says more"
        )
    }
}
