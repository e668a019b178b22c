//! The tail: the bytes after the last committed row, where chunks stream.
//!
//! A chunk that streams lays its rows where they will stay, so that its commit copies nothing, if
//! those ahead of it are committed before ([`turns`](crate::dataset::turns)). It has no right to the place:
//! when another chunk commits meanwhile, the newcomer's rows go there, and the streamed ones are
//! moved to a file in `.npyfs/incoming/` first. Only as many are moved at that moment as the newcomer
//! overwrites, so that no producer waits for another's large chunk; the rest follows piece by
//! piece with the streaming chunk's own writes.
//!
//! A chunk that is to be converted streams too, a Fortran-ordered one in [`Bands`]: its commit
//! converts it where it lies.
//!
//! Lock order: the dataset's writer, then [`Stream`]'s state, then its layout's end of file.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::array::view::Layout;
use crate::convert::bands::Bands;
use crate::disk::Face;
use crate::disk::temp::{Holds, TempFile};
use crate::disk::{StoreDir, StoreFile, copy, read_exact_at, set_attributes};
use crate::error::{Context, Error, Result};

/// Moved at the most with each write that follows a displacement, beyond the write's own size.
const BACKLOG_STEP: u64 = 4 << 20;

/// Copied at once where a stream in bands becomes a file, in bytes.
const PIECE: u64 = 4 << 20;

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
    /// Its header as it came, which goes in front of a displaced body.
    pub(crate) head: Vec<u8>,
    pub(crate) face: Mutex<Face>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    layout: Arc<Layout>,
    /// Keeps the file that `layout` writes to, where it is not `data.npy` yet.
    _unborn: Option<Arc<NewArray>>,
    owner: Owner,
    /// How many bytes the body is to have.
    body_len: u64,
    /// In which order they are stored: all offsets but those that `write` and `read` are given are
    /// of what is stored.
    bands: Bands,
    /// The rows are not these bytes: the commit converts them.
    converted: bool,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where in the backing file the chunk's first row lies.
    base: u64,
    /// How far what was written in the tail reaches after `base`; in bands, with gaps.
    streamed: u64,
    /// Bytes of the body that were received.
    received: u64,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Tail,
    /// What is stored below `moved` is in the file; what is up to `streamed` still in the tail; and
    /// the rest goes to the file.
    Displaced {
        file: TempFile,
        moved: u64,
    },
    /// The move failed, and bytes are lost: the chunk must be refused.
    Lost(Error),
    /// Taken by the chunk's own commit or by its end.
    Taken,
}

impl Home {
    fn blob(&self) -> Option<Arc<dyn StoreFile>> {
        match self {
            Home::Displaced { file, .. } => Some(file.shared_blob()),
            Home::Tail | Home::Lost(_) | Home::Taken => None,
        }
    }
}

/// What became of a stream when its chunk asked for it back.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it lies after the last committed row.
    InPlace,
    /// It was displaced; this file holds all of it, in the same order.
    TempFile(TempFile),
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
            body_len,
            bands,
            converted,
            began: Instant::now(),
            state: Mutex::new(State {
                base,
                streamed: 0,
                received: 0,
                home: Home::Tail,
            }),
        })
    }

    /// The chunk's attributes have changed.
    pub(crate) fn set_face(&self, face: Face) -> io::Result<()> {
        *crate::lock(&self.owner.face) = face;
        match self.lock().map(|state| state.home.blob()) {
            Ok(Some(blob)) => set_attributes(&*blob, &face),
            Ok(None) | Err(_) => Ok(()),
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

    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        self.state
            .lock()
            .map_err(|_| err!(EIO, "a failure inside npyfs ended this chunk's stream"))
    }

    /// How many bytes its body is to have.
    pub(crate) fn body_len(&self) -> u64 {
        self.body_len
    }

    /// Where its body begins, if all that came of it lies in the tail.
    pub(crate) fn place(&self) -> Option<u64> {
        let state = self.lock().ok()?;
        matches!(state.home, Home::Tail).then_some(state.base)
    }

    /// The end of what it has or is to have in the tail; `None` where that is nothing.
    pub(crate) fn reach(&self) -> Option<u64> {
        let state = self.lock().ok()?;
        match &state.home {
            Home::Tail => Some(state.base + self.body_len),
            Home::Displaced { moved, .. } if *moved < state.streamed => {
                Some(state.base + state.streamed)
            }
            Home::Displaced { .. } | Home::Lost(_) | Home::Taken => None,
        }
    }

    /// Whether it has or is to have bytes below `end`.
    pub(crate) fn begins_before(&self, end: u64) -> bool {
        self.lock().map_or(true, |state| state.base < end)
    }

    /// How long it will take until all of it has come, if the rest comes as the first part did.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let received = self.lock().ok()?.received;
        let left = self.body_len.saturating_sub(received) as f64;
        let share = left / received as f64; // infinite where nothing came
        Duration::try_from_secs_f64(self.began.elapsed().as_secs_f64() * share).ok()
    }

    /// Reserves the space for what is still to come, where that is to be in the tail.
    pub(crate) fn reserve(&self) -> io::Result<()> {
        let missing = self.lock().ok().and_then(|state| match state.home {
            Home::Tail => Some(state.streamed..self.body_len),
            _ => None,
        });
        match (missing, self.base()) {
            (Some(missing), Ok(base)) => {
                let len = missing.end.saturating_sub(missing.start);
                // A failure gives back what was got.
                let _end = crate::write(&self.layout.end_of_file);
                self.layout.data.reserve(base + missing.start, len)
            }
            _ => Ok(()),
        }
    }

    /// Stores the next bytes of the body, which begin at `offset` in it.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut state = self.lock()?;
        let State {
            base,
            streamed,
            received,
            home,
        } = &mut *state;
        match home {
            Home::Tail => self
                .bands
                .scatter(offset, data, &mut |at, bytes| {
                    self.layout.write_tail(bytes, *base + at)?;
                    *streamed = (*streamed).max(at + bytes.len() as u64);
                    Ok(())
                })
                .context(|| "cannot write to the array's tail".into())?,
            Home::Displaced { file, moved } => {
                let step = BACKLOG_STEP + data.len() as u64;
                let until = moved.saturating_add(step);
                self.move_until(*base, file, moved, *streamed, until)
                    .and_then(|()| {
                        self.bands.scatter(offset, data, &mut |at, bytes| {
                            self.each_home(*moved, *streamed, at, bytes.len(), |in_file, range| {
                                let bytes = &bytes[range.start..range.end];
                                let at = at + range.start as u64;
                                if in_file {
                                    file.blob()
                                        .write_at(bytes, self.owner.head.len() as u64 + at)
                                } else {
                                    self.layout.write_tail(bytes, *base + at)
                                }
                            })
                        })
                    })
                    .context(|| "cannot write to .npyfs/incoming".into())?;
            }
            Home::Lost(error) => return Err(error.clone()),
            Home::Taken => return Err(err!(EIO, "the chunk's stream has ended")),
        }
        *received = offset + data.len() as u64;
        Ok(())
    }

    /// Divides the `len` bytes stored from `at` on, of a displaced stream, into those that are in
    /// its file and those that are in the tail: `each(in the file, which of them)`.
    fn each_home(
        &self,
        moved: u64,
        streamed: u64,
        at: u64,
        len: usize,
        mut each: impl FnMut(bool, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = at + done as u64;
            let (in_file, until) = if at < moved {
                (true, moved)
            } else if at < streamed {
                (false, streamed)
            } else {
                (true, u64::MAX)
            };
            let end = done + (until - at).min((len - done) as u64) as usize;
            each(in_file, done..end)?;
            done = end;
        }
        Ok(())
    }

    /// Moves what is stored below `until`, of what reaches up to `streamed`.
    fn move_until(
        &self,
        base: u64,
        file: &mut TempFile,
        moved: &mut u64,
        streamed: u64,
        until: u64,
    ) -> io::Result<()> {
        let until = until.min(streamed);
        if *moved < until {
            let to = self.owner.head.len() as u64 + *moved;
            copy(
                &*self.layout.data,
                base + *moved,
                file.blob(),
                to,
                until - *moved,
            )?;
            *moved = until;
        }
        // From now on it has no gap.
        if *moved >= streamed && self.bands == Bands::default() {
            file.becomes(Holds::Chunk(&self.owner.name))?;
        }
        Ok(())
    }

    /// Makes way for a commit that fills the backing file up to `end`. Called with the writer
    /// locked. `true`: this stream has nothing left in the tail.
    ///
    /// A failure is this chunk's own, never the newcomer's: its next write and close report it.
    pub(crate) fn make_way(&self, folder: &Arc<dyn StoreDir>, end: u64) -> bool {
        let Ok(mut state) = self.lock() else {
            return true;
        };
        let State {
            base,
            streamed,
            home,
            ..
        } = &mut *state;
        if let Home::Tail = home {
            match self.new_home(folder) {
                Ok(file) => *home = Home::Displaced { file, moved: 0 },
                Err(error) => *home = Home::Lost(lost(error)),
            }
        }
        let Home::Displaced { file, moved } = home else {
            return true;
        };
        let until = end.saturating_sub(*base);
        match self.move_until(*base, file, moved, *streamed, until) {
            Ok(()) => *moved >= *streamed,
            Err(error) => {
                *home = Home::Lost(lost(error));
                true
            }
        }
    }

    fn face(&self) -> Face {
        *crate::lock(&self.owner.face)
    }

    fn new_home(&self, folder: &Arc<dyn StoreDir>) -> io::Result<TempFile> {
        let holds = Holds::Scattered(&self.owner.name);
        let file = TempFile::create(folder, holds, Some(&self.face()))?;
        file.blob().write_at(&self.owner.head, 0)?;
        // The space after the tail was reserved for this chunk, which needs it here now.
        {
            let _end = crate::write(&self.layout.end_of_file);
            self.layout.data.unreserve()?;
        }
        file.blob()
            .reserve(0, self.owner.head.len() as u64 + self.body_len)?;
        Ok(file)
    }

    /// Makes the stream a file at once, with the bytes in the order in which they came: the chunk
    /// goes on in another order than front to back. Called with the writer locked.
    pub(crate) fn take_file(&self, folder: &Arc<dyn StoreDir>) -> Result<TempFile> {
        if self.bands != Bands::default() {
            let file = self.copied(folder)?;
            self.lock()?.home = Home::Taken;
            return Ok(file);
        }
        self.make_way(folder, u64::MAX);
        match self.take()? {
            Outcome::TempFile(file) => Ok(file),
            Outcome::InPlace => Err(err!(EIO, "the chunk's stream has ended")),
        }
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
        let received = self.lock()?.received;
        let mut piece = vec![0; received.min(PIECE) as usize];
        let mut at = 0;
        while at < received {
            let n = (received - at).min(PIECE);
            let piece = &mut piece[..n as usize];
            self.read(piece, at)?;
            store(&file, piece, self.owner.head.len() as u64 + at)?;
            at += n;
        }
        Ok(file)
    }

    /// Whether nothing of it is in the tail any more.
    pub(crate) fn has_left(&self) -> bool {
        self.lock().map_or(true, |state| match &state.home {
            Home::Tail => false,
            Home::Displaced { moved, .. } => *moved >= state.streamed,
            Home::Lost(_) | Home::Taken => true,
        })
    }

    /// Where its body begins in its layout's backing file.
    pub(crate) fn base(&self) -> Result<u64> {
        Ok(self.lock()?.base)
    }

    /// Moves what is still in the tail, if the stream was displaced: to be called before `take`
    /// with the writer unlocked, so that no producer waits for the copy.
    pub(crate) fn drain(&self) -> Result<()> {
        let mut state = self.lock()?;
        let State {
            base,
            streamed,
            home,
            ..
        } = &mut *state;
        match home {
            Home::Displaced { file, moved } => self
                .move_until(*base, file, moved, *streamed, *streamed)
                .context(|| "cannot write to .npyfs/incoming".into()),
            Home::Lost(error) => Err(error.clone()),
            Home::Tail | Home::Taken => Ok(()),
        }
    }

    /// Ends the stream for its own chunk's commit. Called with the writer locked.
    pub(crate) fn take(&self) -> Result<Outcome> {
        let mut state = self.lock()?;
        let (base, streamed) = (state.base, state.streamed);
        match std::mem::replace(&mut state.home, Home::Taken) {
            Home::Tail => Ok(Outcome::InPlace),
            Home::Displaced {
                mut file,
                mut moved,
            } => {
                self.move_until(base, &mut file, &mut moved, streamed, streamed)
                    .context(|| "cannot write to .npyfs/incoming".into())?;
                Ok(Outcome::TempFile(file))
            }
            Home::Lost(error) => {
                state.home = Home::Lost(error.clone());
                Err(error)
            }
            Home::Taken => Err(err!(EIO, "the chunk's stream has ended")),
        }
    }

    /// Reads bytes of the body that were written, from `offset` in it.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let state = self.lock()?;
        let in_tail =
            |buffer: &mut [u8], at| read_exact_at(&*self.layout.data, buffer, state.base + at);
        match &state.home {
            Home::Tail => self
                .bands
                .gather(offset, buffer, &mut |at, piece| in_tail(piece, at)),
            Home::Displaced { file, moved } => {
                self.bands.gather(offset, buffer, &mut |at, piece| {
                    self.each_home(*moved, state.streamed, at, piece.len(), |in_file, range| {
                        let at = at + range.start as u64;
                        let piece = &mut piece[range];
                        if in_file {
                            read_exact_at(file.blob(), piece, self.owner.head.len() as u64 + at)
                        } else {
                            in_tail(piece, at)
                        }
                    })
                })
            }
            Home::Lost(error) => return Err(error.clone()),
            Home::Taken => return Err(err!(EIO, "the chunk's stream has ended")),
        }
        .context(|| "cannot read the chunk back".into())
    }
}

fn lost(error: io::Error) -> Error {
    Error::io(
        error,
        "cannot move the chunk out of the array's tail to .npyfs/incoming",
    )
}
