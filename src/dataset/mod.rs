//! The engine: one array that grows by whole chunks, with no filesystem in it.
//!
//! A [`Dataset`] is a directory of the store. It is followed as long as no producer here writes to it,
//! and owned, by a lock, from the first write on. It coordinates parts that know nothing of it: `disk`,
//! `journal`, `array`, `convert`, `chunk`. In here:
//!
//! | module | keeps true |
//! | --- | --- |
//! | `chunk_writer` | a chunk that is written with no mount |
//! | `chunk_handle` | what one handle of a chunk answers for |
//! | `in_flight`, `pending`, `turns` | a chunk in flight, wherever its bytes lie |
//! | `compare` | a name is appended once (P3) |
//! | `commit`, `published` | a chunk is in the array as a whole or not at all (P1, P2): the one path of every change |
//! | `lookup`, `chunks`, `remove` | finding, renaming, changing and removing what is committed |
//! | `writer`, `ownership`, `holds`, `follow` | one daemon writes, all others see it (the lock) |
//! | `contention` | a producer that is kept out hears by which process |
//! | `recovery` | what is on the disk becomes a dataset again (P7) |
//! | `verifying` | of a copy only what was verified is shown, and no reader waits for the rest |
//! | `sync` | fsync means durable (P6) |
//! | `mine` | what is written to is what has the names in the store |
//! | `resume` | a store that failed is written to again once it works |
//! | `backup` | a second copy has what was committed, and nothing else |
//! | `check` | what the disk has is what was committed |
//! | `events`, `rejected`, `status`, `csv` | refusals have reasons, and their bytes are kept (P10) |
//! | `shown` | what `stat` says stays true over remounts |
//! | `rescued` | no limit removes what was confirmed |
//!
//! Lock order: a chunk's state, `writer`, a stream's state, its layout's `end_of_file`, `holds`, `in_flight`, `follow`, `published`,
//! then the log's, the syncs', the backoff's, the contention's and a verification's, which are leaves.

mod backup;
mod check;
mod chunk_handle;
mod chunk_writer;
mod chunks;
mod commit;
mod contention;
mod csv;
pub(crate) mod events;
mod in_flight;
#[doc = include_str!("FORMAT.md")]
pub mod format {}
mod compare;
mod follow;
mod holds;
mod lookup;
mod mine;
mod ownership;
mod pending;
mod published;
mod recovery;
mod rejected;
mod remove;
mod rescued;
mod resume;
mod shown;
mod status;
mod sync;
mod turns;
mod verifying;
mod writer;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, Weak};
use std::time::Duration;

pub use crate::array::View;
pub use crate::chunk::{Kind, Start, judge_file};
pub use crate::convert::budget::Budget;
pub use crate::disk::paths::{CONTROL, DATA};
pub use crate::disk::{Change, Face};
pub use crate::journal::Attributes;
pub use crate::journal::catalog::CatalogEntry;
pub use crate::stop::Stop;
pub use backup::{Copied, back_up};
pub use check::{Report, accept_damage, check, lost_chunks, open_to_check};
pub use chunk_handle::ChunkHandle;
pub use chunk_writer::{ChunkInfo, ChunkWriter};
pub use compare::Committed;
use compare::Comparison;
pub use csv::CSV_HEAD;
pub(crate) use csv::CsvEdition;
pub use pending::{Descriptors, NoOthers, PendingChunk};
pub(crate) use shown::{array_modified, number_in};
pub use status::Status;
pub use sync::Waiter;

use follow::Follow;
use published::Published;
use writer::Writer;

use crate::array::check_compatible;
use crate::disk::{self, Directory, StoreDir};
use crate::error::{Context, Error, Result};
use crate::npy::Header;

/// How a dataset is to be treated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nothing is ever written: no lock, no recovery on the disk.
    pub read_only: bool,
    #[doc(hidden)]
    /// The memory for bodies of chunks in flight, shared by all datasets that have this value.
    pub memory: Arc<Budget>,
    /// How many bytes of refused chunks `.npyfs/rejected/` may hold.
    pub rejected_limit: u64,
    /// A committed name may be written again: each close appends, and the name then stands for the
    /// newest chunk.
    pub reuse_names: bool,
    #[doc(hidden)]
    /// How many directories above this one belong to the store, and are synced with it.
    pub depth: usize,
    #[doc(hidden)]
    /// Device and inode of the store's root, where the dataset is to lie.
    pub root: Option<(u64, u64)>,
    #[doc(hidden)]
    /// Gives up what takes long at an opening.
    pub stop: Stop,
    #[doc(hidden)]
    /// How long an opening waits for the rows of a copy to be verified. If that takes longer, the
    /// dataset is open all the same: it shows what was verified so far, and refuses writes. `None`: until
    /// it is done.
    pub patience: Option<Duration>,
    #[doc(hidden)]
    /// Counts how often a dataset was given up because its files were replaced in the store.
    pub losses: Arc<AtomicU64>,
    /// The kernel's name for this boot, where a test plays another one.
    #[doc(hidden)]
    pub boot: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            memory: Budget::new(64 << 20),
            rejected_limit: 256 << 20,
            reuse_names: false,
            depth: 1,
            root: None,
            stop: Stop::default(),
            patience: None,
            losses: Arc::default(),
            boot: None,
        }
    }
}

/// One growing array and the chunks that it was made of.
///
/// The first chunk sets the dtype and the shape of a row; every further chunk of shape
/// `(n, *row_shape)` adds `n` rows.
///
/// ```
/// # fn main() -> npyfs::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use npyfs::{Dataset, Options};
///
/// let dataset = Dataset::open(dir.path(), Options::default())?;
/// let mut chunk = npyfs::npy::Header::encode(&"<f4".parse()?, &[2, 3])?;
/// chunk.extend([0; 2 * 3 * 4]);
/// dataset.append("first.npy", &chunk)?;
/// dataset.append("second.npy", &chunk)?;
/// dataset.append("second.npy", &chunk)?; // a retry appends nothing
/// let array = dataset.snapshot()?.expect("there are rows");
/// assert_eq!(array.shape(), [4, 3]);
/// assert_eq!(array.read_rows(2..4)?.len(), 2 * 3 * 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Dataset {
    itself: Weak<Dataset>,
    folder: Arc<dyn StoreDir>,
    options: Options,
    /// For messages: where it is, as far as is known.
    label: PathBuf,
    published: RwLock<Published>,
    /// It is a copy that is damaged, and may be read only.
    damage: RwLock<Option<Arc<recovery::Damage>>>,
    /// It is or was a copy, and this was found of its rows.
    verified: Mutex<Option<Arc<recovery::Verified>>>,
    writer: Mutex<Option<Writer>>,
    /// With `writer`: the tail has changed.
    tail_changed: Condvar,
    follow: Mutex<Follow>,
    owned: AtomicBool,
    busy: Busy,
    /// How many need it to be owned, beside the chunks in flight.
    holds: Mutex<usize>,
    in_flight: Mutex<HashMap<OsString, Arc<PendingChunk>>>,
    events: events::Events,
    rejected: rejected::Rejected,
    rescued: rescued::Rescued,
    syncs: sync::Syncs,
    backoff: Mutex<resume::Backoff>,
    contention: contention::Contention,
    /// Something was committed or amended since the names were looked at.
    written: AtomicBool,
    /// What the next commit or sync is to answer: the dataset was given up meanwhile.
    owed: Mutex<Option<Error>>,
    /// It was given up: what began before may have to take it anew.
    given_up: AtomicBool,
    /// Another program has written into its files, and they were not verified since.
    distrust: AtomicBool,
    epoch: mine::epoch::Epoch,
    /// How often the dataset was given up, counted together with others'.
    losses: Arc<AtomicU64>,
    /// When it was last asked for, in the store's own count.
    used: AtomicU64,
    shown: shown::Shown,
    /// How long `chunks.csv` was when that was asked for last.
    csv: Mutex<Option<CsvEdition>>,
}

/// What a name in a dataset stands for now.
#[derive(Debug)]
pub enum Found {
    /// A chunk in flight.
    InFlight(Arc<PendingChunk>),
    /// A committed chunk.
    Committed(Box<Committed>),
}

/// How many long copies hold the writer or are about to.
#[derive(Debug, Default)]
struct Busy(AtomicUsize);

impl Busy {
    fn enter(&self) -> BusyGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self)
    }
}

struct BusyGuard<'a>(&'a Busy);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dataset {
    /// Opens the directory `path` as a dataset. Nothing is written to it before the first chunk,
    /// unless a daemon died there: then it is recovered first.
    ///
    /// # Errors
    /// `EINVAL` for a `data.npy` that cannot grow, `EIO` for a damaged store, and the operating
    /// system's.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Arc<Dataset>> {
        let path = path.as_ref();
        let folder = Directory::open(path).context(|| format!("cannot open {}", path.display()))?;
        Self::open_in(Arc::new(folder), path, options)
    }

    /// As [`Dataset::open`], over any folder; `label` stands for it in messages.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    #[doc(hidden)]
    pub fn open_in(
        folder: Arc<dyn StoreDir>,
        label: impl Into<PathBuf>,
        options: Options,
    ) -> Result<Arc<Dataset>> {
        let dataset = Arc::new_cyclic(|itself| Dataset {
            itself: itself.clone(),
            events: events::Events::new(folder.clone(), options.read_only),
            rejected: rejected::Rejected::new(folder.clone(), options.rejected_limit),
            rescued: rescued::Rescued::new(folder.clone()),
            folder,
            label: label.into(),
            published: RwLock::default(),
            damage: RwLock::default(),
            verified: Mutex::default(),
            writer: Mutex::default(),
            tail_changed: Condvar::new(),
            follow: Mutex::default(),
            owned: AtomicBool::new(false),
            busy: Busy::default(),
            holds: Mutex::default(),
            in_flight: Mutex::default(),
            syncs: sync::Syncs::default(),
            backoff: Mutex::default(),
            contention: contention::Contention::default(),
            written: AtomicBool::new(false),
            owed: Mutex::default(),
            given_up: AtomicBool::new(false),
            distrust: AtomicBool::new(false),
            epoch: mine::epoch::Epoch::default(),
            losses: options.losses.clone(),
            options,
            used: AtomicU64::new(0),
            shown: shown::Shown::default(),
            csv: Mutex::default(),
        });
        dataset.begin_following()?;
        dataset.begin_showing();
        Ok(dataset)
    }

    /// Notes that it is in use at the store's `moment`.
    pub(crate) fn touch(&self, moment: u64) {
        self.used.store(moment, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn label(&self) -> std::path::Display<'_> {
        self.label.display()
    }

    fn boot(&self) -> [u8; 16] {
        self.options.boot.unwrap_or_else(disk::boot_id)
    }

    fn damage(&self) -> Option<Arc<recovery::Damage>> {
        crate::read(&self.damage).clone()
    }

    /// A panic while the writer was held may have left a commit half done in memory.
    fn writer(&self) -> Result<MutexGuard<'_, Option<Writer>>> {
        self.writer.lock().map_err(|_| {
            err!(
                EIO,
                "a failure inside npyfs stopped writes to this dataset until it is opened again"
            )
        })
    }

    fn usable<'a>(&self, writer: &'a mut Option<Writer>) -> Result<&'a mut Writer> {
        let writer = writer
            .as_mut()
            .ok_or_else(|| err!(EBUSY, "the dataset was closed meanwhile"))?;
        match &writer.failed {
            None => Ok(writer),
            Some(error) => Err(error
                .clone()
                .with_errno(crate::error::Errno::EIO)
                .context("the store failed in the middle of a commit; writes are refused until it works again")),
        }
    }

    /// Whether a long copy holds the writer: a request that needs it had better not wait on a thread that
    /// serves others.
    #[doc(hidden)]
    pub fn is_busy(&self) -> bool {
        self.busy.0.load(Ordering::Relaxed) > 0
    }

    /// Whether the array's dtype and row shape admit a chunk, as far as they are set.
    pub(crate) fn check_compatible(&self, header: &Header) -> Result<()> {
        match self.array() {
            Some(array) => check_compatible(header, &array.layout),
            None => Ok(()),
        }
    }

    /// Tells the log why a name was refused, and where its bytes are kept. False where it has told the
    /// same of that name just now.
    fn report_refusal(&self, name: &OsStr, error: &Error, kept: Option<&str>) -> bool {
        let told = self.events.refusal(name, error, kept);
        told.unwrap_or_else(|failure| {
            log::warn!(
                "{}: {} refused: {error}: {failure}",
                self.label(),
                name.display()
            );
            true
        })
    }

    /// Tells the log, for the filesystem's own refusals, unless it was told. False where it has told the
    /// same of that name just now.
    #[doc(hidden)]
    pub fn report(&self, name: &OsStr, error: &Error) -> bool {
        !error.is_to_be_logged() || self.report_refusal(name, error, None)
    }

    /// Tells the log how often what it has told of was refused since.
    pub(crate) fn report_counts(&self) {
        if let Err(error) = self.events.tell_counts() {
            log::warn!("{}: {error}", self.label());
        }
    }

    fn note(&self, line: &str) {
        log::info!("{}: {line}", self.label());
        if let Err(error) = self.events.note(line) {
            log::warn!("{}: {line}: {error}", self.label());
        }
    }
}
