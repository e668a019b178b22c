//! `npyfs check`: every checksum, and header, journal and rows against each other.
//!
//! Nothing is changed. What is reported is enough to know which chunks to send again.

use std::path::Path;
use std::sync::Arc;

use super::disk::{Directory, Folder, read_pieces};
use super::{Dataset, View, recovery};
use crate::error::{Context, Result};

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Chunks whose checksum was compared.
    pub chunks: u64,
    /// Rows that no chunk and no stream of the journal accounts for: another program's, which have
    /// no checksum.
    pub unnamed_rows: u64,
    /// One sentence for each damage, with the name of the chunk.
    pub damage: Vec<String>,
    /// What the next daemon will repair or adopt when it opens the dataset.
    pub pending: Vec<String>,
}

/// Where a dataset cannot be opened: one sentence for each chunk whose rows or record are damaged.
///
/// # Errors
/// Those of reading the store.
pub fn lost_chunks(directory: &Path) -> Result<Vec<String>> {
    let folder =
        Directory::open(directory).context(|| format!("cannot open {}", directory.display()))?;
    let folder: Arc<dyn Folder> = Arc::new(folder);
    recovery::lost_chunks(&folder)
}

/// Of the rows of a view; `tell` is told of each piece how many bytes it has.
fn checksum(view: &View, tell: &mut dyn FnMut(u64)) -> Result<u32> {
    let (blob, start) = view.body();
    let mut crc = 0;
    read_pieces(&**blob, start, view.body_len(), |piece| {
        crc = crc32c::crc32c_append(crc, piece);
        tell(piece.len() as u64);
        Ok(())
    })
    .context(|| {
        let (first, end) = (view.first_row(), view.first_row() + view.rows());
        format!("cannot read rows {first} to {end} of data.npy")
    })?;
    Ok(crc)
}

impl Dataset {
    /// Verifies the dataset; `progress` is told the bytes verified so far, and of how many.
    ///
    /// # Errors
    /// Those of reading the store. Damage is not an error but in the report.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        let mut report = Report::default();
        let pending = recovery::pending(&self.folder, &self.boot(), !self.is_free())?;
        report.damage.extend(pending.damage);
        report.pending.extend(pending.mendable);
        let Some(array) = self.snapshot()? else {
            return Ok(report);
        };
        let total = array.body_len();
        let mut done = 0;
        let mut named = 0;
        let mut id = 0;
        while let Some((name, next)) = self.next_name(id) {
            id = next;
            let Some(chunk) = self.chunk(&name)? else {
                continue;
            };
            if chunk.receipt.end() > array.rows() {
                // Committed by another daemon since the snapshot.
                break;
            }
            let crc = checksum(&chunk.view, &mut |bytes| {
                done += bytes;
                progress(done, total);
            })?;
            report.chunks += 1;
            named += chunk.receipt.rows;
            if crc != chunk.receipt.crc {
                report.damage.push(format!(
                    "{}: rows {} to {} differ from their checksum ({crc:08x}, the journal has {:08x})",
                    name.display(),
                    chunk.receipt.first_row,
                    chunk.receipt.end(),
                    chunk.receipt.crc
                ));
            }
        }
        let runs = self.catalog().runs().to_vec();
        for run in runs.iter().take_while(|run| run.end() <= array.rows()) {
            let crc = checksum(&array.part(run.first_row, run.rows), &mut |bytes| {
                done += bytes;
                progress(done, total);
            })?;
            named += run.rows;
            if crc != run.crc {
                report.damage.push(format!(
                    "rows {} to {}, which a stream appended, differ from their checksum ({crc:08x}, the journal has {:08x})",
                    run.first_row,
                    run.end(),
                    run.crc
                ));
            }
        }
        report.unnamed_rows = array.rows().saturating_sub(named);
        progress(total, total);
        Ok(report)
    }
}
