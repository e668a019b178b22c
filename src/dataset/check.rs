//! `npyfs check`: every checksum, and header, journal and rows against each other.
//!
//! Nothing is changed. What is reported is enough to know which chunks to send again.

use super::Dataset;
use super::disk::read_pieces;
use super::recovery::{self, Note};
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

impl Dataset {
    /// Verifies the dataset; `progress` is told the bytes verified so far, and of how many.
    ///
    /// # Errors
    /// Those of reading the store. Damage is not an error but in the report.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        let mut report = Report::default();
        for note in recovery::pending(&self.folder, !self.is_free())? {
            match note {
                Note::Lost(line) => report.damage.push(line),
                Note::Mended(line) => report.pending.push(line),
            }
        }
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
