//! The journal: what the rows of the array are called, and how far they are safe.
//!
//! Append-only and binary; `FORMAT.md` beside this file gives the layout byte by byte. What a
//! crash leaves of a record, too short or with a wrong checksum, ends the journal: nothing after
//! the first such record is ever believed. A record with a good checksum that this npyfs does not
//! know is no crash's work but a newer npyfs's, and an error: it must not be cut off. This module
//! only spells and reads records; what they mean together is `catalog` and `recovery`.

pub(crate) mod catalog;
pub(crate) mod findings;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{StoreFile, leading_zeros};
use crate::error::{Context, Error, Result};
use crate::stop::Stop;
pub use record::Attributes;
pub(crate) use record::{ChunkRecord, Opened, Record, RunRecord, VERSION, Whence};
use record::{FRAME, decode, is_known, known_kinds};

/// The first line of every journal, but for the digit that is the version of its layout.
const LINE: &[u8; LINE_LEN] = b"npyfs journal ?\n";
const LINE_LEN: usize = 16;
/// Where the digit is.
const DIGIT: usize = 14;
/// Where the first record begins.
pub(crate) const FIRST: u64 = LINE_LEN as u64;
/// A record longer than this is damage, not data: the longest holds a header of 1 MiB.
const LONGEST: usize = (1 << 20) + 4096;
/// The same but for records that hold a header: two names and some numbers.
const LONGEST_WITHOUT_HEADER: usize = 1024;

/// The first line of a journal that is written now.
fn first_line() -> [u8; LINE_LEN] {
    let mut line = *LINE;
    line[DIGIT] = b'0' + VERSION;
    line
}

/// How a journal's beginning reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// A journal of this version.
    Version(u8),
    /// Shorter than its first line, or that line is not there: no record was ever believed.
    Nothing,
}

/// Reads records one after another, holding one window of the file in memory.
#[derive(Debug)]
pub(crate) struct Reader {
    blob: Arc<dyn StoreFile>,
    window: Vec<u8>,
    /// Where in the file the window begins.
    base: u64,
    /// Where in the window the next record begins.
    at: usize,
    /// What records there may be.
    version: u8,
    stop: Stop,
    /// How many bytes of damage, other than zeros, have been looked through.
    damage: u64,
}

const WINDOW: usize = 4 << 20;
/// How many bytes of damage are looked through for a good record, zeros not counted. A crash leaves no
/// more than one append or, where a disk has lost blocks, what was appended between two syncs. To look
/// for a record at each byte of more than that could take hours, which who owns the directory has for
/// the price of a file.
const MOST_DAMAGE: u64 = 32 << 20;

impl Reader {
    /// Looks at the first line and stands after it.
    ///
    /// # Errors
    /// `EIO` for a journal of a version that this npyfs does not know, and those of reading the
    /// file.
    pub(crate) fn open(blob: Arc<dyn StoreFile>) -> Result<(Start, Reader)> {
        let mut line = [0; LINE_LEN];
        let got = blob.read_at(&mut line, 0).context(cannot_read)?;
        let digit = line[DIGIT];
        let is_line = got == LINE_LEN && line[..DIGIT] == LINE[..DIGIT];
        let mut reader = Reader::resume(blob, FIRST);
        if !is_line {
            return Ok((Start::Nothing, reader));
        }
        match digit.wrapping_sub(b'0') {
            version @ 1..=VERSION if line[DIGIT + 1..] == LINE[DIGIT + 1..] => {
                reader.version = version;
                Ok((Start::Version(version), reader))
            }
            _ => Err(err!(
                EIO,
                "the journal is of version {}, this npyfs knows versions 1 to {VERSION}: nothing is changed; open the dataset with a newer npyfs",
                String::from_utf8_lossy(&line[DIGIT..])
                    .trim_end()
                    .escape_debug()
            )),
        }
    }

    /// Stands at a record boundary that an earlier reader reached. Records of every version are
    /// taken.
    pub(crate) fn resume(blob: Arc<dyn StoreFile>, offset: u64) -> Reader {
        Reader {
            blob,
            window: Vec::new(),
            base: offset,
            at: 0,
            version: VERSION,
            stop: Stop::default(),
            damage: 0,
        }
    }

    /// Gives up when that is set.
    pub(crate) fn until(mut self, stop: &Stop) -> Reader {
        self.stop = stop.clone();
        self
    }

    /// The offset of the next record: everything before it is good.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The next record; `None` at the end, and at the first bad one, for ever.
    ///
    /// # Errors
    /// `EIO` for a record with a good checksum that this npyfs cannot read, and those of reading
    /// the file.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>> {
        let Some(payload) = self.checked(LONGEST).context(cannot_read)? else {
            return Ok(None);
        };
        let offset = self.offset();
        let bytes = &self.window[payload.clone()];
        let kind = bytes[0];
        if !is_known(kind, self.version) {
            return Err(err!(
                EIO,
                "the journal has a record of kind {kind} at byte {offset}, this npyfs knows {}: nothing is changed; open the dataset with a newer npyfs",
                known_kinds(self.version)
            ));
        }
        let Some(record) = decode(bytes) else {
            return Err(err!(
                EIO,
                "the journal's record at byte {offset} has {} bytes that are not the fields of its kind {kind}, as this npyfs knows it: nothing is changed; open the dataset with a newer npyfs",
                bytes.len()
            ));
        };
        self.at = payload.end;
        Ok(Some(record))
    }

    /// Where in the window the next payload is, if its checksum is good.
    fn checked(&mut self, longest: usize) -> io::Result<Option<Range<usize>>> {
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
        let good = crc32c::crc32c_append(crc32c::crc32c(&len_bytes), payload) == expected;
        Ok(good.then_some(start..start + len))
    }

    /// From a bad record, goes to the next good one, and stands before it. `false`: there is none.
    /// Headers are passed over: each byte may look like the length of one, and a checksum as long as
    /// that for each would take hours.
    ///
    /// # Errors
    /// `EIO` where too much of the file is damaged to be looked through, `ECANCELED`, and those of
    /// reading the file.
    pub(crate) fn skip_damage(&mut self) -> Result<bool> {
        while self.fill(FRAME + 1).context(cannot_read)? {
            self.at += 1;
            if !self.skip_zeros().context(cannot_read)? {
                return Ok(false);
            }
            if self
                .checked(LONGEST_WITHOUT_HEADER)
                .context(cannot_read)?
                .is_some()
            {
                return Ok(true);
            }
            self.damage += 1;
            if self.damage > MOST_DAMAGE {
                return Err(err!(
                    EIO,
                    "more than {MOST_DAMAGE} bytes of the journal up to byte {} are damaged: nothing is changed; put a good copy of .npyfs/chunks.log in its place, or remove .npyfs to keep the rows and lose the names of their chunks",
                    self.offset()
                ));
            }
        }
        Ok(false)
    }

    /// Goes to the first byte that a record can begin with: no record has a length of 0. `false`: all
    /// that is left are zeros.
    fn skip_zeros(&mut self) -> io::Result<bool> {
        const LENGTH: usize = 4;
        loop {
            let zeros = leading_zeros(&self.window[self.at..]);
            if zeros < LENGTH {
                return Ok(true);
            }
            if self.at + zeros < self.window.len() {
                self.at += zeros - (LENGTH - 1);
                return Ok(true);
            }
            // Those of the last bytes that may be of a length go on in what is read next.
            let end = self.base + self.window.len() as u64;
            let data = self.blob.next_data(end)?;
            if data >= self.blob.len()? {
                return Ok(false);
            }
            self.base = data.max(end) - (LENGTH as u64 - 1);
            self.at = 0;
            self.window.clear();
            if !self.fill(FRAME + 1)? {
                return Ok(false);
            }
        }
    }

    /// Reads until at least `n` bytes of the file are in the window, from `at` on. `false`: the file ends.
    fn fill(&mut self, n: usize) -> io::Result<bool> {
        if self.window.len() - self.at >= n {
            return Ok(true);
        }
        self.stop.check_io()?;
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

fn cannot_read() -> String {
    "cannot read the journal".into()
}

/// The writing end of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    blob: Arc<dyn StoreFile>,
    len: u64,
    /// Why there may be a part of a record after `len`, which must be cut off before the next is written.
    torn: Option<Error>,
}

impl Journal {
    /// Goes on after the last good record; anything after `len` is cut off. A journal of no records
    /// begins as one of the newest version.
    ///
    /// # Errors
    /// Those of writing the file.
    pub(crate) fn resume(blob: Arc<dyn StoreFile>, len: u64) -> io::Result<Journal> {
        let mut journal = Journal {
            blob,
            len,
            torn: None,
        };
        if len < FIRST {
            journal.blob.set_len(0)?;
            journal.raise_version()?;
            journal.len = FIRST;
        } else if journal.blob.len()? != len {
            journal.blob.set_len(len)?;
        }
        Ok(journal)
    }

    /// Makes it one of the newest version, which has all records of the older ones. It must be
    /// synced before the first record that only that version has.
    ///
    /// # Errors
    /// Those of writing the file.
    pub(crate) fn raise_version(&mut self) -> io::Result<()> {
        // In one sector of a disk, which is written as a whole or not at all.
        self.blob.write_at(&first_line(), 0)
    }

    /// Appends records in one write. On an error the journal is as it was, or, where that cannot be had
    /// either, it is [torn](Journal::torn), and takes no more until that can be cut off.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn append(&mut self, records: &[Record<'_>]) -> Result<()> {
        if let Some(torn) = self.torn.take()
            && self.cut_rest().is_err()
        {
            self.torn = Some(torn.clone());
            return Err(torn);
        }
        let mut bytes = Vec::with_capacity(256);
        for record in records {
            record.encode(&mut bytes);
        }
        let Err(error) = self.blob.write_at(&bytes, self.len) else {
            self.len += bytes.len() as u64;
            return Ok(());
        };
        if self.cut_rest().is_ok() {
            return Err(Error::io(error, "cannot write the journal"));
        }
        let what = "cannot write the journal, nor cut off what was written of it";
        let error = Error::io(error, what);
        self.torn = Some(error.clone());
        Err(error)
    }

    /// Cuts off what is after the last good record. A full store may refuse even that.
    fn cut_rest(&self) -> io::Result<()> {
        match self.blob.len()? == self.len {
            true => Ok(()),
            false => self.blob.set_len(self.len),
        }
    }

    /// Why it may end with a part of a record, if an append could not be undone.
    pub(crate) fn torn(&self) -> Option<&Error> {
        self.torn.as_ref()
    }

    /// Takes back what is after `len`.
    ///
    /// # Errors
    /// The operating system's; the records may then still be there, and count no more here.
    pub(crate) fn cut(&mut self, len: u64) -> Result<()> {
        self.len = len;
        self.blob
            .set_len(len)
            .context(|| "cannot take a journal record back".into())?;
        self.torn = None;
        Ok(())
    }

    /// Where the last good record ends.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn blob(&self) -> &Arc<dyn StoreFile> {
        &self.blob
    }
}
