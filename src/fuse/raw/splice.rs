//! Answers to reads straight from the store's page cache.
//!
//! fuser answers from memory, so what is in the page cache is copied into a buffer first and into the
//! program's memory afterwards. A pipe carries the pages themselves: what is read of a large array is
//! copied once. The pages hold committed rows, which never change.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// Fewer bytes are as soon copied.
pub(in crate::fuse) const LEAST: usize = 128 << 10;
/// Room in a pipe, in bytes: what Linux grants to everybody.
const ROOM: i32 = 1 << 20;
/// The most that the kernel is to ask for in one read, in bytes (`max_read`). An answer must be in the
/// pipe as a whole, where its head takes a page, and so does what begins within one.
pub const LARGEST_READ: u32 = (1 << 20) - (2 << 12);

/// What a thread has for its answers.
enum PipeState {
    /// A pipe, once one was needed.
    Open(Option<Pipe>),
    /// No pipe is to be had that is large enough.
    Unavailable,
}

/// A pipe that is empty between two answers.
struct Pipe {
    read: OwnedFd,
    write: File,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(ROOM))?;
        Ok(Self {
            read,
            write: write.into(),
        })
    }

    /// Sends `head` and `len` bytes of `file` from `offset` on as one message to `device`.
    fn send(
        &mut self,
        device: &File,
        head: &[u8],
        file: &File,
        mut offset: i64,
        len: usize,
    ) -> io::Result<()> {
        self.write.write_all(head)?;
        let mut left = len;
        while left > 0 {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(file, Some(&mut offset), &self.write, None, left, flags) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => left -= n,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let all = head.len() + len;
        let flags = SpliceFFlags::empty();
        match splice(self.read.as_fd(), None, device, None, all, flags) {
            Ok(n) if n == all => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Answers the READ `unique` with `len` bytes of `file` from `offset` on. Where that fails nothing
/// was answered.
///
/// # Errors
/// Those of pipe(2) and splice(2); `UnexpectedEof` where the file is shorter.
pub(in crate::fuse) fn answer(
    device: &File,
    unique: u64,
    file: &File,
    offset: u64,
    len: usize,
) -> io::Result<()> {
    thread_local! {
        static PIPE: RefCell<PipeState> = const { RefCell::new(PipeState::Open(None)) };
    }
    let mut head = [0; 16]; // `fuse_out_header`, without an error
    let all = (head.len() + len) as u32;
    head[..4].copy_from_slice(&all.to_ne_bytes());
    head[8..].copy_from_slice(&unique.to_ne_bytes());
    let offset = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    PIPE.with_borrow_mut(|state| {
        let PipeState::Open(pipe) = state else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let taken = pipe.take().map_or_else(Pipe::new, Ok);
        let mut taken = taken.inspect_err(|_| *state = PipeState::Unavailable)?;
        // One that failed may have something left in it.
        taken.send(device, &head, file, offset, len)?;
        *state = PipeState::Open(Some(taken));
        Ok(())
    })
}
