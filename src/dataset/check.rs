//! `npyfs check`: every checksum, and header, journal and rows against each other.
//!
//! Nothing is changed. What is reported is enough to know which chunks to send again.

use std::path::Path;
use std::sync::Arc;

use super::Dataset;
use super::disk::{Directory, Folder, read_pieces};
use super::recovery;
use crate::error::{Context, Result};

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Chunks whose checksum was compared.
    pub chunks: u64,
    /// Rows that no chunk of the journal accounts for: another program's, which have no checksum.
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

impl Dataset {
    /// Verifies the dataset; `progress` is told the bytes verified so far, and of how many.
    ///
    /// # Errors
    /// Those of reading the store. Damage is not an error but in the report.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        let mut report = Report::default();
        let pending = recovery::pending(&self.folder, !self.is_free())?;
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
            let len = chunk.view.body_len();
            let mut crc = 0;
            let (blob, start) = chunk.view.body();
            read_pieces(&**blob, start, len, |piece| {
                crc = crc32c::crc32c_append(crc, piece);
                done += piece.len() as u64;
                progress(done, total);
                Ok(())
            })
            .context(|| format!("cannot read the rows of {}", name.display()))?;
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
        report.unnamed_rows = array.rows().saturating_sub(named);
        progress(total, total);
        Ok(report)
    }
}
