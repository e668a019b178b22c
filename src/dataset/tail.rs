//! The tail: the bytes behind the last committed row, where one chunk at a time may stream.
//!
//! A chunk that streams lays its rows where they will stay, so that its commit copies nothing. It
//! has no right to the place: when another chunk commits meanwhile, the newcomer's rows go there,
//! and the streamed ones are moved to a file in `.npyfs/incoming/` first. Only as many are moved at
//! that moment as the newcomer overwrites, so that nobody waits for a large chunk of somebody
//! else's; the rest follows piece by piece with the streaming chunk's own writes. Until all are
//! moved no other chunk may stream.
//!
//! Lock order: the dataset's writer, then [`Stream`]'s state.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Folder, copy, read_exact_at};
use super::staged::Staged;
use super::view::Layout;
use crate::error::{Context, Error, Result};

/// Moved at the most with each write that follows a displacement, beyond the write's own size.
const BACKLOG_STEP: u64 = 4 << 20;

/// The array of a dataset that has no chunk yet: a file in `.npyfs/incoming/` until the first
/// commit makes it `data.npy`.
#[derive(Debug)]
pub(crate) struct Unborn {
    pub(crate) layout: Arc<Layout>,
    /// Taken at birth.
    pub(crate) file: Mutex<Option<Staged>>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    layout: Arc<Layout>,
    /// Keeps the file that `layout` writes to, where it is not `data.npy` yet.
    _unborn: Option<Arc<Unborn>>,
    /// The chunk's header as it came, which goes in front of a displaced body.
    head: Vec<u8>,
    /// How many bytes the body is to have.
    body_len: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where in the backing file the chunk's first row lies.
    base: u64,
    /// Bytes of the body that were written behind `base`.
    streamed: u64,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Tail,
    /// Body bytes below `moved` are in the file; those up to `streamed` still in the tail.
    Displaced {
        file: Staged,
        moved: u64,
    },
    /// The move failed, and bytes are lost: the chunk must be refused.
    Lost(Error),
    /// Taken by the chunk's own commit or by its end.
    Taken,
}

/// What became of a stream when its chunk asked for it back.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it lies behind the last committed row.
    InPlace,
    /// It was displaced; this file holds all of it.
    Staged(Staged),
}

impl Stream {
    pub(crate) fn new(
        layout: Arc<Layout>,
        unborn: Option<Arc<Unborn>>,
        base: u64,
        head: Vec<u8>,
        body_len: u64,
    ) -> Arc<Stream> {
        Arc::new(Stream {
            layout,
            _unborn: unborn,
            head,
            body_len,
            state: Mutex::new(State {
                base,
                streamed: 0,
                home: Home::Tail,
            }),
        })
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        self.state
            .lock()
            .map_err(|_| err!(EIO, "a failure inside npyfs ended this chunk's stream"))
    }

    /// Stores the next bytes of the body, which begin at `offset` in it.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut state = self.lock()?;
        let State {
            base,
            streamed,
            home,
        } = &mut *state;
        match home {
            Home::Tail => {
                self.layout
                    .data
                    .write_at(data, *base + offset)
                    .context(|| "cannot write to the array's tail".into())?;
                *streamed = offset + data.len() as u64;
                Ok(())
            }
            Home::Displaced { file, moved } => {
                let step = BACKLOG_STEP + data.len() as u64;
                let until = (*streamed).min(moved.saturating_add(step));
                self.move_until(*base, file, moved, until)
                    .and_then(|()| file.blob().write_at(data, self.head.len() as u64 + offset))
                    .context(|| "cannot write to .npyfs/incoming".into())
            }
            Home::Lost(error) => Err(error.clone()),
            Home::Taken => Err(err!(EIO, "the chunk's stream has ended")),
        }
    }

    fn move_until(&self, base: u64, file: &Staged, moved: &mut u64, until: u64) -> io::Result<()> {
        if *moved < until {
            let to = self.head.len() as u64 + *moved;
            copy(
                &*self.layout.data,
                base + *moved,
                file.blob(),
                to,
                until - *moved,
            )?;
            *moved = until;
        }
        Ok(())
    }

    /// Makes way for a commit that fills the backing file up to `end`. Called with the writer
    /// locked. `true`: this stream has nothing left in the tail.
    ///
    /// A failure is this chunk's own, never the newcomer's: its next write and close report it.
    pub(crate) fn make_way(&self, folder: &Arc<dyn Folder>, end: u64) -> bool {
        let Ok(mut state) = self.lock() else {
            return true;
        };
        let State {
            base,
            streamed,
            home,
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
        let until = (*streamed).min(end.saturating_sub(*base));
        match self.move_until(*base, file, moved, until) {
            Ok(()) => *moved >= *streamed,
            Err(error) => {
                *home = Home::Lost(lost(error));
                true
            }
        }
    }

    fn new_home(&self, folder: &Arc<dyn Folder>) -> io::Result<Staged> {
        let file = Staged::create(folder)?;
        file.blob().write_at(&self.head, 0)?;
        // The space behind the tail was reserved for this chunk, which needs it here now.
        self.layout.data.unreserve()?;
        file.blob()
            .reserve(0, self.head.len() as u64 + self.body_len)?;
        Ok(file)
    }

    /// Makes the stream a file at once: the chunk goes on in another order than front to back.
    /// Called with the writer locked.
    pub(crate) fn take_file(&self, folder: &Arc<dyn Folder>) -> Result<Staged> {
        self.make_way(folder, u64::MAX);
        match self.take()? {
            Outcome::Staged(file) => Ok(file),
            Outcome::InPlace => Err(err!(EIO, "the chunk's stream has ended")),
        }
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
    /// with the writer unlocked, so that nobody waits for the copy.
    pub(crate) fn drain(&self) -> Result<()> {
        let mut state = self.lock()?;
        let State {
            base,
            streamed,
            home,
        } = &mut *state;
        match home {
            Home::Displaced { file, moved } => self
                .move_until(*base, file, moved, *streamed)
                .context(|| "cannot write to .npyfs/incoming".into()),
            Home::Lost(error) => Err(error.clone()),
            Home::Tail | Home::Taken => Ok(()),
        }
    }

    /// Whether the chunk's bytes have to be copied at its commit.
    pub(crate) fn is_displaced(&self) -> bool {
        self.lock()
            .is_ok_and(|state| matches!(state.home, Home::Displaced { .. }))
    }

    /// Ends the stream for its own chunk's commit. Called with the writer locked.
    pub(crate) fn take(&self) -> Result<Outcome> {
        let mut state = self.lock()?;
        let (base, streamed) = (state.base, state.streamed);
        match std::mem::replace(&mut state.home, Home::Taken) {
            Home::Tail => Ok(Outcome::InPlace),
            Home::Displaced { file, mut moved } => {
                self.move_until(base, &file, &mut moved, streamed)
                    .context(|| "cannot write to .npyfs/incoming".into())?;
                Ok(Outcome::Staged(file))
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
        let in_tail = |buffer: &mut [u8], offset| {
            read_exact_at(&*self.layout.data, buffer, state.base + offset)
        };
        match &state.home {
            Home::Tail => in_tail(buffer, offset),
            Home::Displaced { file, moved } => {
                // [0, moved) and [streamed, ..) are in the file.
                let mut done = 0;
                while done < buffer.len() {
                    let at = offset + done as u64;
                    let (from_file, until) = if at < *moved {
                        (true, *moved)
                    } else if at < state.streamed {
                        (false, state.streamed)
                    } else {
                        (true, u64::MAX)
                    };
                    let n = (until - at).min((buffer.len() - done) as u64) as usize;
                    let piece = &mut buffer[done..done + n];
                    let read = if from_file {
                        let at = self.head.len() as u64 + at;
                        read_exact_at(file.blob(), piece, at)
                    } else {
                        in_tail(piece, at)
                    };
                    read.context(|| "cannot read the chunk back".into())?;
                    done += n;
                }
                return Ok(());
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
