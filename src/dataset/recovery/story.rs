//! The journal's story: what was committed, and how much of it is beyond doubt.

use std::borrow::Cow;
use std::sync::Arc;

use super::super::catalog::{Catalog, KeptName};
use super::super::disk::{Blob, read_pieces};
use super::super::journal::{Opened, Reader, Record, RunRecord, Start};
use super::super::view::Layout;
use crate::error::{Context, Result};

/// The journal's story, read to its first bad record.
#[derive(Debug, Default)]
pub(super) struct Story {
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
    pub(super) unsure: Vec<Unsure>,
    pub(super) end: u64,
    pub(super) damaged: bool,
    /// There is a good record behind the first bad one that says how many rows, more than are known,
    /// had reached the disk: then the bad one had, too, and no crash explains it.
    pub(super) proof: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Unsure {
    /// Where its record begins in the journal.
    pub(super) at: u64,
    /// `None`: rows of a stream.
    pub(super) name: Option<KeptName>,
    pub(super) first_row: u64,
    pub(super) rows: u64,
    pub(super) crc: u32,
    /// The checksum of the same run up to its first row.
    crc_before: u32,
}

impl Story {
    /// The name that a chunk was committed under, or what else its rows are.
    pub(super) fn name(&self, commit: &Unsure) -> Cow<'_, str> {
        match commit.name {
            Some(name) => self.catalog.kept_name(name).to_string_lossy(),
            None => format!("a stream's commit at row {}", commit.first_row).into(),
        }
    }

    /// The boot in which it was taken last.
    pub(super) fn boot(&self) -> Option<&[u8; 16]> {
        self.opened.as_ref().map(|opened| &opened.boot)
    }

    /// For the log: what is kept.
    pub(super) fn kept(&self, same_boot: bool) -> String {
        let found = if same_boot {
            "was not closed: its daemon died in this boot"
        } else {
            "was not closed: the machine was started anew since"
        };
        let (chunks, rows) = (self.catalog.len(), self.catalog.rows());
        let verified = match &self.unsure[..] {
            [] => "all of them synced before".to_owned(),
            [one] => format!(
                "of which {} was verified, the others synced before",
                self.name(one)
            ),
            [first, .., last] => {
                let what = if self.unsure.iter().all(|it| it.name.is_some()) {
                    "chunks"
                } else {
                    "commits"
                };
                format!(
                    "of which {} to {}, {} {what}, were verified, the others synced before",
                    self.name(first),
                    self.name(last),
                    self.unsure.len()
                )
            }
        };
        format!("recovered: it {found}; kept {chunks} chunks with {rows} rows, {verified}")
    }

    /// Nothing that the journal knows was ever said to be on the disk, and nothing was there before
    /// the first chunk.
    pub(super) fn never_durable(&self) -> bool {
        let ours = match self.unsure.first() {
            Some(first) => first.first_row == 0,
            None => self.catalog.rows() == 0,
        };
        self.opened.is_some() && !self.closed && self.durable == 0 && ours
    }
}

pub(super) fn read_story(blob: &Arc<dyn Blob>, until: u64) -> Result<Story> {
    let failed = || "cannot read the journal".to_owned();
    let (start, mut reader) = Reader::open(blob.clone())?;
    let mut story = Story::default();
    if start == Start::Nothing {
        story.damaged = blob.len().context(failed)? > 0;
        story.proof = proof_of_damage(&mut reader, 0)?;
        return Ok(story);
    }
    story.catalog.expect(blob.len().context(failed)?.min(until));
    loop {
        let at = reader.offset();
        story.end = at;
        if at >= until {
            break;
        }
        let Some(record) = reader.next()? else {
            break;
        };
        let run_before = match &record {
            Record::Run(run) => story.catalog.extended_by(run).copied(),
            _ => None,
        };
        if story.catalog.apply(&record).is_err() {
            break;
        }
        story.raised |= record.is_new();
        match record {
            Record::Array { header } => story.array_header = Some(header.to_vec()),
            Record::Chunk(chunk) => story.unsure.push(Unsure {
                at,
                name: Some(story.catalog.last_name()),
                first_row: chunk.first_row,
                rows: chunk.rows,
                crc: chunk.crc,
                crc_before: 0,
            }),
            Record::Run(run) => story.unsure.push(commit_of(at, run_before, &run)),
            Record::Durable { rows } => {
                story.durable = rows;
                story.unsure.retain(|commit| commit.first_row >= rows);
            }
            Record::Opened(opened) => {
                story.opened = Some(opened);
                story.closed = false;
            }
            Record::Closed { rows } | Record::HandOver { rows, .. } => {
                story.durable = rows;
                story.closed = true;
                story.closed_at = at;
                story.unsure.clear();
            }
            _ => {}
        }
    }
    story.damaged = story.end < blob.len().context(failed)?.min(until);
    if story.damaged {
        story.proof = proof_of_damage(&mut reader, story.catalog.rows())?;
    }
    Ok(story)
}

/// What the record at `at` adds to its run.
fn commit_of(at: u64, before: Option<RunRecord>, run: &RunRecord) -> Unsure {
    let (first_row, crc_before) = match before {
        Some(before) => (before.end(), before.crc),
        None => (run.first_row, 0),
    };
    Unsure {
        at,
        name: None,
        first_row,
        rows: run.end() - first_row,
        crc: run.crc,
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

/// The first commit whose rows are not all in the file, or, among the first `doubtful`, whose
/// checksum is wrong.
pub(super) fn first_bad(
    layout: &Layout,
    commits: &[Unsure],
    doubtful: usize,
    file_len: u64,
) -> Result<Option<usize>> {
    for (index, commit) in commits.iter().enumerate() {
        let Some((start, end)) = layout
            .offset(commit.first_row)
            .zip(layout.offset(commit.first_row.saturating_add(commit.rows)))
        else {
            return Ok(Some(index));
        };
        if end > file_len && commit.rows > 0 {
            return Ok(Some(index));
        }
        if index < doubtful {
            let mut crc = commit.crc_before;
            read_pieces(&*layout.data, start, end - start, |piece| {
                crc = crc32c::crc32c_append(crc, piece);
                Ok(())
            })
            .context(|| "cannot read the rows of data.npy".into())?;
            if crc != commit.crc {
                return Ok(Some(index));
            }
        }
    }
    Ok(None)
}
