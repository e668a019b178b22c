//! Looking for damage: what no crash explains, and which chunks it has hit.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::replay::{Reading, Replay, read_replay};
use super::{Finding, Plan, Survey, open_if_there, read_layout};
use crate::array::view::Layout;
use crate::disk::checksum;
use crate::disk::paths::{DATA, JOURNAL};
use crate::disk::{Open, StoreDir, StoreFile};
use crate::error::{Context, Result};
use crate::journal::findings::Findings;
use crate::journal::{ChunkRecord, Reader, Record, RunRecord};
use crate::stop::Stop;

/// What stands between the disk and a dataset in order.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// What no crash explains, or what one has cost.
    pub(crate) damage: Vec<String>,
    /// What the next to own the dataset will put in order, at no cost.
    pub(crate) mendable: Vec<String>,
}

/// What the next to own the dataset in this boot will find, by this survey. `live`: a daemon is at work.
pub(crate) fn pending(survey: &Survey, live: bool) -> Pending {
    let mut pending = Pending::default();
    if let Some(damage) = &survey.damage {
        // Each of them is found by who verifies.
        pending.damage.push(format!(
            "of this copy {damage}: nothing is written to it until npyfs check --accept DATASET takes it as it is"
        ));
        return pending;
    }
    for note in survey.notes.iter().cloned() {
        match note {
            Finding::Loss(line) => pending.damage.push(line),
            // Nothing was done yet.
            Finding::Dropped(name, why) => pending.damage.push(format!(
                "{name}: {why}: its name goes when the dataset is opened next"
            )),
            Finding::SetAside(what) => pending.damage.push(format!(
                "{what}: to be set aside in .npyfs/rescued when the dataset is opened next"
            )),
            // A daemon at work is between two steps.
            Finding::Info(_) | Finding::Repair(_) if live => {}
            // One that has closed the dataset is not.
            Finding::Repair(line) if survey.closed => pending.damage.push(line),
            Finding::Info(line) | Finding::Repair(line) => pending.mendable.push(line),
        }
    }
    pending
}

/// One line for each chunk of the journal whose rows are not in `data.npy` as they were committed, or
/// whose record is lost, in a dataset that cannot be opened.
pub(crate) fn lost_chunks(folder: &Arc<dyn StoreDir>) -> Result<Vec<String>> {
    let Some(journal) = open_if_there(folder, JOURNAL, Open::Read)? else {
        return Ok(Vec::new());
    };
    let stop = Stop::default();
    let reading = Reading {
        until: u64::MAX,
        copied: false,
        stop: &stop,
    };
    let replay = read_replay(&journal, reading)?;
    let mut inspection = Inspection::new(folder, &replay)?;
    let (_, mut reader) = Reader::open(journal)?;
    // Each record of a run tells of all its rows: the last one says it all.
    let mut run: Option<(RunRecord, bool)> = None;
    loop {
        loop {
            let after = reader.offset() >= replay.end;
            let Some(record) = reader.next()? else {
                break;
            };
            if let Some((run, after)) = run.take_if(|(run, _)| ends(run, &record)) {
                inspection.look_at_run(&run, after)?;
            }
            inspection.findings.follow(&record);
            match record {
                Record::Run(more) => {
                    inspection.pass_to(more.first_row);
                    inspection.pass(more.end());
                    run = Some((more, after));
                }
                Record::Chunk(chunk) => inspection.look(&chunk, after)?,
                Record::Foreign { first_row, .. } => {
                    inspection.pass_to(first_row);
                    inspection.pass(record.end().unwrap_or(0));
                }
                Record::Durable { rows }
                | Record::Closed { rows }
                | Record::HandOver { rows, .. }
                    if after =>
                {
                    inspection.pass_to(rows);
                }
                _ => {}
            }
        }
        if !reader.skip_damage()? {
            if let Some((run, after)) = run {
                inspection.look_at_run(&run, after)?;
            }
            let is_name = |name: &OsStr| replay.catalog.find(name).is_some();
            return Ok(inspection.findings.into_lines(is_name));
        }
    }
}

/// Whether a record, wherever it is, tells of other rows than those of the run, or of fewer.
fn ends(run: &RunRecord, record: &Record<'_>) -> bool {
    match record {
        Record::Run(more) => !run.goes_on_as(more) || run.rows > more.rows,
        Record::Chunk(_) | Record::Foreign { .. } => true,
        _ => false,
    }
}

struct Inspection {
    data: Option<(Arc<dyn StoreFile>, Layout)>,
    file_len: u64,
    /// The row after the last chunk.
    next: u64,
    findings: Findings,
}

impl Inspection {
    fn new(folder: &Arc<dyn StoreDir>, replay: &Replay) -> Result<Self> {
        let data = open_if_there(folder, DATA, Open::Read)?;
        let file_len = match &data {
            Some(blob) => blob
                .len()
                .context(|| "cannot see the size of data.npy".into())?,
            None => 0,
        };
        // Of an array that is none any more, no row can be found.
        let data = data.and_then(|blob| {
            let layout = read_layout(&blob, replay, &mut Plan::default(), &mut Vec::new());
            layout.ok().map(|(layout, _)| (blob, layout))
        });
        Ok(Self {
            data,
            file_len,
            next: 0,
            findings: Findings::default(),
        })
    }

    fn look(&mut self, chunk: &ChunkRecord<'_>, after: bool) -> Result<()> {
        if let Some((rows, what)) =
            self.wrong(chunk.first_row, chunk.rows, chunk.crc, "its record", after)?
        {
            self.findings.add(chunk.name, rows, what);
        }
        Ok(())
    }

    fn look_at_run(&mut self, run: &RunRecord, after: bool) -> Result<()> {
        if let Some((rows, what)) =
            self.wrong(run.first_row, run.rows, run.crc, "their record", after)?
        {
            let (start, end) = (rows.start, rows.end);
            let line = format!("rows {start} to {end}, which a stream appended, {what}");
            self.findings.add_line(line);
        }
        Ok(())
    }

    /// The rows of a record, and what is wrong with them. `after`: it comes after the damage.
    fn wrong(
        &mut self,
        first: u64,
        rows: u64,
        crc: u32,
        record: &str,
        after: bool,
    ) -> Result<Option<(Range<u64>, String)>> {
        let end = first.saturating_add(rows);
        self.pass_to(first);
        self.pass(end);
        let what = match self.checksum(first, rows)? {
            None => "are not in data.npy".to_owned(),
            Some(found) if found != crc => "are not what was committed".to_owned(),
            Some(_) if after => format!("are whole, but {record} is after the damage"),
            Some(_) => return Ok(None),
        };
        Ok(Some((first..end, what)))
    }

    fn pass(&mut self, end: u64) {
        self.next = self.next.max(end);
    }

    /// Rows that no record tells of.
    fn pass_to(&mut self, first: u64) {
        if first > self.next {
            self.findings.add_line(format!(
                "rows {} to {first}: the record of their chunk is damaged",
                self.next
            ));
        }
        self.pass(first);
    }

    /// `None`: they are not all in the file.
    fn checksum(&self, first: u64, rows: u64) -> Result<Option<u32>> {
        let Some((blob, layout)) = &self.data else {
            return Ok(None);
        };
        let ends = layout
            .offset(first)
            .zip(layout.offset(first.saturating_add(rows)));
        let Some((start, end)) = ends.filter(|&(_, end)| end <= self.file_len || rows == 0) else {
            return Ok(None);
        };
        let stop = Stop::default();
        let crc = checksum::extend(0, &**blob, start, end - start, &stop, &mut |_| ())
            .context(|| format!("cannot read {}", Path::new(DATA).display()))?;
        Ok(Some(crc))
    }
}
