//! How a chunk in flight ends: committed, refused, or left by its writer.

use std::ffi::OsStr;
use std::path::Path;

use super::super::commit::{Candidate, Rows};
use super::super::disk::{Open, set_attributes};
use super::super::journal::Attributes;
use super::super::judge::{check_len, no_header, read_header};
use super::super::{Dataset, clock};
use super::{Body, Closer, Face, Incoming, Phase, State};
use crate::error::{Context, Errno, Error, Result};
use crate::npy::Header;

impl Incoming {
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
    pub(super) fn refuse(&self, state: &mut State, error: Error) -> Error {
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
        let face = &self.face();
        match body {
            Body::Head => Ok(None),
            Body::Memory { bytes, .. } if bytes.is_empty() => Ok(None),
            Body::Memory { bytes, .. } => rejected.keep(&self.name, face, state.len, |blob| {
                blob.write_at(&state.head, 0)?;
                blob.write_at(&bytes, header_len)
            }),
            Body::File(file) => rejected.keep_file(&self.name, face, state.len, file),
            Body::Stream(stream) if state.len > header_len => {
                let kept = if rejected.fits(state.len) {
                    let file = self.dataset.leave_tail(&stream)?;
                    rejected.keep_file(&self.name, face, state.len, file)
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
                    stream.is_converted()
                        || whole != Some(state.len)
                        || self.dataset.is_out_of_turn(stream)
                }
                (Phase::Open, Body::Memory { .. }) => false,
                _ => false,
            },
            // A write is being stored, or a commit is under way.
            Err(_) => true,
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
        set_attributes(&*blob, face)
            .context(|| format!("cannot keep the attributes of {}", name.display()))
    }
}
