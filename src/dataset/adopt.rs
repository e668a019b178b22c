//! Adoption: an array that another program made gets a header with a count field.
//!
//! In place where the field fits into the header's own length; else by a block inserted at the
//! front, in constant time, where the filesystem can; else by a copy that replaces the array by a
//! rename.

use std::path::Path;
use std::sync::Arc;

use super::DATA;
use super::disk::{Blob, Folder, Open, copy};
use super::view::{Form, Layout};
use crate::error::{Context, Result};
use crate::npy::{Header, Published};

/// A block that every filesystem with `FALLOC_FL_INSERT_RANGE` takes as a whole number of its own.
const BLOCK: u64 = 4096;
const COPY: &str = ".npyfs/data.npy.adopted";

/// Gives the array of `rows` rows in `data` a count field, and returns its new layout.
pub(crate) fn give_room(
    folder: &Arc<dyn Folder>,
    header: &Header,
    data: &Arc<dyn Blob>,
    rows: u64,
) -> Result<Layout> {
    let failed = || "cannot give data.npy a header with room for its count".to_owned();
    let (dtype, row_shape) = (header.dtype(), header.row_shape());
    if let Some(published) = Published::with_len(dtype, row_shape, header.len())? {
        data.write_at(&published.bytes(rows), 0).context(failed)?;
        return Ok(Layout {
            form: Form::Published(published),
            data: data.clone(),
        });
    }
    if let Some(published) = Published::with_len(dtype, row_shape, header.len() + BLOCK)?
        && published.len() % 64 == 0
        && data.insert_front(BLOCK).context(failed)?
    {
        data.write_at(&published.bytes(rows), 0).context(failed)?;
        return Ok(Layout {
            form: Form::Published(published),
            data: data.clone(),
        });
    }
    let published = Published::new(dtype, row_shape)?;
    let blob = folder.open(Path::new(COPY), Open::Create).context(failed)?;
    blob.set_len(0).context(failed)?;
    blob.write_at(&published.bytes(rows), 0).context(failed)?;
    let body = rows.saturating_mul(published.row_bytes());
    copy(&**data, header.len(), &*blob, published.len(), body).context(failed)?;
    blob.sync().context(failed)?;
    folder
        .rename(Path::new(COPY), Path::new(DATA))
        .context(failed)?;
    Ok(Layout {
        form: Form::Published(published),
        data: blob,
    })
}
