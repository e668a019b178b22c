//! Owner, mode and time of a file, as they are and as they are to be.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use super::{StoreFile, clock};

/// Mode, owner and size of a chunk in flight, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    /// Bytes written so far, or set by `truncate`.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change in nanoseconds since 1970, where the producer set it.
    pub mtime: Option<i64>,
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last change, in nanoseconds since 1970.
    pub mtime: Option<i64>,
}

/// Gives a new file of the store the mode, owner and time that its producer set. Only root may
/// give files away; for others they stay the daemon's.
///
/// # Errors
/// The operating system's.
pub fn set_attributes(blob: &dyn StoreFile, face: &Face) -> io::Result<()> {
    let Some(file) = blob.file() else {
        return Ok(());
    };
    give(file, face.uid, face.gid, face.mode)?;
    if let Some(mtime) = face.mtime {
        file.set_modified(clock::to_system(mtime))?;
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
pub(crate) fn give(file: &File, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
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
        Some(file) => Ok(clock::from_system(file.metadata()?.modified()?)),
        None => Ok(0),
    }
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::EINVAL | libc::ESPIPE)
    )
}
