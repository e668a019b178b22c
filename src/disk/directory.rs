//! A dataset's directory as a [`StoreDir`], in the operating system.
//!
//! Its owner may be any user, and this process may be root's: whatever lies in the directory may
//! have been put there, or may be exchanged at any moment, to have this process touch what that user
//! cannot. So no path is resolved twice: `.npyfs` is opened once and held, and what is in it is
//! reached from there, by the [door](crate::door). What is opened is looked at by its descriptor
//! before it is used:
//!
//! - `.npyfs` and directories in it are directories of the same filesystem, no mount points, and
//!   *owned*;
//! - a file in `.npyfs` is regular and owned, and *single* unless only root and this process's user
//!   can put anything into that `.npyfs`;
//! - `data.npy` is regular and single; to be read, it may instead be readable by all.
//!
//! *Owned*: by the user of this process, by root, or by the owner of the dataset's directory. None of
//! them gains by it: the first two could do it themselves, and the third's are his own rows.
//! *Single*: it has one name, or belongs to the owner of the dataset's directory. Else it may be a
//! hard link to what that user cannot open.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, fsync, geteuid, syncfs, unlinkat};

use crate::disk::door::{open_beneath, open_beside};
use crate::disk::holder::{Holder, Locked};
use crate::disk::paths::CONTROL;
use crate::disk::{DirEntry, Lock, Open, OsFile, StoreDir, StoreFile, give};
use crate::error::Error;
use crate::proc;
use crate::wait;

/// How many directories may be above one of a path of `PATH_MAX` bytes.
const DEEPEST: usize = 2048;

/// A directory of the operating system, held open: it may be renamed while it is in use.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// As it was opened last.
    control: Mutex<Option<Arc<Control>>>,
}

/// A `.npyfs`, held open.
#[derive(Debug)]
struct Control {
    fd: OwnedFd,
    /// What a look at its name would find.
    seen: Seen,
    /// None but root and this process's user can have put anything into it.
    guarded: bool,
    /// The lock in it is held: what has its name by now does not matter.
    locked: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    dev: u64,
    ino: u64,
    uid: u32,
    mode: u32,
}

impl Seen {
    fn new(stat: &FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            uid: stat.st_uid,
            mode: stat.st_mode,
        }
    }
}

/// What holds the last name of a path.
#[derive(Debug)]
enum Parent<'a> {
    /// The dataset's directory.
    Top(BorrowedFd<'a>),
    Control(Arc<Control>),
    /// A directory in `.npyfs`.
    Inner(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Top(fd) => *fd,
            Parent::Control(control) => control.fd.as_fd(),
            Parent::Inner(fd) => fd.as_fd(),
        }
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NONBLOCK);

/// Of a file that is not known yet to be regular: opening it must neither wait for another process
/// nor change anything.
const UNKNOWN: OFlag = OFlag::O_NONBLOCK
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NOCTTY);

/// What is in `.npyfs`, and what is to be given its owner and mode, is closed to others until then.
const PRIVATE_DIR: Mode = Mode::S_IRWXU;
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

impl Directory {
    /// Opens the directory.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self::from_fd(fd))
    }

    /// Wraps a descriptor of a directory.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            fd,
            control: Mutex::default(),
        }
    }

    /// Opens a file for reading, if it is what it passes for.
    ///
    /// # Errors
    /// As [`StoreDir::open`].
    pub fn read(&self, path: &Path) -> io::Result<File> {
        let (fd, _) = self.open_file(path, OFlag::O_RDONLY, Open::Read)?;
        Ok(File::from(fd))
    }

    /// `.npyfs`, where it is.
    fn control(&self) -> io::Result<Arc<Control>> {
        let mut held = crate::lock(&self.control);
        if let Some(control) = &*held {
            if control.locked.load(Ordering::Acquire) {
                return Ok(control.clone());
            }
            // As long as nothing here is written to, another daemon, or who puts a copy back in its
            // place, may exchange it.
            let now = fstatat(&self.fd, CONTROL, AtFlags::AT_SYMLINK_NOFOLLOW);
            if now.is_ok_and(|now| Seen::new(&now) == control.seen) {
                return Ok(control.clone());
            }
            *held = None;
        }
        let control = Arc::new(self.open_control()?);
        *held = Some(control.clone());
        Ok(control)
    }

    fn open_control(&self) -> io::Result<Control> {
        let path = Path::new(CONTROL);
        let fd = match open_beside(self.fd.as_fd(), path, DIRECTORY, Mode::empty()) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                return Err(self.closed_to_us(error));
            }
            other => other.map_err(|error| strange(error, path))?,
        };
        let stat = fstat(&fd)?;
        self.check_directory(path, &stat)?;
        let ours = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
        Ok(Control {
            fd,
            guarded: ours && stat.st_mode & 0o022 == 0,
            seen: Seen::new(&stat),
            locked: AtomicBool::new(false),
        })
    }

    fn closed_to_us(&self, error: io::Error) -> io::Error {
        match fstatat(&self.fd, CONTROL, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => err!(
                EACCES,
                "{CONTROL} belongs to user {}, with mode {:o}, and this process is user {}'s: run it as that user, or look through the mount",
                stat.st_uid,
                stat.st_mode & 0o7777,
                geteuid()
            )
            .into(),
            Err(_) => error,
        }
    }

    fn make_control(&self) -> io::Result<()> {
        match mkdirat(&self.fd, CONTROL, PRIVATE_DIR) {
            Ok(()) | Err(Errno::EEXIST) => self.control().map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it is one of the owners whose files are trusted here.
    fn is_owner(uid: u32, top: &FileStat) -> bool {
        uid == 0 || uid == geteuid().as_raw() || uid == top.st_uid
    }

    fn check_directory(&self, path: &Path, stat: &FileStat) -> io::Result<()> {
        let top = fstat(&self.fd)?;
        if stat.st_dev != top.st_dev {
            return Err(foreign_mount(path).into());
        }
        if Self::is_owner(stat.st_uid, &top) {
            return Ok(());
        }
        Err(wrong_owner(path, stat, &top).into())
    }

    fn check_file(
        &self,
        parent: &Parent<'_>,
        path: &Path,
        file: &OwnedFd,
        how: Open,
    ) -> io::Result<()> {
        let stat = fstat(file)?;
        match kind_of(&stat) {
            SFlag::S_IFREG => {}
            SFlag::S_IFDIR => return Err(not_regular(path, "directory").into()),
            SFlag::S_IFIFO => return Err(not_regular(path, "named pipe").into()),
            _ => return Err(not_regular(path, "device").into()),
        }
        let top = fstat(&self.fd)?;
        let has_one_owner = stat.st_nlink <= 1 || stat.st_uid == top.st_uid;
        let Parent::Control(control) = parent else {
            let shown_to_all = how == Open::Read && stat.st_mode & 0o004 != 0;
            if has_one_owner || shown_to_all {
                return Ok(());
            }
            return Err(linked(path, &stat, &top).into());
        };
        if !Self::is_owner(stat.st_uid, &top) {
            return Err(wrong_owner(path, &stat, &top).into());
        }
        if !has_one_owner && !control.guarded {
            return Err(linked(path, &stat, &top).into());
        }
        if matches!(how, Open::Create | Open::Append) && stat.st_mode & 0o077 != 0 {
            make_private(file, path, &stat);
        }
        Ok(())
    }

    /// The directory and the name in it that a path of one of the forms `NAME`, `.npyfs/NAME` and
    /// `.npyfs/DIRECTORY/NAME` means.
    fn place<'a, 'p>(&'a self, path: &'p Path) -> io::Result<(Parent<'a>, &'p OsStr)> {
        let mut parts = path.components();
        let name = match parts.next_back() {
            Some(Component::Normal(name)) => name,
            _ => return Err(Errno::ELOOP.into()),
        };
        let above = parts.as_path();
        if above.as_os_str().is_empty() {
            return Ok((Parent::Top(self.fd.as_fd()), name));
        }
        if above == Path::new(CONTROL) {
            return Ok((Parent::Control(self.control()?), name));
        }
        Ok((Parent::Inner(self.inner(above)?), name))
    }

    /// Opens a directory in `.npyfs`.
    fn inner(&self, path: &Path) -> io::Result<OwnedFd> {
        let name = path.strip_prefix(CONTROL).map_err(|_| Errno::ELOOP)?;
        if !name
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(Errno::ELOOP.into());
        }
        let control = self.control()?;
        let fd = open_beside(control.fd.as_fd(), name, DIRECTORY, Mode::empty())
            .map_err(|error| strange(error, path))?;
        self.check_directory(path, &fstat(&fd)?)?;
        Ok(fd)
    }

    /// Opens a directory of this dataset anew, to be listed or synced.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let this = Path::new(".");
        if path == this {
            open_beneath(self.fd.as_fd(), this, DIRECTORY, Mode::empty())
        } else if path == Path::new(CONTROL) {
            open_beneath(self.control()?.fd.as_fd(), this, DIRECTORY, Mode::empty())
        } else {
            self.inner(path)
        }
    }

    fn open_file(&self, path: &Path, flags: OFlag, how: Open) -> io::Result<(OwnedFd, Parent<'_>)> {
        let (parent, name) = self.place(path)?;
        let name = Path::new(name);
        let fd = past_leases(path, || {
            open_beside(parent.as_fd(), name, flags | UNKNOWN, PRIVATE_FILE)
        })
        .map_err(|error| strange(error, path))?;
        if how != Open::CreateNew {
            self.check_file(&parent, path, &fd, how)?;
        }
        Ok((fd, parent))
    }
}

impl StoreDir for Directory {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn StoreFile>> {
        let flags = match how {
            Open::Read => OFlag::O_RDONLY,
            Open::Write => OFlag::O_RDWR,
            Open::Create => OFlag::O_RDWR | OFlag::O_CREAT,
            Open::CreateNew => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
            Open::Append => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND,
        };
        let (fd, _) = self.open_file(path, flags, how)?;
        Ok(Arc::new(OsFile::new(File::from(fd))))
    }

    fn open_closed(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        match self.open(path, Open::Write) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
            other => return other,
        }
        let (parent, name) = self.place(path)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let fd = open_beside(parent.as_fd(), Path::new(name), flags, Mode::empty())
            .map_err(|error| strange(error, path))?;
        self.check_file(&parent, path, &fd, Open::Write)?;
        // The one way to a file that may not be opened, and no path that another could be put into.
        let by_itself = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let closed = std::fs::metadata(&by_itself)?.permissions();
        let opened = PermissionsExt::from_mode(closed.mode() | 0o600);
        std::fs::set_permissions(&by_itself, opened)?;
        let file = File::options().read(true).write(true).open(&by_itself);
        std::fs::set_permissions(&by_itself, closed)?;
        Ok(Arc::new(OsFile::new(file?)))
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        let stat = if path == Path::new(".") {
            fstat(&self.fd)?
        } else {
            let (parent, name) = self.place(path)?;
            fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?
        };
        Ok((stat.st_dev, stat.st_ino))
    }

    fn is_within(&self, root: (u64, u64)) -> io::Result<bool> {
        let own = fstat(&self.fd)?;
        if own.st_nlink == 0 {
            return Ok(false);
        }
        let mut below = (own.st_dev, own.st_ino);
        let mut above = PathBuf::new();
        for _ in 0..DEEPEST {
            if below == root {
                return Ok(true);
            }
            // What holds a directory has no name that could lead elsewhere.
            above.push("..");
            let stat = match fstatat(&self.fd, &above, AtFlags::AT_SYMLINK_NOFOLLOW) {
                // It cannot be told.
                Err(Errno::EACCES) => return Ok(true),
                stat => stat?,
            };
            let up = (stat.st_dev, stat.st_ino);
            if up == below {
                return Ok(false);
            }
            below = up;
        }
        Ok(true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (self.place(from)?, self.place(to)?);
        Ok(renameat(&from_dir, from, &to_dir, to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        Ok(unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if path == Path::new(CONTROL) {
            return self.make_control();
        }
        let (parent, name) = self.place(path)?;
        match mkdirat(&parent, name, PRIVATE_DIR) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut dir = Dir::from_fd(self.directory(path)?)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        let mut found = Vec::new();
        for name in names {
            match fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let kind = kind_of(&stat);
                    if kind == SFlag::S_IFREG || kind == SFlag::S_IFDIR {
                        found.push(DirEntry {
                            name,
                            len: stat.st_size as u64,
                            is_dir: kind == SFlag::S_IFDIR,
                        });
                    }
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(found)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        wait::waits_here();
        if path == Path::new(".") {
            return Ok(fsync(&self.fd)?);
        }
        if path == Path::new(CONTROL) {
            return Ok(fsync(&self.control()?.fd)?);
        }
        if path.components().all(|part| part == Component::ParentDir) {
            // What holds a directory has no name that could lead elsewhere.
            return match openat(&self.fd, path, DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
                Ok(fd) => Ok(fsync(&fd)?),
                // Everything on the filesystem is more than is asked, and takes no descriptor.
                Err(Errno::EMFILE | Errno::ENFILE) => Ok(syncfs(&self.fd)?),
                Err(errno) => Err(errno.into()),
            };
        }
        Ok(fsync(&self.inner(path)?)?)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT;
        let (fd, parent) = self.open_file(path, flags, Open::Create)?;
        let Parent::Control(control) = parent else {
            return Err(Errno::ELOOP.into());
        };
        // An open-file-description lock: it is the daemon's as long as this description is open,
        // whatever else the process opens and closes, and the kernel drops it with the process.
        match fcntl(&fd, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return no_daemons_lock(&fd, path).map(|()| None),
            Err(errno) => return Err(errno.into()),
        }
        // Made by an earlier version, it may be open to all.
        if control.seen.mode & 0o077 != 0 {
            make_private(&control.fd, Path::new(CONTROL), &fstat(&control.fd)?);
        }
        let mut held = crate::lock(&self.control);
        control.locked.store(true, Ordering::Release);
        *held = Some(control.clone());
        drop(held);
        Ok(Some(Box::new(FileLock { held: fd, control })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let (fd, _) = self.open_file(path, OFlag::O_RDONLY, Open::Read)?;
        // Found by the wish for a lock that goes with all but a daemon's.
        let mut found = whole_file(libc::F_RDLCK);
        fcntl(&fd, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(found.l_type != libc::F_UNLCK as libc::c_short)
    }

    fn holder(&self, path: &Path) -> io::Result<Option<Holder>> {
        let (fd, _) = self.open_file(path, OFlag::O_RDONLY, Open::Read)?;
        let info = std::fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        let mount = info.map(|info| proc::field(&info, "mnt_id").and_then(|it| it.parse().ok()));
        let holder = Holder::find(Locked {
            inode: fstat(&fd)?.st_ino,
            mount: mount.unwrap_or_default(),
        });
        // None may be seen because there is none any more.
        let seen = holder != Holder::Unseen || self.is_locked(path)?;
        Ok(seen.then_some(holder))
    }

    fn set_entries_changed(&self, at: i64) -> io::Result<()> {
        let stat = fstat(&self.fd)?;
        let (seconds, nanos) = (at.div_euclid(1_000_000_000), at.rem_euclid(1_000_000_000));
        if (stat.st_mtime, stat.st_mtime_nsec) < (seconds, nanos) {
            futimens(
                &self.fd,
                &TimeSpec::UTIME_OMIT,
                &TimeSpec::new(seconds, nanos),
            )?;
        }
        Ok(())
    }

    fn hand_over(&self, array: &dyn StoreFile) -> io::Result<()> {
        let Some(file) = array.file() else {
            return Ok(());
        };
        let top = fstat(&self.fd)?;
        give(file, top.st_uid, top.st_gid, 0o666 & !umask())
    }
}

#[derive(Debug)]
struct FileLock {
    held: OwnedFd,
    control: Arc<Control>,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        self.control.locked.store(false, Ordering::Release);
    }
}

impl Lock for FileLock {
    fn is_named(&self) -> io::Result<bool> {
        Ok(fstat(&self.held)?.st_nlink > 0)
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// An error where the lock that is in the way is none that a daemon takes.
fn no_daemons_lock(fd: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut found = whole_file(libc::F_WRLCK);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut found))?;
    let path = path.display();
    // A daemon's lock belongs to no process: the kernel names none.
    if found.l_pid > 0 {
        let pid = found.l_pid;
        let what = "which no daemon takes in that way";
        return Err(err!(EBUSY, "process {pid} holds a lock on {path}, {what}").into());
    }
    if found.l_type == libc::F_RDLCK as libc::c_short {
        let what = "and a daemon takes one for writing";
        return Err(err!(
            EBUSY,
            "a process holds a lock for reading on {path}, {what}"
        )
        .into());
    }
    Ok(())
}

/// The longest that an opening waits for the holder of a lease to give it back, as a server of
/// files does within milliseconds.
const LEASE: Duration = Duration::from_millis(100);

/// Opens a file that another process may hold a lease on (F_SETLEASE). The kernel asks the holder
/// to give it back, and takes it away in the end; an opening that does not wait for that gets
/// `EAGAIN`. Only one thread of this process waits, and not for long: holders may be hostile, and
/// threads serve others.
fn past_leases(path: &Path, open: impl Fn() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    static WAITER: Mutex<()> = Mutex::new(());
    let leased = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let mut opened = open();
    if opened.as_ref().is_err_and(leased)
        && let Ok(_only_one) = WAITER.try_lock()
    {
        let until = Instant::now() + LEASE;
        while opened.as_ref().is_err_and(leased) && Instant::now() < until {
            sleep(Duration::from_millis(2));
            opened = open();
        }
    }
    match opened {
        Err(error) if leased(&error) => Err(err!(
            EBUSY,
            "another process holds a lease on {}, which the kernel has asked back",
            path.display()
        )
        .into()),
        other => other,
    }
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Says what an error of opening means here.
fn strange(error: io::Error, path: &Path) -> io::Error {
    let shown = path.display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => err!(
            ELOOP,
            "{shown} is a symbolic link, and none is followed here"
        )
        .into(),
        Some(Errno::EXDEV) => foreign_mount(path).into(),
        Some(Errno::ENOTDIR) => err!(EIO, "{shown} is not a directory").into(),
        Some(Errno::EISDIR) => not_regular(path, "directory").into(),
        Some(Errno::ENXIO) => not_regular(path, "socket, or a device without a driver").into(),
        _ => error,
    }
}

fn foreign_mount(path: &Path) -> Error {
    err!(
        EPERM,
        "{} is on another filesystem than the dataset's directory",
        path.display()
    )
}

fn wrong_owner(path: &Path, stat: &FileStat, top: &FileStat) -> Error {
    err!(
        EPERM,
        "{} belongs to user {}: it must belong to the owner of the dataset's directory, user {}, or to the daemon's, user {}",
        path.display(),
        stat.st_uid,
        top.st_uid,
        geteuid()
    )
}

fn linked(path: &Path, stat: &FileStat, top: &FileStat) -> Error {
    err!(
        EPERM,
        "{} has {} names and belongs to user {}: with more than one, it must belong to the owner of the dataset's directory, user {}",
        path.display(),
        stat.st_nlink,
        stat.st_uid,
        top.st_uid
    )
}

fn not_regular(path: &Path, kind: &str) -> Error {
    err!(EIO, "{} is a {kind}, not a regular file", path.display())
}

/// Takes from all others what the mode of an earlier version's file or directory gave them.
fn make_private(fd: &OwnedFd, path: &Path, stat: &FileStat) {
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7700);
    if let Err(errno) = fchmod(fd, mode) {
        log::info!("{} stays open to others: {errno}", path.display());
    }
}

/// This process's umask. Asking by umask(2) would change it for all threads.
fn umask() -> u32 {
    const USUAL: u32 = 0o022;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn made() -> (tempfile::TempDir, Directory) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("dataset")).unwrap();
        let directory = Directory::open(&place.path().join("dataset")).unwrap();
        directory.make_dir(Path::new(CONTROL)).unwrap();
        (place, directory)
    }

    fn errno(error: io::Error) -> Errno {
        Error::io(error, "").errno()
    }

    const LOCK: &str = ".npyfs/lock";

    #[test]
    fn as_long_as_the_lock_is_held_npyfs_is_the_one_that_it_is_in() {
        let (place, directory) = made();
        let lock = directory.lock(Path::new(LOCK)).unwrap();
        let inside = place.path().join("dataset");
        fs::rename(inside.join(CONTROL), inside.join("moved")).unwrap();
        symlink(place.path(), inside.join(CONTROL)).unwrap();
        let new = Path::new(".npyfs/new");
        directory.make_dir(Path::new(CONTROL)).unwrap();
        directory.open(new, Open::CreateNew).unwrap();
        assert!(inside.join("moved/new").exists());
        drop(lock);
        let opened = directory.open(new, Open::Read).unwrap_err();
        assert_eq!(errno(opened), Errno::ELOOP);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn while_nothing_is_locked_npyfs_is_what_has_its_name() {
        let (place, directory) = made();
        let inside = place.path().join("dataset");
        let file = Path::new(".npyfs/file");
        directory.open(file, Open::CreateNew).unwrap();
        fs::rename(inside.join(CONTROL), inside.join("moved")).unwrap();
        let missing = directory.open(file, Open::Read).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::rename(inside.join("moved"), inside.join(CONTROL)).unwrap();
        assert!(directory.open(file, Open::Read).is_ok());
    }

    #[test]
    fn paths_of_another_form_are_refused() {
        let (place, directory) = made();
        fs::create_dir(place.path().join("dataset/sub")).unwrap();
        for path in ["sub/x", "../x", ".npyfs/../x", "/tmp/x", ".npyfs/..", "."] {
            let path = Path::new(path);
            let refused = [
                directory.open(path, Open::Create).map(drop),
                directory.rename(Path::new(LOCK), path),
                directory.remove(path),
                directory.make_dir(path),
            ];
            for refused in refused {
                assert_eq!(
                    errno(refused.unwrap_err()),
                    Errno::ELOOP,
                    "{}",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn new_files_are_private_and_what_others_could_open_is_closed_to_them_when_it_is_written() {
        let (place, directory) = made();
        let inside = place.path().join("dataset");
        let mode = |path: &str| fs::metadata(inside.join(path)).unwrap().mode() & 0o7777;
        directory.make_dir(Path::new(".npyfs/incoming")).unwrap();
        directory
            .open(Path::new(".npyfs/incoming/1"), Open::CreateNew)
            .unwrap();
        assert_eq!((mode(CONTROL), mode(".npyfs/incoming")), (0o700, 0o700));
        assert_eq!(mode(".npyfs/incoming/1"), 0o600);
        fs::write(inside.join(LOCK), "").unwrap();
        for (path, mode) in [(LOCK, 0o644), (CONTROL, 0o755)] {
            fs::set_permissions(inside.join(path), PermissionsExt::from_mode(mode)).unwrap();
        }
        assert!(!directory.is_locked(Path::new(LOCK)).unwrap());
        assert_eq!((mode(CONTROL), mode(LOCK)), (0o755, 0o644), "only read");
        let lock = directory.lock(Path::new(LOCK)).unwrap();
        assert_eq!((mode(CONTROL), mode(LOCK)), (0o700, 0o600));
        assert!(directory.is_locked(Path::new(LOCK)).unwrap());
        drop(lock);
    }

    #[test]
    fn an_array_has_the_mode_of_new_files_and_a_copy_that_of_what_it_was_made_of() {
        let (place, directory) = made();
        let beside = place.path().join("beside");
        fs::write(&beside, "").unwrap();
        let usual = fs::metadata(&beside).unwrap().mode();
        let array = directory
            .open(Path::new("data.npy"), Open::CreateNew)
            .unwrap();
        directory.hand_over(&*array).unwrap();
        assert_eq!(array.file().unwrap().metadata().unwrap().mode(), usual);
        let copy = directory
            .open(Path::new(".npyfs/copy"), Open::CreateNew)
            .unwrap();
        fs::set_permissions(
            place.path().join("dataset/data.npy"),
            PermissionsExt::from_mode(0o640),
        )
        .unwrap();
        crate::disk::copy_attributes(&*array, &*copy).unwrap();
        assert_eq!(
            copy.file().unwrap().metadata().unwrap().mode() & 0o7777,
            0o640
        );
    }
}
