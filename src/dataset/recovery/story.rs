//! The journal's story: what was committed, and how much of it is beyond doubt.

use std::io;
use std::sync::Arc;

use super::super::catalog::{Catalog, KeptName};
use super::super::disk::{Blob, read_pieces};
use super::super::journal::{Reader, Record, Start};
use super::super::view::Layout;
use crate::error::{Context, Result};

/// The journal's story, read to its first bad record.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) catalog: Catalog,
    pub(super) array_header: Option<Vec<u8>>,
    pub(super) durable: u64,
    pub(super) boot: Option<[u8; 16]>,
    pub(super) closed: bool,
    /// Where the last record begins that says so.
    pub(super) closed_at: u64,
    /// Chunks that may not have reached the disk, in commit order.
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
    pub(super) name: KeptName,
    pub(super) first_row: u64,
    pub(super) rows: u64,
    pub(super) crc: u32,
}

impl Story {
    /// The name that a chunk was committed under.
    pub(super) fn name(&self, chunk: &Unsure) -> std::ffi::os_str::Display<'_> {
        self.catalog.kept_name(chunk.name).display()
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
            [first, .., last] => format!(
                "of which {} to {}, {} chunks, were verified, the others synced before",
                self.name(first),
                self.name(last),
                self.unsure.len()
            ),
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
        self.boot.is_some() && !self.closed && self.durable == 0 && ours
    }
}

pub(super) fn read_story(blob: &Arc<dyn Blob>, until: u64) -> Result<Story> {
    let failed = || "cannot read the journal".to_owned();
    let (start, mut reader) = Reader::open(blob.clone()).context(failed)?;
    let mut story = Story::default();
    match start {
        Start::Good => {}
        Start::Nothing => {
            story.damaged = blob.len().context(failed)? > 0;
            story.proof = proof_of_damage(&mut reader, 0).context(failed)?;
            return Ok(story);
        }
        Start::Foreign => {
            return Err(err!(EIO, "the journal was written by a newer npyfs"));
        }
    }
    story.catalog.expect(blob.len().context(failed)?.min(until));
    loop {
        let at = reader.offset();
        story.end = at;
        if at >= until {
            break;
        }
        let Some(record) = reader.next().context(failed)? else {
            break;
        };
        if story.catalog.apply(&record).is_err() {
            break;
        }
        match record {
            Record::Array { header } => story.array_header = Some(header.to_vec()),
            Record::Chunk(chunk) => story.unsure.push(Unsure {
                at,
                name: story.catalog.last_name(),
                first_row: chunk.first_row,
                rows: chunk.rows,
                crc: chunk.crc,
            }),
            Record::Durable { rows } => {
                story.durable = rows;
                story.unsure.retain(|chunk| chunk.first_row >= rows);
            }
            Record::Opened { boot, .. } => {
                story.boot = Some(boot);
                story.closed = false;
            }
            Record::Closed { rows } => {
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
        story.proof = proof_of_damage(&mut reader, story.catalog.rows()).context(failed)?;
    }
    Ok(story)
}

fn proof_of_damage(reader: &mut Reader, known: u64) -> io::Result<Option<u64>> {
    loop {
        while let Some(record) = reader.next()? {
            match record {
                Record::Durable { rows } if rows > known => return Ok(Some(rows)),
                Record::Closed { rows } => return Ok(Some(rows)),
                _ => {}
            }
        }
        if !reader.skip_damage()? {
            return Ok(None);
        }
    }
}

/// The first chunk whose rows are not all in the file, or, among the first `doubtful`, whose
/// checksum is wrong.
pub(super) fn first_bad(
    layout: &Layout,
    chunks: &[Unsure],
    doubtful: usize,
    file_len: u64,
) -> Result<Option<usize>> {
    for (index, chunk) in chunks.iter().enumerate() {
        let Some((start, end)) = layout
            .offset(chunk.first_row)
            .zip(layout.offset(chunk.first_row.saturating_add(chunk.rows)))
        else {
            return Ok(Some(index));
        };
        if end > file_len && chunk.rows > 0 {
            return Ok(Some(index));
        }
        if index < doubtful {
            let mut crc = 0;
            read_pieces(&*layout.data, start, end - start, |piece| {
                crc = crc32c::crc32c_append(crc, piece);
                Ok(())
            })
            .context(|| "cannot read the rows of data.npy".into())?;
            if crc != chunk.crc {
                return Ok(Some(index));
            }
        }
    }
    Ok(None)
}
