//! The store: a tree of directories in which each is a dataset, and ordinary files lie beside it.
//!
//! Paths are relative to the store's root, which is held open. Symbolic links and special files in
//! the store are not shown, and no path leads through a link, so none leads out of it.
//!
//! | module | holds |
//! | --- | --- |
//! | `backup` | a second copy of the store |
//! | `registry` | which datasets are open |
//! | `seen` | what was seen of a file, so that another in its place is noticed |
//! | `sparing` | what is done where no descriptor is left |
//! | `telling` | refusals of which no open dataset tells |
//! | `tree` | directories and ordinary files |

mod backup;
mod datasets;
mod registry;
mod seen;
mod sparing;
mod telling;
mod tree;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::SystemTime;

use nix::sys::stat::{FileStat, SFlag};

use crate::convert::budget::Budget;
use crate::disk::clock;
use crate::disk::paths::DATA;
use crate::disk::{Directory, StoreDir};
use crate::error::{Context, Error, Result};
use crate::stop::Stop;
pub use backup::{Witness, back_up};
use registry::Registry;
pub use seen::{Now, Seen};
pub use tree::{Entry, Listed, Place};

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
    /// How many datasets may be open that are not in use, as far as there are descriptors for them.
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
pub struct Door(pub fn(&Path, Directory) -> Arc<dyn StoreDir>);

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
    stop: Stop,
    registry: Arc<Registry>,
    losses: Arc<AtomicU64>,
    telling: telling::Telling,
    /// Its path was seen to lead elsewhere.
    moved: AtomicBool,
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
        let itself = dir.try_clone().context(|| "no descriptor is left".into())?;
        Ok(Arc::new(Store {
            telling: telling::Telling::new(Directory::from_fd(itself.into()), options.read_only),
            root,
            fd: dir.into(),
            memory: Budget::new(options.memory),
            stop: Stop::default(),
            registry: Arc::new(Registry::new(options.idle_datasets)),
            losses: Arc::default(),
            moved: AtomicBool::new(false),
            options,
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

    /// Gives up openings that take long when it is set: a daemon that ends need not wait for them.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(err!(EROFS, "the store is mounted read-only"));
        }
        Ok(())
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

/// The time of last change of a file's bytes or attributes.
pub fn ctime_system(stat: &FileStat) -> SystemTime {
    let seconds = stat.st_ctime.saturating_mul(1_000_000_000);
    clock::to_system(seconds.saturating_add(stat.st_ctime_nsec))
}

/// An error for a path that is not there.
pub fn not_found(path: &Path) -> Error {
    err!(ENOENT, "{} does not exist", path.display())
}
