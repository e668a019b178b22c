//! What is done with names: removing, renaming, and changing what they stand for.

use nix::errno::Errno;

use super::flight::{Flight, Life};
use super::{Answer, Reference};
use crate::content::{Reading, read};

impl Reference {
    pub fn unlink(&mut self, name: &str) -> Answer {
        if let Some(flight) = self.in_flight(name) {
            let flight = &mut self.flights[flight];
            flight.named = false;
            if flight.life == Life::Live {
                flight.withdraw();
            }
            Ok(())
        } else if self.array.committed(name).is_some() {
            Err(Errno::EPERM)
        } else if self.empty.remove(name) {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Renames a chunk, or an empty file that waits for its bytes.
    pub fn rename(&mut self, from: &str, to: &str) -> Answer {
        if !self.names().contains(from) {
            return Err(Errno::ENOENT);
        }
        if from == to {
            return Ok(());
        }
        let is_empty = |flight: &Flight| flight.may_be_replaced() && flight.received.is_empty();
        if let Some(chunk) = self.array.committed(from) {
            if self.empty.contains(to) || self.array.committed(to).is_some() {
                return Err(Errno::EEXIST);
            }
            if self.in_flight(to).is_some() {
                return Err(Errno::EBUSY);
            }
            self.array.chunks[chunk].name = to.to_owned();
            return Ok(());
        }
        let (from_flight, to_flight) = (self.in_flight(from), self.in_flight(to));
        for flight in [from_flight, to_flight].into_iter().flatten() {
            if !is_empty(&self.flights[flight]) {
                return Err(Errno::EBUSY);
            }
        }
        if self.array.committed(to).is_some() {
            return Err(Errno::EEXIST);
        }
        for flight in [from_flight, to_flight].into_iter().flatten() {
            self.flights[flight].withdraw();
        }
        self.empty.remove(from);
        self.empty.insert(to.to_owned());
        Ok(())
    }

    /// An ordinary file of these bytes is renamed to a chunk's name.
    pub fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer {
        let other = self.in_flight(to);
        if other.is_some_and(|flight| !self.flights[flight].may_be_replaced()) {
            return Err(Errno::EBUSY);
        }
        if let Some(chunk) = self.array.committed(to) {
            let same = self.array.chunks[chunk].is_same(bytes);
            return if same { Ok(()) } else { Err(Errno::EEXIST) };
        }
        match read(bytes) {
            Reading::Header { len, .. } if len == bytes.len() => {
                let appended = self.array.append(to, bytes.to_vec(), None, None);
                appended.map_err(|_| Errno::EBADMSG)?;
                self.empty.remove(to);
                if let Some(flight) = other {
                    self.flights[flight].withdraw();
                }
                Ok(())
            }
            _ => Err(Errno::EBADMSG),
        }
    }

    /// `truncate(2)`, by name.
    pub fn truncate(&mut self, name: &str, len: usize) -> Answer {
        let (has, errno) = if let Some(flight) = self.in_flight(name) {
            match self.flights[flight].received.is_empty() {
                true => (0, Errno::EBUSY),
                false => return Err(Errno::EBUSY),
            }
        } else if let Some(chunk) = self.array.committed(name) {
            (self.array.chunks[chunk].view.len(), Errno::EPERM)
        } else if self.empty.contains(name) {
            (0, Errno::EPERM)
        } else {
            return Err(Errno::ENOENT);
        };
        if len == 0 || len == has {
            Ok(())
        } else {
            Err(errno)
        }
    }

    pub fn set_attributes(&mut self, name: &str, mode: u32, mtime: i64) -> Answer {
        if let Some(flight) = self.in_flight(name) {
            let flight = &mut self.flights[flight];
            (flight.mode, flight.mtime) = (Some(mode), Some(mtime));
            Ok(())
        } else if let Some(chunk) = self.array.committed(name) {
            let chunk = &mut self.array.chunks[chunk];
            (chunk.mode, chunk.mtime) = (Some(mode), Some(mtime));
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }
}
