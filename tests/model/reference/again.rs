//! A committed chunk that is opened once more: the same bytes succeed, others are refused (P3).

use nix::errno::Errno;

use super::Answer;
use super::array::Chunk;
use super::received::Received;

#[derive(Clone, Debug)]
pub struct Again {
    /// The n-th of the dataset.
    pub chunk: usize,
    /// It began with an empty file.
    truncated: bool,
    /// All of it has to be written: it began so, or with the first bytes that a converted chunk came with.
    anew: bool,
    received: Received,
    /// The bytes did not come front to back.
    disordered: bool,
}

impl Again {
    pub fn new(chunk: usize, truncated: bool) -> Self {
        Again {
            chunk,
            truncated,
            anew: truncated,
            received: Received::default(),
            disordered: false,
        }
    }

    pub fn len(&self, chunk: &Chunk) -> usize {
        if self.truncated {
            self.received.len()
        } else {
            chunk.view.len()
        }
    }

    pub fn write(&mut self, chunk: &Chunk, data: &[u8], offset: usize) -> Answer {
        if !self.anew {
            if !chunk.differs_at(data, offset) {
                return Ok(());
            }
            let head = chunk.header();
            let len = head.len().min(data.len());
            if !chunk.converted() || offset > 0 || data[..len] != head[..len] {
                return Err(Errno::EEXIST);
            }
            self.anew = true;
        }
        self.disordered |= offset != self.received.len();
        // What was converted is compared as a whole, as it came or as its view shows it.
        if !self.disordered && !chunk.converted() && chunk.differs_at(data, offset) {
            return Err(Errno::EEXIST);
        }
        self.received.put(data, offset);
        Ok(())
    }

    /// `true`: that was a change.
    pub fn set_len(&mut self, chunk: &Chunk, len: usize) -> Result<bool, Errno> {
        let now = match self.anew {
            true => self.received.len(),
            false => chunk.view.len(),
        };
        if len == now {
            return Ok(false);
        }
        if !self.anew {
            return Err(Errno::EPERM);
        }
        self.disordered = true;
        self.received.set_len(len);
        Ok(true)
    }

    pub fn read(&self, chunk: &Chunk) -> Vec<u8> {
        if self.anew {
            self.received.bytes.clone()
        } else {
            chunk.view.clone()
        }
    }

    /// A descriptor is closed, and others that can write are left or not.
    pub fn flush(&self, chunk: &Chunk, others: bool) -> Answer {
        let bytes = &self.received.bytes;
        if !self.anew || bytes.is_empty() || chunk.is_same(bytes) {
            return Ok(());
        }
        let finished = !self.disordered && bytes.len() >= chunk.original.len();
        if others && !finished {
            Ok(())
        } else if self.disordered || chunk.converted() {
            Err(Errno::EEXIST)
        } else {
            Err(Errno::EINVAL)
        }
    }
}
