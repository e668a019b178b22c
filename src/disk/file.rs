//! An open file of the operating system.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek};

use super::attributes::is_unsupported;
use super::{MountId, Place, StoreFile, Whereabouts};
use crate::wait;

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
                self.set_len(self.len()?)?;
                Err(errno.into())
            }
        }
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
        wait::waits_here();
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
