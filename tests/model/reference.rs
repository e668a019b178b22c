//! The reference: a list of rows, the chunks that they came in, those in flight, and the handles
//! through which they are written.
//!
//! It says of every call what the answer must be, from what the documents promise and with nothing
//! of the engine: no journal, no streams, no files. Of each handle it knows who holds descriptors,
//! so it knows which close is that of the last one that can write.

mod again;
mod array;
mod flight;
mod names;
mod received;

use std::collections::BTreeSet;

use nix::errno::Errno;

use again::Again;
use array::Array;
pub use flight::HandleId;
use flight::{Ended, Flight, Life, Opened};

pub type Answer = Result<(), Errno>;

/// Where a descriptor of a handle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// In the process that opened the chunk.
    Own,
    /// In another process, which inherited it.
    Child,
    /// Under way in a socket: no process has it, and its end is no close.
    Socket,
}

/// What a close has to know of the other descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Another one can write, or may and cannot be seen.
    pub others: bool,
    /// The process called `close`: it was not the kernel that closed for one that ends.
    pub meant: bool,
}

#[derive(Clone, Debug)]
enum Target {
    /// A chunk in flight, or that was when this handle was opened.
    Flight(usize),
    Again(Again),
}

/// An open of a chunk for writing.
#[derive(Clone, Debug)]
pub struct Handle {
    id: HandleId,
    target: Target,
    /// Its descriptors.
    pub held: Vec<Holder>,
    /// Something was written through it.
    wrote: bool,
    /// The answer to a change through it.
    refused: Option<Errno>,
}

#[derive(Debug, Default)]
pub struct Reference {
    pub array: Array,
    /// Empty files under chunks' names.
    pub empty: BTreeSet<String>,
    pub slots: Vec<Option<Handle>>,
    flights: Vec<Flight>,
    last_id: HandleId,
}

impl Reference {
    pub fn new(slots: usize) -> Self {
        Reference {
            slots: (0..slots).map(|_| None).collect(),
            ..Reference::default()
        }
    }

    pub fn is_in_flight(&self, name: &str) -> bool {
        self.in_flight(name).is_some()
    }

    fn in_flight(&self, name: &str) -> Option<usize> {
        let is_it = |flight: &Flight| flight.named && flight.name == name;
        self.flights.iter().position(is_it)
    }

    /// Every name that a listing shows.
    pub fn names(&self) -> BTreeSet<String> {
        let chunks = self.array.chunks.iter().map(|chunk| &chunk.name);
        let flights = self.flights.iter().filter(|flight| flight.named);
        chunks
            .chain(flights.map(|flight| &flight.name))
            .chain(&self.empty)
            .cloned()
            .collect()
    }

    pub fn handle(&self, slot: usize) -> &Handle {
        self.slots[slot].as_ref().expect("it is open")
    }

    pub fn handle_mut(&mut self, slot: usize) -> &mut Handle {
        self.slots[slot].as_mut().expect("it is open")
    }

    /// The name of what a handle has open, if that has one.
    pub fn name_of(&self, slot: usize) -> Option<String> {
        match &self.handle(slot).target {
            Target::Again(again) => Some(self.array.chunks[again.chunk].name.clone()),
            &Target::Flight(flight) => match self.flights[flight].life {
                Life::Committed(chunk) => Some(self.array.chunks[chunk].name.clone()),
                _ => Some(&self.flights[flight])
                    .filter(|flight| flight.named)
                    .map(|flight| flight.name.clone()),
            },
        }
    }

    pub fn open(&mut self, slot: usize, name: &str, truncate: bool) -> Answer {
        self.last_id += 1;
        let id = self.last_id;
        let target = if let Some(chunk) = self.array.committed(name) {
            Target::Again(Again::new(chunk, truncate))
        } else {
            let joined = match self.in_flight(name) {
                None => None,
                Some(flight) => match self.flights[flight].open(id, truncate) {
                    Opened::Joined => Some(flight),
                    Opened::Replaced => None,
                    Opened::Busy => return Err(Errno::EBUSY),
                },
            };
            let flight = joined.unwrap_or_else(|| {
                self.empty.remove(name);
                self.flights.push(Flight::new(name));
                self.flights.len() - 1
            });
            self.flights[flight].handles += 1;
            Target::Flight(flight)
        };
        self.slots[slot] = Some(Handle {
            id,
            target,
            held: vec![Holder::Own],
            wrote: false,
            refused: None,
        });
        Ok(())
    }

    /// Remembers what a change through a handle came to; `true`: there was one.
    fn note(&mut self, slot: usize, done: Result<bool, Errno>) -> Answer {
        let handle = self.handle_mut(slot);
        match done {
            Ok(changed) => handle.wrote |= changed,
            Err(errno) => handle.refused = Some(errno),
        }
        done.map(drop)
    }

    pub fn write(&mut self, slot: usize, data: &[u8], offset: usize) -> Answer {
        let done = self.try_to_write(slot, data, offset);
        self.note(slot, done.map(|()| true))
    }

    fn try_to_write(&mut self, slot: usize, data: &[u8], offset: usize) -> Answer {
        let handle = self.slots[slot].as_mut().expect("it is open");
        if let Some(errno) = handle.refused {
            return Err(errno);
        }
        match &mut handle.target {
            Target::Again(again) => {
                let chunk = &self.array.chunks[again.chunk];
                again.write(chunk, data, offset)
            }
            Target::Flight(flight) => {
                let flight = &mut self.flights[*flight];
                match flight.life {
                    Life::Refused(errno) => return Err(errno),
                    Life::Withdrawn => return Err(Errno::ECANCELED),
                    Life::Committed(chunk) => {
                        return if self.array.chunks[chunk].differs_at(data, offset) {
                            Err(Errno::EEXIST)
                        } else {
                            Ok(())
                        };
                    }
                    Life::Live => {}
                }
                flight.claim(handle.id, handle.wrote)?;
                let admits = |form| self.array.admits(form);
                let taken = flight.received.take_in(data, offset, admits);
                taken.inspect_err(|&errno| flight.life = Life::Refused(errno))
            }
        }
    }

    pub fn set_len(&mut self, slot: usize, len: usize) -> Answer {
        if len == 0
            && let Some(chunk) = self.committed_by(slot)
        {
            // As if it had been opened with `O_TRUNC`.
            if let Target::Flight(flight) = self.handle(slot).target {
                self.flights[flight].handles -= 1;
            }
            let handle = self.handle_mut(slot);
            handle.target = Target::Again(Again::new(chunk, true));
            (handle.wrote, handle.refused) = (false, None);
            return Ok(());
        }
        let done = self.try_to_set_len(slot, len);
        self.note(slot, done)
    }

    /// The committed chunk that a handle has open.
    fn committed_by(&self, slot: usize) -> Option<usize> {
        match &self.handle(slot).target {
            Target::Again(again) => Some(again.chunk),
            &Target::Flight(flight) => match self.flights[flight].life {
                Life::Committed(chunk) => Some(chunk),
                _ => None,
            },
        }
    }

    fn try_to_set_len(&mut self, slot: usize, len: usize) -> Result<bool, Errno> {
        let handle = self.slots[slot].as_mut().expect("it is open");
        if let Some(errno) = handle.refused {
            return Err(errno);
        }
        match &mut handle.target {
            Target::Again(again) => again.set_len(&self.array.chunks[again.chunk], len),
            Target::Flight(flight) => {
                let flight = &mut self.flights[*flight];
                match flight.life {
                    Life::Refused(errno) => Err(errno),
                    Life::Withdrawn => Err(Errno::ECANCELED),
                    Life::Committed(chunk) if self.array.chunks[chunk].view.len() == len => {
                        Ok(false)
                    }
                    Life::Committed(_) => Err(Errno::EPERM),
                    Life::Live if flight.received.len() == len => {
                        if flight.is_held_by(handle.id) {
                            flight.received.affirm_len();
                        }
                        Ok(false)
                    }
                    Life::Live => {
                        flight.claim(handle.id, handle.wrote)?;
                        flight.received.set_len(len);
                        flight.abandoned &= len > 0;
                        Ok(true)
                    }
                }
            }
        }
    }

    /// `posix_fallocate` up to `end`, which never shortens.
    pub fn reserve(&mut self, slot: usize, end: usize) -> Answer {
        let len = match &self.handle(slot).target {
            Target::Again(again) => again.len(&self.array.chunks[again.chunk]),
            &Target::Flight(flight) => self.flights[flight].received.len(),
        };
        if end > len {
            self.set_len(slot, end)
        } else {
            Ok(())
        }
    }

    /// What a read of all that the handle sees finds.
    pub fn read(&self, slot: usize) -> Result<Vec<u8>, Errno> {
        let handle = self.handle(slot);
        match &handle.target {
            Target::Again(_) if handle.refused.is_some() => Err(handle.refused.unwrap()),
            Target::Again(again) => Ok(again.read(&self.array.chunks[again.chunk])),
            &Target::Flight(flight) => match self.flights[flight].life {
                Life::Refused(errno) => Err(errno),
                Life::Committed(chunk) => Ok(self.array.chunks[chunk].view.clone()),
                _ => Ok(self.flights[flight].received.bytes.clone()),
            },
        }
    }

    fn commit(&mut self, flight: usize) -> Answer {
        let it = self.flights[flight].clone();
        let bytes = it.received.bytes;
        let appended = self.array.append(&it.name, bytes, it.mode, it.mtime);
        let it = &mut self.flights[flight];
        it.life = appended.map_or_else(Life::Refused, Life::Committed);
        it.named = false;
        appended.map(drop)
    }

    fn refuse(&mut self, flight: usize, errno: Errno) -> Answer {
        let it = &mut self.flights[flight];
        (it.life, it.named) = (Life::Refused(errno), false);
        Err(errno)
    }

    /// What a close of one of a handle's descriptors leaves.
    pub fn left(&self, slot: usize, meant: bool) -> Left {
        let under_way = |handle: &Handle| handle.held.contains(&Holder::Socket);
        let others = self.handle(slot).held.len() > 1 || self.slots.iter().flatten().any(under_way);
        Left { others, meant }
    }

    /// One descriptor of a handle is gone: the answer of its close, if that is one.
    pub fn close(&mut self, slot: usize, n: usize, left: Left) -> Option<Answer> {
        let holder = self.handle_mut(slot).held.remove(n);
        (holder != Holder::Socket).then(|| self.flush(slot, left))
    }

    /// A close of a descriptor of a handle: who judges, and when.
    pub fn flush(&mut self, slot: usize, left: Left) -> Answer {
        let handle = self.handle(slot);
        let id = handle.id;
        if let Some(errno) = handle.refused {
            if let Target::Flight(flight) = handle.target
                && let Life::Refused(_) = self.flights[flight].life
            {
                self.flights[flight].named = false;
            }
            return Err(errno);
        }
        if !handle.wrote {
            return Ok(());
        }
        let flight = match &handle.target {
            Target::Again(again) => {
                let judged = again.flush(&self.array.chunks[again.chunk], left.others);
                return self.note(slot, judged.map(|()| false));
            }
            &Target::Flight(flight) => flight,
        };
        let it = &mut self.flights[flight];
        let complete = it.received.is_complete();
        match it.life {
            Life::Refused(errno) => {
                it.named = false;
                Err(errno)
            }
            Life::Withdrawn => Err(Errno::ECANCELED),
            Life::Committed(_) => Ok(()),
            Life::Live if !it.is_held_by(id) => Ok(()),
            Life::Live if it.received.is_empty() => {
                it.resting = true;
                Ok(())
            }
            Life::Live if it.received.is_plainly_complete() => self.commit(flight),
            Life::Live if left.others => {
                it.resting = true;
                it.acknowledged = complete && left.meant;
                it.abandoned |= complete && !left.meant && it.received.has_holes();
                Ok(())
            }
            Life::Live if !complete => self.refuse(flight, Errno::EINVAL),
            // Bytes that were never written are zeros only if a process says that it is done.
            Life::Live if it.abandoned && it.received.has_holes() => {
                self.refuse(flight, Errno::ECANCELED)
            }
            Life::Live if left.meant && it.received.lacks_bytes() => {
                self.refuse(flight, Errno::EINVAL)
            }
            Life::Live if left.meant || it.received.is_wholly_written() => self.commit(flight),
            Life::Live => self.refuse(flight, Errno::ECANCELED),
        }
    }

    pub fn fsync(&mut self, slot: usize) -> Answer {
        let &Target::Flight(flight) = &self.handle(slot).target else {
            return Ok(());
        };
        match self.flights[flight].life {
            Life::Refused(errno) => Err(errno),
            Life::Withdrawn => Err(Errno::ECANCELED),
            Life::Live if self.flights[flight].received.is_final() => self.commit(flight),
            Life::Live | Life::Committed(_) => Ok(()),
        }
    }

    /// The last descriptor of a handle is gone, and no process hears of what that does.
    pub fn release(&mut self, slot: usize) {
        let handle = self.slots[slot].take().expect("it is open");
        let Target::Flight(flight) = handle.target else {
            return;
        };
        let it = &mut self.flights[flight];
        match it.release(handle.id) {
            Ended::Nothing => {}
            Ended::Denied => self.refuse(flight, Errno::ECANCELED).unwrap_or_default(),
            Ended::Judged => {
                let received = &it.received;
                let wholly = received.is_wholly_written();
                let said_so = it.acknowledged && !received.has_holes();
                let done = if wholly || said_so && received.is_complete() {
                    self.commit(flight)
                } else {
                    self.refuse(flight, Errno::EINVAL)
                };
                done.unwrap_or_default();
            }
            Ended::Empty => {
                it.withdraw();
                let name = it.name.clone();
                self.empty.insert(name);
            }
        }
    }
}
