//! How a chunk in flight ends: committed, refused, or left by its writer.

use std::ffi::OsStr;
use std::path::Path;

use super::super::commit::{ChunkCommit, Rows};
use super::super::rescued::loadable;
use crate::chunk::status::{HandleId, Standing};
use crate::chunk::validate::{check_len, no_header, read_header};
use crate::dataset::Dataset;
use crate::dataset::pending::{Body, PendingChunk, State, failed_inside};
use crate::disk::Face;
use crate::disk::clock;
use crate::disk::{Open, set_attributes};
use crate::error::{Context, Errno, Error, Result};
use crate::journal::Attributes;
use crate::npy::Header;
use crate::printable;
use crate::wait;

/// What a close has to know of the descriptors that are left. It is asked only where the answer
/// decides, as it may have to look at every process.
pub trait Descriptors {
    /// Whether another descriptor can still write the chunk, or one may that cannot be seen.
    fn others_can_write(&self) -> bool;
    /// Whether the process that closes has called `close`, and is not known to be ending, by itself
    /// or killed, and closed by the kernel.
    fn is_meant(&self) -> bool;
}

/// The one descriptor that there was is closed by its process.
#[derive(Clone, Copy, Debug)]
pub struct NoOthers;

impl Descriptors for NoOthers {
    fn others_can_write(&self) -> bool {
        false
    }

    fn is_meant(&self) -> bool {
        true
    }
}

/// What is known of the descriptors that are left when a close is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Not looked up yet.
    Unknown,
    /// Another one can write. `meant`: this one's process has called `close`.
    Others { meant: bool },
    /// None.
    None { meant: bool },
}

/// What a close comes to.
enum Judged {
    /// This is the answer.
    Answer(Result<()>),
    /// The descriptors that are left decide.
    Ask,
}

impl PendingChunk {
    /// A descriptor of handle `id`, which has written, is being closed, which need not be the last
    /// close of it:
    ///
    /// | the chunk | answer |
    /// | --- | --- |
    /// | was refused | that error |
    /// | is committed, or another handle has taken it over | ok |
    /// | is complete and plain | it is committed |
    /// | is complete, not plain | committed by the last descriptor that can write it, else ok |
    /// | is incomplete | refused by the last descriptor that can write it, else ok |
    ///
    /// The descriptors that are left are looked up with no lock of the chunk held.
    ///
    /// # Errors
    /// Why the chunk was refused, now or before.
    pub(crate) fn flush(&self, id: HandleId, left: &dyn Descriptors) -> Result<()> {
        if let Judged::Answer(answer) = self.judge(id, Left::Unknown)? {
            return answer;
        }
        // Every process of the machine may have to be looked at.
        wait::may_wait()?;
        let meant = left.is_meant();
        let left = if left.others_can_write() {
            Left::Others { meant }
        } else {
            Left::None { meant }
        };
        match self.judge(id, left)? {
            Judged::Answer(answer) => answer,
            Judged::Ask => Err(err!(EIO, "the close of this chunk was not judged")),
        }
    }

    fn judge(&self, id: HandleId, left: Left) -> Result<Judged> {
        let mut state = self.state()?;
        match self.shared.standing() {
            Standing::Refused(error) => {
                self.dataset.leave(self);
                return Ok(Judged::Answer(Err(error)));
            }
            Standing::Committed(id) => return Ok(Judged::Answer(self.dataset.still_has(id))),
            Standing::TakenAway => return Ok(Judged::Answer(Err(self.withdrawn()))),
            Standing::Open => {}
        }
        if !self.shared.is_writer(id) {
            return Ok(Judged::Answer(Ok(())));
        }
        if state.len == 0 {
            self.shared.closed_incomplete();
            return Ok(Judged::Answer(Ok(())));
        }
        let complete = self.complete(&state);
        if let Ok(header) = &complete
            && header.is_plain(&state)
        {
            return Ok(Judged::Answer(self.commit(&mut state, header)));
        }
        let error = match (complete, left) {
            (_, Left::Unknown) => return Ok(Judged::Ask),
            (complete, Left::Others { meant }) => {
                state.acknowledged = meant && complete.is_ok();
                // Whether its bytes that are still missing were this process's to write, no other
                // knows that closes after it.
                state.abandoned |= !meant && complete.is_ok_and(|it| it.has_holes(&state));
                self.shared.closed_incomplete();
                return Ok(Judged::Answer(Ok(())));
            }
            // Bytes that were never written are zeros only if the producer says that it is done.
            (Ok(header), Left::None { meant: false }) if !header.is_written(&state) => {
                never_closed()
            }
            (Ok(header), Left::None { .. }) if state.abandoned && header.has_holes(&state) => {
                never_closed()
            }
            (Ok(FinalHeader::Staged(..)), Left::None { .. }) if state.written.missing() > 0 => {
                never_written(state.written.missing(), state.len)
            }
            (Ok(header), Left::None { .. }) => {
                return Ok(Judged::Answer(self.commit(&mut state, &header)));
            }
            (Err(reason), Left::None { .. }) => reason,
        };
        let error = self.refuse(&mut state, error);
        self.dataset.leave(self);
        Ok(Judged::Answer(Err(error)))
    }

    /// A close has told of the refusal: its name is free.
    pub(crate) fn leave_if_refused(&self) {
        if matches!(self.shared.standing(), Standing::Refused(_)) {
            self.dataset.leave(self);
        }
    }

    /// `fsync`: a complete chunk is committed, so that a sync of the dataset covers it. One that is
    /// complete by its length only, or whose bytes are written more than once, may not be what its
    /// producer means yet: its own bytes are synced, and with its commit its rows will be.
    ///
    /// # Errors
    /// Why the chunk was refused, now or before.
    pub(crate) fn commit_if_complete(&self) -> Result<()> {
        let mut state = self.state()?;
        match self.shared.standing() {
            Standing::Refused(error) => return Err(error),
            Standing::Committed(id) => {
                drop(state);
                self.dataset.refresh()?;
                return self.dataset.still_has(id);
            }
            Standing::TakenAway => return Err(self.withdrawn()),
            Standing::Open => {}
        }
        if let Ok(header) = self.complete(&state)
            && header.is_written(&state)
            && !state.rewritten
        {
            return self.commit(&mut state, &header);
        }
        if state.len == 0 {
            return Ok(());
        }
        wait::may_wait()?;
        if state.plain && matches!(state.body, Body::Head) {
            state.part_of_header = Some(state.head.clone());
        }
        // Wherever they lie: in memory and after the array's rows they would end with the daemon.
        self.stage(&mut state)?;
        if let Body::File(file) = &mut state.body {
            file.confirm(&self.name)
                .context(|| "cannot sync the chunk in .npyfs/incoming".into())?;
            (state.synced, state.confirmed) = (true, true);
        }
        Ok(())
    }

    fn commit(&self, state: &mut State, header: &FinalHeader) -> Result<()> {
        if self.commit_waits(state) {
            wait::may_wait()?;
        }
        wait::allowed(|| self.commit_now(state, header))
    }

    /// Whether a commit has much to copy, or to wait for.
    fn commit_waits(&self, state: &State) -> bool {
        let body_waits = match &state.body {
            Body::Stream(stream) => stream.is_converted() || self.dataset.is_out_of_turn(stream),
            Body::File(_) => true,
            Body::Memory { .. } | Body::Head => false,
        };
        body_waits || state.synced || self.dataset.is_busy()
    }

    fn commit_now(&self, state: &mut State, header: &FinalHeader) -> Result<()> {
        if !self.shared.begin_commit() {
            return Err(self.withdrawn());
        }
        let face = self.face();
        let candidate = ChunkCommit {
            name: &self.name,
            head: header.bytes(state),
            header: header.header(state)?,
            attributes: Attributes {
                mode: face.mode,
                uid: face.uid,
                gid: face.gid,
                mtime: face.mtime.unwrap_or_else(clock::now),
            },
        };
        let rows = match &state.body {
            Body::Memory { bytes, .. } => Rows::Memory(bytes),
            Body::Stream(stream) => Rows::Stream(stream, state.crc),
            Body::File(file) => Rows::File(file.blob()),
            Body::Head => return Err(err!(EIO, "the chunk's header was lost")),
        };
        match self.dataset.commit(&candidate, rows) {
            Ok(id) => {
                self.shared.committed(id);
                if state.synced
                    && let Err(error) = self.dataset.sync()
                {
                    // The rows are in the array, whatever the disk says: this is no refusal.
                    log::error!("{}: {error}", self.dataset.label());
                }
                // The rows have their place now. What was spilled of a stream is removed with it.
                state.body = Body::Head;
                state.head = Vec::new();
                self.dataset.leave(self);
                Ok(())
            }
            Err(error) => {
                let error = self.refuse(state, error);
                self.dataset.leave(self);
                Err(error)
            }
        }
    }

    /// The header of a complete chunk, or why it is not one. Whether it fits is the commit's to say,
    /// of every chunk alike: the dataset may have got its dtype since the header came.
    fn complete(&self, state: &State) -> Result<FinalHeader> {
        match (&state.body, &state.header) {
            (Body::File(file), _) => {
                let (header, bytes) = read_header(file.blob(), state.len)?;
                check_len(&header, state.len)?;
                Ok(FinalHeader::Staged(header, bytes))
            }
            (_, Some(header)) => {
                check_len(header, state.len)?;
                Ok(FinalHeader::Fast)
            }
            (_, None) => Err(no_header(state.len)),
        }
    }

    /// Ends the chunk with `error`. What `write` had accepted of its rows is kept.
    pub(super) fn refuse(&self, state: &mut State, error: Error) -> Error {
        let error = match error.errno() {
            // If the dataset was given up, and no answer has told of that yet, that is the reason.
            Errno::EIO | Errno::ESTALE => self.dataset.pay().err().unwrap_or(error),
            _ => error,
        };
        // Below, with what becomes of its bytes.
        let error = error.logged();
        self.shared.refuse(error.clone());
        let body = std::mem::replace(&mut state.body, Body::Head);
        let len = state.len;
        let kept = if matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT) && !state.confirmed {
            // Keeping them would keep the store full.
            if let Body::Stream(stream) = &body {
                self.dataset.end_stream(stream);
            }
            Ok(None)
        } else {
            self.keep(body, state)
        };
        if let Err(reason) = &kept {
            log::warn!(
                "{}: cannot keep the bytes of {}: {reason}",
                self.dataset.label(),
                self.name.display()
            );
        }
        state.head = Vec::new();
        let kept = kept.ok().flatten();
        self.dataset
            .report_refusal(&self.name, &error, kept.as_deref());
        for evicted in self.dataset.rejected.take_evicted() {
            self.dataset.note(&format!(
                "{evicted} was removed from .npyfs/rejected to make room"
            ));
        }
        let why = match error.errno() {
            Errno::ENOSPC | Errno::EDQUOT => Some("the store is full".to_owned()),
            _ if self.dataset.rejected.fits(len) => None,
            _ => Some(self.dataset.rejected.limit_text()),
        };
        if let Some(why) = why.filter(|_| kept.is_none() && len > 0) {
            let name = printable::name(&self.name);
            self.dataset
                .note(&format!("{name}: its {len} bytes are not kept: {why}"));
        }
        error
    }

    pub(super) fn keep(&self, body: Body, state: &State) -> Result<Option<String>> {
        let header_len = state.head.len() as u64;
        let rejected = &self.dataset.rejected;
        let face = &self.face();
        match body {
            Body::File(file) if state.confirmed => {
                let rescued = &self.dataset.rescued;
                rescued.keep_file(&self.name, face, file).map(Some)
            }
            Body::Head => Ok(None),
            Body::Memory { bytes, .. } if bytes.is_empty() => Ok(None),
            Body::Memory { bytes, .. } => {
                let header = state.header.as_ref();
                let head = header.and_then(|header| loadable(header, &state.head, state.len));
                let head = head.as_ref().unwrap_or(&state.head);
                rejected.keep(&self.name, face, state.len, |blob| {
                    blob.write_at(head, 0)?;
                    blob.write_at(&bytes, header_len)
                })
            }
            Body::File(file) => rejected.keep_file(&self.name, face, state.len, file),
            Body::Stream(stream) if state.len > header_len => {
                let kept = if rejected.fits(state.len) {
                    let file = self.dataset.leave_tail(&stream);
                    file.and_then(|file| rejected.keep_file(&self.name, face, state.len, file))
                } else {
                    Ok(None)
                };
                self.dataset.end_stream(&stream);
                kept
            }
            Body::Stream(stream) => {
                self.dataset.end_stream(&stream);
                Ok(None)
            }
        }
    }

    /// Handle `id` is gone, and no process hears of what becomes of its bytes. A complete chunk is
    /// committed: no close may have come before, or none that could be judged. An incomplete one is
    /// refused. Where no handle is left, a chunk of no bytes becomes an empty file.
    ///
    /// # Errors
    /// Only that it has to wait: then the handle is as it was.
    pub(crate) fn release(&self, id: HandleId) -> Result<()> {
        let state = self.lock()?;
        let received = state.as_ref().map_or(true, |state| state.len > 0);
        if received && !matches!(self.shared.standing(), Standing::Committed(_)) {
            // It may be copied, kept or compared.
            wait::may_wait()?;
        }
        let ended = self.shared.release(id);
        if !ended.judges {
            return Ok(());
        }
        let mut state = match state {
            Ok(state) => state,
            Err(poisoned) => {
                // What had come of it was accepted.
                let mut state = poisoned.into_inner();
                if !matches!(
                    self.shared.standing(),
                    Standing::Committed(_) | Standing::Refused(_)
                ) {
                    self.refuse(&mut state, failed_inside());
                }
                drop(state);
                self.dataset.leave(self);
                return Ok(());
            }
        };
        match self.shared.standing() {
            _ if ended.denied => {
                let lost = self.withdrawn();
                self.refuse(&mut state, lost);
            }
            Standing::TakenAway if ended.last => self.drop_body(&mut state),
            Standing::Open if state.len > 0 => self.judge_unheard(&mut state),
            Standing::Open => {
                if ended.last
                    && let Err(error) = self.dataset.leave_empty_file(self)
                {
                    log::warn!("{}: {error}", self.dataset.label());
                }
                return Ok(());
            }
            Standing::TakenAway | Standing::Committed(_) | Standing::Refused(_) => {}
        }
        drop(state);
        self.dataset.leave(self);
        Ok(())
    }

    fn judge_unheard(&self, state: &mut State) {
        let reason = match self.complete(state) {
            Ok(header)
                if header.is_written(state) || (state.acknowledged && !header.has_holes(state)) =>
            {
                // Its reason is in the log of the dataset.
                if let Err(error) = self.commit(state, &header) {
                    let name = self.name.display();
                    log::warn!("{}: {name}: {error}", self.dataset.label());
                }
                return;
            }
            Ok(_) => never_closed(),
            Err(reason) => reason,
        };
        self.refuse(state, reason);
    }
}

fn never_closed() -> Error {
    err!(
        ECANCELED,
        "its writer ended without a close, and bytes or rows of it were never written"
    )
}

fn never_written(missing: u64, len: u64) -> Error {
    err!(
        EINVAL,
        "its length was set to {len} bytes before they came, and {missing} of them were never written"
    )
}

/// The header of a chunk that is complete.
enum FinalHeader {
    /// The one that the state holds.
    Fast,
    /// The one that its staged file begins with.
    Staged(Header, Vec<u8>),
}

impl FinalHeader {
    /// A count of 0 may be one that is filled in at the end.
    fn rows(&self, state: &State) -> u64 {
        match self {
            FinalHeader::Fast => state.header.as_ref().map_or(0, Header::rows),
            FinalHeader::Staged(header, _) => header.rows(),
        }
    }

    /// Whether the chunk is what its producer means it to be, whichever descriptor is closed.
    fn is_plain(&self, state: &State) -> bool {
        state.plain && self.rows(state) > 0
    }

    /// Whether some bytes of it were never written.
    fn has_holes(&self, state: &State) -> bool {
        matches!(self, FinalHeader::Staged(..)) && !state.written.is_whole(state.len)
    }

    /// Whether every byte of it was written, and its count is not one that may be filled in later.
    fn is_written(&self, state: &State) -> bool {
        self.rows(state) > 0
            && match self {
                FinalHeader::Fast => true,
                FinalHeader::Staged(..) => state.written.is_whole(state.len),
            }
    }

    fn bytes<'a>(&'a self, state: &'a State) -> &'a [u8] {
        match self {
            FinalHeader::Fast => &state.head,
            FinalHeader::Staged(_, bytes) => bytes,
        }
    }

    fn header<'a>(&'a self, state: &'a State) -> Result<&'a Header> {
        match self {
            FinalHeader::Fast => state
                .header
                .as_ref()
                .ok_or_else(|| err!(EIO, "the chunk's header was lost")),
            FinalHeader::Staged(header, _) => Ok(header),
        }
    }
}

impl Dataset {
    /// An empty file that waits for its bytes, under a chunk's name.
    pub(in crate::dataset) fn place_empty(&self, name: &OsStr, face: &Face) -> Result<()> {
        let path = Path::new(name);
        let blob = match self.folder.open(path, Open::CreateNew) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            other => other.context(|| format!("cannot keep the empty file {}", name.display()))?,
        };
        set_attributes(&*blob, face)
            .context(|| format!("cannot keep the attributes of {}", name.display()))
    }
}
