//! The journal's replay: what was committed, and how much of it is beyond doubt.

use std::borrow::Cow;
use std::sync::Arc;

use super::place::Since;
use crate::disk::StoreFile;
use crate::error::{Context, Result};
use crate::journal::catalog::{Catalog, KeptName};
use crate::journal::{Opened, Reader, Record, RunRecord, Start};
use crate::printable::spell;
use crate::stop::Stop;

/// The journal's replay, read to its first bad record.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) catalog: Catalog,
    pub(super) array_header: Option<Vec<u8>>,
    pub(super) durable: u64,
    /// Who took the dataset last.
    pub(super) opened: Option<Opened>,
    /// A record that only the newest version has was read. The version was raised before it came.
    pub(super) raised: bool,
    pub(super) closed: bool,
    /// Where the last record begins that says so.
    pub(super) closed_at: u64,
    /// Commits that may not have reached the disk, in their order.
    pub(super) unverified: Vec<Unverified>,
    pub(super) end: u64,
    pub(super) damaged: bool,
    /// There is a good record after the first bad one that says how many rows, more than are known,
    /// had reached the disk: then the bad one had, too, and no crash explains it.
    pub(super) durable_after_damage: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Unverified {
    /// Where its record begins in the journal.
    pub(super) at: u64,
    pub(super) kind: Kind,
    pub(super) first_row: u64,
    pub(super) rows: u64,
    /// `None`: no checksum tells of them.
    pub(super) crc: Option<u32>,
    /// The checksum of the same run up to its first row.
    pub(super) crc_before: u32,
}

/// What was committed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Chunk(KeptName),
    Stream,
    /// Another program's rows.
    Foreign,
}

impl Unverified {
    /// The row after its last.
    pub(super) fn end(&self) -> u64 {
        self.first_row.saturating_add(self.rows)
    }
}

/// What is to be read of a journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// Up to this byte.
    pub(super) until: u64,
    /// Nothing is known to have reached this disk: all commits are unverified.
    pub(super) copied: bool,
    pub(super) stop: &'a Stop,
}

impl Replay {
    /// The name that a chunk was committed under, or what else its rows are.
    pub(super) fn name(&self, commit: &Unverified) -> Cow<'_, str> {
        match commit.kind {
            Kind::Chunk(name) => spell(self.catalog.kept_name(name)),
            Kind::Stream => format!("a stream's commit at row {}", commit.first_row).into(),
            Kind::Foreign => format!("another program's rows at row {}", commit.first_row).into(),
        }
    }

    /// The boot in which it was taken last.
    pub(super) fn boot(&self) -> Option<&[u8; 16]> {
        self.opened.as_ref().map(|opened| &opened.boot)
    }

    /// For the log: what is kept.
    pub(super) fn kept(&self, since: Since, boot: &[u8; 16]) -> String {
        let found = match since {
            Since::Died => "was not closed: its daemon died in this boot",
            Since::Restarted if self.boot() == Some(boot) => {
                "was not closed, in another mount of this boot or with none recorded"
            }
            Since::Restarted => "was not closed: the machine was started anew since",
            Since::Copied => "is a copy that was made while a daemon had it, or after that died",
        };
        let (chunks, rows) = (self.catalog.len(), self.catalog.rows());
        let verified = match &self.unverified[..] {
            _ if since == Since::Copied => "each of which was verified".to_owned(),
            [] => "all of them synced before".to_owned(),
            [one] => format!(
                "of which {} was verified, the others synced before",
                self.name(one)
            ),
            [first, .., last] => {
                let what = if self
                    .unverified
                    .iter()
                    .all(|it| matches!(it.kind, Kind::Chunk(_)))
                {
                    "chunks"
                } else {
                    "commits"
                };
                format!(
                    "of which {} to {}, {} {what}, were verified, the others synced before",
                    self.name(first),
                    self.name(last),
                    self.unverified.len()
                )
            }
        };
        format!("recovered: it {found}; kept {chunks} chunks with {rows} rows, {verified}")
    }

    /// Nothing that the journal knows was ever said to be on the disk, and nothing was there before
    /// the first chunk.
    pub(super) fn never_durable(&self) -> bool {
        let ours = match self.unverified.first() {
            Some(first) => first.first_row == 0,
            None => self.catalog.rows() == 0,
        };
        self.opened.is_some() && !self.closed && self.durable == 0 && ours
    }
}

pub(super) fn read_replay(blob: &Arc<dyn StoreFile>, reading: Reading<'_>) -> Result<Replay> {
    let failed = || "cannot read the journal".to_owned();
    let until = reading.until;
    let (start, reader) = Reader::open(blob.clone())?;
    let mut reader = reader.until(reading.stop);
    let mut replay = Replay::default();
    if start == Start::Nothing {
        replay.damaged = blob.len().context(failed)? > 0;
        replay.durable_after_damage = proof_of_damage(&mut reader, 0)?;
        return Ok(replay);
    }
    replay
        .catalog
        .expect(blob.len().context(failed)?.min(until));
    loop {
        let at = reader.offset();
        replay.end = at;
        if at >= until {
            break;
        }
        let Some(record) = reader.next()? else {
            break;
        };
        let run_before = match &record {
            Record::Run(run) => replay.catalog.extended_by(run).copied(),
            _ => None,
        };
        if replay.catalog.apply(&record).is_err() {
            break;
        }
        replay.raised |= record.is_new();
        match record {
            Record::Array { header } => replay.array_header = Some(header.to_vec()),
            Record::Chunk(chunk) => replay.unverified.push(Unverified {
                at,
                kind: Kind::Chunk(replay.catalog.last_name()),
                first_row: chunk.first_row,
                rows: chunk.rows,
                crc: Some(chunk.crc),
                crc_before: 0,
            }),
            Record::Run(run) => replay.unverified.push(commit_of(at, run_before, &run)),
            Record::Foreign { first_row, rows } if reading.copied => {
                replay.unverified.push(Unverified {
                    at,
                    kind: Kind::Foreign,
                    first_row,
                    rows,
                    crc: None,
                    crc_before: 0,
                })
            }
            Record::Durable { rows } => {
                replay.durable = rows;
                if !reading.copied {
                    replay.unverified.retain(|commit| commit.first_row >= rows);
                }
            }
            Record::Opened(opened) => {
                replay.opened = Some(opened);
                replay.closed = false;
            }
            Record::Closed { rows } | Record::HandOver { rows, .. } => {
                replay.durable = rows;
                replay.closed = true;
                replay.closed_at = at;
                if !reading.copied {
                    replay.unverified.clear();
                }
            }
            _ => {}
        }
    }
    replay.damaged = replay.end < blob.len().context(failed)?.min(until);
    if replay.damaged {
        replay.durable_after_damage = proof_of_damage(&mut reader, replay.catalog.rows())?;
    }
    Ok(replay)
}

/// What the record at `at` adds to its run.
fn commit_of(at: u64, before: Option<RunRecord>, run: &RunRecord) -> Unverified {
    let (first_row, crc_before) = match before {
        Some(before) => (before.end(), before.crc),
        None => (run.first_row, 0),
    };
    Unverified {
        at,
        kind: Kind::Stream,
        first_row,
        rows: run.end() - first_row,
        crc: Some(run.crc),
        crc_before,
    }
}

fn proof_of_damage(reader: &mut Reader, known: u64) -> Result<Option<u64>> {
    loop {
        while let Some(record) = reader.next()? {
            match record {
                Record::Durable { rows } if rows > known => return Ok(Some(rows)),
                Record::Closed { rows } | Record::HandOver { rows, .. } => return Ok(Some(rows)),
                _ => {}
            }
        }
        if !reader.skip_damage()? {
            return Ok(None);
        }
    }
}
