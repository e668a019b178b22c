//! A chunk that streams lays its rows after the last committed one, where they will stay, so that its
//! commit copies nothing, if those ahead of it are committed before ([`turns`](crate::dataset::turns)).
//!
//! It has no right to the place. What another chunk's commit overwrites of it is spilled to a file in
//! `.npyfs/incoming/` first; all else stays where it is, and the rest goes on there. So the body lies in
//! two parts: its beginning in the file, and what follows in the tail. Its own commit shifts that to its
//! place, and puts the beginning before it. No byte is copied twice, unless it was overwritten.
//!
//! A chunk that is to be converted streams too, a Fortran-ordered one in [`Bands`]: its commit
//! converts it where it lies. All offsets here but those that `write` and `read` are given are of what
//! is stored.
//!
//! Lock order: the dataset's writer, then [`Stream`]'s state, then its layout's end of file.

use std::ffi::OsString;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::array::view::Layout;
use crate::convert::bands::Bands;
use crate::disk::Face;
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{StoreDir, copy, read_exact_at, set_attributes};
use crate::error::{Context, Error, Result};

/// Copied at once, in bytes.
const PIECE: u64 = 1 << 20;

/// Spilled at once, in bytes, if so much is there: a stream that small chunks overwrite one after the
/// other is not asked for each of them.
const SPILL: u64 = 1 << 20;

/// The array of a dataset that has no chunk yet: a file in `.npyfs/incoming/` until the first
/// commit makes it `data.npy`.
#[derive(Debug)]
pub(crate) struct NewArray {
    pub(crate) layout: Arc<Layout>,
    /// Taken at birth.
    pub(crate) file: Mutex<Option<TempFile>>,
}

/// The chunk that streams.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) name: OsString,
    /// Its header as it came, which goes in front of what is spilled.
    pub(crate) head: Vec<u8>,
    pub(crate) face: Mutex<Face>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    layout: Arc<Layout>,
    /// Keeps the file that `layout` writes to, where it is not `data.npy` yet.
    _unborn: Option<Arc<NewArray>>,
    owner: Owner,
    /// Where in the backing file the chunk's first row lies, or would if it had not been overwritten.
    base: u64,
    /// How many bytes the body is to have.
    body_len: u64,
    /// In which order they are stored.
    bands: Bands,
    /// The rows are not these bytes: the commit converts them.
    converted: bool,
    began: Instant,
    /// Bytes of the body that were received.
    received: AtomicU64,
    /// Where in the backing file that begins which a commit must not overwrite. Changes with the writer
    /// locked, so a commit need not ask for the state.
    keeps_from: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How far what was written in the tail reaches after the base; in bands, with gaps.
    streamed: u64,
    spill: Option<Spill>,
    /// It is over: the chunk's own commit or its end has taken it, or bytes were lost.
    over: Option<Error>,
}

/// The beginning of the body, moved out of the tail.
#[derive(Debug)]
struct Spill {
    /// After the chunk's header.
    file: TempFile,
    /// What is stored before this is in the file, all else in the tail: also what is yet to come.
    end: u64,
}

fn ended() -> Error {
    err!(EIO, "the chunk's stream has ended")
}

fn cannot_spill() -> String {
    "cannot move the chunk out of the array's tail to .npyfs/incoming".into()
}

impl Stream {
    pub(crate) fn new(
        layout: Arc<Layout>,
        new_array: Option<Arc<NewArray>>,
        base: u64,
        owner: Owner,
        body_len: u64,
        bands: Bands,
        converted: bool,
    ) -> Arc<Stream> {
        Arc::new(Stream {
            layout,
            _unborn: new_array,
            owner,
            base,
            body_len,
            bands,
            converted,
            began: Instant::now(),
            received: AtomicU64::new(0),
            keeps_from: AtomicU64::new(base),
            state: Mutex::default(),
        })
    }

    /// The chunk's attributes have changed.
    pub(crate) fn set_face(&self, face: Face) -> io::Result<()> {
        *crate::lock(&self.owner.face) = face;
        match self.lock() {
            Ok(state) => match &state.spill {
                Some(spill) => set_attributes(spill.file.blob(), &face),
                None => Ok(()),
            },
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub(crate) fn bands(&self) -> &Bands {
        &self.bands
    }

    /// Whether the commit has to convert it.
    pub(crate) fn is_converted(&self) -> bool {
        self.converted
    }

    /// # Errors
    /// Why it is over.
    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let failed = |_| err!(EIO, "a failure inside npyfs ended this chunk's stream");
        let state = self.state.lock().map_err(failed)?;
        match &state.over {
            None => Ok(state),
            Some(error) => Err(error.clone()),
        }
    }

    /// How many bytes its body is to have.
    pub(crate) fn body_len(&self) -> u64 {
        self.body_len
    }

    /// Where in its layout's backing file it was given room.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The end of that room.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.body_len
    }

    /// Whether nothing was spilled of it, and its commit has not begun.
    pub(crate) fn is_all_in_the_tail(&self) -> bool {
        self.keeps_from.load(Ordering::Acquire) == self.base
    }

    /// Whether nothing of it is in the tail any more, nor will be.
    pub(crate) fn has_left(&self) -> bool {
        self.keeps_from.load(Ordering::Acquire) >= self.end()
    }

    /// How long it will take until all of it has come, if the rest comes as the first part did.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let received = self.received.load(Ordering::Relaxed);
        let left = self.body_len.saturating_sub(received) as f64;
        let share = left / received as f64; // infinite where nothing came
        Duration::try_from_secs_f64(self.began.elapsed().as_secs_f64() * share).ok()
    }

    /// Reserves the space for what is still to come, where that is to be in the tail.
    pub(crate) fn reserve(&self) -> io::Result<()> {
        let Ok(from) = self.lock().map(|state| state.streamed.max(state.spilled())) else {
            return Ok(());
        };
        // A failure gives back what was got.
        let _end = crate::write(&self.layout.end_of_file);
        let missing = self.body_len.saturating_sub(from);
        self.layout.data.reserve(self.base + from, missing)
    }

    /// Stores the next bytes of the body, which begin at `offset` in it.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut state = self.lock()?;
        self.bands
            .scatter(offset, data, &mut |at, bytes| {
                self.store(&mut state, at, bytes)
            })
            .context(|| "cannot write the rows".into())?;
        let received = offset + data.len() as u64;
        self.received.store(received, Ordering::Relaxed);
        Ok(())
    }

    fn store(&self, state: &mut State, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (low, high) = bytes.split_at(state.spilled_of(at, bytes.len()));
        if let Some(spill) = &state.spill
            && !low.is_empty()
        {
            spill.file.blob().write_at(low, self.in_file(at))?;
        }
        if !high.is_empty() {
            let at = at + low.len() as u64;
            self.layout.write_tail(high, self.base + at)?;
            state.streamed = state.streamed.max(at + high.len() as u64);
        }
        Ok(())
    }

    /// Reads bytes of the body that were written, from `offset` in it.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let state = self.lock()?;
        self.bands
            .gather(offset, buffer, &mut |at, piece| {
                let (low, high) = piece.split_at_mut(state.spilled_of(at, piece.len()));
                if let Some(spill) = &state.spill {
                    read_exact_at(spill.file.blob(), low, self.in_file(at))?;
                }
                read_exact_at(&*self.layout.data, high, self.base + at + low.len() as u64)
            })
            .context(|| "cannot read the chunk back".into())
    }

    /// Where in the file of what is spilled a byte of the body goes.
    fn in_file(&self, at: u64) -> u64 {
        self.owner.head.len() as u64 + at
    }

    /// Makes way for a commit that fills the backing file up to `end`. Called with the writer
    /// locked. `true`: this stream has nothing left in the tail.
    ///
    /// A failure is this chunk's own, never the newcomer's: its next write and close report it.
    pub(crate) fn make_way(&self, folder: &Arc<dyn StoreDir>, end: u64) -> bool {
        if end > self.keeps_from.load(Ordering::Acquire)
            && let Ok(mut state) = self.lock()
        {
            let more = (state.spilled() + SPILL).min(state.streamed);
            let until = more.max(end - self.base);
            if let Err(error) = self.spill(folder, &mut state, until) {
                self.ends_with(&mut state, Error::io(error, cannot_spill()));
            }
        }
        self.has_left()
    }

    /// Moves what is stored before `until` to the file.
    fn spill(&self, folder: &Arc<dyn StoreDir>, state: &mut State, until: u64) -> io::Result<()> {
        let spill = match &mut state.spill {
            Some(spill) => spill,
            none => none.insert(self.new_spill(folder)?),
        };
        let until = until.min(self.body_len);
        let (from, to) = (self.base + spill.end, self.in_file(spill.end));
        let len = until.min(state.streamed).saturating_sub(spill.end);
        copy(&*self.layout.data, from, spill.file.blob(), to, len)?;
        // From now on all that came is in it, with no gap.
        if until == self.body_len && self.bands == Bands::default() {
            spill.file.becomes(Holds::Chunk(&self.owner.name))?;
        }
        spill.end = until;
        let keeps_from = self.base + until;
        self.keeps_from.store(keeps_from, Ordering::Release);
        Ok(())
    }

    fn new_spill(&self, folder: &Arc<dyn StoreDir>) -> io::Result<Spill> {
        let holds = Holds::Scattered(&self.owner.name);
        let file = TempFile::create(folder, holds, Some(&self.face()))?;
        file.blob().write_at(&self.owner.head, 0)?;
        Ok(Spill { file, end: 0 })
    }

    fn face(&self) -> Face {
        *crate::lock(&self.owner.face)
    }

    fn ends_with(&self, state: &mut State, error: Error) {
        state.over = Some(error);
        self.keeps_from.store(self.end(), Ordering::Release);
    }

    /// Makes the stream a file at once, with the bytes in the order in which they came: the chunk
    /// goes on in another order than front to back. Called with the writer locked.
    pub(crate) fn take_file(&self, folder: &Arc<dyn StoreDir>) -> Result<TempFile> {
        if self.bands != Bands::default() {
            let file = self.copied(folder)?;
            self.ends_with(&mut *self.lock()?, ended());
            return Ok(file);
        }
        let mut state = self.lock()?;
        self.spill(folder, &mut state, self.body_len)
            .context(cannot_spill)?;
        self.ends_with(&mut state, ended());
        let spill = state.spill.take().ok_or_else(ended)?;
        Ok(spill.file)
    }

    fn copied(&self, folder: &Arc<dyn StoreDir>) -> Result<TempFile> {
        let store = |file: &TempFile, bytes: &[u8], at| {
            file.blob()
                .write_at(bytes, at)
                .context(|| "cannot write to .npyfs/incoming".into())
        };
        let holds = Holds::Chunk(&self.owner.name);
        let file = TempFile::create(folder, holds, Some(&self.face()))
            .context(|| "cannot make a file in .npyfs/incoming".into())?;
        store(&file, &self.owner.head, 0)?;
        let received = self.received.load(Ordering::Relaxed);
        let mut piece = vec![0; received.min(PIECE) as usize];
        let mut at = 0;
        while at < received {
            let n = (received - at).min(PIECE);
            let piece = &mut piece[..n as usize];
            self.read(piece, at)?;
            store(&file, piece, self.in_file(at))?;
            at += n;
        }
        Ok(file)
    }

    /// Ends the stream for its own chunk's commit: lays the body, as it is stored, into the file of
    /// `layout` from `start` on. Called with the writer locked, when all others have made way.
    pub(crate) fn settle(&self, layout: &Arc<Layout>, start: u64) -> Result<()> {
        let mut state = self.lock()?;
        self.ends_with(&mut state, ended());
        let spilled = state.spilled();
        let in_place = self.base == start && Arc::ptr_eq(layout, &self.layout);
        let in_tail = if in_place { 0 } else { self.body_len - spilled };
        // What was spilled may have to go where the rest has lain.
        self.shift(self.base + spilled, layout, start + spilled, in_tail)
            .and_then(|()| match &state.spill {
                // Its file is removed with the stream, when the writer is free again.
                Some(spill) => copy(
                    spill.file.blob(),
                    self.in_file(0),
                    &*layout.data,
                    start,
                    spilled,
                ),
                None => Ok(()),
            })
            .context(|| "cannot move the rows to their place".into())
    }

    /// Copies `len` bytes of the tail, which begin at `from`, to where they may overlap with themselves.
    fn shift(&self, from: u64, layout: &Layout, to: u64, len: u64) -> io::Result<()> {
        let mut piece = vec![0; len.min(PIECE) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PIECE);
            // Upwards from the end: no byte is written to before it is read.
            let at = if to > from { len - done - n } else { done };
            let piece = &mut piece[..n as usize];
            read_exact_at(&*self.layout.data, piece, from + at)?;
            layout.write_tail(piece, to + at)?;
            done += n;
        }
        Ok(())
    }
}

impl State {
    fn spilled(&self) -> u64 {
        self.spill.as_ref().map_or(0, |spill| spill.end)
    }

    /// How many of the `len` bytes that are stored from `at` on are in the file, or go there.
    fn spilled_of(&self, at: u64, len: usize) -> usize {
        self.spilled().saturating_sub(at).min(len as u64) as usize
    }
}
