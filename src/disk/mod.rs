//! The one door to the disk.
//!
//! The engine reaches the store only through [`StoreDir`] (a dataset's directory) and [`StoreFile`] (an
//! open file in it). Each method is one small operation, so that a test can put a folder in its
//! place that fails at the n-th of them, or that keeps only what was synced.

mod attributes;
pub(crate) mod checksum;
pub mod clock;
mod directory;
pub(crate) mod door;
pub(crate) mod holder;
mod holes;
pub(crate) mod kept_name;
pub mod paths;
pub(crate) mod temp;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

pub use crate::disk::holder::Holder;
use crate::stop::Stop;
pub use attributes::{Change, Face};
pub use directory::Directory;
pub(crate) use holes::{Extent, Part, clear, copy_sparse, extents, read_parts};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek};
pub use temp::Budget;

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
    /// Gives back what was reserved after the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn unreserve(&self) -> io::Result<()> {
        Ok(())
    }
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

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
/// The operating system's; `EIO` where the file ends before them.
pub fn read_exact_at(blob: &dyn StoreFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if blob.read_at(buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

/// Hands `len` bytes from `offset` on to `each`, piece by piece.
///
/// # Errors
/// Those of reading (`EIO` where the file ends early) and of `each`.
pub fn read_pieces(
    blob: &dyn StoreFile,
    offset: u64,
    len: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = vec![0; len.min(PIECE) as usize];
    let mut done = 0;
    while done < len {
        let piece = &mut buffer[..(len - done).min(PIECE) as usize];
        read_exact_at(blob, piece, offset + done)?;
        each(piece)?;
        done += piece.len() as u64;
    }
    Ok(())
}

/// Copies `len` bytes from one blob into another.
///
/// # Errors
/// Those of reading and writing.
pub fn copy(
    from: &dyn StoreFile,
    at: u64,
    to: &dyn StoreFile,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let mut done = 0;
    read_pieces(from, at, len, |piece| {
        to.write_at(piece, offset + done)?;
        done += piece.len() as u64;
        Ok(())
    })
}

/// As [`copy`], to where all bytes that are zeros in a hole of `from` are zeros already: they take no
/// space there either.
///
/// # Errors
/// Those of reading and writing, and `ECANCELED`.
pub(crate) fn copy_data(
    from: &dyn StoreFile,
    at: u64,
    to: &dyn StoreFile,
    offset: u64,
    len: u64,
    stop: &Stop,
) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = vec![0; len.min(PIECE) as usize];
    let mut done = 0;
    while done < len {
        stop.check_io()?;
        // Pieces end where blocks do: part of a block that has data is no hole.
        let to_border = PIECE - (at + done) % PIECE;
        let piece = &mut buffer[..(len - done).min(to_border) as usize];
        read_exact_at(from, piece, at + done)?;
        let end = at + done + piece.len() as u64;
        let data = if is_zero(piece) {
            from.next_data(at + done)?
        } else {
            at + done
        };
        if data < end {
            to.write_at(piece, offset + done)?;
            done += piece.len() as u64;
        } else {
            done = (data - at).min(len);
        }
    }
    Ok(())
}

/// Whether all of these bytes are 0.
fn is_zero(bytes: &[u8]) -> bool {
    leading_zeros(bytes) == bytes.len()
}

/// How many of these bytes are 0 before the first that is not.
pub(crate) fn leading_zeros(bytes: &[u8]) -> usize {
    const LINE: usize = 64;
    let or = |line: &[u8]| line.iter().fold(0, |all, byte| all | byte);
    let lines = bytes.chunks(LINE).take_while(|line| or(line) == 0).count();
    let at = (lines * LINE).min(bytes.len());
    let rest = bytes[at..].iter().take_while(|byte| **byte == 0).count();
    at + rest
}

/// A file of the operating system as a [`StoreFile`].
#[derive(Debug)]
pub struct OsFile(File);

impl OsFile {
    /// Wraps an open file.
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// The file.
    pub(crate) fn into_file(self) -> File {
        self.0
    }
}

/// The most that one call writes, in bytes, as cp does. From a longer one the kernel makes larger
/// pages of cache, for which it takes memory that was not in use lately: where a virtual machine has
/// given that back to its host, a copy of 2 GiB took 1.8 s instead of 0.7.
const PIECE: usize = 128 << 10;

impl StoreFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.size())
    }

    fn glance(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&self.0)?;
        Ok((stat.st_nlink, stat.st_size.cast_unsigned()))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn next_data(&self, offset: u64) -> io::Result<u64> {
        let Ok(at) = i64::try_from(offset) else {
            return Ok(offset);
        };
        // Every read and write of this descriptor says where: that this moves its position, nothing
        // notices.
        match lseek(&self.0, at, Whence::SeekData) {
            Ok(data) => Ok(u64::try_from(data).unwrap_or(offset)),
            Err(Errno::ENXIO) => Ok(u64::MAX),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(offset),
            Err(errno) => Err(errno.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let Ok(at) = i64::try_from(offset) else {
            return Ok(u64::MAX);
        };
        match lseek(&self.0, at, Whence::SeekHole) {
            Ok(hole) => Ok(u64::try_from(hole).unwrap_or(u64::MAX)),
            Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(u64::MAX),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let places = (offset..).step_by(PIECE);
        data.chunks(PIECE)
            .zip(places)
            .try_for_each(|(piece, at)| self.0.write_all_at(piece, at))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // Not even for a moment does a hopeless one take the space that others could have.
        let stat = fstatvfs(&self.0)?;
        if len / stat.fragment_size().max(1) > stat.blocks_free() {
            return Err(Errno::ENOSPC.into());
        }
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.0, flags, offset as i64, len as i64) {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(errno) => {
                // ext4 keeps what it had got hold of until then.
                self.unreserve()?;
                Err(errno.into())
            }
        }
    }

    fn unreserve(&self) -> io::Result<()> {
        self.set_len(self.len()?)
    }

    fn insert_range(&self, len: u64) -> io::Result<bool> {
        match fallocate(
            &self.0,
            FallocateFlags::FALLOC_FL_INSERT_RANGE,
            0,
            len as i64,
        ) {
            Ok(()) => Ok(true),
            // EINVAL: not a multiple of this filesystem's block size.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn start_writeback(&self) -> io::Result<()> {
        match crate::sys::begin_writing(&self.0) {
            // The sync that follows does all of it. EPERM: where system calls are filtered.
            Err(error) if is_unsupported(&error) => Ok(()),
            other => other,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }

    fn whereabouts(&self) -> io::Result<Whereabouts> {
        let metadata = self.0.metadata()?;
        Ok(Whereabouts {
            place: Place {
                inode: metadata.ino(),
                born: metadata
                    .created()
                    .map_or(0, crate::disk::clock::from_system),
            },
            mount: match crate::sys::unique_mount_id(&self.0)? {
                // Snapshots of a part of a filesystem are in its mount, and have a device of their own
                // in it.
                Some(id) => MountId::Unique(id.rotate_left(32) ^ metadata.dev()),
                None => MountId::Device(metadata.dev()),
            },
        })
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::EINVAL | libc::ESPIPE)
    )
}

/// Gives a new file of the store the mode, owner and time that its producer set. Only root may
/// give files away; for others they stay the daemon's.
///
/// # Errors
/// The operating system's.
pub fn set_attributes(blob: &dyn StoreFile, face: &crate::disk::Face) -> io::Result<()> {
    let Some(file) = blob.file() else {
        return Ok(());
    };
    give(file, face.uid, face.gid, face.mode)?;
    if let Some(mtime) = face.mtime {
        file.set_modified(crate::disk::clock::to_system(mtime))?;
    }
    Ok(())
}

/// Gives the copy of a file its owner and mode.
///
/// # Errors
/// The operating system's.
pub(crate) fn copy_attributes(from: &dyn StoreFile, to: &dyn StoreFile) -> io::Result<()> {
    let (Some(from), Some(to)) = (from.file(), to.file()) else {
        return Ok(());
    };
    let from = from.metadata()?;
    give(to, from.uid(), from.gid(), from.mode())
}

/// Gives a file away and sets its mode, as far as this process and this filesystem can. What could
/// not be given away has no rights of its owner's to lend.
fn give(file: &File, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    // Before the mode, which a change of owner takes bits from.
    let given = as_far_as_possible(fchown(file, is_root.then_some(uid), Some(gid)))?;
    let mode = mode & if given && is_root { 0o7777 } else { 0o777 };
    as_far_as_possible(file.set_permissions(PermissionsExt::from_mode(mode))).map(drop)
}

/// Whether it was done. Not a member of that group, a server that takes root for an ordinary user,
/// an owner without a number in this namespace, a filesystem without owners: none is a failure.
fn as_far_as_possible(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => {
            log::debug!("a file keeps its owner or mode: {error}");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A file's time of last change, in nanoseconds since 1970; 0 for what is not a file.
///
/// # Errors
/// The operating system's.
pub fn modified(blob: &dyn StoreFile) -> io::Result<i64> {
    match blob.file() {
        Some(file) => Ok(crate::disk::clock::from_system(
            file.metadata()?.modified()?,
        )),
        None => Ok(0),
    }
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
