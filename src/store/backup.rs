//! A second copy of a store, which is brought up to date while daemons write the first.
//!
//! Each dataset is copied as it was at one moment ([`crate::dataset::back_up`]), ordinary files by
//! their size and time of last change. Nothing is removed from the copy, and nothing in it is changed
//! but what an earlier backup of the same store has put there.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::copy_file_range;
use nix::sys::stat::FileStat;

use super::{Maker, Place, Store, is_dir, is_file, mtime, mtime_system};
use crate::dataset;
use crate::dataset::Copied;
use crate::disk::Change;
use crate::disk::paths::CONTROL;
use crate::disk::{Directory, Extent, Open, OsFile, StoreDir, StoreFile, extents, read_exact_at};
use crate::error::{Context, Error, Result};

/// Says in the root of a copy which store it is one of.
const MARK: &str = ".npyfs/backup";
/// Held while a backup is at work.
const LOCK: &str = ".npyfs/lock";
/// In `.npyfs` of the copy's root: a file before it has its name.
const COMING: &str = "backup.new";

/// What a backup has to tell while it is at work.
pub trait Witness {
    /// So many bytes of a dataset's rows are copied, of how many.
    fn progress(&mut self, path: &Path, done: u64, of: u64);
    /// A dataset was copied, or could not be.
    fn dataset(&mut self, path: &Path, copied: Result<Copied>);
    /// An ordinary file was copied, as it was new or another than before.
    fn file(&mut self, path: &Path);
    /// A file or directory could not be copied.
    fn failed(&mut self, path: &Path, error: &Error);
}

/// Brings the copy `to` up to what the store `from` is now.
///
/// # Errors
/// `EEXIST` where `to` has files and is no copy of this store, `EBUSY` where another backup is at
/// work there, and the operating system's. What concerns one dataset or file only is told to
/// `witness`, and the others are copied.
pub fn back_up(from: &Store, to: &Store, witness: &mut dyn Witness) -> Result<()> {
    to.writable()?;
    let top = to.place(Path::new(""))?;
    let control = Directory::from_fd(top.readable()?);
    let mark = format!("npyfs backup of {}\n", from.root.display());
    check_mark(&top, &control, &mark, to, from)?;
    control
        .make_dir(Path::new(CONTROL))
        .context(|| "cannot make .npyfs in the copy".into())?;
    let _lock = control
        .lock(Path::new(LOCK))
        .context(|| "cannot lock the copy".into())?
        .ok_or_else(|| err!(EBUSY, "another backup is at work in {}", to.root.display()))?;
    write_mark(&control, &mark)?;
    // Of a backup that was interrupted.
    match control.remove(&Path::new(CONTROL).join(COMING)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(|| format!("cannot remove {CONTROL}/{COMING} of the copy"));
        }
        _ => {}
    }
    let mut work = Work { to, witness };
    work.directory(&from.place(Path::new(""))?, &top)
}

fn check_mark(
    top: &Place<'_>,
    control: &Directory,
    mark: &str,
    to: &Store,
    from: &Store,
) -> Result<()> {
    let failed = || format!("cannot read {MARK} of the copy");
    let shown = to.root.display();
    match control.open(Path::new(MARK), Open::Read) {
        Ok(found) => {
            let mut text = vec![0; found.len().context(failed)?.min(1 << 16) as usize];
            read_exact_at(&*found, &mut text, 0).context(failed)?;
            if text == mark.as_bytes() {
                return Ok(());
            }
            let found = String::from_utf8_lossy(&text);
            let found = found.trim_end().trim_start_matches("npyfs backup of ");
            Err(err!(
                EEXIST,
                "{shown} is the backup of {found}, not of {}: name another destination; if the store was moved, remove {shown}/{MARK}",
                from.root.display()
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A store that was mounted has one too, with what its daemons had to say.
            let control = top.enter(OsStr::new(CONTROL))?;
            let was_backup = match &control {
                Some(control) => {
                    let has = |name: &str| control.find(OsStr::new(name)).map(|it| it.is_some());
                    !(has("log")? || has("daemon.log")?)
                }
                None => false,
            };
            let other = top
                .list()?
                .into_iter()
                .find(|entry| entry.name != "lost+found");
            match other {
                // The mark was removed, since the store was moved.
                _ if was_backup => Ok(()),
                None => Ok(()),
                Some(entry) => Err(err!(
                    EEXIST,
                    "{shown} holds {} and is no backup: name an empty directory, or one that does not exist yet",
                    entry.name.display()
                )),
            }
        }
        Err(error) => Err(error).context(failed),
    }
}

fn write_mark(control: &Directory, mark: &str) -> Result<()> {
    let failed = || format!("cannot write {MARK} of the copy");
    let blob = control
        .open(Path::new(MARK), Open::Create)
        .context(failed)?;
    blob.write_at(mark.as_bytes(), 0).context(failed)?;
    blob.set_len(mark.len() as u64).context(failed)?;
    blob.sync().context(failed)?;
    control.sync(Path::new(CONTROL)).context(failed)?;
    control.sync(Path::new(".")).context(failed)
}

struct Work<'a> {
    to: &'a Store,
    witness: &'a mut dyn Witness,
}

impl Work<'_> {
    /// Copies what is in a directory, and then its attributes.
    fn directory(&mut self, from: &Place<'_>, to: &Place<'_>) -> Result<()> {
        let is_root = from.path().as_os_str().is_empty();
        if !is_root {
            let copied = self.dataset(from, to);
            match copied {
                Ok(None) => {}
                Ok(Some(copied)) => self.witness.dataset(from.path(), Ok(copied)),
                Err(error) => self.witness.dataset(from.path(), Err(error)),
            }
        }
        let mut found = from.list()?;
        found.sort();
        let mut changed = false;
        for super::Listed { name, is_dir, .. } in found {
            let done = if is_dir {
                self.enter(from, to, &name).map(|made| changed |= made)
            } else {
                self.file(from, to, &name).map(|copied| changed |= copied)
            };
            if let Err(error) = done {
                self.witness.failed(&from.path().join(&name), &error);
            }
        }
        if changed {
            self.to.sync_dir(to)?;
        }
        if is_root {
            return Ok(());
        }
        give_attributes(to, from.stat())
    }

    fn dataset(&mut self, from: &Place<'_>, to: &Place<'_>) -> Result<Option<Copied>> {
        let folder = |place: &Place<'_>| -> Result<Arc<dyn StoreDir>> {
            Ok(Arc::new(Directory::from_fd(place.readable()?)))
        };
        let path = from.path();
        let witness = &mut *self.witness;
        dataset::back_up(&folder(from)?, &folder(to)?, &mut |done, of| {
            witness.progress(path, done, of);
        })
        .map(|copied| Some(copied).filter(|copied| *copied != Copied::default()))
    }

    /// Copies a directory of a directory. Answers whether it is new.
    fn enter(&mut self, from: &Place<'_>, to: &Place<'_>, name: &OsStr) -> Result<bool> {
        // Removed since it was listed.
        let Some(inner) = from.enter(name)? else {
            return Ok(false);
        };
        let made = to.find(name)?.is_none();
        if made {
            // Closed to others until all is in it.
            let maker = Maker {
                mode: 0o700,
                uid: inner.stat().st_uid,
                gid: inner.stat().st_gid,
            };
            to.make_dir(name, &maker)?;
        }
        let Some(copy) = to.enter(name)? else {
            return Err(err!(
                ENOTDIR,
                "{} of the copy is a file, and a directory in the store",
                inner.path().display()
            ));
        };
        self.directory(&inner, &copy)?;
        Ok(made)
    }

    /// Copies an ordinary file that is new, or of another size or time than before. Answers whether
    /// it did.
    fn file(&mut self, from: &Place<'_>, to: &Place<'_>, name: &OsStr) -> Result<bool> {
        let path: PathBuf = from.path().join(name);
        let old = to.find(name)?;
        if let (Some(now), Some(old)) = (from.find(name)?, &old) {
            if is_dir(old) {
                let shown = path.display();
                return Err(err!(
                    EISDIR,
                    "{shown} of the copy is a directory, and a file in the store"
                ));
            }
            if is_file(&now) && (now.st_size, mtime(&now)) == (old.st_size, mtime(old)) {
                return Ok(false);
            }
        }
        let (source, stat) = match from.open_file(name, false) {
            Ok(opened) => opened,
            // Removed since it was listed.
            Err(_) if from.find(name)?.is_none() => return Ok(false),
            Err(error) => return Err(error),
        };
        let top = self.to.place(Path::new(""))?;
        let control = top
            .enter(OsStr::new(CONTROL))?
            .ok_or_else(|| err!(ESTALE, ".npyfs of the copy was removed"))?;
        let coming = OsStr::new(COMING);
        if control.find(coming)?.is_some() {
            control.remove(coming)?;
        }
        let maker = Maker {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        let (copy, _) = control.create(coming, libc::O_EXCL, &maker)?;
        let failed = || format!("cannot copy {}", path.display());
        let (source, new) = (OsFile::new(source), OsFile::new(copy));
        copy_bytes(&source, &new, stat.st_size as u64).context(failed)?;
        let copy = new.into_file();
        // That of before: what is written meanwhile makes it another.
        copy.set_modified(mtime_system(&stat)).context(failed)?;
        copy.sync_all().context(failed)?;
        self.to
            .rename((&control, coming), (to, name), old.is_some())?;
        self.witness.file(&path);
        Ok(true)
    }
}

/// Copies up to `len` bytes into an empty file: holes stay holes, and shared extents what they are
/// where the filesystem can.
fn copy_bytes(from: &OsFile, to: &OsFile, len: u64) -> io::Result<()> {
    // Where the file is cut off meanwhile, what is left of it is copied; the next backup sees that it
    // is another.
    extents(from, 0, len, |extent| match extent {
        Extent::Data(at, len) => copy_extent(from, to, at, len),
        Extent::Hole(..) => Ok(()),
    })?;
    let len = from.len()?.min(len);
    if to.len()? < len {
        to.set_len(len)?;
    }
    Ok(())
}

/// Copies up to `len` bytes from `at` on to the same place.
fn copy_extent(from: &OsFile, to: &OsFile, at: u64, len: u64) -> io::Result<()> {
    let end = at.saturating_add(len);
    let mut at = at;
    if let (Some(from), Some(to)) = (from.file(), to.file()) {
        while at < end {
            let most = (end - at).min(1 << 30) as usize;
            let Ok(place) = i64::try_from(at) else { break };
            let (mut read, mut written) = (place, place);
            match copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
                Ok(0) => return Ok(()),
                Ok(done) => at += done as u64,
                // Not between these filesystems.
                Err(_) => break,
            }
        }
    }
    let mut buffer = vec![0; (end - at).min(1 << 20) as usize];
    while at < end {
        let most = (end - at).min(buffer.len() as u64) as usize;
        let done = from.read_at(&mut buffer[..most], at)?;
        to.write_at(&buffer[..done], at)?;
        if done < most {
            break;
        }
        at += done as u64;
    }
    Ok(())
}

fn give_attributes(to: &Place<'_>, stat: &FileStat) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    let entry = to.itself()?;
    let (now, has) = (entry.stat(), |given: u32, has: u32| {
        (is_root && given != has).then_some(given)
    });
    let mode = stat.st_mode & 0o7777;
    let (uid, gid) = (has(stat.st_uid, now.st_uid), has(stat.st_gid, now.st_gid));
    let change = Change {
        // A change of owner may take bits from it.
        mode: (now.st_mode & 0o7777 != mode || uid.is_some() || gid.is_some()).then_some(mode),
        uid,
        gid,
        mtime: (mtime(now) != mtime(stat)).then_some(mtime(stat)),
    };
    entry.set_attributes(&change)
}
