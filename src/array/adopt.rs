//! Adoption: an array that another program made gets a header with a count field.
//!
//! In place where the field fits into the header's own length; else by a block inserted at the
//! front, in constant time, where the filesystem can; else by a copy that replaces the array by a
//! rename.

use crate::disk::paths::ADOPTED;
use std::path::Path;
use std::sync::Arc;

use crate::array::view::{HeaderKind, Layout};
use crate::disk::paths::DATA;
use crate::disk::{Open, StoreDir, StoreFile, copy, copy_attributes, read_exact_at};
use crate::error::{Context, Result};
use crate::npy::{GrowableHeader, Header, Prefix};

/// A block that every filesystem with `FALLOC_FL_INSERT_RANGE` takes as a whole number of its own.
const BLOCK: u64 = 4096;
/// What a disk writes whole.
const SECTOR: usize = 512;
/// Gives the array of `rows` rows in `data` a count field, and returns its new layout.
pub(crate) fn give_room(
    folder: &Arc<dyn StoreDir>,
    header: &Header,
    data: &Arc<dyn StoreFile>,
    rows: u64,
) -> Result<Layout> {
    let failed = || "cannot give data.npy a header with room for its count".to_owned();
    let (dtype, row_shape) = (header.dtype(), header.row_shape());
    if let Some(published) = GrowableHeader::with_len(dtype, row_shape, header.len())? {
        data.write_at(&published.bytes(rows), 0).context(failed)?;
        return Ok(Layout::new(HeaderKind::Growable(published), data.clone()));
    }
    // The rows keep the alignment in the file that they came with, 16 bytes with old writers.
    if let Some(published) = GrowableHeader::with_len(dtype, row_shape, header.len() + BLOCK)?
        && data.insert_range(BLOCK).context(failed)?
    {
        let layout = Layout::new(HeaderKind::Growable(published), data.clone());
        write_inserted(&layout, rows)?;
        return Ok(layout);
    }
    let published = GrowableHeader::new(dtype, row_shape)?;
    let blob = folder
        .open(Path::new(ADOPTED), Open::Create)
        .context(failed)?;
    blob.set_len(0).context(failed)?;
    blob.write_at(&published.bytes(rows), 0).context(failed)?;
    let body = rows.saturating_mul(published.row_bytes());
    copy(&**data, header.len(), &*blob, published.len(), body).context(failed)?;
    copy_attributes(&**data, &*blob).context(failed)?;
    blob.sync().context(failed)?;
    folder
        .rename(Path::new(ADOPTED), Path::new(DATA))
        .context(failed)?;
    Ok(Layout::new(HeaderKind::Growable(published), blob))
}

/// Writes the header of `rows` rows into a block that was inserted before the old one. The old one
/// is covered last, when the new one is on the disk: until then [`interrupted_insertion`] finds it.
pub(crate) fn write_inserted(layout: &Layout, rows: u64) -> Result<()> {
    let failed = || "cannot give data.npy a header with room for its count".to_owned();
    let bytes = layout.header_bytes(rows);
    let (block, rest) = bytes.split_at((BLOCK as usize).min(bytes.len()));
    layout.data.write_at(block, 0).context(failed)?;
    layout.data.sync().context(failed)?;
    layout.data.write_at(rest, BLOCK).context(failed)
}

/// The old header after an inserted block, and the new one that belongs there, where the block
/// holds no more than parts of the new one.
pub(crate) fn interrupted_insertion(
    data: &Arc<dyn StoreFile>,
    len: u64,
) -> Result<Option<(Header, GrowableHeader)>> {
    let failed = || "cannot read the header of data.npy".to_owned();
    let mut bytes = vec![0; len.min(2 * BLOCK) as usize];
    read_exact_at(&**data, &mut bytes, 0).context(failed)?;
    let Some((block, old)) = bytes.split_at_checked(BLOCK as usize) else {
        return Ok(None);
    };
    let header = match Header::parse(old) {
        Ok(Prefix::Complete(header)) if !header.fortran_order() => header,
        _ => return Ok(None),
    };
    let inserted = header.len() + BLOCK;
    let Some(published) = GrowableHeader::with_len(header.dtype(), header.row_shape(), inserted)?
    else {
        return Ok(None);
    };
    let new = published.bytes(header.rows());
    let ours = block
        .chunks(SECTOR)
        .zip(new.chunks(SECTOR))
        .all(|(there, new)| there == new || there.iter().all(|byte| *byte == 0));
    Ok(ours.then_some((header, published)))
}
