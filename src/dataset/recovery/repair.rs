//! Carrying out what a survey found to be done, by the daemon that holds the lock.
//!
//! The order lets it be interrupted and run again: the count in the header comes down before the
//! journal is cut, so that rows which lose their record are never taken for another program's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::rescued::Rescued;
use super::left::{Keepers, clear_incoming};
use super::{Finding, Survey, open_if_there};
use crate::array::Array;
use crate::array::adopt;
use crate::array::view::{HeaderKind, Layout};
use crate::disk::paths::NEW_DATA;
use crate::disk::paths::REMOVED;
use crate::disk::paths::{DATA, JOURNAL};
use crate::disk::{Open, StoreDir, copy_data, read_exact_at};
use crate::error::{Context, Error, Result};
use crate::journal;
use crate::npy::Header;
use crate::stop::Stop;

/// What [`repair`] has left for the journal's writer to record.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    pub(crate) foreign_rows: u64,
}

/// Makes the disk check_compatible with the survey. The lock is held.
pub(crate) fn repair(
    folder: &Arc<dyn StoreDir>,
    survey: &mut Survey,
    keepers: Keepers<'_>,
    stop: &Stop,
) -> Result<Owed> {
    let orphans = clear_incoming(folder, survey, keepers)?;
    survey.notes.extend(orphans);
    let rescued = keepers.rescued;
    let plan = std::mem::take(&mut survey.plan);
    if plan.install_new {
        folder
            .rename(Path::new(NEW_DATA), Path::new(DATA))
            .context(|| "cannot create data.npy".into())?;
    } else {
        remove_if_there(folder, NEW_DATA)?;
    }
    if plan.set_array_aside {
        rescued.take_array()?;
    }
    let Some(array) = &mut survey.array else {
        return Ok(Owed::default());
    };
    if plan.reject_rows > 0 {
        set_rows_aside(array, plan.reject_rows, rescued, stop)?;
    }
    let foreign_rows = plan.foreign_rows;
    if let HeaderKind::Fixed { header, .. } = &array.layout.form {
        let layout = adopt::give_room(folder, header, &array.layout.data, array.rows)?;
        array.layout = Arc::new(layout);
    } else if plan.finish_insertion {
        adopt::write_inserted(&array.layout, array.rows)?;
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
        let cut_off = cut(array, lowered)?;
        survey.notes.extend(cut_off);
    }
    Ok(Owed { foreign_rows })
}

/// Sets the count in a header that a dead daemon may have left between two steps.
pub(crate) fn publish_from_disk(layout: &Layout, rows: u64) -> Result<()> {
    let HeaderKind::Growable(header) = &layout.form else {
        return Err(err!(EIO, "the header of data.npy has no count field"));
    };
    let mut bytes = vec![0; header.len() as usize];
    read_exact_at(&*layout.data, &mut bytes, 0)
        .context(|| "cannot read the header of data.npy".into())?;
    for (offset, word) in header.count_writes_from(&bytes, rows)? {
        layout
            .data
            .write_at(&word, offset)
            .context(|| "cannot write the row count of data.npy".into())?;
    }
    Ok(())
}

/// Cuts off what lies after the rows. Where their count has come down, it must be on the disk
/// before the journal is cut.
fn cut(array: &Array, lowered: bool) -> Result<Option<Finding>> {
    let data = &array.layout.data;
    let Some(end) = array.layout.offset(array.rows) else {
        return Err(err!(EIO, "the array would have more bytes than a file can"));
    };
    if lowered {
        data.sync().context(|| "cannot sync data.npy".into())?;
    }
    let len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    if len <= end {
        return Ok(None);
    }
    data.set_len(end)
        .context(|| "cannot cut what lies after the rows of data.npy".into())?;
    Ok(Some(Finding::Info(format!(
        "cut {} bytes off data.npy after its last row",
        len - end
    ))))
}

fn set_rows_aside(array: &Array, rows: u64, rescued: &Rescued, stop: &Stop) -> Result<()> {
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
    rescued.keep_rows("rows-without-record.npy".as_ref(), |blob| {
        blob.write_at(&header, 0)?;
        let body = header.len() as u64;
        copy_data(&*layout.data, start, blob, body, len, stop)?;
        blob.set_len(body + len)
    })?;
    Ok(())
}

pub(crate) fn remove_if_there(folder: &Arc<dyn StoreDir>, path: &str) -> Result<()> {
    match folder.remove(Path::new(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(error, format!("cannot remove {path}")))
        }
        _ => Ok(()),
    }
}

/// Takes the last trace of an array away whose removal was interrupted.
pub(crate) fn finish_removal(folder: &Arc<dyn StoreDir>, journal: &journal::Journal) -> Result<()> {
    if open_if_there(folder, REMOVED, Open::Read)?.is_some() {
        journal
            .blob()
            .sync()
            .context(|| "cannot sync the journal".into())?;
        remove_if_there(folder, REMOVED)?;
    }
    Ok(())
}

/// Opens the journal for writing after its good part; `make` where there was none.
pub(crate) fn open_journal(
    folder: &Arc<dyn StoreDir>,
    survey: &Survey,
) -> Result<journal::Journal> {
    let failed = || "cannot open the journal".to_owned();
    let blob = folder
        .open(Path::new(JOURNAL), Open::Create)
        .context(failed)?;
    journal::Journal::resume(blob, survey.journal_len).context(failed)
}
