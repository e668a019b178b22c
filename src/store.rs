//! The store: a tree of directories in which each is a dataset, and ordinary files lie beside it.
//!
//! Paths are relative to the store's root, which is held open. Symbolic links and special files in
//! the store are not shown, so no path leads out of it. A dataset is opened when it is first
//! touched, and closed again when more are open than the limit and nobody uses it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat,
    utimensat,
};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, unlinkat};

use crate::dataset::disk::{Directory, Folder};
use crate::dataset::{Budget, CONTROL, Change, DATA, Dataset, clock};
use crate::error::{Context, Error, Result};

/// How a store is to be treated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nothing in it is ever written.
    pub read_only: bool,
    /// Memory for bodies of chunks in flight, in bytes.
    pub memory: usize,
    /// How many bytes of refused chunks each dataset may keep.
    pub rejected_limit: u64,
    /// A committed name may be written again, and stands for the newest chunk then.
    pub reuse_names: bool,
    /// How many datasets may be open that nobody uses.
    pub idle_datasets: usize,
    /// Where tests stand between the datasets and the disk.
    pub door: Door,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            memory: 64 << 20,
            rejected_limit: 256 << 20,
            reuse_names: false,
            idle_datasets: 128,
            door: Door::default(),
        }
    }
}

/// Who makes a file or directory, and how.
#[derive(Clone, Copy, Debug)]
pub struct Maker {
    /// Permission bits, less the umask.
    pub mode: u32,
    /// Owner to be.
    pub uid: u32,
    /// Group to be.
    pub gid: u32,
}

/// Through which a dataset at a path sees its directory.
#[derive(Clone, Copy, Debug)]
pub struct Door(pub fn(&Path, Directory) -> Arc<dyn Folder>);

impl Default for Door {
    /// As it is.
    fn default() -> Self {
        Self(|_, directory| Arc::new(directory))
    }
}

/// A directory of datasets.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    fd: OwnedFd,
    options: Options,
    memory: Arc<Budget>,
    /// By device and inode of their directories.
    open: Mutex<HashMap<(u64, u64), Arc<Dataset>>>,
    /// Counts the times that a dataset was asked for.
    moment: AtomicU64,
}

impl Store {
    /// Opens the store at `root`.
    ///
    /// # Errors
    /// `EINVAL` where `root` is a dataset itself, and the operating system's.
    pub fn open(root: &Path, options: Options) -> Result<Arc<Store>> {
        let root = root
            .canonicalize()
            .context(|| format!("cannot open the store {}", root.display()))?;
        let dir =
            File::open(&root).context(|| format!("cannot open the store {}", root.display()))?;
        if !dir
            .metadata()
            .context(|| format!("cannot open the store {}", root.display()))?
            .is_dir()
        {
            return Err(err!(
                ENOTDIR,
                "the store {} is not a directory",
                root.display()
            ));
        }
        if root.join(DATA).exists() {
            return Err(err!(
                EINVAL,
                "{} holds a data.npy: it is a dataset, not a store of datasets; mount the directory above it",
                root.display()
            ));
        }
        Ok(Arc::new(Store {
            root,
            fd: dir.into(),
            memory: Budget::new(options.memory),
            options,
            open: Mutex::default(),
            moment: AtomicU64::new(0),
        }))
    }

    /// Where it is, as a canonical path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How it is treated.
    pub fn options(&self) -> &Options {
        &self.options
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.fd, at(path), flags, Mode::empty())
            .context(|| format!("cannot open the directory {}", path.display()))
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(err!(EROFS, "the store is mounted read-only"));
        }
        Ok(())
    }

    /// The dataset of a directory.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn dataset(&self, path: &Path) -> Result<Arc<Dataset>> {
        let fd = self.directory(path)?;
        let stat = fstat(&fd).context(|| format!("cannot look at {}", path.display()))?;
        let key = (stat.st_dev, stat.st_ino);
        let mut open = crate::lock(&self.open);
        if let Some(dataset) = open.get(&key) {
            self.touch(dataset);
            return Ok(dataset.clone());
        }
        let options = crate::DatasetOptions {
            read_only: self.options.read_only,
            memory: self.memory.clone(),
            rejected_limit: self.options.rejected_limit,
            reuse_names: self.options.reuse_names,
            depth: path.components().count(),
            boot: None,
        };
        let folder = (self.options.door.0)(path, Directory::from_fd(fd));
        let dataset = Dataset::open_in(folder, path, options).map_err(|error| {
            error.context(format!("cannot open the dataset {}", path.display()))
        })?;
        self.touch(&dataset);
        open.insert(key, dataset.clone());
        let too_many = open.len() > self.options.idle_datasets;
        drop(open);
        if too_many {
            self.close_idle();
        }
        Ok(dataset)
    }

    /// Notes that a dataset is in use: those that are not are closed first.
    pub fn touch(&self, dataset: &Dataset) {
        dataset.touch(self.moment.fetch_add(1, Ordering::Relaxed));
    }

    /// Closes the datasets that were used longest ago and are not in use, down to three quarters of
    /// the limit.
    fn close_idle(&self) {
        let mut idle: Vec<_> = crate::lock(&self.open)
            .iter()
            .filter(|(_, dataset)| Arc::strong_count(dataset) == 1)
            .map(|(key, dataset)| (*key, dataset.clone()))
            .collect();
        idle.sort_unstable_by_key(|(_, dataset)| dataset.last_used());
        for (key, dataset) in idle {
            // Closed while it is still in the table: whoever comes for it meanwhile finds this one,
            // and takes its lock again, instead of another that would find the lock taken.
            if let Err(error) = dataset.close() {
                log::error!("{error}");
            }
            let mut open = crate::lock(&self.open);
            if Arc::strong_count(&dataset) == 2 {
                open.remove(&key);
            }
            if open.len() <= self.options.idle_datasets / 4 * 3 {
                return;
            }
        }
    }

    /// The datasets that are open now.
    pub fn open_datasets(&self) -> Vec<Arc<Dataset>> {
        crate::lock(&self.open).values().cloned().collect()
    }

    /// Syncs what was committed since the last time.
    pub fn sync_dirty(&self) {
        for dataset in self.open_datasets() {
            if dataset.is_dirty()
                && let Err(error) = dataset.sync()
            {
                log::error!("{error}");
            }
        }
    }

    /// Closes all datasets: the end of a mount.
    ///
    /// # Errors
    /// The first that could not be closed cleanly; all are tried.
    pub fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for dataset in self.open_datasets() {
            if let Err(error) = dataset.close() {
                log::error!("{error}");
                if first.is_ok() {
                    first = Err(error);
                }
            }
        }
        crate::lock(&self.open).clear();
        first
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

    fn forget(&self, path: &Path) -> Result<()> {
        if let Some(stat) = self.stat(path)? {
            crate::lock(&self.open).remove(&(stat.st_dev, stat.st_ino));
        }
        Ok(())
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

/// Whether it is a directory.
pub fn is_dir(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// Whether it is a regular file.
pub fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// A file's time of last change, in nanoseconds since 1970.
pub fn mtime(stat: &FileStat) -> i64 {
    stat.st_mtime
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_mtime_nsec)
}

/// As [`mtime`], in the system's type.
pub fn mtime_system(stat: &FileStat) -> SystemTime {
    clock::to_system(mtime(stat))
}

/// An error for a path that is not there.
pub fn not_found(path: &Path) -> Error {
    err!(ENOENT, "{} does not exist", path.display())
}
