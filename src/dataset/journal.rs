//! The journal: what the rows of the array are called, and how far they are safe.
//!
//! Append-only and binary; `FORMAT.md` beside this file gives the layout byte by byte. A record
//! either passes its length and checksum or ends the journal: nothing behind the first bad record
//! is ever believed. This module only spells and reads records; what they mean together is
//! `catalog` and `recovery`.

use std::io;
use std::sync::Arc;

use super::disk::Blob;

/// The first bytes of every journal; the digit is the layout's version.
pub(crate) const MAGIC: &[u8; 16] = b"npyfs journal 1\n";
/// A record longer than this is damage, not data: the longest holds a header of 1 MiB.
const LONGEST: usize = (1 << 20) + 4096;
/// The same but for records that hold a header: two names and some numbers.
const LONGEST_WITHOUT_HEADER: usize = 1024;
const FRAME: usize = 8;

/// Mode, owner and time of last change of a chunk, as the producer set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, `0o7777` at the most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change, in nanoseconds since 1970.
    pub mtime: i64,
}

/// One record. Names are bytes: any file name but `/` and NUL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record<'a> {
    /// The header of `data.npy`, with a count of 0, when the array was born or adopted.
    Array { header: &'a [u8] },
    /// A header that chunks came with; the first is number 0.
    Header { bytes: &'a [u8] },
    /// A committed chunk.
    Chunk(ChunkRecord<'a>),
    /// A chunk has another name.
    Rename { from: &'a [u8], to: &'a [u8] },
    /// A chunk has other attributes.
    Attributes { name: &'a [u8], set: Attributes },
    /// Rows that another program appended.
    Foreign { first_row: u64, rows: u64 },
    /// All rows before this one, and the journal up to here, have reached the disk.
    Durable { rows: u64 },
    /// A daemon has taken the dataset, in the boot of this id.
    Opened { boot: [u8; 16], at: i64 },
    /// The daemon has let it go with everything on the disk.
    Closed { rows: u64 },
    /// A name was forgotten; its rows stay.
    Forgotten { name: &'a [u8] },
}

/// What is known of a committed chunk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChunkRecord<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) first_row: u64,
    pub(crate) rows: u64,
    /// The number of the header that it came with.
    pub(crate) header: u32,
    /// CRC-32C of its rows as they are stored.
    pub(crate) crc: u32,
    /// Its rows are not stored as they were written (other byte order, Fortran order).
    pub(crate) converted: bool,
    pub(crate) attributes: Attributes,
    /// When it was committed, in nanoseconds since 1970.
    pub(crate) committed: i64,
}

impl Record<'_> {
    /// The row behind the ones that it adds, if it adds any.
    pub(crate) fn end(&self) -> Option<u64> {
        match self {
            Record::Chunk(chunk) => Some(chunk.first_row.saturating_add(chunk.rows)),
            Record::Foreign { first_row, rows } => Some(first_row.saturating_add(*rows)),
            _ => None,
        }
    }

    /// Appends the framed record to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME]);
        match self {
            Record::Array { header } => {
                out.push(1);
                out.extend_from_slice(header);
            }
            Record::Header { bytes } => {
                out.push(2);
                out.extend_from_slice(bytes);
            }
            Record::Chunk(chunk) => {
                out.push(3);
                out.extend_from_slice(&chunk.first_row.to_le_bytes());
                out.extend_from_slice(&chunk.rows.to_le_bytes());
                out.extend_from_slice(&chunk.header.to_le_bytes());
                out.extend_from_slice(&chunk.crc.to_le_bytes());
                out.push(u8::from(chunk.converted));
                encode_attributes(&chunk.attributes, out);
                out.extend_from_slice(&chunk.committed.to_le_bytes());
                out.extend_from_slice(chunk.name);
            }
            Record::Rename { from, to } => {
                out.push(4);
                out.extend_from_slice(&(from.len() as u16).to_le_bytes());
                out.extend_from_slice(from);
                out.extend_from_slice(to);
            }
            Record::Attributes { name, set } => {
                out.push(5);
                encode_attributes(set, out);
                out.extend_from_slice(name);
            }
            Record::Foreign { first_row, rows } => {
                out.push(6);
                out.extend_from_slice(&first_row.to_le_bytes());
                out.extend_from_slice(&rows.to_le_bytes());
            }
            Record::Durable { rows } => {
                out.push(7);
                out.extend_from_slice(&rows.to_le_bytes());
            }
            Record::Opened { boot, at } => {
                out.push(8);
                out.extend_from_slice(boot);
                out.extend_from_slice(&at.to_le_bytes());
            }
            Record::Closed { rows } => {
                out.push(9);
                out.extend_from_slice(&rows.to_le_bytes());
            }
            Record::Forgotten { name } => {
                out.push(10);
                out.extend_from_slice(name);
            }
        }
        let len = ((out.len() - start - FRAME) as u32).to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&len), &out[start + FRAME..]);
        out[start..start + 4].copy_from_slice(&len);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn encode_attributes(attributes: &Attributes, out: &mut Vec<u8>) {
    out.extend_from_slice(&attributes.mode.to_le_bytes());
    out.extend_from_slice(&attributes.uid.to_le_bytes());
    out.extend_from_slice(&attributes.gid.to_le_bytes());
    out.extend_from_slice(&attributes.mtime.to_le_bytes());
}

/// Takes fixed-size fields off the front of a payload.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        Some(Attributes {
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            mtime: self.i64()?,
        })
    }

    fn name(self) -> Option<&'a [u8]> {
        (!self.0.is_empty() && self.0.len() <= 255).then_some(self.0)
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

fn decode(payload: &[u8]) -> Option<Record<'_>> {
    let mut fields = Fields(payload);
    let kind = fields.array::<1>()?[0];
    match kind {
        1 => Some(Record::Array { header: fields.0 }),
        2 => Some(Record::Header { bytes: fields.0 }),
        3 => Some(Record::Chunk(ChunkRecord {
            first_row: fields.u64()?,
            rows: fields.u64()?,
            header: fields.u32()?,
            crc: fields.u32()?,
            converted: match fields.array::<1>()?[0] {
                0 => false,
                1 => true,
                _ => return None,
            },
            attributes: fields.attributes()?,
            committed: fields.i64()?,
            name: fields.name()?,
        })),
        4 => {
            let len = fields.array().map(u16::from_le_bytes)?;
            let from = Fields(fields.bytes(usize::from(len))?).name()?;
            Some(Record::Rename {
                from,
                to: fields.name()?,
            })
        }
        5 => Some(Record::Attributes {
            set: fields.attributes()?,
            name: fields.name()?,
        }),
        6 => {
            let (first_row, rows) = (fields.u64()?, fields.u64()?);
            fields.end(Record::Foreign { first_row, rows })
        }
        7 => {
            let rows = fields.u64()?;
            fields.end(Record::Durable { rows })
        }
        8 => {
            let (boot, at) = (fields.array()?, fields.i64()?);
            fields.end(Record::Opened { boot, at })
        }
        9 => {
            let rows = fields.u64()?;
            fields.end(Record::Closed { rows })
        }
        10 => Some(Record::Forgotten {
            name: fields.name()?,
        }),
        _ => None,
    }
}

/// How a journal's beginning reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// A journal that this version reads.
    Good,
    /// Shorter than its first line, or that line is not there: no record was ever believed.
    Nothing,
    /// A journal of another version.
    Foreign,
}

/// Reads records one after another, holding one window of the file in memory.
#[derive(Debug)]
pub(crate) struct Reader {
    blob: Arc<dyn Blob>,
    window: Vec<u8>,
    /// Where in the file the window begins.
    base: u64,
    /// Where in the window the next record begins.
    at: usize,
}

const WINDOW: usize = 4 << 20;

impl Reader {
    /// Looks at the first line and stands behind it.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn open(blob: Arc<dyn Blob>) -> io::Result<(Start, Reader)> {
        let mut line = [0; MAGIC.len()];
        let got = blob.read_at(&mut line, 0)?;
        let start = if &line == MAGIC {
            Start::Good
        } else if got == MAGIC.len() && line.starts_with(b"npyfs journal ") {
            Start::Foreign
        } else {
            Start::Nothing
        };
        Ok((start, Reader::resume(blob, MAGIC.len() as u64)))
    }

    /// Stands at a record boundary that an earlier reader reached.
    pub(crate) fn resume(blob: Arc<dyn Blob>, offset: u64) -> Reader {
        Reader {
            blob,
            window: Vec::new(),
            base: offset,
            at: 0,
        }
    }

    /// The offset of the next record: everything before it is good.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The next record; `None` at the end, and at the first bad one, for ever.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        self.next_within(LONGEST)
    }

    fn next_within(&mut self, longest: usize) -> io::Result<Option<Record<'_>>> {
        if !self.fill(FRAME)? {
            return Ok(None);
        }
        let frame = &self.window[self.at..self.at + FRAME];
        let len_bytes: [u8; 4] = [frame[0], frame[1], frame[2], frame[3]];
        let expected = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        let len = u32::from_le_bytes(len_bytes) as usize;
        if len == 0 || len > longest || !self.fill(FRAME + len)? {
            return Ok(None);
        }
        let start = self.at + FRAME;
        let payload = &self.window[start..start + len];
        if crc32c::crc32c_append(crc32c::crc32c(&len_bytes), payload) != expected {
            return Ok(None);
        }
        let record = decode(payload);
        if record.is_some() {
            self.at = start + len;
        }
        Ok(record)
    }

    /// From a bad record, goes to the next good one, and stands before it. `false`: there is none.
    /// Headers are passed over: each byte may look like the length of one, and a checksum as long as
    /// that for each would take hours.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn skip_damage(&mut self) -> io::Result<bool> {
        while self.fill(FRAME + 1)? {
            self.at += 1;
            let offset = self.offset();
            if self.next_within(LONGEST_WITHOUT_HEADER)?.is_some() {
                self.at = (offset - self.base) as usize;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has at least `n` bytes of the file in the window, from `at` on. `false`: the file ends.
    fn fill(&mut self, n: usize) -> io::Result<bool> {
        if self.window.len() - self.at >= n {
            return Ok(true);
        }
        self.window.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
        let have = self.window.len();
        let left = self.blob.len()?.saturating_sub(self.base + have as u64);
        self.window
            .resize(have + left.min(n.max(WINDOW) as u64) as usize, 0);
        let read = self
            .blob
            .read_at(&mut self.window[have..], self.base + have as u64)?;
        self.window.truncate(have + read);
        Ok(self.window.len() >= n)
    }
}

/// The writing end of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    blob: Arc<dyn Blob>,
    len: u64,
}

impl Journal {
    /// Goes on behind the last good record; anything behind `len` is cut off.
    ///
    /// # Errors
    /// Those of writing the file.
    pub(crate) fn resume(blob: Arc<dyn Blob>, len: u64) -> io::Result<Journal> {
        let mut journal = Journal { blob, len };
        if len < MAGIC.len() as u64 {
            journal.blob.set_len(0)?;
            journal.blob.write_at(MAGIC, 0)?;
            journal.len = MAGIC.len() as u64;
        } else if journal.blob.len()? != len {
            journal.blob.set_len(len)?;
        }
        Ok(journal)
    }

    /// Appends encoded records in one write. On an error the journal is as it was, or, where that
    /// cannot be had either, `Err(Torn)`.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<(), AppendError> {
        match self.blob.write_at(records, self.len) {
            Ok(()) => {
                self.len += records.len() as u64;
                Ok(())
            }
            Err(error) => match self.blob.set_len(self.len) {
                Ok(()) => Err(AppendError::Undone(error)),
                Err(_) => Err(AppendError::Torn(error)),
            },
        }
    }

    /// Takes back what is behind `len`.
    ///
    /// # Errors
    /// The operating system's; the records may then still be there, and count no more here.
    pub(crate) fn cut(&mut self, len: u64) -> io::Result<()> {
        self.len = len;
        self.blob.set_len(len)
    }

    /// Where the last good record ends.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn blob(&self) -> &Arc<dyn Blob> {
        &self.blob
    }
}

/// What an append that failed has left behind.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Nothing.
    Undone(io::Error),
    /// Perhaps a part of a record: the journal must be read again before it is written again.
    Torn(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::disk::DiskFile;

    #[test]
    fn damage_is_passed_with_no_checksum_of_what_is_as_long_as_a_header() {
        let mut bytes = Vec::new();
        while bytes.len() < 4 << 20 {
            bytes.extend((1u32 << 20).to_le_bytes());
        }
        // As long as only headers are, so that no checksum is computed of it.
        let header = vec![b' '; LONGEST_WITHOUT_HEADER];
        Record::Header { bytes: &header }.encode(&mut bytes);
        let good = bytes.len() as u64;
        Record::Durable { rows: 7 }.encode(&mut bytes);
        let file = tempfile::tempfile().unwrap();
        let blob = Arc::new(DiskFile::new(file));
        blob.write_at(&bytes, 0).unwrap();
        let mut reader = Reader::resume(blob, 0);
        assert!(reader.next().unwrap().is_none());
        assert!(reader.skip_damage().unwrap());
        assert_eq!(reader.offset(), good);
        assert_eq!(reader.next().unwrap(), Some(Record::Durable { rows: 7 }));
        assert!(!reader.skip_damage().unwrap());
    }
}
