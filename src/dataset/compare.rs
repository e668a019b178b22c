//! Writing again under a committed name: the same bytes succeed, others are refused (P3).
//!
//! "The same" are the bytes that were written, or the bytes of the view, which differ only where
//! the chunk was converted. Bytes that come front to back are compared as they come, so that the
//! first write that differs fails; any other order is staged and compared at close. Nothing of the
//! dataset ever changes here.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use crate::array::view::View;
use crate::chunk::ChunkId;
use crate::chunk::validate::stopped_early;
use crate::chunk::written::WrittenRanges;
use crate::convert::{Conversion, Source};
use crate::dataset::{Dataset, Descriptors};
use crate::disk::Face;
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{StoreFile, read_exact_at, read_pieces};
use crate::error::{Context, Error, Result};
use crate::journal::catalog::CatalogEntry;
use crate::npy::{Header, Prefix};
use crate::wait;

/// Bytes of converted rows that are compared at once.
const PIECE: usize = 1 << 20;

/// A committed chunk as a writer sees it who has opened it once more.
#[derive(Debug)]
pub(crate) struct Comparison {
    dataset: Arc<Dataset>,
    name: OsString,
    committed: Committed,
    /// The writer began with an empty file (`O_TRUNC`), and has to write all of it.
    truncated: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All of it is written anew: after a truncation, or in place with the bytes that a converted chunk came
    /// with, which are not those of its view.
    anew: bool,
    /// After a truncation: how many bytes came front to back, all of them right.
    len: u64,
    staged: Option<TempFile>,
    /// Of the staged copy: what was written of it.
    written: WrittenRanges,
    /// Bytes came out of order or more than once, or the length was set.
    disordered: bool,
    /// What was written is not compared as a whole yet.
    unjudged: bool,
    refused: Option<Error>,
}

/// What a name stands for once it is committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Stays what it is when the chunk is renamed.
    pub(crate) id: ChunkId,
    /// Its place, attributes and checksum.
    pub receipt: CatalogEntry,
    /// Its header and rows as a file.
    pub view: View,
    /// The header that it came with.
    pub(crate) original: Arc<[u8]>,
    /// When it was committed, renamed, or had its attributes set last, in nanoseconds since 1970.
    pub changed: i64,
}

impl Committed {
    /// The size of the file that was written.
    fn original_len(&self) -> u64 {
        self.original.len() as u64 + self.view.body_len()
    }

    /// Compares `data` with the view's bytes at `offset`.
    fn differs_at(&self, data: &[u8], offset: u64) -> Result<bool> {
        self.stored().differs_at(data, offset)
    }

    fn stored(&self) -> Stored<'_> {
        Stored {
            view: &self.view,
            converted: self.receipt.converted,
            original: &self.original,
        }
    }
}

/// What the array has of a chunk.
pub(super) struct Stored<'a> {
    pub(super) view: &'a View,
    pub(super) converted: bool,
    /// The header that it came with.
    pub(super) original: &'a [u8],
}

impl Stored<'_> {
    /// Compares `data` with the view's bytes at `offset`.
    fn differs_at(&self, data: &[u8], offset: u64) -> Result<bool> {
        if offset.saturating_add(data.len() as u64) > self.view.len() {
            return Ok(true);
        }
        let mut stored = vec![0; data.len()];
        self.view.read_at(&mut stored, offset)?;
        Ok(stored != data)
    }

    /// Whether `blob` holds what was written under this name, or the view of it.
    pub(super) fn is_same(&self, blob: &dyn StoreFile, len: u64) -> Result<bool> {
        if len == self.view.len() && self.same_bytes(blob, len)? {
            return Ok(true);
        }
        if !self.converted {
            return Ok(false);
        }
        let mut head = vec![0; self.original.len()];
        if blob.read_at(&mut head, 0).context(compare_failed)? < head.len() || head != self.original
        {
            return Ok(false);
        }
        let Prefix::Complete(header) = Header::parse(&head)? else {
            return Ok(false);
        };
        if header.file_bytes() != len {
            return Ok(false);
        }
        self.same_rows(blob, &header)
    }

    fn same_bytes(&self, blob: &dyn StoreFile, len: u64) -> Result<bool> {
        let (mut same, mut at) = (true, 0);
        let mut failure = None;
        read_pieces(blob, 0, len, |piece| {
            if same && failure.is_none() {
                match self.differs_at(piece, at) {
                    Ok(differs) => same = !differs,
                    Err(error) => failure = Some(error),
                }
                at += piece.len() as u64;
            }
            Ok(())
        })
        .context(compare_failed)?;
        failure.map_or(Ok(same), Err)
    }

    fn same_rows(&self, blob: &dyn StoreFile, header: &Header) -> Result<bool> {
        let Some(conversion) = Conversion::needed(header, self.view.dtype()) else {
            return Ok(false);
        };
        let same = AtomicBool::new(true);
        let source = Source {
            read: &|offset, buffer| {
                read_exact_at(blob, buffer, header.len() + offset).context(compare_failed)
            },
            bands: None,
        };
        conversion.run(16 << 20, 1, &source, &|mut at, rows| {
            let mut stored = vec![0; rows.len().min(PIECE)];
            for rows in rows.chunks(PIECE) {
                if !same.load(Ordering::Relaxed) {
                    break;
                }
                let stored = &mut stored[..rows.len()];
                self.view.read_body(stored, at).context(compare_failed)?;
                same.fetch_and(stored == rows, Ordering::Relaxed);
                at += rows.len() as u64;
            }
            Ok(())
        })?;
        Ok(same.into_inner())
    }
}

fn compare_failed() -> String {
    "cannot compare with the committed chunk".into()
}

fn other_bytes() -> Error {
    err!(
        EEXIST,
        "committed with other bytes; a name is appended once"
    )
}

fn not_truncated(len: u64, to: u64) -> Error {
    err!(
        EPERM,
        "committed with {len} bytes, and cannot be cut or extended to {to}"
    )
}

impl Comparison {
    pub(crate) fn new(
        dataset: Arc<Dataset>,
        name: OsString,
        committed: Committed,
        truncated: bool,
    ) -> Self {
        Self {
            dataset,
            name,
            committed,
            truncated,
            state: Mutex::new(State {
                anew: truncated,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = match self.state.try_lock() {
            Err(TryLockError::WouldBlock) => {
                // A comparison as a whole is under way.
                wait::may_wait()?;
                self.state.lock()
            }
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(state)) => Err(state),
        };
        let state = state.map_err(|_| err!(EIO, "a failure inside npyfs ended this comparison"))?;
        match &state.refused {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    fn refuse(&self, state: &mut State, error: Error) -> Error {
        self.dataset.report(&self.name, &error);
        let error = error.logged();
        state.refused = Some(error.clone());
        error
    }

    /// Compares, or stages, bytes at `offset`.
    ///
    /// # Errors
    /// `EEXIST` for other bytes than the committed ones, and what the store answers.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut state = self.state()?;
        if state.anew && state.staged.is_none() && state.len > 0 && !self.goes_on(&state, offset) {
            // What came so far is copied to a file.
            wait::may_wait()?;
        }
        self.take_in(&mut state, data, offset)
            .map_err(|error| self.refuse(&mut state, error))
    }

    /// Whether these bytes are the beginning of those that a converted chunk came with.
    fn begins_as_it_came(&self, data: &[u8], offset: u64) -> bool {
        let original = &*self.committed.original;
        let len = data.len().min(original.len());
        self.committed.receipt.converted && offset == 0 && data[..len] == original[..len]
    }

    /// Whether bytes at `offset` are compared as they come.
    fn goes_on(&self, state: &State, offset: u64) -> bool {
        offset == state.len && !self.committed.receipt.converted
    }

    fn take_in(&self, state: &mut State, data: &[u8], offset: u64) -> Result<()> {
        if !state.anew {
            if !self.committed.differs_at(data, offset)? {
                return Ok(());
            }
            if !self.begins_as_it_came(data, offset) {
                return Err(other_bytes());
            }
            state.anew = true;
        }
        state.unjudged = true;
        state.disordered |= offset != state.len;
        if state.staged.is_none() && self.goes_on(state, offset) {
            if self.committed.differs_at(data, offset)? {
                return Err(other_bytes());
            }
            state.len += data.len() as u64;
            return Ok(());
        }
        let file = self.stage(state)?;
        file.blob()
            .write_at(data, offset)
            .context(|| "cannot write to .npyfs/incoming".into())?;
        let end = offset + data.len() as u64;
        state.written.add(offset, end);
        state.len = state.len.max(end);
        Ok(())
    }

    fn stage<'a>(&self, state: &'a mut State) -> Result<&'a TempFile> {
        if state.staged.is_none() {
            let file = self.dataset.stage(Holds::Other, None)?;
            let mut piece = vec![0; state.len.min(1 << 20) as usize];
            let mut at = 0;
            while at < state.len {
                let n = (state.len - at).min(piece.len() as u64) as usize;
                self.committed.view.read_at(&mut piece[..n], at)?;
                file.blob()
                    .write_at(&piece[..n], at)
                    .context(|| "cannot write to .npyfs/incoming".into())?;
                at += n as u64;
            }
            state.written = WrittenRanges::up_to(state.len);
            state.staged = Some(file);
        }
        state
            .staged
            .as_ref()
            .ok_or_else(|| err!(EIO, "the staged copy was lost"))
    }

    /// Reads what the writer sees: what it has written after a truncation, else the view.
    ///
    /// # Errors
    /// The refusal, or what the store answers.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.state()?;
        match &state.staged {
            Some(file) => file
                .blob()
                .read_at(buffer, offset)
                .context(|| "cannot read the chunk back".into()),
            None if self.truncated => {
                let len = state.len.saturating_sub(offset).min(buffer.len() as u64);
                self.committed
                    .view
                    .read_at(&mut buffer[..len as usize], offset)
            }
            None => self.committed.view.read_at(buffer, offset),
        }
    }

    /// Cuts or extends what the writer sees. `false`: it had that length.
    ///
    /// # Errors
    /// `EPERM` where that would be the committed chunk.
    pub(crate) fn set_len(&self, len: u64) -> Result<bool> {
        let mut state = self.state()?;
        let committed = self.committed.view.len();
        if !state.anew {
            return if len == committed {
                Ok(false)
            } else {
                Err(self.refuse(&mut state, not_truncated(committed, len)))
            };
        }
        if len == state.len {
            return Ok(false);
        }
        if state.staged.is_none() && state.len > 0 {
            wait::may_wait()?;
        }
        (state.unjudged, state.disordered) = (true, true);
        let file = self.stage(&mut state)?;
        file.blob()
            .set_len(len)
            .context(|| "cannot resize the staged chunk".into())?;
        state.written.cut(len);
        state.len = len;
        Ok(true)
    }

    /// A descriptor is being closed: as for a chunk in flight, but what is complete is compared, and
    /// what is not the same is refused once no other descriptor can go on with it.
    ///
    /// # Errors
    /// `EEXIST` for other bytes, `EINVAL` for some of them only, and the refusal again.
    pub(crate) fn flush(&self, left: &dyn Descriptors) -> Result<()> {
        let mut state = self.state()?;
        if state.staged.is_some() {
            wait::may_wait()?;
        }
        let Err(error) = self.compare(&mut state) else {
            return self.dataset.still_has(self.committed.id);
        };
        let final_word = !state.disordered && state.len >= self.committed.original_len();
        if !final_word {
            wait::may_wait()?;
            drop(state);
            if left.others_can_write() {
                return Ok(());
            }
            state = self.state()?;
        }
        Err(self.refuse(&mut state, error))
    }

    /// Whether what was written since the truncation is the committed chunk.
    fn compare(&self, state: &mut State) -> Result<()> {
        if !state.anew || state.len == 0 {
            return Ok(());
        }
        match &state.staged {
            Some(file) => match self.committed.stored().is_same(file.blob(), state.len) {
                Ok(true) => Ok(()),
                Ok(false) => Err(other_bytes()),
                Err(error) => Err(error),
            },
            None if state.len == self.committed.view.len() => Ok(()),
            None => Err(stopped_early(state.len, self.committed.view.len())),
        }?;
        state.unjudged = false;
        Ok(())
    }

    /// The handle is gone: what no close has judged is, for the log.
    ///
    /// # Errors
    /// Only that it has to wait: then the handle is as it was.
    pub(crate) fn release(&self) -> Result<()> {
        let mut state = match self.state() {
            Ok(state) => state,
            Err(error) if error.would_wait() => return Err(error),
            // It is refused.
            Err(_) => return Ok(()),
        };
        if state.unjudged {
            wait::may_wait()?;
            if let Err(error) = self.compare(&mut state) {
                self.refuse(&mut state, error);
            }
        }
        Ok(())
    }

    /// Mode, owner and size as the writer sees them.
    pub(crate) fn face(&self) -> Face {
        let attributes = self.committed.receipt.attributes;
        let len = match self.state.lock() {
            Ok(state) if self.truncated => state.len,
            _ => self.committed.view.len(),
        };
        Face {
            len,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: Some(attributes.mtime),
        }
    }

    /// The dataset, and the name that the chunk has now.
    ///
    /// # Errors
    /// `ESTALE` where it has none any more.
    pub(crate) fn place(&self) -> Result<(Arc<Dataset>, OsString)> {
        let name = self.dataset.name_of(self.committed.id)?;
        Ok((self.dataset.clone(), name))
    }
}

impl Dataset {
    fn committed_chunk(&self, name: &OsStr) -> Result<Committed> {
        self.chunk(name)?
            .ok_or_else(|| err!(ESTALE, "{} is not a chunk any more", name.display()))
    }

    /// A write to a chunk whose own handle has committed it already.
    pub(crate) fn compare_committed(&self, name: &OsStr, data: &[u8], offset: u64) -> Result<()> {
        if self.committed_chunk(name)?.differs_at(data, offset)? {
            let error = other_bytes();
            self.report(name, &error);
            return Err(error.logged());
        }
        Ok(())
    }

    pub(crate) fn read_committed(
        &self,
        name: &OsStr,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        self.committed_chunk(name)?.view.read_at(buffer, offset)
    }

    /// Truncation of a committed chunk: allowed to the length that it has, and to 0, which is how a
    /// producer begins that writes the same bytes again. Neither changes anything.
    ///
    /// # Errors
    /// `EPERM` to any other.
    #[doc(hidden)]
    pub fn truncate_committed(&self, name: &OsStr, len: u64) -> Result<()> {
        let has = self.committed_chunk(name)?.view.len();
        // To nothing is how a producer begins that writes the same again: by name it changes nothing.
        if len == has || len == 0 {
            Ok(())
        } else {
            Err(not_truncated(has, len))
        }
    }

    /// Whether a file of the store holds what is committed under `name`.
    ///
    /// # Errors
    /// `EEXIST` where it holds anything else; `ESTALE` where the name is not committed.
    #[doc(hidden)]
    pub fn compare_blob(&self, name: &OsStr, blob: &dyn StoreFile) -> Result<()> {
        let committed = self.committed_chunk(name)?;
        let len = blob.len().context(|| "cannot see the file's size".into())?;
        if committed.stored().is_same(blob, len)? {
            Ok(())
        } else {
            Err(other_bytes())
        }
    }
}
