//! What a chunk in flight is to those that open, write, close, rename and remove its name.
//!
//! The record lies under a lock of its own that is held for an instant, apart from the chunk's
//! bytes: a lookup, an open or an unlink never waits for a write that is being stored. An open, an
//! unlink and a commit race for the name, and one wins.

use std::sync::Mutex;

use crate::chunk::ChunkId;
use crate::disk::Face;
use crate::error::Error;

/// Tells the handles of a chunk apart.
pub(crate) type HandleId = u64;

/// | from | to | by |
/// | --- | --- | --- |
/// | open | resting | a close that leaves it incomplete |
/// | resting | open | a write, or an open of the name that takes it over |
/// | open, resting | taken away | an unlink, a rename onto the name, an open with `O_TRUNC` |
/// | open, resting | committing, then committed or refused | a close, an fsync, the end of the last handle |
/// | open, resting | refused | a write that shows why |
#[derive(Debug)]
enum Status {
    /// Being written, or not written yet.
    Open,
    /// The handle that wrote has closed it as it is: the next opener may have the name.
    Resting,
    /// A commit is under way: the name cannot be taken away any more.
    Committing,
    /// Its rows are in the array; its name may have changed since.
    Committed(ChunkId),
    /// Taken over or unlinked.
    TakenAway,
    /// The answer to everything from now on; only the name can be taken away.
    Refused(Error),
}

/// What a chunk is to a handle that has it open.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// It takes writes.
    Open,
    /// It has lost its name.
    TakenAway,
    /// It is committed.
    Committed(ChunkId),
    /// It is refused, and why.
    Refused(Error),
}

/// What became of an attempt to take a name away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    /// The chunk ends by it; `true`: some of its bytes were written.
    Withdrawn(bool),
    /// The chunk was refused or withdrawn before; only its name was left.
    Over,
    /// Its commit was faster.
    Committing,
}

/// Why a handle may not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Another handle is writing.
    Busy,
    /// The name was taken over or unlinked.
    TakenAway,
}

/// What an open of a name in flight comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reopened {
    /// The handle is one more of this chunk.
    Joined,
    /// This chunk has lost its name to a new one.
    Replaced,
    /// Another handle is writing it.
    Busy,
}

/// How a chunk is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the bytes that are there.
    Keep,
    /// Empty (`O_TRUNC`).
    Truncate,
    /// Empty, and nothing may have the name (`O_EXCL`).
    New,
}

/// What the end of a handle leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// It was the last handle of the chunk.
    pub(crate) last: bool,
    /// The bytes are this handle's: it is the one to judge them.
    pub(crate) judges: bool,
    /// The handle whose bytes they are was told that it has lost them: they are refused.
    pub(crate) denied: bool,
}

#[derive(Debug)]
struct Record {
    status: Status,
    face: Face,
    /// How many handles have it open.
    handles: usize,
    /// The handle whose bytes these are.
    writer: Option<HandleId>,
    /// That handle has written since it has the chunk.
    written: bool,
    /// The handle whose bytes it took over, if that is still open: it gets them back from one that
    /// writes nothing.
    before: Option<HandleId>,
    /// A write through that one was refused meanwhile: what it meant to write is not there.
    denied: bool,
}

#[derive(Debug)]
pub(crate) struct Shared(Mutex<Record>);

impl Shared {
    pub(crate) fn new(face: Face) -> Self {
        Self(Mutex::new(Record {
            status: Status::Open,
            face,
            handles: 0,
            writer: None,
            written: false,
            before: None,
            denied: false,
        }))
    }

    pub(crate) fn face(&self) -> Face {
        crate::lock(&self.0).face
    }

    pub(crate) fn change_face(&self, change: impl FnOnce(&mut Face)) {
        change(&mut crate::lock(&self.0).face);
    }

    /// The first handle.
    pub(crate) fn opened(&self) {
        crate::lock(&self.0).handles += 1;
    }

    /// One more handle, `id`. It shares a chunk of no bytes with the others, and has one that was
    /// closed incomplete for itself. `writes` says whether the handle can write at all.
    pub(crate) fn reopen(&self, id: HandleId, start: Start, writes: bool) -> Reopened {
        let mut record = crate::lock(&self.0);
        let untouched = record.writer.is_none() && record.face.len == 0;
        match record.status {
            Status::Open | Status::Resting if untouched && start != Start::New => {
                record.handles += 1;
                Reopened::Joined
            }
            Status::Resting if start == Start::Keep => {
                record.handles += 1;
                if writes {
                    record.before = record.writer.replace(id);
                    record.written = false;
                    record.denied = false;
                    record.status = Status::Open;
                }
                Reopened::Joined
            }
            Status::Resting => {
                record.status = Status::TakenAway;
                Reopened::Replaced
            }
            _ => Reopened::Busy,
        }
    }

    /// Handle `id` writes, or sets the length.
    pub(crate) fn resume(&self, id: HandleId) -> Result<(), Lost> {
        let mut record = crate::lock(&self.0);
        match record.status {
            Status::Open | Status::Resting if record.writer.is_some_and(|it| it != id) => {
                record.denied |= record.before == Some(id);
                Err(Lost::Busy)
            }
            Status::Open | Status::Resting => {
                record.writer = Some(id);
                record.written = true;
                record.before = None;
                record.status = Status::Open;
                Ok(())
            }
            Status::Committing | Status::Committed(_) => Err(Lost::Busy),
            Status::TakenAway | Status::Refused(_) => Err(Lost::TakenAway),
        }
    }

    /// The chunk is not complete, and its writer has closed it.
    pub(crate) fn closed_incomplete(&self) {
        let mut record = crate::lock(&self.0);
        // An opener that has taken the name meanwhile keeps it.
        if matches!(record.status, Status::Open) {
            record.status = Status::Resting;
        }
    }

    /// From here on it commits. `false`: it has lost the name.
    pub(crate) fn begin_commit(&self) -> bool {
        let mut record = crate::lock(&self.0);
        let may = matches!(record.status, Status::Open | Status::Resting);
        if may {
            record.status = Status::Committing;
        }
        may
    }

    pub(crate) fn committed(&self, id: ChunkId) {
        crate::lock(&self.0).status = Status::Committed(id);
    }

    pub(crate) fn refuse(&self, why: Error) {
        crate::lock(&self.0).status = Status::Refused(why);
    }

    /// What it is now. One that commits is still open to those that see it do so.
    pub(crate) fn standing(&self) -> Standing {
        match &crate::lock(&self.0).status {
            Status::Open | Status::Resting | Status::Committing => Standing::Open,
            Status::TakenAway => Standing::TakenAway,
            Status::Committed(id) => Standing::Committed(*id),
            Status::Refused(why) => Standing::Refused(why.clone()),
        }
    }

    /// Takes the name away from every handle.
    pub(crate) fn abort(&self) -> Abort {
        let mut record = crate::lock(&self.0);
        match record.status {
            Status::Open | Status::Resting => {
                record.status = Status::TakenAway;
                Abort::Withdrawn(record.face.len > 0)
            }
            Status::Committing | Status::Committed(_) => Abort::Committing,
            Status::TakenAway | Status::Refused(_) => Abort::Over,
        }
    }

    /// As [`Shared::abort`], only where [`Shared::may_be_replaced`].
    pub(crate) fn take_over(&self) -> bool {
        let mut record = crate::lock(&self.0);
        let may = record.may_be_replaced();
        if may {
            record.status = Status::TakenAway;
        }
        may
    }

    /// Whether a file that is renamed onto the name may have it: no byte was written, or the
    /// handle that wrote has closed it incomplete.
    pub(crate) fn may_be_replaced(&self) -> bool {
        crate::lock(&self.0).may_be_replaced()
    }

    /// Takes the name of a chunk of no bytes away: it becomes a file of no bytes. Only where no
    /// handle is left, if it is to be `unheld`.
    pub(crate) fn lose_name_if_empty(&self, unheld: bool) -> Option<Face> {
        let mut record = crate::lock(&self.0);
        let may =
            record.may_be_replaced() && record.face.len == 0 && !(unheld && record.handles > 0);
        if may {
            record.status = Status::TakenAway;
        }
        may.then_some(record.face)
    }

    /// Whether the bytes are those of handle `id`, and not taken over by another.
    pub(crate) fn is_writer(&self, id: HandleId) -> bool {
        crate::lock(&self.0).writer == Some(id)
    }

    /// The end of handle `id`.
    pub(crate) fn release(&self, id: HandleId) -> Ended {
        let mut record = crate::lock(&self.0);
        record.handles = record.handles.saturating_sub(1);
        let last = record.handles == 0;
        let has_it = record.writer == Some(id);
        let judges = has_it && record.written;
        let mut denied = false;
        if record.before == Some(id) {
            record.before = None;
        }
        if has_it && record.face.len == 0 {
            (record.writer, record.before) = (None, None);
        } else if has_it && !record.written {
            // It had the chunk and left it as it was: the handle before may go on.
            record.writer = record.before.take();
            record.written = record.writer.is_some();
            if matches!(record.status, Status::Open | Status::Resting) {
                denied = record.denied;
                record.status = if denied {
                    Status::TakenAway
                } else {
                    Status::Resting
                };
            }
        }
        Ended {
            last,
            judges: judges || last || denied,
            denied,
        }
    }
}

impl Record {
    fn may_be_replaced(&self) -> bool {
        match self.status {
            Status::Resting => true,
            Status::Open => self.writer.is_none() && self.face.len == 0,
            Status::Committing | Status::Committed(_) | Status::TakenAway | Status::Refused(_) => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::error::Errno;

    fn shared() -> Shared {
        Shared::new(Face {
            len: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
        })
    }

    fn written(by: HandleId) -> Shared {
        let shared = shared();
        shared.opened();
        shared.resume(by).unwrap();
        shared.change_face(|face| face.len = 10);
        shared
    }

    /// It lost its name between the two, and the second handle its chunk.
    #[test]
    fn an_empty_chunk_that_is_opened_again_while_its_last_handle_ends_goes_on() {
        let shared = shared();
        shared.opened();
        assert!(shared.release(1).last);
        assert_eq!(shared.reopen(2, Start::Truncate, true), Reopened::Joined);
        assert!(shared.lose_name_if_empty(true).is_none());
        shared.resume(2).unwrap();
        shared.release(2);
        assert!(shared.lose_name_if_empty(true).is_some());
    }

    /// An unlink looked for a resting chunk, then for one that is written, and could miss one that
    /// went from the one to the other between the two.
    #[test]
    fn a_name_is_taken_away_though_its_writer_closes_and_goes_on_meanwhile() {
        for _ in 0..500 {
            let (shared, over) = (shared(), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) && shared.resume(1).is_ok() {
                        shared.closed_incomplete();
                    }
                });
                std::thread::yield_now();
                let taken = shared.abort();
                over.store(true, Ordering::Relaxed);
                assert_eq!(taken, Abort::Withdrawn(false));
            });
        }
    }

    #[test]
    fn what_commits_keeps_its_name_and_what_was_refused_has_only_that() {
        let shared = written(1);
        assert!(shared.begin_commit());
        assert_eq!(shared.abort(), Abort::Committing);
        shared.refuse(crate::error::Error::new(Errno::EINVAL, "it is refused"));
        assert_eq!(shared.abort(), Abort::Over);
        assert!(shared.resume(1).is_err() && !shared.take_over());
        assert!(matches!(shared.standing(), Standing::Refused(_)));
    }

    #[test]
    fn the_handle_that_writes_first_has_the_chunk() {
        let shared = shared();
        shared.opened();
        assert_eq!(shared.reopen(2, Start::Truncate, true), Reopened::Joined);
        assert_eq!(shared.reopen(3, Start::New, true), Reopened::Busy);
        assert_eq!(shared.resume(2), Ok(()));
        assert_eq!(shared.resume(1), Err(Lost::Busy));
        assert_eq!(shared.reopen(4, Start::Keep, true), Reopened::Busy);
        assert!(!shared.release(1).judges);
        assert_eq!(
            shared.release(2),
            Ended {
                last: true,
                judges: true,
                denied: false
            }
        );
    }

    #[test]
    fn what_was_closed_incomplete_goes_to_the_next_opener() {
        let shared = written(1);
        shared.closed_incomplete();
        assert_eq!(shared.reopen(2, Start::Keep, false), Reopened::Joined);
        assert_eq!(shared.resume(1), Ok(()));
        shared.closed_incomplete();
        assert_eq!(shared.reopen(3, Start::Keep, true), Reopened::Joined);
        assert!(!shared.is_writer(1));
        // It wrote nothing: the first may go on, and no other.
        assert!(!shared.release(3).judges);
        assert!(shared.is_writer(1));
        assert_eq!(shared.resume(2), Err(Lost::Busy));
        assert_eq!(shared.resume(1), Ok(()));
        shared.closed_incomplete();
        assert_eq!(shared.reopen(4, Start::Truncate, true), Reopened::Replaced);
        assert_eq!(shared.resume(1), Err(Lost::TakenAway));
    }

    #[test]
    fn bytes_whose_author_was_told_that_they_are_lost_are_refused() {
        let shared = written(1);
        shared.closed_incomplete();
        assert_eq!(shared.reopen(2, Start::Keep, true), Reopened::Joined);
        assert_eq!(shared.resume(1), Err(Lost::Busy));
        let ended = shared.release(2);
        assert!(ended.denied && ended.judges && !ended.last);
        assert_eq!(shared.resume(1), Err(Lost::TakenAway));
    }

    #[test]
    fn only_a_chunk_of_no_bytes_becomes_a_file_of_no_bytes() {
        assert!(written(1).lose_name_if_empty(false).is_none());
        let shared = shared();
        shared.opened();
        assert!(
            shared.lose_name_if_empty(false).is_some()
                && shared.lose_name_if_empty(false).is_none()
        );
        assert_eq!(shared.resume(1), Err(Lost::TakenAway));
    }
}
