//! Directories and ordinary files of the store.
//!
//! Users own directories of the store, so what a path leads to may be another thing at any moment.
//! Each operation therefore opens the directory that it works in, through the door, and does the
//! rest with one name relative to that descriptor, through no link; what it opens it looks at
//! before it changes anything, and modes, owners and times are set through descriptors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, mkdirat,
    utimensat,
};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, geteuid, unlinkat};

use super::{Maker, Seen, Store, is_dir, is_file, sparing};
use crate::disk::Change;
use crate::disk::Directory;
use crate::disk::door::open_beneath;
use crate::disk::paths::{CONTROL, DATA, LOG};
use crate::error::{Context, Error, Result};

/// For looking only: neither reads nor writes, waits for nothing, needs no permission of the thing.
const LOOK: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
/// For reading a directory.
const READ_DIR: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
/// For what may turn out to be no regular file: it must not wait for a FIFO's other end or for a
/// lease, and a terminal must not become ours.
const CAREFUL: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// What npyfs keeps in `.npyfs`, by the beginnings of the names: a directory with anything else in
/// it is not npyfs's to remove, whatever it is called.
const OURS: [&str; 7] = [
    "chunks.log",
    "lock",
    "log",
    "data.npy.",
    "incoming",
    "rejected",
    "rescued",
];
/// How many directories deep `.npyfs` may be.
const DEEPEST: usize = 4;

/// A directory of the store, held open: whatever happens to its path, it is the same one.
#[derive(Debug)]
pub struct Place<'a> {
    store: &'a Store,
    /// For looking only.
    fd: OwnedFd,
    path: PathBuf,
    stat: FileStat,
}

/// An ordinary file or directory in a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its number in the store.
    pub inode: u64,
}

/// A directory or ordinary file, held for looking and for setting its attributes.
#[derive(Debug)]
pub struct Entry<'a> {
    store: &'a Store,
    fd: OwnedFd,
    path: PathBuf,
    stat: FileStat,
}

impl Store {
    /// The directory at a path.
    ///
    /// # Errors
    /// `ESTALE` where there is none, or a link on the way; and the operating system's.
    pub fn place(&self, path: &Path) -> Result<Place<'_>> {
        let fd = self.open_dir(path, LOOK | OFlag::O_DIRECTORY)?;
        let stat = fstat(&fd).context(|| format!("cannot look at {}", path.display()))?;
        Ok(Place {
            store: self,
            fd,
            path: path.to_owned(),
            stat,
        })
    }

    /// As [`Store::place`], for a dataset.
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd> {
        self.open_dir(path, READ_DIR)
    }

    fn open_dir(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        self.open_path(path, flags)
            .context(|| format!("cannot open the directory {}", path.display()))
            .map_err(|error| match error.errno() {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => error.with_errno(Errno::ESTALE),
                _ => error,
            })
    }

    /// Opens what a path leads to. For this and all else that takes a descriptor, idle datasets give
    /// up theirs where none is left.
    fn open_path(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let open = || open_beneath(self.fd.as_fd(), path, flags, Mode::empty());
        self.registry.sparing(sparing::is_shortage, open)
    }

    /// Opens what a name in a directory stands for.
    fn open_at(
        &self,
        dir: &OwnedFd,
        name: impl AsRef<OsStr>,
        flags: OFlag,
        mode: Mode,
    ) -> nix::Result<OwnedFd> {
        let is_shortage = |errno: &Errno| matches!(errno, Errno::EMFILE | Errno::ENFILE);
        let open = || openat(dir, name.as_ref(), flags, mode);
        self.registry.sparing(is_shortage, open)
    }

    /// A file or directory; `None` where there is nothing that npyfs shows.
    ///
    /// # Errors
    /// The operating system's.
    pub fn stat(&self, path: &Path) -> Result<Option<FileStat>> {
        let looked = self.open_path(path, LOOK);
        let failed = || format!("cannot look at {}", path.display());
        match looked.context(failed) {
            Ok(fd) => Ok(Some(fstat(&fd).context(failed)?).filter(is_shown)),
            Err(error) => match error.errno() {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Removes a dataset's directory that has neither rows nor files.
    ///
    /// # Errors
    /// `ENOTEMPTY`, and the operating system's.
    pub fn remove_dir(&self, parent: &Place<'_>, name: &OsStr, place: &Place<'_>) -> Result<()> {
        self.writable()?;
        let path = &place.path;
        let failed = || format!("cannot remove the directory {}", path.display());
        let not_empty = |what: &OsStr| err!(ENOTEMPTY, "{} has {}", path.display(), what.display());
        let dataset = self.dataset(path)?;
        if dataset.identity()? != (place.stat.st_dev, place.stat.st_ino) {
            return Err(err!(ESTALE, "{} was replaced", path.display()));
        }
        if !dataset.is_empty()? {
            return Err(err!(ENOTEMPTY, "{} has chunks", path.display()));
        }
        // Held until the directory is gone: no daemon writes to it meanwhile, nor has a chunk in flight.
        let lock = dataset.close_for_removal()?;
        // One may have done so until now.
        if !dataset.is_empty()? {
            return Err(err!(ENOTEMPTY, "{} has chunks", path.display()));
        }
        // Also what is not shown: it would be found when the journal is gone already.
        let others = place.raw_list()?;
        if let Some((other, ..)) = others.iter().find(|(name, ..)| name != CONTROL) {
            return Err(not_empty(other));
        }
        let control = place.control()?;
        if control.is_some() && lock.is_none() {
            return Err(err!(
                EBUSY,
                "a daemon has begun to write to {} just now",
                path.display()
            ));
        }
        if let Some(control) = &control {
            let ours = |name: &OsStr| {
                let name = name.as_bytes();
                OURS.iter().any(|ours| name.starts_with(ours.as_bytes()))
            };
            if let Some((other, ..)) = control.raw_list()?.iter().find(|(name, ..)| !ours(name)) {
                return Err(not_empty(&Path::new(CONTROL).join(other).into_os_string()));
            }
        }
        self.forget(path)?;
        drop(dataset);
        if let Some(control) = control {
            control.clear(DEEPEST)?;
            unlinkat(&place.fd, CONTROL, UnlinkatFlags::RemoveDir).context(failed)?;
        }
        unlinkat(&parent.fd, name, UnlinkatFlags::RemoveDir).context(failed)
    }

    /// Renames an ordinary file or a dataset's directory. What has the new name is replaced only
    /// where `replaces` says that this is known.
    ///
    /// # Errors
    /// `EEXIST` where the new name is taken, and the operating system's.
    pub fn rename(
        &self,
        from: (&Place<'_>, &OsStr),
        to: (&Place<'_>, &OsStr),
        replaces: bool,
    ) -> Result<()> {
        self.writable()?;
        let ((old, name), (new, newname)) = (from, to);
        let rename = |flags| renameat2(&old.fd, name, &new.fd, newname, flags);
        let renamed = if replaces {
            rename(RenameFlags::empty())
        } else {
            match rename(RenameFlags::RENAME_NOREPLACE) {
                // Some filesystems cannot: then what is there is looked at before.
                Err(Errno::EINVAL) => match new.exists(newname)? {
                    true => Err(Errno::EEXIST),
                    false => rename(RenameFlags::empty()),
                },
                other => other,
            }
        };
        renamed.context(|| {
            let (from, to) = (old.path.join(name), new.path.join(newname));
            format!("cannot rename {} to {}", from.display(), to.display())
        })
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
    pub fn sync_dir(&self, place: &Place<'_>) -> Result<()> {
        let sync = |place: &Place<'_>| {
            File::from(place.readable()?)
                .sync_all()
                .context(|| format!("cannot sync the directory {}", place.path.display()))
        };
        sync(place)?;
        for above in place.path.ancestors().skip(1) {
            sync(&self.place(above)?)?;
        }
        Ok(())
    }
}

impl<'a> Place<'a> {
    /// Where it was found, relative to the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its attributes when it was opened.
    pub fn stat(&self) -> &FileStat {
        &self.stat
    }

    /// A descriptor for reading it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn readable(&self) -> Result<OwnedFd> {
        self.store
            .open_at(&self.fd, ".", READ_DIR, Mode::empty())
            .context(|| format!("cannot read the directory {}", self.path.display()))
    }

    /// A directory in it; `None` where there is none.
    ///
    /// # Errors
    /// The operating system's.
    pub fn enter(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.path.join(name);
        let held = self
            .store
            .open_at(&self.fd, name, LOOK | OFlag::O_DIRECTORY, Mode::empty())
            .and_then(|fd| Ok((fstat(&fd)?, fd)));
        match held {
            Ok((stat, fd)) => Ok(Some(Place {
                store: self.store,
                fd,
                path,
                stat,
            })),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => {
                Err(errno).context(|| format!("cannot open the directory {}", path.display()))
            }
        }
    }

    /// Its `.npyfs`, where it has one that npyfs or the directory's owner has made.
    fn control(&self) -> Result<Option<Self>> {
        let Some(control) = self.enter(OsStr::new(CONTROL))? else {
            return Ok(None);
        };
        let owner = control.stat.st_uid;
        if owner != geteuid().as_raw() && owner != self.stat.st_uid {
            return Err(err!(
                EPERM,
                "{} belongs to user {owner}, and neither to npyfs nor to the directory's owner",
                control.path.display()
            ));
        }
        Ok(Some(control))
    }

    /// A file or directory in it; `None` where there is nothing that npyfs shows.
    ///
    /// # Errors
    /// The operating system's.
    pub fn find(&self, name: &OsStr) -> Result<Option<FileStat>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat).filter(is_shown)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| self.failed("look at", name)),
        }
    }

    /// How many links it has that are shown: none by its `.npyfs`, which it is known to have where `has_control`
    /// says so.
    ///
    /// # Errors
    /// The operating system's.
    pub fn links(&self, has_control: bool) -> Result<u32> {
        let links = self.stat.st_nlink as u32;
        // Two are its own and its name's. A filesystem that does not count them says 1.
        let hidden = links > 2 && (has_control || self.exists(OsStr::new(CONTROL))?);
        Ok(links - u32::from(hidden))
    }

    /// Whether there is anything of this name, shown or not.
    fn exists(&self, name: &OsStr) -> Result<bool> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno).context(|| self.failed("look at", name)),
        }
    }

    /// Why a name cannot be had that the kernel was told to be free: it is to look again, unless
    /// it would not be shown what is there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn taken(&self, name: &OsStr) -> Result<Error> {
        let path = self.path.join(name);
        Ok(match self.find(name)? {
            Some(_) => err!(
                ESTALE,
                "{} was looked up before it was made",
                path.display()
            ),
            None => err!(
                EEXIST,
                "{} is a link or a special file in the store, which npyfs does not show",
                path.display()
            ),
        })
    }

    fn failed(&self, what: &str, name: &OsStr) -> String {
        format!("cannot {what} {}", self.path.join(name).display())
    }

    fn raw_list(&self) -> Result<Vec<(OsString, Option<nix::dir::Type>, u64)>> {
        let failed = || format!("cannot list {}", self.path.display());
        let mut dir = Dir::from_fd(self.readable()?).context(failed)?;
        let mut found = Vec::new();
        for entry in dir.iter() {
            let entry = entry.context(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                found.push((name.to_owned(), entry.file_type(), entry.ino()));
            }
        }
        Ok(found)
    }

    /// What npyfs shows as ordinary files and directories.
    ///
    /// # Errors
    /// The operating system's.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        for (name, kind, inode) in self.raw_list()? {
            if name == CONTROL || name == DATA {
                continue;
            }
            let is_dir = match kind {
                Some(nix::dir::Type::Directory) => true,
                Some(nix::dir::Type::File) => false,
                Some(_) => continue,
                None => match self.find(&name)? {
                    Some(stat) => is_dir(&stat),
                    None => continue,
                },
            };
            found.push(Listed {
                name,
                is_dir,
                inode,
            });
        }
        Ok(found)
    }

    /// Who a thing that is made here belongs to.
    fn owner(&self, maker: &Maker) -> (Uid, Gid) {
        // A set-group-ID directory hands its group on, as everywhere.
        let inherits = self.stat.st_mode & libc::S_ISGID != 0;
        let gid = if inherits {
            self.stat.st_gid
        } else {
            maker.gid
        };
        (Uid::from_raw(maker.uid), Gid::from_raw(gid))
    }

    /// Makes a directory, and tells its attributes.
    ///
    /// # Errors
    /// `ESTALE` where it was replaced before it had its owner, and the operating system's.
    pub fn make_dir(&self, name: &OsStr, maker: &Maker) -> Result<FileStat> {
        self.store.writable()?;
        let path = self.path.join(name);
        let failed = || format!("cannot make the directory {}", path.display());
        // Without the mode's bits for others until the owner is right.
        mkdirat(&self.fd, name, Mode::S_IRWXU).context(failed)?;
        let made = self.enter(name)?.filter(Self::is_newborn);
        let Some(made) = made.filter(|made| made.raw_list().is_ok_and(|found| found.is_empty()))
        else {
            return Err(err!(
                ESTALE,
                "{} was replaced when it had just been made",
                path.display()
            ));
        };
        let (uid, gid) = self.owner(maker);
        let change = Change {
            uid: geteuid().is_root().then_some(uid.as_raw()),
            gid: geteuid().is_root().then_some(gid.as_raw()),
            // With the bit that makes it hand its group on in turn.
            mode: Some(maker.mode | self.stat.st_mode & libc::S_ISGID),
            mtime: None,
        };
        set_attributes(&made.fd, &change).context(failed)?;
        fstat(&made.fd).context(failed)
    }

    /// Whether it can be a directory that was made just now: the daemon's, and closed to all
    /// others. mkdirat(2) gives no descriptor, and the owner of the directory above may have put
    /// another in its place. Only an empty one of the daemon's own passes for it.
    fn is_newborn(&self) -> bool {
        self.stat.st_uid == geteuid().as_raw() && self.stat.st_mode & 0o777 & !0o700 == 0
    }

    /// Removes what is in `.npyfs` and not more than `depth` directories deep; other filesystems
    /// that are mounted there are left alone.
    fn clear(&self, depth: usize) -> Result<()> {
        for (name, ..) in self.raw_list()? {
            match self.enter(&name)? {
                Some(inner) if depth == 0 || inner.stat.st_dev != self.stat.st_dev => {
                    return Err(err!(
                        ENOTEMPTY,
                        "{} is not npyfs's to remove",
                        inner.path.display()
                    ));
                }
                Some(inner) => {
                    inner.clear(depth - 1)?;
                    unlinkat(&self.fd, &*name, UnlinkatFlags::RemoveDir)
                }
                None => unlinkat(&self.fd, &*name, UnlinkatFlags::NoRemoveDir),
            }
            .context(|| self.failed("remove", &name))?;
        }
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, name: &OsStr) -> Result<()> {
        self.store.writable()?;
        unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir).context(|| self.failed("remove", name))
    }

    /// Makes an ordinary file, open for reading and writing, and tells its attributes.
    ///
    /// # Errors
    /// `EEXIST`, where the caller insists on a new one or cannot be shown what is there; else
    /// `ESTALE` where the name is taken: the kernel, which was told otherwise, then asks again;
    /// and the operating system's.
    pub fn create(&self, name: &OsStr, flags: i32, maker: &Maker) -> Result<(File, FileStat)> {
        self.store.writable()?;
        let failed = || self.failed("create", name);
        // Never what is there already: it is about to get the caller's owner and mode.
        let how = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | CAREFUL;
        let fd = match self
            .store
            .open_at(&self.fd, name, how, Mode::S_IRUSR | Mode::S_IWUSR)
        {
            Err(Errno::EEXIST) if flags & libc::O_EXCL == 0 => return Err(self.taken(name)?),
            made => made.context(failed)?,
        };
        match self.hand_over(&fd, maker) {
            Ok(stat) => Ok((File::from(fd), stat)),
            // The quota of its owner, say.
            Err(errno) => {
                if self.has_still(name, &fd)? {
                    self.remove(name)?;
                }
                Err(errno).context(failed)
            }
        }
    }

    fn hand_over(&self, fd: &OwnedFd, maker: &Maker) -> nix::Result<FileStat> {
        if geteuid().is_root() {
            let (uid, gid) = self.owner(maker);
            fchown(fd, Some(uid), Some(gid))?;
        }
        fchmod(fd, Mode::from_bits_truncate(maker.mode & 0o7777))?;
        fstat(fd)
    }

    /// Whether a name is that of an open file.
    fn has_still(&self, name: &OsStr, fd: &OwnedFd) -> Result<bool> {
        let open = fstat(fd).context(|| self.failed("look at", name))?;
        let found = self.find(name)?;
        Ok(found.is_some_and(|found| Seen::of(&found).is_inode_of(&Seen::of(&open))))
    }

    /// Opens a regular file, and tells its attributes.
    ///
    /// # Errors
    /// `ESTALE` where there is none, `EAGAIN` where another program holds a lease on it and is
    /// being asked to give it up, and the operating system's.
    pub fn open_file(&self, name: &OsStr, write: bool) -> Result<(File, FileStat)> {
        if write {
            self.store.writable()?;
        }
        let how = if write {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        let gone = || {
            let path = self.path.join(name);
            err!(ESTALE, "{} is no regular file any more", path.display())
        };
        let fd = match self
            .store
            .open_at(&self.fd, name, how | CAREFUL, Mode::empty())
        {
            Ok(fd) => fd,
            Err(Errno::EAGAIN) => {
                let path = self.path.join(name);
                let path = path.display();
                return Err(err!(EAGAIN, "another program holds a lease on {path}"));
            }
            // Nothing, a link, a socket or a device without a driver, a directory.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO | Errno::ENODEV | Errno::EISDIR) => {
                return Err(gone());
            }
            Err(errno) => return Err(errno).context(|| self.failed("open", name)),
        };
        let stat = fstat(&fd).context(|| self.failed("look at", name))?;
        if is_file(&stat) {
            Ok((File::from(fd), stat))
        } else {
            Err(gone())
        }
    }

    /// Opens a dataset's log, if it is npyfs's, and tells its attributes.
    ///
    /// # Errors
    /// Those of [`Directory`]'s files.
    pub fn open_log(&self) -> Result<(File, FileStat)> {
        let failed = || format!("cannot open {}/{LOG}", self.path.display());
        let file = Directory::from_fd(self.readable()?)
            .read(Path::new(LOG))
            .context(failed)?;
        let stat = fstat(&file).context(failed)?;
        Ok((file, stat))
    }

    /// A directory or ordinary file, for its attributes.
    ///
    /// # Errors
    /// `ESTALE` where there is none, and the operating system's.
    pub fn entry(&self, name: &OsStr) -> Result<Entry<'_>> {
        let path = self.path.join(name);
        let held = self
            .store
            .open_at(&self.fd, name, LOOK, Mode::empty())
            .and_then(|fd| Ok((fstat(&fd)?, fd)));
        match held {
            Ok((stat, fd)) if is_shown(&stat) => Ok(Entry {
                store: self.store,
                fd,
                path,
                stat,
            }),
            Ok(_) | Err(Errno::ENOENT) => Err(err!(ESTALE, "{} is gone", path.display())),
            Err(errno) => Err(errno).context(|| self.failed("look at", name)),
        }
    }

    /// As [`Place::into_entry`], of a directory that is still used.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn itself(&self) -> Result<Entry<'a>> {
        let failed = || format!("cannot look at the directory {}", self.path.display());
        let fd = self.fd.try_clone().context(failed)?;
        Ok(Entry {
            store: self.store,
            stat: fstat(&fd).context(failed)?,
            fd,
            path: self.path.clone(),
        })
    }

    /// Itself, to work in.
    pub(super) fn directory(&self) -> Result<OwnedFd> {
        self.readable()
    }

    /// Itself, for its attributes.
    pub fn into_entry(self) -> Entry<'a> {
        Entry {
            store: self.store,
            fd: self.fd,
            path: self.path,
            stat: self.stat,
        }
    }
}

impl Entry<'_> {
    /// Its attributes when it was opened.
    pub fn stat(&self) -> &FileStat {
        &self.stat
    }

    /// Sets mode, owner or time.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_attributes(&self, change: &Change) -> Result<()> {
        self.store.writable()?;
        set_attributes(&self.fd, change)
            .context(|| format!("cannot change the attributes of {}", self.path.display()))
    }
}

fn is_shown(stat: &FileStat) -> bool {
    is_dir(stat) || is_file(stat)
}

/// Sets attributes of what a descriptor stands for, also one that is for looking only.
fn set_attributes(fd: &OwnedFd, change: &Change) -> nix::Result<()> {
    if change.uid.is_some() || change.gid.is_some() {
        fchownat(
            fd,
            "",
            change.uid.map(Uid::from_raw),
            change.gid.map(Gid::from_raw),
            AtFlags::AT_EMPTY_PATH,
        )?;
    }
    if change.mode.is_none() && change.mtime.is_none() {
        return Ok(());
    }
    // The name of the descriptor itself, which no other process can change: fchmod(2) and
    // futimens(2) refuse a descriptor that is for looking only.
    let itself = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if let Some(mode) = change.mode {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(AT_FDCWD, &*itself, mode, FchmodatFlags::FollowSymlink)?;
    }
    if let Some(mtime) = change.mtime {
        let seconds = mtime.div_euclid(1_000_000_000);
        let nanos = mtime.rem_euclid(1_000_000_000);
        let times = TimeSpec::new(seconds, nanos);
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(AT_FDCWD, &*itself, &TimeSpec::UTIME_OMIT, &times, follow)?;
    }
    Ok(())
}
