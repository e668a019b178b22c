//! The reference: a list of rows, the chunks that they came in, and the writers of others.
//!
//! It says of every call what the answer must be, from what DESIGN.md promises and with nothing of
//! the engine: no journal, no streams, no files.

use std::collections::BTreeSet;

use nix::errno::Errno;

use crate::content::{Form, HEAD, Reading, read};

pub type Answer = Result<(), Errno>;

/// A committed chunk.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub name: String,
    pub original: Vec<u8>,
    pub view: Vec<u8>,
    pub first_row: u64,
    pub rows: u64,
    pub mode: Option<u32>,
    pub mtime: Option<i64>,
}

impl Chunk {
    fn converted(&self) -> bool {
        self.original != self.view
    }

    fn differs_at(&self, data: &[u8], offset: usize) -> bool {
        self.view.get(offset..offset + data.len()) != Some(data)
    }
}

/// Where a chunk in flight is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// Closed incomplete.
    Paused,
    /// Unlinked or taken over.
    Withdrawn,
    /// As the n-th chunk of the dataset.
    Committed(usize),
    Refused(Errno),
}

/// A new chunk and its writer.
#[derive(Clone, Debug)]
pub struct New {
    pub life: Life,
    /// It has its name still.
    pub named: bool,
    pub received: Vec<u8>,
    /// Which of these bytes were written.
    pub written: Vec<bool>,
    /// Another process has closed it as it is, and was told that all is well.
    pub promised: bool,
    /// It did not come front to back: it is judged at close only.
    pub unordered: bool,
    pub mode: Option<u32>,
    pub mtime: Option<i64>,
}

/// A committed chunk opened once more.
#[derive(Clone, Debug)]
pub struct Again {
    pub chunk: usize,
    pub truncated: bool,
    pub received: Vec<u8>,
    /// Which of these bytes were written.
    pub written: Vec<bool>,
    pub unordered: bool,
    pub refused: Option<Errno>,
}

#[derive(Clone, Debug)]
pub enum Writer {
    New(New),
    Again(Again),
}

#[derive(Clone, Debug)]
pub struct Slot {
    pub name: String,
    pub writer: Writer,
}

#[derive(Debug, Default)]
pub struct Reference {
    pub form: Option<Form>,
    pub body: Vec<u8>,
    pub rows: u64,
    /// In commit order.
    pub chunks: Vec<Chunk>,
    /// Empty files under chunks' names.
    pub empty: BTreeSet<String>,
    pub slots: Vec<Option<Slot>>,
}

impl Reference {
    pub fn new(slots: usize) -> Self {
        Reference {
            slots: (0..slots).map(|_| None).collect(),
            ..Reference::default()
        }
    }

    pub fn committed(&self, name: &str) -> Option<usize> {
        self.chunks.iter().position(|chunk| chunk.name == name)
    }

    pub fn in_flight(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| match slot {
            Some(Slot {
                name: own,
                writer: Writer::New(new),
            }) => own == name && new.named,
            _ => false,
        })
    }

    /// Every name that a listing shows.
    pub fn names(&self) -> BTreeSet<String> {
        let chunks = self.chunks.iter().map(|chunk| chunk.name.clone());
        let in_flight = self
            .slots
            .iter()
            .flatten()
            .filter_map(|slot| match &slot.writer {
                Writer::New(new) if new.named => Some(slot.name.clone()),
                _ => None,
            });
        chunks
            .chain(in_flight)
            .chain(self.empty.iter().cloned())
            .collect()
    }

    fn fits(&self, form: Form) -> bool {
        self.form.is_none_or(|dataset| form.fits(dataset))
    }

    fn append(
        &mut self,
        name: &str,
        original: Vec<u8>,
        mode: Option<u32>,
        mtime: Option<i64>,
    ) -> Result<usize, Errno> {
        if self.committed(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let Reading::Header { form, rows, .. } = read(&original) else {
            return Err(Errno::EINVAL);
        };
        if !self.fits(form) {
            return Err(Errno::EINVAL);
        }
        let dataset = *self.form.get_or_insert(form.of_dataset());
        let view = form.view(dataset, &original);
        self.body.extend_from_slice(&view[HEAD..]);
        self.chunks.push(Chunk {
            name: name.to_owned(),
            original,
            view,
            first_row: self.rows,
            rows,
            mode,
            mtime,
        });
        self.rows += rows;
        self.empty.remove(name);
        Ok(self.chunks.len() - 1)
    }

    pub fn open(&mut self, slot: usize, name: &str, truncate: bool) -> Answer {
        let writer = if let Some(chunk) = self.committed(name) {
            Writer::Again(Again {
                chunk,
                truncated: truncate,
                received: Vec::new(),
                written: Vec::new(),
                unordered: self.chunks[chunk].converted(),
                refused: None,
            })
        } else {
            if let Some(other) = self.in_flight(name) {
                let Some(Slot {
                    writer: Writer::New(new),
                    ..
                }) = &mut self.slots[other]
                else {
                    unreachable!()
                };
                if new.life != Life::Paused {
                    return Err(Errno::EBUSY);
                }
                (new.life, new.named) = (Life::Withdrawn, false);
            }
            self.empty.remove(name);
            Writer::New(New {
                life: Life::Open,
                named: true,
                received: Vec::new(),
                written: Vec::new(),
                promised: false,
                unordered: false,
                mode: None,
                mtime: None,
            })
        };
        self.slots[slot] = Some(Slot {
            name: name.to_owned(),
            writer,
        });
        Ok(())
    }

    pub fn write(&mut self, slot: usize, data: &[u8], offset: usize) -> Answer {
        let form = self.form;
        let fits = |chunk: Form| form.is_none_or(|dataset| chunk.fits(dataset));
        let Some(slot) = &mut self.slots[slot] else {
            unreachable!()
        };
        match &mut slot.writer {
            Writer::New(new) => {
                match new.life {
                    Life::Refused(errno) => return Err(errno),
                    Life::Withdrawn => return Err(Errno::ECANCELED),
                    Life::Committed(chunk) if self.chunks[chunk].differs_at(data, offset) => {
                        return Err(Errno::EEXIST);
                    }
                    Life::Committed(_) => return Ok(()),
                    Life::Open | Life::Paused => new.life = Life::Open,
                }
                new.promised = false;
                let judged = new.take_in(data, offset, fits);
                judged.inspect_err(|&errno| new.life = Life::Refused(errno))
            }
            Writer::Again(again) => {
                if let Some(errno) = again.refused {
                    return Err(errno);
                }
                let chunk = &self.chunks[again.chunk];
                if again.truncated && offset != again.received.len() {
                    again.unordered = true;
                }
                if (!again.truncated || !again.unordered) && chunk.differs_at(data, offset) {
                    again.refused = Some(Errno::EEXIST);
                    return Err(Errno::EEXIST);
                }
                if again.truncated {
                    put(&mut again.received, &mut again.written, data, offset);
                }
                Ok(())
            }
        }
    }

    pub fn set_len(&mut self, slot: usize, len: usize) -> Answer {
        let Some(slot) = &mut self.slots[slot] else {
            unreachable!()
        };
        match &mut slot.writer {
            Writer::New(new) => {
                match new.life {
                    Life::Refused(errno) => return Err(errno),
                    Life::Withdrawn => return Err(Errno::ECANCELED),
                    Life::Committed(chunk) if self.chunks[chunk].view.len() != len => {
                        return Err(Errno::EPERM);
                    }
                    Life::Committed(_) => return Ok(()),
                    Life::Open | Life::Paused => new.life = Life::Open,
                }
                new.promised = false;
                if len != new.received.len() {
                    new.received.resize(len, 0);
                    new.written.resize(len, false);
                    new.unordered = len > 0;
                }
            }
            Writer::Again(again) => {
                if let Some(errno) = again.refused {
                    return Err(errno);
                }
                if !again.truncated {
                    if len != self.chunks[again.chunk].view.len() {
                        again.refused = Some(Errno::EPERM);
                        return Err(Errno::EPERM);
                    }
                } else if len != again.received.len() {
                    again.unordered = true;
                    again.received.resize(len, 0);
                    again.written.resize(len, false);
                }
            }
        }
        Ok(())
    }

    /// What a read of all that the writer sees finds.
    pub fn read(&self, slot: usize) -> Result<Vec<u8>, Errno> {
        let Some(slot) = &self.slots[slot] else {
            unreachable!()
        };
        match &slot.writer {
            Writer::New(new) => match new.life {
                Life::Refused(errno) => Err(errno),
                Life::Committed(chunk) => Ok(self.chunks[chunk].view.clone()),
                _ => Ok(new.received.clone()),
            },
            Writer::Again(again) => match again.refused {
                Some(errno) => Err(errno),
                None if again.truncated => Ok(again.received.clone()),
                None => Ok(self.chunks[again.chunk].view.clone()),
            },
        }
    }

    fn commit(&mut self, slot: usize) -> Answer {
        let Some(Slot {
            name,
            writer: Writer::New(new),
        }) = self.slots[slot].clone()
        else {
            unreachable!()
        };
        let appended = self.append(&name, new.received, new.mode, new.mtime);
        let life = appended.map_or_else(Life::Refused, Life::Committed);
        self.set_life(slot, life, false);
        appended.map(drop)
    }

    fn set_life(&mut self, slot: usize, life: Life, named: bool) {
        if let Some(Slot {
            writer: Writer::New(new),
            ..
        }) = &mut self.slots[slot]
        {
            (new.life, new.named) = (life, named);
        }
    }

    /// A close of one descriptor, by the process that opened the chunk or by another.
    pub fn flush(&mut self, slot: usize, by_opener: bool) -> Answer {
        let Some(own) = &mut self.slots[slot] else {
            unreachable!()
        };
        match &mut own.writer {
            Writer::New(new) => match new.life {
                Life::Refused(errno) => {
                    new.named = false;
                    Err(errno)
                }
                Life::Committed(_) => Ok(()),
                Life::Withdrawn => Err(Errno::ECANCELED),
                Life::Open | Life::Paused => {
                    let pause = new.received.is_empty() || !new.certain() && !by_opener;
                    if pause {
                        new.promised = !new.received.is_empty() && new.whole();
                        new.life = Life::Paused;
                        Ok(())
                    } else if new.whole() {
                        self.commit(slot)
                    } else {
                        (new.life, new.named) = (Life::Refused(Errno::EINVAL), false);
                        Err(Errno::EINVAL)
                    }
                }
            },
            Writer::Again(again) => {
                if let Some(errno) = again.refused {
                    return Err(errno);
                }
                let chunk = &self.chunks[again.chunk];
                let len = again.received.len();
                if !again.truncated
                    || len == 0
                    || again.received == chunk.view
                    || again.received == chunk.original
                    || !by_opener
                        && (len < chunk.original.len()
                            || again.unordered && again.written.contains(&false))
                {
                    return Ok(());
                }
                let errno = if again.unordered {
                    Errno::EEXIST
                } else {
                    Errno::EINVAL
                };
                again.refused = Some(errno);
                Err(errno)
            }
        }
    }

    pub fn fsync(&mut self, slot: usize) -> Answer {
        let Some(own) = &self.slots[slot] else {
            unreachable!()
        };
        match &own.writer {
            Writer::New(new) => match new.life {
                Life::Refused(errno) => Err(errno),
                Life::Withdrawn => Err(Errno::ECANCELED),
                Life::Open | Life::Paused if new.certain() => self.commit(slot),
                _ => Ok(()),
            },
            Writer::Again(_) => Ok(()),
        }
    }

    /// The last descriptor is gone.
    pub fn release(&mut self, slot: usize) {
        if let Some(Slot {
            writer: Writer::New(new),
            ..
        }) = &self.slots[slot]
            && matches!(new.life, Life::Open | Life::Paused)
            && new.promised
            && new.whole()
        {
            // Nobody hears whether that works.
            self.commit(slot).unwrap_or_default();
        }
        if let Some(Slot {
            name,
            writer: Writer::New(new),
        }) = self.slots[slot].take()
            && matches!(new.life, Life::Open | Life::Paused)
            && new.received.is_empty()
        {
            self.empty.insert(name);
        }
    }

    pub fn unlink(&mut self, name: &str) -> Answer {
        if let Some(slot) = self.in_flight(name) {
            let Some(Slot {
                writer: Writer::New(new),
                ..
            }) = &mut self.slots[slot]
            else {
                unreachable!()
            };
            new.named = false;
            if !matches!(new.life, Life::Refused(_)) {
                new.life = Life::Withdrawn;
            }
            Ok(())
        } else if self.committed(name).is_some() {
            Err(Errno::EPERM)
        } else if self.empty.remove(name) {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Renames a chunk; never called for an empty file.
    pub fn rename(&mut self, from: &str, to: &str) -> Answer {
        if from == to {
            return if self.names().contains(from) {
                Ok(())
            } else {
                Err(Errno::ENOENT)
            };
        }
        if self.in_flight(from).is_some() {
            return Err(Errno::EBUSY);
        }
        let Some(chunk) = self.committed(from) else {
            return Err(Errno::ENOENT);
        };
        if self.empty.contains(to) || self.committed(to).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.in_flight(to).is_some() {
            return Err(Errno::EBUSY);
        }
        self.chunks[chunk].name = to.to_owned();
        Ok(())
    }

    /// An ordinary file of these bytes is renamed to a chunk's name.
    pub fn rename_file(&mut self, bytes: &[u8], to: &str) -> Answer {
        let other = self.in_flight(to);
        if other.is_some_and(|slot| !self.is_paused(slot)) {
            return Err(Errno::EBUSY);
        }
        if let Some(chunk) = self.committed(to) {
            let chunk = &self.chunks[chunk];
            let same = bytes == chunk.view || bytes == chunk.original;
            return if same { Ok(()) } else { Err(Errno::EEXIST) };
        }
        match read(bytes) {
            Reading::Header { len, .. } if len == bytes.len() => {
                self.append(to, bytes.to_vec(), None, None)
                    .map_err(|_| Errno::EBADMSG)?;
                if let Some(slot) = other {
                    self.set_life(slot, Life::Withdrawn, false);
                }
                Ok(())
            }
            _ => Err(Errno::EBADMSG),
        }
    }

    fn is_paused(&self, slot: usize) -> bool {
        matches!(
            &self.slots[slot],
            Some(Slot {
                writer: Writer::New(New {
                    life: Life::Paused,
                    ..
                }),
                ..
            })
        )
    }

    pub fn set_attributes(&mut self, name: &str, mode: u32, mtime: i64) -> Answer {
        if let Some(slot) = self.in_flight(name) {
            if let Some(Slot {
                writer: Writer::New(new),
                ..
            }) = &mut self.slots[slot]
            {
                (new.mode, new.mtime) = (Some(mode), Some(mtime));
            }
            Ok(())
        } else if let Some(chunk) = self.committed(name) {
            let chunk = &mut self.chunks[chunk];
            (chunk.mode, chunk.mtime) = (Some(mode), Some(mtime));
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }
}

impl New {
    fn take_in(&mut self, data: &[u8], offset: usize, fits: impl Fn(Form) -> bool) -> Answer {
        if data.is_empty() {
            return Ok(());
        }
        let blank = data.iter().all(|byte| matches!(byte, 0 | b' ' | b'\n'));
        if offset != self.received.len() || offset == 0 && blank {
            self.unordered = true;
        }
        put(&mut self.received, &mut self.written, data, offset);
        if self.unordered {
            return Ok(());
        }
        match read(&self.received) {
            Reading::Incomplete => Ok(()),
            Reading::Invalid => Err(Errno::EINVAL),
            // The header came with this write.
            Reading::Header { form, .. } if offset < HEAD && !fits(form) => Err(Errno::EINVAL),
            Reading::Header { rows, len, .. } if self.received.len() > len => {
                // A count of 0 may be meant to be written last.
                self.unordered = rows == 0;
                if rows == 0 {
                    Ok(())
                } else {
                    Err(Errno::EINVAL)
                }
            }
            Reading::Header { .. } => Ok(()),
        }
    }

    /// Whether its close is to commit it. The dataset may have got another form since its header
    /// came: the commit says so.
    fn whole(&self) -> bool {
        matches!(read(&self.received), Reading::Header { len, .. } if len == self.received.len())
    }

    /// Whether it is whole whoever closes it: all of it was written, and its count is not one that
    /// may be filled in later.
    fn certain(&self) -> bool {
        let rows = match read(&self.received) {
            Reading::Header { rows, .. } => rows,
            _ => 0,
        };
        self.whole() && rows > 0 && !self.written.contains(&false)
    }
}

fn put(bytes: &mut Vec<u8>, written: &mut Vec<bool>, data: &[u8], offset: usize) {
    if data.is_empty() {
        return;
    }
    let end = offset + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset..end].copy_from_slice(data);
    written.resize(bytes.len(), false);
    written[offset..end].fill(true);
}
