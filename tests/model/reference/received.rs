//! The bytes that were written to a chunk, and how they came.

use nix::errno::Errno;

use super::Answer;
use crate::content::{HEAD, HeaderKind, Reading, read};

/// The bytes of a chunk so far.
#[derive(Clone, Debug)]
pub struct Received {
    pub bytes: Vec<u8>,
    /// Which of them were written.
    written: Vec<bool>,
    /// They came front to back, each once, with no length set ahead of them.
    plain: bool,
    /// Some were written twice, or cut off.
    rewritten: bool,
    /// The length that was set, to more than its bytes reach.
    length_set: usize,
    /// After that more came: all of it is to come.
    promised: bool,
    /// The header may come or change in any order: a `write` tells nothing of it.
    pub unordered: bool,
}

impl Default for Received {
    fn default() -> Self {
        Received {
            bytes: Vec::new(),
            written: Vec::new(),
            plain: true,
            rewritten: false,
            length_set: 0,
            promised: false,
            unordered: false,
        }
    }
}

impl Received {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Stores bytes without a look at what they are.
    pub fn put(&mut self, data: &[u8], offset: usize) {
        let end = offset + data.len();
        self.plain &= offset == self.len();
        self.bytes.resize(self.len().max(end), 0);
        self.written.resize(self.len(), false);
        self.rewritten |= self.written[offset..end].contains(&true);
        self.promised |= self.length_set > 0 && self.written[offset..end].contains(&false);
        self.bytes[offset..end].copy_from_slice(data);
        self.written[offset..end].fill(true);
    }

    /// A length that it has not. To be cut to nothing is to begin anew.
    pub fn set_len(&mut self, len: usize) {
        if len == 0 {
            // Its producer begins again, and may once more: no close but the last is taken for the end.
            let plain = self.plain && self.bytes.is_empty();
            *self = Received {
                plain,
                ..Received::default()
            };
            return;
        }
        self.rewritten |= len < self.len();
        self.plain = false;
        self.unordered = true;
        self.bytes.resize(len, 0);
        self.written.resize(len, false);
        self.length_set = if self.has_holes() { len } else { 0 };
        self.promised = false;
    }

    /// Its length is set to what it is, after all that came.
    pub fn affirm_len(&mut self) {
        self.promised = false;
    }

    /// Some of what its length promised never came.
    pub fn lacks_bytes(&self) -> bool {
        self.promised && self.written[..self.length_set].contains(&false)
    }

    /// A write to a new chunk: what is wrong is told as soon as it shows, as long as the bytes come
    /// front to back. What a refused write brought is not taken.
    pub fn take_in(
        &mut self,
        data: &[u8],
        offset: usize,
        admits: impl Fn(HeaderKind) -> bool,
    ) -> Answer {
        let before = self.clone();
        let blank = data.iter().all(|byte| matches!(byte, 0 | b' ' | b'\n'));
        if offset != self.len() || offset == 0 && blank {
            self.unordered = true;
        }
        self.put(data, offset);
        if self.unordered {
            return Ok(());
        }
        let judged = match read(&self.bytes) {
            Reading::Incomplete => Ok(()),
            Reading::Invalid => Err(Errno::EINVAL),
            // The header came with this write.
            Reading::Header { form, .. } if offset < HEAD && !admits(form) => Err(Errno::EINVAL),
            // A count of 0 may be meant to be written last.
            Reading::Header { rows: 0, len, .. } => {
                self.unordered = self.len() > len;
                Ok(())
            }
            Reading::Header { len, .. } if self.len() > len => Err(Errno::EINVAL),
            Reading::Header { .. } => Ok(()),
        };
        judged.inspect_err(|_| *self = before)
    }

    /// As many bytes as its header says. The dataset may have got another form since its header
    /// came: the commit says so.
    pub fn is_complete(&self) -> bool {
        matches!(read(&self.bytes), Reading::Header { len, .. } if len == self.len())
    }

    /// Whether its count is not one that may be filled in later.
    fn has_rows(&self) -> bool {
        matches!(read(&self.bytes), Reading::Header { rows, .. } if rows > 0)
    }

    /// Complete and plain: what its producer means it to be, whichever descriptor is closed.
    pub fn is_plainly_complete(&self) -> bool {
        self.is_complete() && self.has_rows() && self.plain
    }

    /// Complete, and every byte of it was written: nobody need say that what is missing is zeros.
    pub fn has_holes(&self) -> bool {
        self.written.contains(&false)
    }

    pub fn is_wholly_written(&self) -> bool {
        self.is_complete() && self.has_rows() && !self.written.contains(&false)
    }

    /// What an fsync commits.
    pub fn is_final(&self) -> bool {
        self.is_wholly_written() && !self.rewritten
    }
}
