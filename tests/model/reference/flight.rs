//! A chunk in flight: whose it is, and what becomes of it.

use nix::errno::Errno;

use super::received::Received;

/// Tells the handles apart; never used twice.
pub type HandleId = u64;

/// Where a chunk in flight is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Live,
    /// Unlinked, renamed or taken over.
    Withdrawn,
    /// As the n-th chunk of the dataset.
    Committed(usize),
    Refused(Errno),
}

/// The handle that has the chunk: no other may write it.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub id: HandleId,
    /// It has written since it has the chunk.
    pub wrote: bool,
    /// The handle whose bytes it took over, if that is still open.
    pub before: Option<HandleId>,
    /// A write through that one was refused meanwhile.
    pub denied: bool,
}

/// A new chunk.
#[derive(Clone, Debug)]
pub struct Flight {
    pub name: String,
    pub life: Life,
    /// It has its name still.
    pub named: bool,
    pub received: Received,
    pub holder: Option<Holder>,
    /// Who wrote has closed it as it is: the next opener may have it.
    pub resting: bool,
    /// A process that called `close` was told 0 of it as it is, complete and not committed.
    pub acknowledged: bool,
    /// A process that had it open has ended without a close while bytes of it were missing.
    pub abandoned: bool,
    /// How many handles have it open.
    pub handles: usize,
    pub mode: Option<u32>,
    pub mtime: Option<i64>,
}

/// What an open of a name in flight comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Joined,
    Replaced,
    Busy,
}

/// What the end of a handle leaves to do with a chunk that is in flight still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Nothing,
    /// The bytes are judged, and no process hears how.
    Judged,
    /// The chunk is refused: a write of its bytes' author was.
    Denied,
    /// It becomes an empty file.
    Empty,
}

impl Flight {
    pub fn new(name: &str) -> Self {
        Flight {
            name: name.to_owned(),
            life: Life::Live,
            named: true,
            received: Received::default(),
            holder: None,
            resting: false,
            acknowledged: false,
            abandoned: false,
            handles: 0,
            mode: None,
            mtime: None,
        }
    }

    /// No byte was written to it yet.
    fn is_untouched(&self) -> bool {
        self.holder.is_none() && self.received.is_empty()
    }

    /// Whether a file may be renamed onto its name.
    pub fn may_be_replaced(&self) -> bool {
        self.life == Life::Live && (self.resting || self.is_untouched())
    }

    pub fn withdraw(&mut self) {
        (self.life, self.named) = (Life::Withdrawn, false);
    }

    pub fn is_held_by(&self, id: HandleId) -> bool {
        self.holder.is_some_and(|holder| holder.id == id)
    }

    /// Opened for writing once more.
    pub fn open(&mut self, id: HandleId, truncate: bool) -> Opened {
        if self.life == Life::Live && self.is_untouched() {
            return Opened::Joined;
        }
        if self.life != Life::Live || !self.resting {
            return Opened::Busy;
        }
        if truncate {
            self.withdraw();
            return Opened::Replaced;
        }
        self.resting = false;
        self.holder = Some(Holder {
            id,
            wrote: false,
            before: self.holder.map(|holder| holder.id),
            denied: false,
        });
        Opened::Joined
    }

    /// Handle `id`, which may have `written` before, is about to change it.
    pub fn claim(&mut self, id: HandleId, written: bool) -> Result<(), Errno> {
        if let Some(holder) = &mut self.holder
            && holder.id != id
        {
            holder.denied |= holder.before == Some(id);
            return Err(if written {
                Errno::ECANCELED
            } else {
                Errno::EBUSY
            });
        }
        self.holder = Some(Holder {
            id,
            wrote: true,
            before: None,
            denied: false,
        });
        (self.resting, self.acknowledged) = (false, false);
        Ok(())
    }

    /// The end of handle `id`.
    pub fn release(&mut self, id: HandleId) -> Ended {
        self.handles -= 1;
        let last = self.handles == 0;
        let mut judges = last;
        if let Some(holder) = self.holder {
            if holder.before == Some(id) {
                self.holder = Some(Holder {
                    before: None,
                    ..holder
                });
            }
            if holder.id == id && self.received.is_empty() {
                self.holder = None;
            } else if holder.id == id && holder.wrote {
                judges = true;
            } else if holder.id == id && holder.denied {
                return Ended::Denied;
            } else if holder.id == id {
                // It wrote nothing: the one before may go on.
                self.holder = holder.before.map(|id| Holder {
                    id,
                    wrote: true,
                    before: None,
                    denied: false,
                });
                self.resting = true;
            }
        }
        match (self.life, judges) {
            (_, false) => Ended::Nothing,
            (Life::Live, true) if !self.received.is_empty() => Ended::Judged,
            (Life::Live, true) if last => Ended::Empty,
            (Life::Live, true) => Ended::Nothing,
            _ => {
                self.named = false;
                Ended::Nothing
            }
        }
    }
}
