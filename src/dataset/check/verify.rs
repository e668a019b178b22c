//! Verifying rows: the journal is gone through again, and what each record says of rows is compared
//! with the array. Each row is read once, whatever its chunk is called now.
//!
//! The catalog in memory keeps no checksums of chunks whose names were forgotten; the journal does.

use std::ops::Range;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::array::View;
use crate::dataset::recovery::Damage;
use crate::disk::StoreFile;
use crate::disk::checksum;
use crate::error::{Context, Result};
use crate::journal::findings::Findings;
use crate::journal::{ChunkRecord, Reader, Record, RunRecord, Start};
use crate::stop::Stop;

/// Longer than one append to the journal takes.
const APPEND: Duration = Duration::from_millis(50);

/// How far a journal is gone through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// To this byte: what is good of the journal of a dataset that is not at work.
    Byte(u64),
    /// To the last row of the array that is verified: a daemon at work appends to the journal.
    LastRow,
}

/// What is known of rows before they are read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// These were compared with their checksums,
    pub(crate) rows: Range<u64>,
    /// and these of them differ.
    pub(crate) damage: Option<Arc<Damage>>,
}

impl Known {
    /// How many bytes need not be read again.
    pub(crate) fn bytes(&self, array: &View) -> u64 {
        let rows = self.rows.end.saturating_sub(self.rows.start);
        array.part(self.rows.start, rows).body_len()
    }

    /// Whether these rows differ, if that is known.
    fn differ(&self, rows: &Range<u64>) -> Option<bool> {
        let all = self.rows.start <= rows.start && rows.end <= self.rows.end;
        all.then(|| self.damage.as_ref().is_some_and(|damage| damage.has(rows)))
    }
}

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Chunks whose checksum was compared.
    pub(crate) chunks: u64,
    /// How many of them have no name any more.
    pub(crate) nameless: u64,
    /// Rows of chunks.
    pub(crate) rows: u64,
    pub(crate) findings: Findings,
}

/// Verifies the rows of an array that nothing is known of; `progress` is told the bytes that were read.
pub(crate) fn verify(
    journal: &Arc<dyn StoreFile>,
    until: Until,
    array: &View,
    known: Known,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified> {
    let failed = || "cannot read the journal".to_owned();
    let (start, mut reader) = Reader::open(journal.clone())?;
    let mut verifier = Verifier {
        array,
        known,
        progress,
        next: 0,
        run: None,
        verified: Verified::default(),
    };
    if start == Start::Nothing {
        return Ok(verifier.verified);
    }
    loop {
        if let Until::Byte(end) = until
            && reader.offset() >= end
        {
            break;
        }
        if let Some(record) = reader.next()? {
            if record.end().is_some_and(|end| end > array.rows()) {
                // Committed since the array was looked at.
                break;
            }
            verifier.take(&record);
            continue;
        }
        let at_end = reader.offset() >= journal.len().context(failed)?;
        if at_end || verifier.next >= array.rows() {
            break;
        }
        // The array has rows whose records must be whole. Those after them may be just arriving.
        sleep(APPEND);
        reader = Reader::resume(journal.clone(), reader.offset());
        if reader.next()?.is_some() {
            reader = Reader::resume(journal.clone(), reader.offset());
            continue;
        }
        if !reader.skip_damage()? {
            verifier.pass_to(array.rows());
            break;
        }
    }
    verifier.end_run();
    Ok(verifier.verified)
}

struct Verifier<'a> {
    array: &'a View,
    known: Known,
    progress: &'a mut dyn FnMut(u64),
    /// The row after the last that a record told of.
    next: u64,
    /// The run of a stream that the last record told of. Each of its records tells of all its rows.
    run: Option<RunRecord>,
    verified: Verified,
}

impl Verifier<'_> {
    fn take(&mut self, record: &Record<'_>) {
        let goes_on = match (&self.run, record) {
            (Some(run), Record::Run(more)) => run.goes_on_as(more),
            _ => false,
        };
        // Records that tell of no rows may come between those of one run.
        let has_rows = matches!(
            record,
            Record::Chunk(_) | Record::Foreign { .. } | Record::Run(_)
        );
        if has_rows && !goes_on {
            self.end_run();
        }
        self.verified.findings.follow(record);
        match record {
            Record::Chunk(chunk) => self.chunk(chunk),
            Record::Foreign { first_row, rows } => {
                self.pass_to(*first_row);
                self.next = first_row.saturating_add(*rows);
            }
            Record::Run(run) => {
                if !goes_on {
                    self.pass_to(run.first_row);
                }
                self.next = run.end();
                self.run = Some(*run);
            }
            Record::Forgotten { .. } => self.verified.nameless += 1,
            _ => {}
        }
    }

    fn chunk(&mut self, chunk: &ChunkRecord<'_>) {
        self.pass_to(chunk.first_row);
        let end = chunk.first_row.saturating_add(chunk.rows);
        self.next = end;
        self.verified.chunks += 1;
        self.verified.rows += chunk.rows;
        if let Some(what) = self.differs(chunk.first_row..end, chunk.crc) {
            let rows = chunk.first_row..end;
            self.verified.findings.add(chunk.name, rows, what);
        }
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else {
            return;
        };
        let rows = run.first_row..run.end();
        self.verified.rows += run.rows;
        if let Some(what) = self.differs(rows.clone(), run.crc) {
            let line = format!(
                "rows {} to {}, which a stream appended, {what}",
                rows.start, rows.end
            );
            self.verified.findings.add_line(line);
        }
    }

    /// Rows that no record tells of, though there are records of later ones.
    fn pass_to(&mut self, first: u64) {
        if first > self.next {
            let line = format!(
                "rows {} to {first}: the record of their chunk is damaged",
                self.next
            );
            self.verified.findings.add_line(line);
        }
        self.next = self.next.max(first);
    }

    fn differs(&mut self, rows: Range<u64>, recorded: u32) -> Option<String> {
        if let Some(differ) = self.known.differ(&rows) {
            return differ.then(|| "are not what was committed".to_owned());
        }
        let part = self.array.part(rows.start, rows.end - rows.start);
        let (blob, start) = part.body();
        let (len, stop) = (part.body_len(), Stop::default());
        match checksum::extend(0, &**blob, start, len, &stop, self.progress) {
            Err(error) => Some(format!("cannot be read: {error}")),
            Ok(crc) if crc != recorded => Some(format!(
                "differ from their checksum ({crc:08x}, the journal has {recorded:08x})"
            )),
            Ok(_) => None,
        }
    }
}
