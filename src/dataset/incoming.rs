//! A chunk in flight: from its creation to its commit, refusal or end.
//!
//! The header is judged as soon as its bytes are there, so that a producer hears of a mismatch
//! from the very `write` that shows it. A body that comes front to back takes the fast path: in
//! memory if it is small, else straight into the array's tail if nobody else is there. Everything
//! else is a staged file, and is judged only at close.
//!
//! Two things are kept apart. The *claim* on the name is atomic and says whether this chunk may
//! still commit: a takeover, an unlink and a commit race for it, and one wins. The *state* is what
//! was received; its lock is held for as long as a write stores its bytes, so nothing that must
//! answer at once (`stat`, a takeover) asks for it.
//!
//! Lock order: state, then the dataset's writer, then a stream's state. `face` is a leaf.

mod claim;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bands::Bands;
use super::commit::{Candidate, Rows};
use super::convert::Conversion;
use super::coverage::Coverage;
use super::disk::{Blob, Open};
use super::journal::Attributes;
use super::judge::{check_len, no_header, read_header, too_long};
use super::staged::{Permit, Staged};
use super::tail::Stream;
use super::{Dataset, clock};
use crate::error::{Context, Errno, Error, Result};
use crate::npy::{Header, HeaderError, Prefix};
pub(crate) use claim::Abort;
use claim::Claim;

/// A body up to this size, in bytes, may collect in memory.
pub(crate) const SMALL_BODY: u64 = 1 << 20;

/// A header that is longer than this, in bytes, and does not come whole is not waited for in memory.
const SMALL_HEAD: usize = 16 << 10;

/// Mode, owner and size of a chunk in flight, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    /// Bytes written so far, or set by `truncate`.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change in nanoseconds since 1970, where the producer set it.
    pub mtime: Option<i64>,
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last change, in nanoseconds since 1970.
    pub mtime: Option<i64>,
}

/// Who closes a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The process that opened the chunk: it is done.
    Opener,
    /// That process is ending, by itself or killed, and had not closed.
    Ending,
    /// Another process that had the descriptor from it: more may come.
    Other,
}

impl From<bool> for Closer {
    fn from(by_opener: bool) -> Self {
        if by_opener {
            Closer::Opener
        } else {
            Closer::Other
        }
    }
}

/// A chunk in flight.
#[derive(Debug)]
pub struct Incoming {
    dataset: Arc<Dataset>,
    name: OsString,
    claim: Claim,
    face: Mutex<Face>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    body: Body,
    /// Length of the chunk so far, in bytes.
    len: u64,
    /// On the fast path: the header's bytes as they came.
    head: Vec<u8>,
    /// Once it is complete, for as long as the bytes come front to back.
    header: Option<Header>,
    /// Of the streamed body, where its bytes are the rows.
    crc: u32,
    /// Of a staged body: what was written of it.
    written: Coverage,
    /// Another process has closed it as it is now, and was told that all is well.
    promised: bool,
}

#[derive(Debug)]
enum Phase {
    Open,
    /// Under this id; its name may have changed since.
    Committed(u32),
    /// The answer to everything from now on.
    Refused(Error),
}

#[derive(Debug)]
enum Body {
    /// The header is not complete yet.
    Head,
    Memory {
        bytes: Vec<u8>,
        _permit: Permit,
    },
    Stream(Arc<Stream>),
    /// Any order of writing.
    File(Staged),
}

impl Incoming {
    pub(crate) fn new(dataset: Arc<Dataset>, name: OsString, face: Face) -> Arc<Incoming> {
        Arc::new(Incoming {
            dataset,
            name,
            claim: Claim::new(),
            face: Mutex::new(face),
            state: Mutex::new(State {
                phase: Phase::Open,
                body: Body::Head,
                len: 0,
                head: Vec::new(),
                header: None,
                crc: 0,
                written: Coverage::default(),
                promised: false,
            }),
        })
    }

    /// Its name in the dataset.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What `stat` shows.
    pub fn face(&self) -> Face {
        *crate::lock(&self.face)
    }

    /// Changes what its receipt will say, or says, of mode, owner and time.
    ///
    /// # Errors
    /// Those of the journal, where the chunk is committed already.
    pub fn set_attributes(&self, change: &Change) -> Result<()> {
        {
            let mut face = crate::lock(&self.face);
            face.mode = change.mode.unwrap_or(face.mode);
            face.uid = change.uid.unwrap_or(face.uid);
            face.gid = change.gid.unwrap_or(face.gid);
            face.mtime = change.mtime.or(face.mtime);
        }
        let state = self.state()?;
        match state.phase {
            Phase::Committed(id) => {
                let name = self.dataset.name_of(id)?;
                self.dataset.set_attributes(&name, change)
            }
            Phase::Open | Phase::Refused(_) => Ok(()),
        }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        self.state
            .lock()
            .map_err(|_| err!(EIO, "a failure inside npyfs ended this chunk"))
    }

    fn withdrawn(&self) -> Error {
        err!(ECANCELED, "unlinked, or taken over by another writer")
    }

    /// Takes the name away for a new writer, if it was closed incomplete.
    pub(crate) fn give_way(&self) -> bool {
        self.claim.give_way()
    }

    /// Whether it was closed incomplete, and nobody has written to it since.
    pub fn is_paused(&self) -> bool {
        self.claim.is_paused()
    }

    /// Takes the name away from whoever writes.
    pub(crate) fn abort(&self) -> Abort {
        self.claim.take_away()
    }

    /// Writes at `offset`. `ack` is called as soon as nothing that the bytes say can refuse them,
    /// which may be before they are stored; a failure to store them is the answer to the next call.
    ///
    /// # Errors
    /// `EINVAL` for what the header shows to be wrong, `ECANCELED` when the name is lost, `EEXIST`
    /// for other bytes in a chunk that is committed already, and what the store answers.
    pub fn write(&self, data: &[u8], offset: u64, ack: impl FnOnce()) -> Result<()> {
        let mut state = self.state()?;
        match &state.phase {
            Phase::Refused(error) => return Err(error.clone()),
            &Phase::Committed(id) => {
                drop(state);
                let name = self.dataset.name_of(id)?;
                self.dataset.compare_committed(&name, data, offset)?;
                ack();
                return Ok(());
            }
            Phase::Open => {}
        }
        if !self.claim.go_on() {
            return Err(self.withdrawn());
        }
        state.promised = false;
        let end = offset.saturating_add(data.len() as u64);
        let taken = self.take_in(&mut state, data, offset, || {
            // Whoever asks for the size once the write has returned must see it in there.
            let mut face = crate::lock(&self.face);
            face.len = face.len.max(end);
            drop(face);
            ack();
        });
        crate::lock(&self.face).len = state.len;
        taken.map_err(|error| self.refuse(&mut state, error))
    }

    fn take_in(
        &self,
        state: &mut State,
        data: &[u8],
        offset: u64,
        ack: impl FnOnce(),
    ) -> Result<()> {
        if data.is_empty() {
            ack();
            return Ok(());
        }
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or_else(|| err!(EFBIG, "a file cannot be that long"))?;
        if offset != state.len || self.overshoots(state, end)? {
            self.stage(state)?;
            // In any order of writing the header may change: it is judged at close.
            state.header = None;
        } else if matches!(state.body, Body::Head) {
            self.take_head(state, data)?;
            ack();
            return Ok(());
        }
        match &mut state.body {
            Body::Head => return Err(err!(EIO, "the chunk's header was lost")),
            Body::Memory { bytes, .. } => {
                bytes.extend_from_slice(data);
                ack();
            }
            Body::Stream(stream) => {
                ack();
                if !stream.is_converted() {
                    state.crc = crc32c::crc32c_append(state.crc, data);
                }
                stream.write(data, offset - state.head.len() as u64)?;
            }
            Body::File(file) => {
                ack();
                file.blob()
                    .write_at(data, offset)
                    .context(|| "cannot write to .npyfs/incoming".into())?;
                state.written.add(offset, end);
            }
        }
        state.len = state.len.max(end);
        Ok(())
    }

    /// Whether bytes up to `end` are more than the header says. A count of 0 may be provisional: a
    /// writer that patches it at its end is welcome, and is judged then.
    fn overshoots(&self, state: &State, end: u64) -> Result<bool> {
        match &state.header {
            Some(header) if end > header.file_bytes() => {
                if header.rows() == 0 {
                    Ok(true)
                } else {
                    Err(too_long(header, end))
                }
            }
            _ => Ok(false),
        }
    }

    /// The fast path up to the end of the header, and what `data` holds behind it.
    fn take_head(&self, state: &mut State, data: &[u8]) -> Result<()> {
        state.head.extend_from_slice(data);
        let header = match Header::parse(&state.head) {
            // The place of a header that will be written last.
            Err(HeaderError::Blank) => {
                state.len = state.head.len() as u64;
                return self.stage(state);
            }
            Err(error) => return Err(error.into()),
            Ok(Prefix::Incomplete { .. }) => {
                state.len = state.head.len() as u64;
                if state.head.len() > SMALL_HEAD {
                    return self.stage(state);
                }
                return Ok(());
            }
            Ok(Prefix::Complete(header)) => header,
        };
        self.dataset.admit(&header)?;
        let end = state.head.len() as u64;
        let body = state.head.split_off(header.len() as usize);
        state.len = header.len();
        state.header = Some(header);
        if self.overshoots(state, end)? {
            self.stage(state)?;
            state.header = None;
        } else {
            self.choose_place(state)?;
        }
        let at = state.len;
        self.take_in(state, &body, at, || ())
    }

    fn choose_place(&self, state: &mut State) -> Result<()> {
        let Some(header) = &state.header else {
            return Err(err!(EIO, "the chunk's header was lost"));
        };
        let len = header.body_bytes();
        if len <= SMALL_BODY
            && let Some(permit) = self.dataset.options.memory.take(len as usize)
        {
            state.body = Body::Memory {
                bytes: Vec::with_capacity(len as usize),
                _permit: permit,
            };
            return Ok(());
        }
        let conversion = match self.dataset.array() {
            Some(array) => Conversion::needed(header, array.layout.dtype()),
            None => Conversion::needed(header, header.dtype()),
        };
        let converted = conversion.is_some();
        let bands = match conversion {
            Some(conversion) => conversion.in_place(self.dataset.options.memory.share()),
            None => Some(Bands::default()),
        };
        if let Some(bands) = bands
            && let Some(stream) = self
                .dataset
                .claim_tail(header, &state.head, bands, converted)?
        {
            state.body = Body::Stream(stream);
            return Ok(());
        }
        let reserve = header.file_bytes();
        self.stage(state)?;
        match &state.body {
            Body::File(file) => file
                .blob()
                .reserve(0, reserve)
                .context(|| format!("no space in .npyfs/incoming for a chunk of {reserve} bytes")),
            _ => Ok(()),
        }
    }

    /// Moves what was received to a file, where any order of writing goes.
    fn stage(&self, state: &mut State) -> Result<()> {
        let file = match &state.body {
            Body::File(_) => return Ok(()),
            Body::Stream(stream) => self.dataset.leave_tail(stream)?,
            Body::Head | Body::Memory { .. } => {
                let file = self.dataset.stage()?;
                let store = |bytes: &[u8], at: u64| {
                    file.blob()
                        .write_at(bytes, at)
                        .context(|| "cannot write to .npyfs/incoming".into())
                };
                store(&state.head, 0)?;
                if let Body::Memory { bytes, .. } = &state.body {
                    store(bytes, state.head.len() as u64)?;
                }
                file
            }
        };
        state.body = Body::File(file);
        state.written = Coverage::up_to(state.len);
        state.head = Vec::new();
        Ok(())
    }

    /// Reads back what was written, from `offset`.
    ///
    /// # Errors
    /// The chunk's refusal, or what the store answers.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.state()?;
        match &state.phase {
            Phase::Refused(error) => return Err(error.clone()),
            &Phase::Committed(id) => {
                drop(state);
                let name = self.dataset.name_of(id)?;
                return self.dataset.read_committed(&name, buffer, offset);
            }
            Phase::Open => {}
        }
        let len = state.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..len];
        if let Body::File(file) = &state.body {
            return file
                .blob()
                .read_at(buffer, offset)
                .context(|| "cannot read the chunk back".into());
        }
        let head = &state.head[(offset as usize).min(state.head.len())..];
        let from_head = head.len().min(len);
        buffer[..from_head].copy_from_slice(&head[..from_head]);
        let rest = &mut buffer[from_head..];
        if !rest.is_empty() {
            let at = offset + from_head as u64 - state.head.len() as u64;
            match &state.body {
                Body::Memory { bytes, .. } => {
                    rest.copy_from_slice(&bytes[at as usize..at as usize + rest.len()]);
                }
                Body::Stream(stream) => stream.read(rest, at)?,
                Body::Head | Body::File(_) => {}
            }
        }
        Ok(len)
    }

    /// Cuts or extends the chunk in flight to `len` bytes.
    ///
    /// # Errors
    /// As [`Incoming::write`]; `EPERM` once it is committed, except to the length that it has.
    pub fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.state()?;
        match &state.phase {
            Phase::Refused(error) => return Err(error.clone()),
            &Phase::Committed(id) => {
                drop(state);
                let name = self.dataset.name_of(id)?;
                return self.dataset.truncate_committed(&name, len);
            }
            Phase::Open => {}
        }
        if !self.claim.go_on() {
            return Err(self.withdrawn());
        }
        if len == state.len {
            return Ok(());
        }
        state.promised = false;
        let resized = self.resize(&mut state, len);
        crate::lock(&self.face).len = state.len;
        resized.map_err(|error| self.refuse(&mut state, error))
    }

    fn resize(&self, state: &mut State, len: u64) -> Result<()> {
        if len == 0 {
            self.drop_body(state);
            state.len = 0;
            return Ok(());
        }
        self.stage(state)?;
        state.header = None;
        if let Body::File(file) = &state.body {
            file.blob()
                .set_len(len)
                .context(|| "cannot resize the staged chunk".into())?;
        }
        state.written.cut(len);
        state.len = len;
        Ok(())
    }

    fn drop_body(&self, state: &mut State) {
        if let Body::Stream(stream) = &state.body {
            self.dataset.end_stream(stream);
        }
        state.body = Body::Head;
        state.head = Vec::new();
        state.header = None;
        state.crc = 0;
    }

    /// A descriptor of this chunk is being closed. A complete chunk is committed; an incomplete one
    /// is refused if it is the process that opened it which closes it, and waits for the next close
    /// otherwise. One that is complete only by its length, with bytes that nobody wrote or with no
    /// rows yet, takes the word of the process that opened it: that it is done, and has not merely
    /// ended. The answer is `close`'s.
    ///
    /// # Errors
    /// Why the chunk was refused, now or before.
    pub fn flush<C: Into<Closer>>(&self, closer: impl FnOnce() -> C) -> Result<()> {
        let mut state = self.state()?;
        match &state.phase {
            Phase::Refused(error) => {
                self.dataset.leave(self);
                return Err(error.clone());
            }
            Phase::Committed(_) => return Ok(()),
            Phase::Open => {}
        }
        if self.claim.is_withdrawn() {
            return Err(self.withdrawn());
        }
        if state.len == 0 {
            self.claim.pause();
            return Ok(());
        }
        let reason = match self.whole(&state) {
            Ok(header) if header.is_certain(&state) => return self.commit(&mut state, &header),
            Ok(header) => match closer().into() {
                Closer::Opener => return self.commit(&mut state, &header),
                Closer::Ending => err!(ECANCELED, "its writer ended before it had written all"),
                Closer::Other => {
                    state.promised = true;
                    self.claim.pause();
                    return Ok(());
                }
            },
            Err(reason) => {
                if closer().into() == Closer::Other {
                    self.claim.pause();
                    return Ok(());
                }
                reason
            }
        };
        let error = self.refuse(&mut state, reason);
        self.dataset.leave(self);
        Err(error)
    }

    /// `fsync`: a complete chunk is committed, so that a sync of the dataset covers it.
    ///
    /// # Errors
    /// Why the chunk was refused, now or before.
    pub fn commit_if_whole(&self) -> Result<()> {
        let mut state = self.state()?;
        match &state.phase {
            Phase::Refused(error) => Err(error.clone()),
            Phase::Committed(_) => Ok(()),
            Phase::Open if self.claim.is_withdrawn() => Err(self.withdrawn()),
            Phase::Open => match self.whole(&state) {
                Ok(header) if header.is_certain(&state) => self.commit(&mut state, &header),
                _ => Ok(()),
            },
        }
    }

    fn commit(&self, state: &mut State, header: &FinalHeader) -> Result<()> {
        if !self.claim.seal() {
            return Err(self.withdrawn());
        }
        let face = self.face();
        let candidate = Candidate {
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
                state.phase = Phase::Committed(id);
                // The rows have their place now; a stream that was displaced gave up its file.
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
    fn whole(&self, state: &State) -> Result<FinalHeader> {
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
    fn refuse(&self, state: &mut State, error: Error) -> Error {
        self.claim.refuse();
        state.phase = Phase::Refused(error.clone());
        let body = std::mem::replace(&mut state.body, Body::Head);
        let kept = if matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT) {
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
        error
    }

    fn keep(&self, body: Body, state: &State) -> Result<Option<String>> {
        let header_len = state.head.len() as u64;
        let rejected = &self.dataset.rejected;
        match body {
            Body::Head => Ok(None),
            Body::Memory { bytes, .. } if bytes.is_empty() => Ok(None),
            Body::Memory { bytes, .. } => rejected.keep(&self.name, state.len, |blob| {
                blob.write_at(&state.head, 0)?;
                blob.write_at(&bytes, header_len)
            }),
            Body::File(file) => rejected.keep_file(&self.name, state.len, file),
            Body::Stream(stream) if state.len > header_len => {
                let kept = if rejected.fits(state.len) {
                    let file = self.dataset.leave_tail(&stream)?;
                    rejected.keep_file(&self.name, state.len, file)
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

    /// The last descriptor is gone: what was not committed is over. An empty chunk stays as an
    /// empty file.
    pub fn release(&self) {
        let Ok(mut state) = self.state() else {
            self.dataset.leave(self);
            return;
        };
        if matches!(state.phase, Phase::Open) {
            if self.claim.is_withdrawn() {
                self.drop_body(&mut state);
            } else if state.len == 0 {
                if let Err(error) = self.dataset.place_empty(&self.name, &self.face()) {
                    log::warn!("{}: {error}", self.dataset.label());
                }
            } else {
                match self.whole(&state) {
                    // Its last close was answered with success.
                    Ok(header) if state.promised => {
                        if let Err(error) = self.commit(&mut state, &header) {
                            log::warn!(
                                "{}: {}: {error}",
                                self.dataset.label(),
                                self.name.display()
                            );
                        }
                    }
                    Ok(_) => {
                        let reason = err!(ECANCELED, "its writer went away before closing it");
                        self.refuse(&mut state, reason);
                    }
                    Err(reason) => {
                        self.refuse(&mut state, reason);
                    }
                }
            }
        }
        drop(state);
        self.dataset.leave(self);
    }

    /// Whether the next `flush` has much to copy: then it belongs on a thread that may wait.
    pub fn flush_is_slow(&self) -> bool {
        if self.dataset.is_busy() {
            return true;
        }
        match self.state.try_lock() {
            Ok(state) => match (&state.phase, &state.body) {
                (Phase::Open, Body::File(_)) => true,
                // An incomplete one may be refused, and moved to where its bytes are kept.
                (Phase::Open, Body::Stream(stream)) => {
                    let whole = state.header.as_ref().map(Header::file_bytes);
                    stream.is_displaced() || stream.is_converted() || whole != Some(state.len)
                }
                (Phase::Open, Body::Memory { .. }) => false,
                _ => false,
            },
            // A write is being stored, or a commit is under way.
            Err(_) => true,
        }
    }

    /// Whether a write at `offset` has much to move first.
    pub fn write_is_slow(&self, offset: u64) -> bool {
        match self.state.try_lock() {
            Ok(state) => matches!(&state.body, Body::Stream(_)) && offset != state.len,
            Err(_) => false,
        }
    }
}

/// The header of a chunk that is complete.
enum FinalHeader {
    /// The one that the state holds.
    Fast,
    /// The one that its staged file begins with.
    Staged(Header, Vec<u8>),
}

impl FinalHeader {
    /// Whether the chunk is what its writer means it to be, whoever closes it: all of it was
    /// written, and its count is not one that may be filled in later.
    fn is_certain(&self, state: &State) -> bool {
        match self {
            FinalHeader::Fast => state
                .header
                .as_ref()
                .is_some_and(|header| header.rows() > 0),
            FinalHeader::Staged(header, _) => {
                header.rows() > 0 && state.written.is_whole(state.len)
            }
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
    fn place_empty(&self, name: &OsStr, face: &Face) -> Result<()> {
        let path = Path::new(name);
        let blob = match self.folder.open(path, Open::CreateNew) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            other => other.context(|| format!("cannot keep the empty file {}", name.display()))?,
        };
        super::disk::set_attributes(&*blob, face)
            .context(|| format!("cannot keep the attributes of {}", name.display()))
    }

    /// Appends a file of the store under a chunk's name, as a rename onto that name does. The file
    /// stays where it is.
    ///
    /// # Errors
    /// As those of a chunk's close.
    pub fn append_blob(&self, name: &OsStr, blob: &dyn Blob, attributes: Attributes) -> Result<()> {
        self.check_chunk_name(name)?;
        let len = blob.len().context(|| "cannot see the file's size".into())?;
        let (header, bytes) = read_header(blob, len)?;
        check_len(&header, len)?;
        self.own()?;
        self.admit(&header)?;
        let candidate = Candidate {
            name,
            head: &bytes,
            header: &header,
            attributes,
        };
        self.commit(&candidate, Rows::File(blob))?;
        self.remove_placeholder(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Options, Writing};
    use crate::npy::{Dtype, literal::Literal};

    #[test]
    fn a_blank_header_may_come_in_one_write_with_the_body_and_be_filled_in_last() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = Dataset::open(dir.path(), Options::default()).unwrap();
        let (descr, _) = Literal::parse("'<i2'").unwrap();
        let header = Header::encode(&Dtype::from_literal(&descr).unwrap(), &[3]).unwrap();
        let face = Face {
            len: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
        };
        let magic_only = [&header[..10], &[b' '; 118]].concat();
        for (name, blank) in [("a.npy", vec![0; 128]), ("b.npy", magic_only)] {
            let Writing::New(chunk) = dataset.begin(name.as_ref(), face, true).unwrap() else {
                panic!("{name} is new");
            };
            let provisional = [&blank[..], &[1, 0, 2, 0, 3, 0]].concat();
            chunk.write(&provisional, 0, || ()).unwrap();
            chunk.write(&header, 0, || ()).unwrap();
            chunk.flush(|| true).unwrap();
            chunk.release();
        }
        assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 6);
    }
}
