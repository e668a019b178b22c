//! How the rows lie in `data.npy`, by its header or by the journal's.

use std::sync::Arc;

use super::replay::Replay;
use super::{Finding, Plan};
use crate::array::adopt::interrupted_insertion;
use crate::array::view::{HeaderKind, Layout};
use crate::chunk::validate::read_header;
use crate::disk::StoreFile;
use crate::error::{Context, Result};
use crate::npy::shape_text;
use crate::npy::{GrowableHeader, Header, Prefix};

/// How many whole rows the file has room for.
pub(super) fn rows_in(layout: &Layout, file_len: u64) -> u64 {
    let bytes = file_len.saturating_sub(layout.header_len());
    bytes.checked_div(layout.row_bytes()).unwrap_or(u64::MAX)
}

/// The array's layout, and the count in its header if that can be read.
pub(super) fn read_layout(
    data: &Arc<dyn StoreFile>,
    replay: &Replay,
    plan: &mut Plan,
    notes: &mut Vec<Finding>,
) -> Result<(Layout, Option<u64>)> {
    let len = data
        .len()
        .context(|| "cannot see the size of data.npy".into())?;
    let on_disk = read_header(&**data, len);
    let recorded = match &replay.array_header {
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
            match GrowableHeader::adopt(&bytes)? {
                Some(published) => Ok((form(HeaderKind::Growable(published)), Some(count))),
                None => Ok((form(HeaderKind::Fixed { header, bytes }), Some(count))),
            }
        }
        (Err(error), Some(recorded)) if error.errno() == crate::error::Errno::EINVAL => {
            notes.push(Finding::Repair(format!(
                "the header of data.npy was unreadable ({error}): written anew from the journal"
            )));
            plan.rewrite_header = true;
            Ok((form(HeaderKind::Growable(recorded)), None))
        }
        (Err(error), _) => match interrupted_insertion(data, len)? {
            Some((header, published)) => {
                notes.push(Finding::Repair(
                    "the header of data.npy was being moved: finished".into(),
                ));
                plan.finish_insertion = true;
                Ok((form(HeaderKind::Growable(published)), Some(header.rows())))
            }
            None => Err(error.context("data.npy is not an array that can be appended to")),
        },
    }
}

fn recorded_header(bytes: &[u8]) -> Result<Option<GrowableHeader>> {
    match Header::parse(bytes)? {
        Prefix::Complete(_) => Ok(GrowableHeader::adopt(bytes)?),
        Prefix::Incomplete { .. } => Err(err!(EIO, "the journal's header record is damaged")),
    }
}
