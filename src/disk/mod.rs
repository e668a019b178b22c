//! The one door to the disk.
//!
//! The engine reaches the store only through [`StoreDir`] (a dataset's directory) and [`StoreFile`] (an
//! open file in it). Each method is one small operation, so that a test can put a folder in its
//! place that fails at the n-th of them, or that keeps only what was synced.

mod attributes;
pub(crate) mod checksum;
pub mod clock;
mod copy;
mod directory;
pub(crate) mod door;
mod file;
pub(crate) mod holder;
mod holes;
pub(crate) mod kept_name;
pub mod paths;
pub(crate) mod temp;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use attributes::{Change, Face, modified, set_attributes};
pub(crate) use attributes::{copy_attributes, give};
pub use copy::{copy, read_exact_at, read_pieces};
pub(crate) use copy::{copy_data, leading_zeros};
pub use directory::Directory;
pub use file::OsFile;
pub use holder::Holder;
pub(crate) use holes::{Extent, Part, clear, copy_sparse, extents, read_parts};

/// How [`StoreDir::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// As `Write`; an empty file is made where there is none.
    Create,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
    /// As `Create`; every write goes to the end.
    Append,
}

/// A file in a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, without the directory.
    pub name: OsString,
    /// Its size in bytes.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A lock that lasts as long as this value.
pub trait Lock: Send + Sync + fmt::Debug {
    /// Whether the locked file still has a name. Who held the lock before may have removed it, and the
    /// next locks another.
    ///
    /// # Errors
    /// The operating system's.
    fn is_named(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// A dataset's directory in the store. Paths are relative to it.
pub trait StoreDir: Send + Sync + fmt::Debug {
    /// Opens a file. `NotFound` and `AlreadyExists` are errors that callers tell apart.
    ///
    /// # Errors
    /// The operating system's.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>>;
    /// As `open` does for [`Open::Write`], also where the mode of the file, which is a chunk's, denies
    /// that to its owner, who this process may be.
    ///
    /// # Errors
    /// As those of `open`.
    fn open_closed(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        self.open(path, Open::Write)
    }
    /// What a path stands for now, so that a replaced file is noticed: device and inode.
    ///
    /// # Errors
    /// The operating system's; `NotFound` where nothing is there.
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)>;

    /// Whether this directory lies in the one of this device and inode, at any depth.
    fn is_within(&self, _root: (u64, u64)) -> io::Result<bool> {
        Ok(true)
    }
    /// Renames, replacing what `to` was.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory, if it is not there yet.
    ///
    /// # Errors
    /// The operating system's.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// The directory's files and directories, in no order.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// The operating system's.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on a file, made where it is missing. `None`: another daemon has it.
    ///
    /// # Errors
    /// `EBUSY` where what has it is no daemon; the operating system's.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// Whether a process has that lock. Where it can be seen without taking it, no process that wants it
    /// meanwhile is turned away.
    ///
    /// # Errors
    /// The operating system's; `NotFound` where the file was never made.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.open(path, Open::Read)?;
        Ok(self.lock(path)?.is_none())
    }
    /// What has that lock, if it is still taken: to be asked seldom, as it looks at all processes.
    ///
    /// # Errors
    /// The operating system's.
    fn holder(&self, path: &Path) -> io::Result<Option<Holder>> {
        Ok(self.is_locked(path)?.then_some(Holder::Unseen))
    }
    /// Sets the directory's own time of last change of its entries, in nanoseconds since 1970, unless it is
    /// later.
    ///
    /// # Errors
    /// The operating system's.
    fn set_entries_changed(&self, _at: i64) -> io::Result<()> {
        Ok(())
    }
    /// Gives a new array the owner and group of the directory, and the mode of new files.
    ///
    /// # Errors
    /// The operating system's.
    fn hand_over(&self, _array: &dyn StoreFile) -> io::Result<()> {
        Ok(())
    }
}

/// An open file of the store. Offsets and lengths are in bytes.
pub trait StoreFile: Send + Sync + fmt::Debug {
    /// The file's length.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// How many names the file has, and its length: at the cost of one look.
    ///
    /// # Errors
    /// The operating system's.
    fn glance(&self) -> io::Result<(u64, u64)> {
        Ok((1, self.len()?))
    }
    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Where the next byte may be that is no part of a hole, from `offset` on: all before it are zeros
    /// that need not be read. `u64::MAX` where none is left.
    ///
    /// # Errors
    /// The operating system's.
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }
    /// Where the next hole may begin, from `offset` on, which is data: all before it is to be read.
    /// `u64::MAX` where none is known.
    ///
    /// # Errors
    /// The operating system's.
    fn next_hole(&self, _offset: u64) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// The operating system's; some of the bytes may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space without changing the length, so that a later write cannot find the disk
    /// full. Filesystems that cannot reserve answer as if they had.
    ///
    /// # Errors
    /// `ENOSPC`, `EDQUOT`, `EFBIG` where the space is not to be had.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Inserts `len` zero bytes at the front, in constant time. `false`: this filesystem cannot.
    ///
    /// # Errors
    /// The operating system's, where it can in principle.
    fn insert_range(&self, len: u64) -> io::Result<bool>;
    /// Starts on the disk what [`StoreFile::sync`] will wait for. It promises nothing.
    ///
    /// # Errors
    /// The operating system's.
    fn start_writeback(&self) -> io::Result<()> {
        Ok(())
    }
    /// Makes contents and length durable.
    ///
    /// # Errors
    /// The operating system's.
    fn sync(&self) -> io::Result<()>;
    /// The file itself, where the blob is one: for passthrough and `stat`.
    fn file(&self) -> Option<&File>;
    /// Where the file lies.
    ///
    /// # Errors
    /// The operating system's.
    fn whereabouts(&self) -> io::Result<Whereabouts>;
}

/// Where a file lies, and in which mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// In its filesystem.
    pub place: Place,
    /// Of that filesystem.
    pub mount: MountId,
}

/// What tells a file from every other one of its filesystem, a copy of it included. The default is
/// no file's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its inode number.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 where the filesystem does not say.
    pub born: i64,
}

/// What tells a mount of a filesystem from others of the same boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountId {
    /// The system does not say.
    #[default]
    Unknown,
    /// A number that is never given twice in a boot, to a mount and the part of a filesystem in it
    /// (a subvolume) that has a device of its own.
    Unique(u64),
    /// The number of the device, on systems that have no better: another filesystem may have it
    /// after this one was unmounted.
    Device(u64),
}

/// The kernel's name for this boot; zeros where it gives none, which equals no boot.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}
