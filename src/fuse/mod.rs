//! The fuser adapter: translate, call, reply. It decides nothing.
//!
//! Every handler catches panics: the reply that is dropped by one answers `EIO`, and the mutex that
//! it poisoned closes its dataset to writes, not the mount.

mod busy_poll;
mod dispatch;
mod passthrough;
mod raw;
mod requests;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{Errno, FileAttr, FileType, INodeNo, Notifier, ReplyEmpty, Request};

use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, Fs, is_expected};
use busy_poll::BusyPoll;
use passthrough::Backing;
pub use raw::splice::LARGEST_READ;
use raw::{Device, Notify, splice};

/// Serves an [`Fs`] to the kernel.
#[derive(Debug)]
pub struct Adapter {
    fs: Arc<Fs>,
    backing: Arc<Backing>,
    device: Arc<Device>,
    busy_poll: BusyPoll,
}

impl Adapter {
    /// An adapter for `fs`.
    pub fn new(fs: Arc<Fs>) -> Self {
        Self {
            fs,
            backing: Arc::default(),
            device: Arc::default(),
            busy_poll: BusyPoll::default(),
        }
    }

    /// Takes a notifier and a device of its session, for the answers and questions that fuser cannot
    /// give, and the device number of the mount as `major:minor`. Without the first two the kernel asks
    /// once more for each of those answers.
    pub fn on_mounted(&self) -> impl FnOnce(Notifier, File, Option<String>) + use<> {
        let (fs, device, backing) = (self.fs.clone(), self.device.clone(), self.backing.clone());
        move |notifier, file, number| {
            if let Some(number) = number {
                fs.set_device(number);
            }
            device.set(file);
            fs.set_kernel(Arc::new(Notify { notifier, device }));
            fs.set_uncached(backing.is_possible());
        }
    }
}

/// What an operation was about, for the log.
enum Subject<'a> {
    Inode(u64),
    Name(u64, &'a OsStr),
}

/// Logs a failed operation, for its user and for the daemon's, and gives its errno.
fn failed(fs: &Fs, operation: &str, subject: &Subject<'_>, error: &Error) -> Errno {
    let number = error.errno();
    let is_new = match *subject {
        Subject::Inode(ino) => fs.report(ino, None, error),
        Subject::Name(parent, name) => fs.report(parent, Some(name), error),
    };
    let level = if is_expected(number) || !is_new {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    if log::log_enabled!(level) {
        let path = match *subject {
            Subject::Inode(ino) => fs.describe(ino),
            Subject::Name(parent, name) => fs.describe(parent).join(name),
        };
        log::log!(level, "{operation} {}: {number:?}: {error}", path.display());
    }
    Errno::from_i32(number as i32)
}

/// Runs a handler; a panic ends the handler only.
fn catch_panic(operation: &'static str, handler: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(handler)) {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        log::error!("{operation} panicked: {what}");
    }
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

fn attributes(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.mtime,
        kind: if attr.is_dir {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: attr.mode as u16 & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.blksize,
        flags: 0,
    }
}

fn empty(fs: &Fs, result: Result<()>, operation: &str, subject: &Subject<'_>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(fs, operation, subject, &error)),
    }
}

/// Lends this thread's buffer for reads. It is kept: memory that is touched for the first time costs
/// more than the copy into it. The kernel asks for 1 MiB at most.
fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        work(&mut buffer[..len])
    })
}

impl Adapter {
    /// Answers a read of an array or a chunk from the page cache; false where it was not answered.
    fn read_pages(&self, request: &Request, fh: u64, offset: u64, len: usize) -> bool {
        let Some(view) = self.fs.view(fh) else {
            return false;
        };
        let (Some(device), Some(file), Some((at, len))) = (
            self.device.file(),
            view.backing().0.file(),
            view.stored(offset, len),
        ) else {
            return false;
        };
        match splice::answer(device, request.unique().0, file, at, len) {
            Ok(()) => true,
            Err(error) => {
                log::debug!("an answer was copied after all: {error}");
                false
            }
        }
    }

    /// Runs a handler on this session thread.
    fn serve(&self, operation: &'static str, handler: impl FnOnce()) {
        let _turn = self.busy_poll.guard(&self.device);
        catch_panic(operation, handler);
    }
}
