//! A chunk in flight: from its creation to its commit, refusal or end.
//!
//! The header is judged as soon as its bytes are there, so that a producer hears of a mismatch
//! from the very `write` that shows it. A body that comes front to back takes the fast path: in
//! memory if it is small, else straight into the array's tail, after the others that are there, if
//! they are not too many. Everything else is a staged file, and is judged only at close.
//!
//! Two things are kept apart. What is *shared* (`status`) says whose the name is and what `stat`
//! shows: a takeover, an unlink and a commit race for it, and one wins. The *state* is what was
//! received; its lock is held for as long as a write stores its bytes, so nothing that must answer
//! at once (`stat`, a takeover) asks for it.
//!
//! A chunk is *plain* as long as its bytes came front to back, each once, with no truncation or
//! preallocation ahead of them. A plain chunk that is complete is what its producer means it to be;
//! any other that looks complete may have bytes that are still to come (`ending`).
//!
//! Lock order: state, then the dataset's writer, then a stream's state, then its array's end of
//! file. What is shared is a leaf.

mod ending;

use crate::disk::{Change, Face};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, LockResult, Mutex, MutexGuard, TryLockError};

use crate::array::stream::{Owner, Stream};
use crate::chunk::status::{Abort, HandleId, Lost, Reopened, Shared, Standing, Start};
use crate::chunk::validate::too_long;
use crate::chunk::written::WrittenRanges;
use crate::convert::Conversion;
use crate::convert::bands::Bands;
use crate::convert::budget::Permit;
use crate::dataset::Dataset;
use crate::disk::set_attributes;
use crate::disk::temp::{Holds, TempFile};
use crate::error::{Context, Error, Result};
use crate::npy::{Header, HeaderError, Prefix};
use crate::printable;
use crate::wait;
pub use ending::{Descriptors, NoOthers};

/// A body up to this size, in bytes, may collect in memory.
pub(crate) const SMALL_BODY: u64 = 1 << 20;

/// A header that is longer than this, in bytes, and does not come whole is not waited for in memory.
const SMALL_HEAD: usize = 16 << 10;

/// A chunk in flight.
#[derive(Debug)]
pub struct PendingChunk {
    dataset: Arc<Dataset>,
    name: OsString,
    shared: Shared,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
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
    written: WrittenRanges,
    /// The bytes came front to back, each once.
    plain: bool,
    /// Some bytes were written more than once, or cut off: what looks complete may be changed yet.
    rewritten: bool,
    /// A close of it as it is now was answered with 0, though it was complete and not committed.
    acknowledged: bool,
    /// A process that had it open has ended without a close while bytes of it were missing.
    abandoned: bool,
    /// Its bytes as they are now were synced: so will its rows be, once it is committed.
    synced: bool,
    /// An fsync of it was answered with 0, before its last bytes: no limit removes what came by then.
    confirmed: bool,
    /// The part of a header that an fsync has moved to the file, as long as the bytes come front to back:
    /// the write that completes it is still the one to refuse.
    part_of_header: Option<Vec<u8>>,
}

/// A panic while the state was locked.
fn failed_inside() -> Error {
    err!(EIO, "a failure inside npyfs ended this chunk")
}

impl State {
    /// The chunk is about to change.
    fn touch(&mut self) {
        self.acknowledged = false;
        self.synced = false;
    }

    /// Whether a write from `offset` to `end` has what was streamed moved to a file first: it goes on in
    /// another order, or is refused.
    fn leaves_tail(&self, offset: u64, end: u64) -> bool {
        matches!(self.body, Body::Stream(_))
            && (offset != self.len || self.header.as_ref().is_some_and(|it| end > it.file_bytes()))
    }
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
    File(TempFile),
}

impl PendingChunk {
    pub(crate) fn new(dataset: Arc<Dataset>, name: OsString, face: Face) -> Arc<PendingChunk> {
        Arc::new(PendingChunk {
            dataset,
            name,
            shared: Shared::new(face),
            state: Mutex::new(State {
                body: Body::Head,
                len: 0,
                head: Vec::new(),
                header: None,
                crc: 0,
                written: WrittenRanges::default(),
                plain: true,
                rewritten: false,
                acknowledged: false,
                abandoned: false,
                synced: false,
                confirmed: false,
                part_of_header: None,
            }),
        })
    }

    /// Its name in the dataset.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What `stat` shows.
    pub fn face(&self) -> Face {
        self.shared.face()
    }

    /// Changes what its receipt will say, or says, of mode, owner and time.
    ///
    /// # Errors
    /// Those of the journal, where the chunk is committed already.
    pub fn set_attributes(&self, change: &Change) -> Result<()> {
        self.shared.change_face(|face| {
            face.mode = change.mode.unwrap_or(face.mode);
            face.uid = change.uid.unwrap_or(face.uid);
            face.gid = change.gid.unwrap_or(face.gid);
            face.mtime = change.mtime.or(face.mtime);
        });
        let state = self.state()?;
        let face = self.face();
        match (self.shared.standing(), &state.body) {
            (Standing::Committed(id), _) => {
                let name = self.dataset.name_of(id)?;
                return self.dataset.set_attributes(&name, change);
            }
            (Standing::Open, Body::File(file)) => set_attributes(file.blob(), &face),
            (Standing::Open, Body::Stream(stream)) => stream.set_face(face),
            _ => Ok(()),
        }
        .context(|| "cannot set the attributes of the staged chunk".into())
    }

    /// What was received, poisoned where a panic has left it half done. A commit, or a write that is
    /// being stored, may hold it for long.
    fn lock(&self) -> Result<LockResult<MutexGuard<'_, State>>> {
        match self.state.try_lock() {
            Ok(state) => Ok(Ok(state)),
            Err(TryLockError::Poisoned(state)) => Ok(Err(state)),
            Err(TryLockError::WouldBlock) => {
                wait::may_wait()?;
                Ok(self.state.lock())
            }
        }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        self.lock()?.map_err(|_| failed_inside())
    }

    fn withdrawn(&self) -> Error {
        err!(
            ECANCELED,
            "the name was unlinked, renamed, or taken over by another writer"
        )
    }

    /// The first handle opens it.
    pub(crate) fn opened(&self) {
        self.shared.opened();
    }

    /// One more handle, `id`, opens it. `writes`: it can write.
    pub(crate) fn reopen(&self, id: HandleId, start: Start, writes: bool) -> Reopened {
        self.shared.reopen(id, start, writes)
    }

    /// Takes the name away for a file that is renamed onto it, if that may have it.
    pub(crate) fn take_over(&self) -> bool {
        self.shared.take_over()
    }

    /// Whether a file that is renamed onto the name may have it: no byte was written, or the handle
    /// that wrote has closed it incomplete.
    pub fn may_be_replaced(&self) -> bool {
        self.shared.may_be_replaced()
    }

    /// Takes the name away from every handle.
    pub(crate) fn abort(&self) -> Abort {
        self.shared.abort()
    }

    /// Takes the name of a chunk of no bytes away, and answers the attributes of the file that it
    /// becomes. Only where no handle is left, if it is to be `unheld`.
    pub(crate) fn lose_name_if_empty(&self, unheld: bool) -> Option<Face> {
        self.shared.lose_name_if_empty(unheld)
    }

    /// Whether `id`, which may have `written` before, may write now.
    fn claim(&self, id: HandleId, written: bool) -> Result<()> {
        self.shared.resume(id).map_err(|lost| match lost {
            Lost::Busy if !written => {
                err!(EBUSY, "another handle of this chunk has begun to write it")
            }
            Lost::Busy | Lost::TakenAway => self.withdrawn(),
        })
    }

    /// Handle `id`, which may have `written` before, writes at `offset`. `ack` is called as soon as
    /// nothing that the bytes say can refuse them, which may be before they are stored; a failure to
    /// store them is the answer to the next call.
    ///
    /// # Errors
    /// `EINVAL` for what the header shows to be wrong, `EBUSY` where another handle writes,
    /// `ECANCELED` when the name is lost, `EEXIST` for other bytes in a chunk that is committed
    /// already, and what the store answers.
    pub(crate) fn write(
        &self,
        id: HandleId,
        written: bool,
        data: &[u8],
        offset: u64,
        ack: impl FnOnce(),
    ) -> Result<()> {
        // The write before this one, which is answered before it is stored, is soon done.
        let mut state = wait::allowed(|| self.state())?;
        match self.shared.standing() {
            Standing::Refused(error) => return Err(error),
            Standing::Committed(id) => {
                drop(state);
                let name = self.dataset.name_of(id)?;
                self.dataset.compare_committed(&name, data, offset)?;
                ack();
                return Ok(());
            }
            Standing::Open | Standing::TakenAway => {}
        }
        let end = offset.saturating_add(data.len() as u64);
        if state.confirmed || state.leaves_tail(offset, end) {
            wait::may_wait()?;
        }
        self.claim(id, written)?;
        state.touch();
        let taken = self.take_in(&mut state, data, offset, || {
            // A process that asks for the size once the write has returned must see it in there.
            self.shared.change_face(|face| face.len = face.len.max(end));
            ack();
        });
        self.shared.change_face(|face| face.len = state.len);
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
        if offset != state.len || self.exceeds_header(state, end)? {
            if offset != state.len {
                state.plain = false;
            }
            self.stage(state)?;
            // In any order of writing the header may change: it is judged at close.
            state.header = None;
        } else if matches!(state.body, Body::Head) {
            self.take_head(state, data)?;
            ack();
            return Ok(());
        }
        self.judge_part_of_header(state, data, end)?;
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
                state.rewritten |= state.written.overlaps(offset, end);
                state.written.add(offset, end);
            }
        }
        state.len = state.len.max(end);
        Ok(())
    }

    /// Judges a header whose beginning an fsync has moved to the file, with the `data` that comes after it.
    fn judge_part_of_header(&self, state: &mut State, data: &[u8], end: u64) -> Result<()> {
        let Some(mut head) = state.part_of_header.take().filter(|_| state.plain) else {
            return Ok(());
        };
        head.extend_from_slice(data);
        match Header::parse(&head) {
            // Judged at close.
            Err(HeaderError::Blank) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(Prefix::Incomplete { .. }) => {
                state.part_of_header = (head.len() <= SMALL_HEAD).then_some(head);
                Ok(())
            }
            Ok(Prefix::Complete(header)) => {
                self.dataset.check_compatible(&header)?;
                state.header = Some(header);
                if self.exceeds_header(state, end)? {
                    state.header = None;
                }
                Ok(())
            }
        }
    }

    /// Whether bytes up to `end` are more than the header says. A count of 0 may be provisional: a
    /// writer that patches it at its end is welcome, and is judged then.
    fn exceeds_header(&self, state: &State, end: u64) -> Result<bool> {
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

    /// The fast path up to the end of the header, and what `data` holds after it.
    fn take_head(&self, state: &mut State, data: &[u8]) -> Result<()> {
        let before = state.head.len();
        let parsed = if before == 0 {
            Header::parse(data)
        } else {
            state.head.extend_from_slice(data);
            Header::parse(&state.head)
        };
        let complete = |state: &mut State| {
            if before == 0 {
                state.head.extend_from_slice(data);
            }
            state.len = state.head.len() as u64;
        };
        let header = match parsed {
            // The place of a header that will be written last.
            Err(HeaderError::Blank) => {
                complete(state);
                return self.stage(state);
            }
            Err(error) => return Err(error.into()),
            Ok(Prefix::Incomplete { .. }) => {
                complete(state);
                if state.head.len() > SMALL_HEAD {
                    return self.stage(state);
                }
                return Ok(());
            }
            Ok(Prefix::Complete(header)) => header,
        };
        self.dataset.check_compatible(&header)?;
        let end = (before + data.len()) as u64;
        let len = header.len();
        state.header = Some(header);
        let exceeds_header = self.exceeds_header(state, end)?;
        let (head, body) = data.split_at(len as usize - before);
        state.head.truncate(before);
        state.head.extend_from_slice(head);
        state.len = len;
        if exceeds_header {
            self.stage(state)?;
            state.header = None;
        } else {
            self.choose_body(state)?;
        }
        let at = state.len;
        self.take_in(state, body, at, || ())
    }

    fn owner(&self, head: &[u8]) -> Owner {
        Owner {
            name: self.name.clone(),
            head: head.to_vec(),
            face: Mutex::new(self.face()),
        }
    }

    fn choose_body(&self, state: &mut State) -> Result<()> {
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
            && let Some(stream) =
                self.dataset
                    .claim_tail(header, self.owner(&state.head), bands, converted)?
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
                let file = self
                    .dataset
                    .stage(Holds::Chunk(&self.name), Some(&self.face()))?;
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
        state.written = WrittenRanges::up_to(state.len);
        state.head = Vec::new();
        Ok(())
    }

    pub(crate) fn is_of_reused_names(&self) -> bool {
        self.dataset.reuses_names()
    }

    /// The dataset and the name of the chunk, once it is committed.
    pub(crate) fn committed(&self) -> Result<Option<(Arc<Dataset>, OsString)>> {
        match self.shared.standing() {
            Standing::Committed(id) => Ok(Some((self.dataset.clone(), self.dataset.name_of(id)?))),
            _ => Ok(None),
        }
    }

    /// Reads back what was written, from `offset`.
    ///
    /// # Errors
    /// The chunk's refusal, or what the store answers.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.state()?;
        match self.shared.standing() {
            Standing::Refused(error) => return Err(error),
            Standing::Committed(id) => {
                drop(state);
                let name = self.dataset.name_of(id)?;
                return self.dataset.read_committed(&name, buffer, offset);
            }
            Standing::Open | Standing::TakenAway => {}
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

    /// Cuts or extends the chunk in flight to `len` bytes. `false`: it had that length.
    ///
    /// # Errors
    /// As [`PendingChunk::write`]; `EPERM` once it is committed, except to the length that it has.
    pub(crate) fn set_len(&self, id: HandleId, written: bool, len: u64) -> Result<bool> {
        let mut state = self.state()?;
        match self.shared.standing() {
            Standing::Refused(error) => return Err(error),
            Standing::Committed(id) => {
                drop(state);
                let name = self.dataset.name_of(id)?;
                self.dataset.truncate_committed(&name, len)?;
                return Ok(false);
            }
            Standing::TakenAway => return Err(self.withdrawn()),
            Standing::Open if len == state.len => {
                if self.shared.is_writer(id) {
                    state.written.affirm_len();
                }
                return Ok(false);
            }
            Standing::Open => {}
        }
        if state.confirmed || matches!(state.body, Body::Stream(_)) {
            wait::may_wait()?;
        }
        self.claim(id, written)?;
        state.touch();
        state.plain = false;
        state.rewritten |= len < state.len;
        let resized = self.resize(&mut state, len);
        self.shared.change_face(|face| face.len = state.len);
        resized
            .map(|()| true)
            .map_err(|error| self.refuse(&mut state, error))
    }

    fn resize(&self, state: &mut State, len: u64) -> Result<()> {
        if len == 0 {
            // Its producer begins again, and may once more: it is plain no more, but what it writes now
            // is written for the first time.
            self.drop_body(state);
            state.len = 0;
            state.written = WrittenRanges::default();
            (state.rewritten, state.abandoned) = (false, false);
            return Ok(());
        }
        self.stage(state)?;
        state.header = None;
        if let Body::File(file) = &state.body {
            file.blob()
                .set_len(len)
                .context(|| "cannot resize the staged chunk".into())?;
        }
        state.written.set_len(len);
        state.len = len;
        Ok(())
    }

    /// Gives up what came of the chunk, unless an fsync has confirmed it: that is kept.
    fn drop_body(&self, state: &mut State) {
        if std::mem::take(&mut state.confirmed) && state.len > 0 {
            let name = printable::name(&self.name);
            let body = std::mem::replace(&mut state.body, Body::Head);
            state.confirmed = true;
            match self.keep(body, state) {
                Ok(Some(kept)) => self.dataset.note(&format!(
                    "{name} was begun anew, or its name taken over: what an fsync had confirmed is kept as {kept}"
                )),
                Ok(None) => {}
                Err(error) => log::error!(
                    "{}: cannot keep what an fsync has confirmed of {name}: {error}",
                    self.dataset.label()
                ),
            }
            state.confirmed = false;
        }
        if let Body::Stream(stream) = &state.body {
            self.dataset.end_stream(stream);
        }
        state.body = Body::Head;
        state.head = Vec::new();
        state.header = None;
        state.crc = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Options;
    use crate::npy::Dtype;
    use crate::npy::literal::Literal;

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
            let chunk = dataset.begin(name.as_ref(), face, Start::New).unwrap();
            let provisional = [&blank[..], &[1, 0, 2, 0, 3, 0]].concat();
            chunk.write(&provisional, 0, || ()).unwrap();
            chunk.write(&header, 0, || ()).unwrap();
            chunk.flush(&NoOthers).unwrap();
            chunk.release();
        }
        assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 6);
    }
}
