//! The mount as file operations, with no FUSE in it.
//!
//! Each method is what one system call means here; `fuse` translates the kernel's requests to them
//! and back. Where a method has to wait, and its thread may not (`wait`), it answers so, and is
//! called anew by one that may. Where a dataset may have to be opened first, a
//! `…_route` method says where the request belongs: [`Fs::run_at`] takes it there.
//!
//! | module | holds |
//! | --- | --- |
//! | `operations` | one method an operation: what the name or handle stands for, and the hand-over to its kind |
//! | `array` | `data.npy` and slices |
//! | `chunk` | chunks in flight and committed |
//! | `file` | ordinary files, and their commit by a rename |
//! | `dir` | directories and listings |
//! | `dot_npyfs`, `texts`, `control` | `.npyfs`: as names, its texts, what there is |
//! | `entry` | a name that may be a chunk's or a file's |
//! | `inodes`, `numbers` | what the kernel knows by an inode number, and what `stat` shows |
//! | `attr` | attributes of each kind |
//! | `handle` | what is open |
//! | `descriptors` | which descriptors are left after a close |
//! | `openings` | where a request is served, and opening datasets |
//! | `parting` | what is open of a mount that is gone |
//! | `telling` | a line in a log for each refusal |
//! | `workers` | threads for what takes long |
//!
//! The lock of a listing, and of a `chunks.csv` that is being read, are held while the engine is called, which may
//! open its dataset: only a reader of the same handle waits for them. No other lock of this layer is.

mod array;
mod attr;
mod chunk;
mod control;
mod descriptors;
mod dir;
mod dot_npyfs;
mod entry;
mod file;
mod handle;
mod inodes;
mod numbers;
mod openings;
mod operations;
mod parting;
#[doc = include_str!("SEMANTICS.md")]
pub mod semantics {}
mod telling;
mod texts;
mod workers;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

pub use attr::Attr;
pub use dir::Entry;
pub use inodes::ROOT;
pub(crate) use openings::near;
pub use openings::{Need, Route};

use crate::array::View;
use crate::dataset::Dataset;
use crate::error::{Context, Errno, Result};
use crate::store::{Now, Place, Seen, Store};
use crate::wait;
use handle::Handles;
use inodes::{Inode, Inodes, Kind};
use nix::sys::stat::FileStat;
use openings::Openings;
use workers::Workers;

/// How the mount behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Mappings of `data.npy` are cached by the kernel instead of going to the backing file.
    pub cached: bool,
    /// Nothing may be written through this mount.
    pub read_only: bool,
    /// What may be removed of what is committed.
    pub allow_delete: AllowDelete,
    /// How often datasets with unsynced rows are synced; zero for never.
    pub sync_interval: Duration,
    /// How many files that are not in use the kernel is to remember. It would keep all that it ever
    /// saw until its memory is short, at 1.1 KB each, and have us keep a node for each.
    pub remembered: usize,
}

/// What may be removed of what is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowDelete {
    /// Nothing.
    #[default]
    Nothing,
    /// Chunks, whose rows stay: what keeps a dataset the same as another directory removes no row.
    Chunks,
    /// Arrays too, and so whole datasets.
    All,
}

/// The filesystem.
#[derive(Debug)]
pub struct Fs {
    store: Arc<Store>,
    options: Options,
    inodes: Inodes,
    handles: Handles,
    workers: Arc<Workers>,
    openings: Openings,
    kernel: OnceLock<Arc<dyn Kernel>>,
    /// `major:minor` of the mount.
    device: OnceLock<String>,
    /// The mount is out of sight, and what is open of it is served on.
    parted: AtomicBool,
    /// Ends the thread that syncs from time to time when it is dropped.
    ticker: Mutex<Option<Sender<()>>>,
}

/// What the filesystem asks of the kernel by itself. Where the kernel may send requests before it
/// answers, only a worker thread may ask.
pub trait Kernel: std::fmt::Debug + Send + Sync {
    /// Makes it write back what mappings of an inode have changed.
    ///
    /// # Errors
    /// The kernel's.
    fn write_back(&self, ino: u64) -> io::Result<()>;
    /// Makes it forget an inode's attributes, and whatever it was told of them but has not taken in yet.
    /// Any thread may ask.
    ///
    /// # Errors
    /// The kernel's.
    fn forget_attributes(&self, ino: u64) -> io::Result<()>;
    /// Makes it forget those of these inodes that are not in use.
    ///
    /// # Errors
    /// `EINVAL` where it cannot, before Linux 6.18.
    fn prune(&self, inos: &[u64]) -> io::Result<()>;
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The thread's id; 0 where the kernel cannot say.
    pub pid: u32,
}

impl Caller {
    /// Whether the caller is in a group, by its main one or another.
    fn is_in(&self, gid: u32) -> bool {
        if self.gid == gid {
            return true;
        }
        // The kernel tells the main one only.
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.unwrap_or_default();
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let mut groups = groups.unwrap_or_default().split_whitespace();
        groups.any(|group| group.parse() == Ok(gid))
    }
}

/// How the kernel is to treat an open file.
#[derive(Debug)]
pub enum Mode {
    /// Every read and write comes here.
    Direct,
    /// Pages are cached, and those from before are dropped.
    Cached,
    /// Pages are cached, and those from before are good: the inode never changes.
    Kept,
    /// Reads come here; mappings go to the backing file of this view, where the kernel can.
    Passthrough(View),
}

/// An open file.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub fh: u64,
    /// How it is cached.
    pub mode: Mode,
}

/// New values for a file's attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Time of last change.
    pub mtime: Option<SystemTime>,
    /// The handle, where it is done through one.
    pub fh: Option<u64>,
}

/// How many copies, conversions and waits for the disk go on at once.
const WORKERS: usize = 16;
impl Fs {
    /// A filesystem over a store.
    ///
    /// # Errors
    /// `EAGAIN` where no thread can be started.
    pub fn new(store: Arc<Store>, options: Options) -> Result<Arc<Fs>> {
        let (ticker, ticks) = mpsc::channel();
        let interval = options.sync_interval;
        let watched = Arc::downgrade(&store);
        std::thread::Builder::new()
            .name("npyfs-sync".into())
            .spawn(move || watch(interval, &ticks, &watched))
            .context(|| "cannot start the thread that syncs".into())?;
        Ok(Arc::new(Fs {
            inodes: Inodes::new(options.remembered, store.most_idle() / 2),
            store,
            options,
            handles: Handles::new(),
            workers: Arc::new(Workers::new(WORKERS)),
            openings: Openings::new(),
            kernel: OnceLock::new(),
            device: OnceLock::new(),
            parted: AtomicBool::new(false),
            ticker: Mutex::new(Some(ticker)),
        }))
    }

    /// Gives the way to the kernel, once there is one.
    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        if self.kernel.set(kernel).is_err() {
            log::debug!("the way to the kernel is known already");
        }
    }

    /// Gives the device number of the mount as `major:minor`, once it is known.
    pub fn set_device(&self, device: String) {
        if self.device.set(device).is_err() {
            log::debug!("the mount's device number is known already");
        }
    }

    /// The node of a directory or entry, counted as one lookup.
    fn name_node(&self, dir: u64, name: &OsStr, is_dir: bool, seen: Option<Seen>) -> u64 {
        let node = self.inodes.named(dir, name, is_dir, seen);
        if let Some(oldest) = self.inodes.prunable()
            && let Some(kernel) = self.kernel.get().cloned()
        {
            self.workers.run(move || match kernel.prune(&oldest) {
                Ok(()) => log::debug!("the kernel forgets {} files", oldest.len()),
                // It then keeps them until its memory is short.
                Err(error) => log::debug!("the kernel does not forget files: {error}"),
            });
        }
        node
    }

    /// Says whether the kernel caches no pages of arrays, which helps only where there is a way to it.
    /// To be taken back before it caches any.
    pub fn set_uncached(&self, uncached: bool) {
        self.inodes
            .set_uncached(uncached && self.kernel.get().is_some());
    }

    /// How the mount behaves.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs what may take long on a thread of its own.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.workers.run(job);
    }

    /// As [`Fs::run`], after a while that takes no thread.
    pub fn run_later(&self, delay: Duration, job: impl FnOnce() + Send + 'static) {
        self.workers.run_later(delay, job);
    }

    /// Ends everything: what is in flight and complete was committed at its close, the rest is
    /// refused; then the store is closed.
    ///
    /// # Errors
    /// The first dataset's that could not be closed cleanly.
    pub fn close(&self) -> Result<()> {
        self.stop_openings();
        crate::lock(&self.ticker).take();
        self.openings.finish();
        self.workers.finish();
        for handle in self.handles.drain() {
            Self::end(&handle);
        }
        self.store.close()
    }

    /// Gives up openings that take long, now and from now on: what is already open goes on.
    pub fn stop_openings(&self) {
        self.store.stop().set();
    }

    /// What an inode is called, for the log.
    pub fn describe(&self, ino: u64) -> PathBuf {
        let Ok(node) = self.inodes.get(ino) else {
            return format!("inode {ino}").into();
        };
        match node.kind {
            Kind::Dir => self.inodes.path(ino),
            Kind::Control(control) => {
                self.path(node.parent, telling::control_path(&control).as_os_str())
            }
            _ => self.path(node.parent, &node.name),
        }
        .unwrap_or_else(|_| PathBuf::from(&*node.name))
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(err!(EROFS, "mounted read-only"));
        }
        Ok(())
    }

    /// A node that is a directory of the store.
    fn directory(&self, ino: u64) -> Result<Inode> {
        self.directory_seen(ino).map(|(node, _)| node)
    }

    /// As [`Fs::directory`], with what the kernel was told of it.
    fn directory_seen(&self, ino: u64) -> Result<(Inode, Option<Seen>)> {
        let (node, seen) = self.inodes.get_seen(ino)?;
        match node.kind {
            Kind::Dir if !node.gone => Ok((node, seen)),
            Kind::Dir => Err(err!(ESTALE, "{} is gone", node.name.display())),
            Kind::Control(_) => Err(err!(EPERM, ".npyfs is npyfs's own")),
            _ => Err(err!(ENOTDIR, "{} is not a directory", node.name.display())),
        }
    }

    fn path(&self, dir: u64, name: &OsStr) -> Result<PathBuf> {
        Ok(self.inodes.path(dir)?.join(name))
    }

    /// The dataset of a directory; the root is none.
    fn dataset(&self, dir: u64) -> Result<Arc<Dataset>> {
        if dir == ROOT {
            return Err(err!(
                EPERM,
                "the root of the mount holds datasets only: make a directory, and write chunks into it"
            ));
        }
        if let Some(dataset) = self.inodes.dataset(dir) {
            self.store.touch(&dataset);
            return Ok(dataset);
        }
        let (path, seen) = self.inodes.place(dir)?;
        wait::may_wait()?;
        let dataset = self.store.dataset(&path)?;
        if seen.map(|seen| seen.inode()) != Some(dataset.identity()?) {
            return Err(replaced(&path));
        }
        self.inodes.set_dataset(dir, &dataset);
        Ok(dataset)
    }

    /// The directory of a node, if it is as the kernel was told: by that the kernel has checked
    /// what the caller may do in it.
    fn place(&self, dir: u64) -> Result<Place<'_>> {
        let place = self.same_place(dir)?;
        if dir != ROOT {
            self.check(dir, place.stat())?;
        }
        Ok(place)
    }

    /// The directory of a node, whatever its owner and permissions are now: for what is done with
    /// something in it that is open, or checked by itself.
    fn same_place(&self, dir: u64) -> Result<Place<'_>> {
        let (path, seen) = self.inodes.place(dir)?;
        let place = self.store.place(&path)?;
        let is_same = seen.is_some_and(|seen| seen.is_inode_of(&Seen::of(place.stat())));
        if dir == ROOT || is_same {
            Ok(place)
        } else {
            Err(replaced(&path))
        }
    }

    /// Fails unless what is in the store is what the kernel was told of an inode.
    fn check(&self, ino: u64, stat: &FileStat) -> Result<()> {
        let now = self.compare(ino, stat);
        if now == Now::Same {
            return Ok(());
        }
        Err(self.stale(ino, now))
    }

    /// As [`Fs::check`], for what only its owner, or the owner of the directory, may do: then other
    /// permissions do not matter.
    fn check_owner(&self, ino: u64, stat: &FileStat) -> Result<()> {
        match self.compare(ino, stat) {
            Now::Same | Now::Changed => Ok(()),
            now => Err(self.stale(ino, now)),
        }
    }

    fn compare(&self, ino: u64, stat: &FileStat) -> Now {
        let seen = self.inodes.seen(ino);
        seen.map_or(Now::Another, |seen| seen.compare(stat))
    }

    /// `ESTALE`: the kernel looks up the path again, checks again, and asks again.
    fn stale(&self, ino: u64, now: Now) -> crate::Error {
        let path = self.describe(ino);
        if now == Now::Another {
            return replaced(&path);
        }
        if let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.forget_attributes(ino)
        {
            log::debug!(
                "the kernel keeps the attributes of {}: {error}",
                path.display()
            );
        }
        let path = path.display();
        err!(
            ESTALE,
            "the owner or the mode of {path} was changed in the store"
        )
    }
}

/// How often datasets that are written are looked at by their names.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often those are that are owned and not written.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(5);

/// Looks every second whether what is written is still the store's, and syncs it every `interval`,
/// unless that is zero.
fn watch(interval: Duration, ticks: &Receiver<()>, store: &Weak<Store>) {
    let step = match interval.is_zero() {
        true => LOOK_EVERY,
        false => interval.min(LOOK_EVERY),
    };
    let (mut looked, mut synced) = (Instant::now(), Instant::now());
    let mut looked_at_all = looked;
    while let Err(RecvTimeoutError::Timeout) = ticks.recv_timeout(step) {
        let Some(store) = store.upgrade() else {
            return;
        };
        if looked.elapsed() >= LOOK_EVERY {
            let all = looked_at_all.elapsed() >= LOOK_AT_ALL_EVERY;
            store.look_if_mine(all);
            store.report_counts();
            looked = Instant::now();
            if all {
                looked_at_all = looked;
            }
        }
        if !interval.is_zero() && synced.elapsed() >= interval {
            store.sync_dirty();
            synced = Instant::now();
        }
    }
}

fn replaced(path: &Path) -> crate::Error {
    err!(ESTALE, "{} was replaced in the store", path.display())
}

/// Reads an ordinary file; less than a full buffer only at its end.
fn read_file(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "cannot read the file".into()),
        }
    }
    Ok(done)
}

/// Whether an error is only the answer to a question: nothing was refused.
pub fn is_expected(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESTALE | Errno::ENOSYS)
}
