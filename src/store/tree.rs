//! Directories and ordinary files of the store.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmodat, fstatat, mkdirat, utimensat,
};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, unlinkat};

use super::{Maker, Store, is_dir, is_file};
use crate::dataset::{CONTROL, Change, DATA};
use crate::error::{Context, Result};

impl Store {
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.fd, at(path), flags, Mode::empty())
            .context(|| format!("cannot open the directory {}", path.display()))
    }

    /// A file or directory; `None` where there is nothing that npyfs shows.
    ///
    /// # Errors
    /// The operating system's.
    pub fn stat(&self, path: &Path) -> Result<Option<FileStat>> {
        match fstatat(&self.fd, at(path), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_dir(&stat) || is_file(&stat) => Ok(Some(stat)),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("cannot look at {}", path.display())),
        }
    }

    /// The names in a directory that npyfs shows as ordinary files (`false`) and directories
    /// (`true`).
    ///
    /// # Errors
    /// The operating system's.
    pub fn list(&self, path: &Path) -> Result<Vec<(OsString, bool)>> {
        let failed = || format!("cannot list {}", path.display());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.fd, at(path), flags, Mode::empty()).context(failed)?;
        let mut found = Vec::new();
        for entry in dir.iter() {
            let entry = entry.context(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            if name == "." || name == ".." || name == CONTROL || name == DATA {
                continue;
            }
            let is_dir = match entry.file_type() {
                Some(nix::dir::Type::Directory) => true,
                Some(nix::dir::Type::File) => false,
                Some(_) => continue,
                None => match self.stat(&path.join(&name))? {
                    Some(stat) => is_dir(&stat),
                    None => continue,
                },
            };
            found.push((name, is_dir));
        }
        Ok(found)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// The operating system's.
    pub fn make_dir(&self, path: &Path, maker: &Maker) -> Result<()> {
        self.writable()?;
        let failed = || format!("cannot make the directory {}", path.display());
        // Without the mode's bits for others until the owner is right.
        mkdirat(&self.fd, path, Mode::S_IRWXU).context(failed)?;
        self.give_away(path, maker)
            .and_then(|()| self.set_mode(path, maker.mode))
            .context(failed)
    }

    fn give_away(&self, path: &Path, maker: &Maker) -> nix::Result<()> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(maker.uid), Gid::from_raw(maker.gid));
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = fstatat(&self.fd, at(parent), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        // A set-group-ID directory hands its group on, as everywhere.
        let inherits = parent.st_mode & libc::S_ISGID != 0;
        let gid = if inherits {
            Gid::from_raw(parent.st_gid)
        } else {
            gid
        };
        fchownat(
            &self.fd,
            path,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }

    fn set_mode(&self, path: &Path, mode: u32) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(&self.fd, at(path), mode, FchmodatFlags::FollowSymlink)
    }

    /// Removes a dataset's directory that has neither rows nor files.
    ///
    /// # Errors
    /// `ENOTEMPTY`, and the operating system's.
    pub fn remove_dir(&self, path: &Path) -> Result<()> {
        self.writable()?;
        let failed = || format!("cannot remove the directory {}", path.display());
        let dataset = self.dataset(path)?;
        if !dataset.is_empty()? || !self.list(path)?.is_empty() {
            return Err(err!(ENOTEMPTY, "{} has chunks or files", path.display()));
        }
        dataset.close()?;
        self.forget(path)?;
        drop(dataset);
        self.remove_control(&path.join(CONTROL)).context(failed)?;
        unlinkat(&self.fd, path, UnlinkatFlags::RemoveDir).context(failed)
    }

    fn remove_control(&self, path: &Path) -> nix::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = match Dir::openat(&self.fd, path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let inner = path.join(name);
            let stat = fstatat(&self.fd, &inner, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if is_dir(&stat) {
                self.remove_control(&inner)?;
            } else {
                unlinkat(&self.fd, &inner, UnlinkatFlags::NoRemoveDir)?;
            }
        }
        unlinkat(&self.fd, path, UnlinkatFlags::RemoveDir)
    }

    /// Removes an ordinary file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.writable()?;
        unlinkat(&self.fd, path, UnlinkatFlags::NoRemoveDir)
            .context(|| format!("cannot remove {}", path.display()))
    }

    /// Renames an ordinary file or a dataset's directory.
    ///
    /// # Errors
    /// The operating system's.
    pub fn rename(&self, from: &Path, to: &Path, no_replace: bool) -> Result<()> {
        self.writable()?;
        let flags = if no_replace {
            RenameFlags::RENAME_NOREPLACE
        } else {
            RenameFlags::empty()
        };
        renameat2(&self.fd, from, &self.fd, to, flags)
            .context(|| format!("cannot rename {} to {}", from.display(), to.display()))
    }

    /// Makes an ordinary file, open for reading and writing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create(&self, path: &Path, flags: i32, maker: &Maker) -> Result<File> {
        self.writable()?;
        let failed = || format!("cannot create {}", path.display());
        let keep = flags & (libc::O_EXCL | libc::O_TRUNC);
        let flags = OFlag::from_bits_truncate(keep)
            | OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, path, flags, Mode::S_IRUSR | Mode::S_IWUSR).context(failed)?;
        self.give_away(path, maker)
            .and_then(|()| self.set_mode(path, maker.mode))
            .context(failed)?;
        Ok(File::from(fd))
    }

    /// Opens an ordinary file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open_file(&self, path: &Path, write: bool, truncate: bool) -> Result<File> {
        if write || truncate {
            self.writable()?;
        }
        let mut flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        flags |= if write {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        if truncate {
            flags |= OFlag::O_TRUNC;
        }
        openat(&self.fd, path, flags, Mode::empty())
            .map(File::from)
            .context(|| format!("cannot open {}", path.display()))
    }

    /// Sets mode, owner or time of an ordinary file or directory.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_attributes(&self, path: &Path, change: &Change) -> Result<()> {
        self.writable()?;
        let failed = || format!("cannot change the attributes of {}", path.display());
        if change.uid.is_some() || change.gid.is_some() {
            fchownat(
                &self.fd,
                at(path),
                change.uid.map(Uid::from_raw),
                change.gid.map(Gid::from_raw),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .context(failed)?;
        }
        if let Some(mode) = change.mode {
            self.set_mode(path, mode).context(failed)?;
        }
        if let Some(mtime) = change.mtime {
            let seconds = mtime.div_euclid(1_000_000_000);
            let nanos = mtime.rem_euclid(1_000_000_000);
            let times = TimeSpec::new(seconds, nanos);
            let unchanged = TimeSpec::UTIME_OMIT;
            utimensat(
                &self.fd,
                at(path),
                &unchanged,
                &times,
                UtimensatFlags::NoFollowSymlink,
            )
            .context(failed)?;
        }
        Ok(())
    }

    /// The filesystem that the store is on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn statfs(&self) -> Result<Statvfs> {
        fstatvfs(&self.fd).context(|| "cannot look at the store's filesystem".into())
    }

    /// Makes the entries of a directory and of those above it durable.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        for above in path.ancestors() {
            File::from(self.directory(above)?)
                .sync_all()
                .context(|| format!("cannot sync the directory {}", above.display()))?;
        }
        Ok(())
    }
}
fn at(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}
