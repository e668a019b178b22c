//! Whether bytes are a whole chunk, and if not, what is missing.

use std::ffi::OsStr;

use crate::chunk::name::check_chunk_name;
use crate::disk::StoreFile;
use crate::error::{Context, Error, Result};
use crate::npy::shape_text;
use crate::npy::{Header, MAX_HEADER, Prefix};

/// The header at the front of a file of `len` bytes, and its bytes.
pub(crate) fn read_header(blob: &dyn StoreFile, len: u64) -> Result<(Header, Vec<u8>)> {
    let mut want = 4096.min(len) as usize;
    loop {
        let mut bytes = vec![0; want];
        let got = blob
            .read_at(&mut bytes, 0)
            .context(|| "cannot read the header".into())?;
        bytes.truncate(got);
        match Header::parse(&bytes)? {
            Prefix::Complete(header) => {
                bytes.truncate(header.len() as usize);
                return Ok((header, bytes));
            }
            Prefix::Incomplete { need }
                if need <= MAX_HEADER + 12 && need as u64 <= len && need > got =>
            {
                want = need;
            }
            Prefix::Incomplete { .. } => return Err(no_header(len)),
        }
    }
}

pub(crate) fn no_header(len: u64) -> Error {
    if len == 0 {
        err!(EINVAL, "an empty file, not a .npy")
    } else {
        err!(EINVAL, "ends after {len} bytes, within its header")
    }
}

/// Whether a file could be a chunk of some dataset, by its name, its header and its length.
///
/// # Errors
/// Why not.
pub fn judge_file(name: &OsStr, blob: &dyn StoreFile) -> Result<()> {
    check_chunk_name(name)?;
    let len = blob.len().context(|| "cannot see the file's size".into())?;
    let (header, _) = read_header(blob, len)?;
    check_len(&header, len)
}

/// Compares a file's length with what its header says.
pub(crate) fn check_len(header: &Header, len: u64) -> Result<()> {
    let expected = header.file_bytes();
    if len > expected {
        return Err(too_long(header, len));
    }
    if len < expected {
        let rows = header.rows();
        let whole = (len - header.len())
            .checked_div(header.row_bytes())
            .unwrap_or(rows);
        let missing = expected - len;
        // As numpy's open_memmap leaves it before it maps the file.
        let hint = match len == header.len() {
            true => {
                "; a file that is to be mapped (open_memmap) is made as NAME.npy.part and renamed"
            }
            false => "",
        };
        return Err(err!(
            EINVAL,
            "ends after {whole} of {rows} rows: {missing} of {expected} bytes are missing, {} rows{hint}",
            rows - whole
        ));
    }
    Ok(())
}

/// A rewrite of a committed chunk that stopped early.
pub(crate) fn stopped_early(len: u64, of: u64) -> Error {
    err!(
        EINVAL,
        "committed with {of} bytes, and only {len} of them were written again"
    )
}

pub(crate) fn too_long(header: &Header, end: u64) -> Error {
    err!(
        EINVAL,
        "{end} bytes and more, its header says {}: shape {}, {} bytes a row",
        header.file_bytes(),
        shape_text(header.shape()),
        header.row_bytes()
    )
}
