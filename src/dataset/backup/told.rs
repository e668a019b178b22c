//! What a journal tells up to some record: rows, where they come from, and their checksums.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::checksum::append_zeros;
use crate::disk::{Part, StoreFile};
use crate::error::{Context, Result};
use crate::journal::{FIRST, Reader, Record, RunRecord, Start};

/// A journal, read up to `end`.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The offset after the last record that was taken.
    pub(super) end: u64,
    /// Rows that are told of by then.
    pub(super) rows: u64,
    /// Rows that are told of at the offset `base`.
    pub(super) rows_at_base: u64,
    /// A record begins, or the journal ends, at `base`.
    pub(super) has_boundary_at_base: bool,
    /// Where the last record begins, if that is a closed record.
    closed_at: Option<u64>,
    /// In the order of their rows.
    pieces: Vec<Piece>,
    /// There are records that were not taken.
    pub(super) stopped: bool,
    /// How many rows the records that were taken say to have reached the disk.
    durable: u64,
}

/// Rows with one checksum.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where its record begins in the journal.
    at: u64,
    first: u64,
    rows: u64,
    /// Of what comes before these rows in the same run, and with them. `None`: another program's.
    sums: Option<(u32, u32)>,
}

/// The journal is bad before its end.
#[derive(Debug)]
pub(super) struct Damaged {
    pub(super) at: u64,
}

impl Told {
    /// Reads the whole journal.
    pub(super) fn read(blob: &Arc<dyn StoreFile>) -> Result<Self> {
        Self::take(blob, Some(u64::MAX), u64::MAX, u64::MAX)
    }

    /// Reads up to the first record of rows that are not among the first `counted`; where there is no
    /// array, up to the first record of any.
    pub(super) fn read_counted(
        blob: &Arc<dyn StoreFile>,
        counted: Option<u64>,
        base: u64,
    ) -> Result<Self> {
        Self::take(blob, counted, u64::MAX, base)
    }

    /// Reads the records that begin before `until`.
    pub(super) fn read_until(blob: &Arc<dyn StoreFile>, until: u64, base: u64) -> Result<Self> {
        Self::take(blob, Some(u64::MAX), until, base)
    }

    fn take(blob: &Arc<dyn StoreFile>, most: Option<u64>, until: u64, base: u64) -> Result<Self> {
        let (start, mut reader) = Reader::open(blob.clone())?;
        let mut told = Told::default();
        if start == Start::Nothing {
            return Ok(told);
        }
        told.end = FIRST;
        let mut run: Option<RunRecord> = None;
        loop {
            let at = reader.offset();
            if at == base.max(FIRST) {
                told.has_boundary_at_base = true;
                told.rows_at_base = told.rows;
            }
            if at >= until {
                told.stopped = true;
                break;
            }
            let Some(record) = reader.next()? else {
                break;
            };
            let tells_of_rows = record.end().is_some();
            if tells_of_rows && most.is_none_or(|most| record.end() > Some(most)) {
                told.stopped = true;
                break;
            }
            let is_closed = matches!(record, Record::Closed { .. });
            if let Record::Durable { rows } | Record::Closed { rows } = record {
                told.durable = told.durable.max(rows);
            }
            let piece = match &record {
                Record::Chunk(chunk) => {
                    run = None;
                    Some((chunk.first_row, chunk.rows, Some((0, chunk.crc))))
                }
                Record::Foreign { first_row, rows } => {
                    run = None;
                    Some((*first_row, *rows, None))
                }
                Record::Run(more) => {
                    let before = run.filter(|run| run.goes_on_as(more) && run.rows <= more.rows);
                    let (first, sum) = match before {
                        Some(run) => (run.end(), run.crc),
                        None => (more.first_row, 0),
                    };
                    run = Some(*more);
                    Some((first, more.end() - first, Some((sum, more.crc))))
                }
                _ => None,
            };
            if let Some((first, rows, sums)) = piece {
                told.rows = told.rows.max(first.saturating_add(rows));
                told.add(Piece {
                    at,
                    first,
                    rows,
                    sums,
                });
            }
            told.end = reader.offset();
            told.closed_at = is_closed.then_some(at);
        }
        Ok(told)
    }

    /// A commit of a run that goes on takes the place of the one before, so that a long stream takes
    /// no memory for each.
    fn add(&mut self, piece: Piece) {
        if let Some(last) = self.pieces.last_mut()
            && let (Some((_, before)), Some((sum, now))) = (last.sums, piece.sums)
            && sum == before
            && sum != 0
            && last.first + last.rows == piece.first
            && last.first >= self.rows_at_base
        {
            last.rows += piece.rows;
            last.sums = last.sums.map(|(start, _)| (start, now));
            return;
        }
        self.pieces.push(piece);
    }

    /// How many rows the whole journal says to have reached the disk. They were counted before.
    pub(super) fn durable(blob: &Arc<dyn StoreFile>) -> Result<u64> {
        Ok(Self::read(blob)?.durable)
    }

    /// Where the journal ends that a backup has given a closed record of its own.
    pub(super) fn without_end(&self) -> u64 {
        self.closed_at.unwrap_or(self.end)
    }

    /// The last record says that the dataset was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// What was not taken is being written, or is to come.
    ///
    /// # Errors
    /// `EIO` where good records come after a bad one.
    pub(super) fn must_be_whole(&self, blob: &Arc<dyn StoreFile>) -> Result<()> {
        if self.stopped || self.end < FIRST {
            return Ok(());
        }
        let mut reader = Reader::resume(blob.clone(), self.end);
        // One that was being written when it was read may be whole by now.
        if reader.next()?.is_some() || !reader.skip_damage()? {
            return Ok(());
        }
        let mut again = Reader::resume(blob.clone(), self.end);
        match again.next()? {
            Some(_) => Ok(()),
            None => Err(Damaged { at: self.end }.into()),
        }
    }
}

/// The first offset from `from` up to `to` where two files differ.
pub(super) fn same_bytes(
    one: &dyn StoreFile,
    other: &dyn StoreFile,
    from: u64,
    to: u64,
) -> Result<Option<u64>> {
    const PIECE: usize = 1 << 20;
    let failed = || "cannot compare the journals".to_owned();
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = from;
    while at < to {
        let len = (to - at).min(PIECE as u64) as usize;
        let had = one.read_at(&mut left[..len], at).context(failed)?;
        let has = other.read_at(&mut right[..len], at).context(failed)?;
        let both = had.min(has);
        if let Some(first) = (0..both).find(|&i| left[i] != right[i]) {
            return Ok(Some(at + first as u64));
        }
        if both < len {
            return Ok(Some(at + both as u64));
        }
        at += len as u64;
    }
    Ok(None)
}

/// Compares rows, as they pass by, with their checksums.
pub(super) struct Checks<'a> {
    pieces: &'a [Piece],
    row_bytes: u64,
    /// Bytes of the first piece that are still to come.
    left: u64,
    sum: u32,
    bad: Vec<usize>,
    index: usize,
}

/// What is not as it was committed.
#[derive(Debug)]
pub(super) struct Bad {
    pieces: Vec<Piece>,
    /// Where the journal is to end so that no bad rows are the last.
    pub(super) cut_at: Option<u64>,
}

impl<'a> Checks<'a> {
    /// The rows from `first` on are to come.
    pub(super) fn new(told: &'a Told, first: u64, row_bytes: u64) -> Self {
        let begin = told.pieces.partition_point(|piece| piece.first < first);
        let mut checks = Self {
            pieces: &told.pieces[begin..],
            row_bytes,
            left: 0,
            sum: 0,
            bad: Vec::new(),
            index: 0,
        };
        checks.begin();
        checks
    }

    fn begin(&mut self) {
        while let Some(piece) = self.pieces.get(self.index) {
            self.left = piece.rows.saturating_mul(self.row_bytes);
            self.sum = piece.sums.map_or(0, |(start, _)| start);
            if self.left > 0 {
                return;
            }
            self.end();
        }
    }

    fn end(&mut self) {
        let sums = self.pieces[self.index].sums;
        if sums.is_some_and(|(_, expected)| expected != self.sum) {
            self.bad.push(self.index);
        }
        self.index += 1;
    }

    /// The next bytes.
    pub(super) fn take(&mut self, part: Part<'_>) {
        let mut done = 0;
        while done < part.len() && self.index < self.pieces.len() {
            let len = self.left.min(part.len() - done);
            if self.pieces[self.index].sums.is_some() {
                self.sum = match part {
                    Part::Bytes(bytes) => {
                        let now = &bytes[done as usize..(done + len) as usize];
                        crc32c::crc32c_append(self.sum, now)
                    }
                    Part::Zeros(_) => append_zeros(self.sum, len),
                };
            }
            self.left -= len;
            done += len;
            if self.left == 0 {
                self.end();
                self.begin();
            }
        }
    }

    pub(super) fn finish(self) -> Bad {
        let mut first_of_the_last = self.pieces.len();
        for index in self.bad.iter().rev() {
            if index + 1 != first_of_the_last {
                break;
            }
            first_of_the_last = *index;
        }
        let cut = self.pieces.get(first_of_the_last);
        Bad {
            cut_at: cut.map(|piece| piece.at),
            pieces: self.bad.iter().map(|&index| self.pieces[index]).collect(),
        }
    }
}

impl Bad {
    /// A line for each; those from `end` of the journal on are not in the copy.
    pub(super) fn lines(&self, journal: &Arc<dyn StoreFile>, end: u64) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for piece in &self.pieces {
            let Range { start, end: after } = piece.first..piece.first + piece.rows;
            let mut reader = Reader::resume(journal.clone(), piece.at);
            let what = match reader.next()? {
                Some(Record::Chunk(chunk)) => {
                    let name = chunk.name.escape_ascii();
                    format!("{name}: rows {start} to {after}")
                }
                _ => format!("rows {start} to {after}, which a stream appended,"),
            };
            let copied = if piece.at < end {
                "they are in the copy as they are"
            } else {
                "they are not in the copy"
            };
            lines.push(format!("{what} are not what was committed: {copied}"));
        }
        Ok(lines)
    }
}
