//! Which datasets are open: each once, from its first use until it is closed as idle.
//!
//! The table of them is locked for as long as it takes to look into it, never while the disk works.
//! A thread that opens or closes a dataset leaves a [`Transition`] in its place, for which those wait that want
//! that dataset, and no other.
//!
//! A dataset is idle when the table has the only reference to it. That is settled by taking the
//! value out of the reference under the lock of the table: a caller that has got a reference meanwhile,
//! from wherever, keeps the dataset open; one that comes later finds it closing, and opens it anew.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use nix::sys::resource::{Resource, getrlimit};

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::wait;

/// Device and inode of a dataset's directory.
pub(super) type Key = (u64, u64);

/// How many descriptors an idle dataset holds: its directory and the `.npyfs` there, the array, the
/// journal and the lock.
const DESCRIPTORS: u64 = 5;
/// How many descriptors are held back for the datasets that are open.
const RESERVE: usize = 8;
/// How often descriptors are looked for, while others take those that were found.
const ATTEMPTS: usize = 16;

#[derive(Debug)]
pub(super) struct Registry {
    slots: Mutex<HashMap<Key, Slot>>,
    /// Counts the times that a dataset was asked for.
    moment: AtomicU64,
    /// How many datasets may be open that are not in use.
    pub(super) limit: usize,
    pub(super) reserve: Reserve,
}

/// Descriptors that only datasets that are open may use: to open one more dataset would leave none
/// for the commits and closings of those.
#[derive(Debug)]
pub(super) struct Reserve {
    most: usize,
    held: Mutex<Vec<File>>,
}

impl Reserve {
    /// An eighth of the descriptors that this process can have, where these are few.
    fn new() -> Self {
        let reserve = Self {
            most: usize::try_from(descriptors() / 8).map_or(RESERVE, |most| most.min(RESERVE)),
            held: Mutex::default(),
        };
        if let Err(error) = reserve.fill() {
            log::warn!("few descriptors are left to begin with: {error}");
        }
        reserve
    }

    /// Opens the descriptors that may be missing.
    pub(super) fn fill(&self) -> io::Result<()> {
        Self::fill_up(&mut crate::lock(&self.held), self.most)
    }

    fn fill_up(held: &mut Vec<File>, most: usize) -> io::Result<()> {
        while held.len() < most {
            held.push(File::open("/dev/null")?);
        }
        Ok(())
    }

    /// Does `work` with the descriptors that were held back. One at a time: what it takes is missing
    /// afterwards.
    fn lend<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut held = crate::lock(&self.held);
        held.clear();
        let done = work();
        if let Err(error) = Self::fill_up(&mut held, self.most) {
            log::debug!("{} descriptors are held back: {error}", held.len());
        }
        done
    }
}

#[derive(Debug)]
enum Slot {
    Open(Arc<Dataset>),
    Busy(Arc<Transition>),
}

/// An opening, or a closing, for which others wait.
#[derive(Debug, Default)]
struct Transition(OnceLock<Outcome>);

#[derive(Clone, Debug)]
enum Outcome {
    Opened(Arc<Dataset>),
    /// For those that have waited; a later caller tries anew.
    Failed(Error),
    Closed,
}

/// Ends a transition, also that of a thread that panics: those that wait must not do so for ever.
struct Ending<'a> {
    registry: &'a Registry,
    key: Key,
    transition: Arc<Transition>,
    outcome: Outcome,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        {
            let mut slots = crate::lock(&self.registry.slots);
            match &self.outcome {
                Outcome::Opened(dataset) => {
                    slots.insert(self.key, Slot::Open(dataset.clone()));
                }
                Outcome::Failed(_) | Outcome::Closed => {
                    slots.remove(&self.key);
                }
            }
        }
        if self.transition.0.set(self.outcome.clone()).is_err() {
            log::error!("a dataset was opened or closed by two");
        }
    }
}

impl Registry {
    pub(super) fn new(idle_datasets: usize) -> Self {
        Self {
            slots: Mutex::default(),
            moment: AtomicU64::new(0),
            limit: affordable(idle_datasets),
            reserve: Reserve::new(),
        }
    }

    /// The dataset with this key, which `open` opens where it is not open.
    pub(super) fn get(
        &self,
        key: Key,
        open: impl FnOnce() -> Result<Arc<Dataset>>,
    ) -> Result<Arc<Dataset>> {
        let mut transition: Arc<Transition> = Arc::default();
        let mut ending = loop {
            {
                let mut slots = crate::lock(&self.slots);
                match slots.get(&key) {
                    Some(Slot::Open(dataset)) => return Ok(dataset.clone()),
                    Some(Slot::Busy(other)) => transition = other.clone(),
                    None => {
                        slots.insert(key, Slot::Busy(transition.clone()));
                        let panicked = err!(EIO, "a failure inside npyfs ended the opening");
                        break self.ending(key, transition, Outcome::Failed(panicked));
                    }
                }
            }
            match transition.0.wait() {
                Outcome::Opened(dataset) => return Ok(dataset.clone()),
                Outcome::Failed(error) => return Err(error.clone()),
                Outcome::Closed => transition = Arc::default(),
            }
        };
        let opened = open();
        ending.outcome = match &opened {
            Ok(dataset) => Outcome::Opened(dataset.clone()),
            Err(error) => Outcome::Failed(error.clone()),
        };
        opened
    }

    fn ending(&self, key: Key, transition: Arc<Transition>, outcome: Outcome) -> Ending<'_> {
        Ending {
            registry: self,
            key,
            transition,
            outcome,
        }
    }

    pub(super) fn touch(&self, dataset: &Dataset) {
        dataset.touch(self.moment.fetch_add(1, Ordering::Relaxed));
    }

    pub(super) fn datasets(&self) -> Vec<Arc<Dataset>> {
        let slots = crate::lock(&self.slots);
        let open = slots.values().filter_map(|slot| match slot {
            Slot::Open(dataset) => Some(dataset.clone()),
            Slot::Busy(_) => None,
        });
        open.collect()
    }

    pub(super) fn count(&self) -> usize {
        let is_open = |slot: &&Slot| matches!(slot, Slot::Open(_));
        crate::lock(&self.slots).values().filter(is_open).count()
    }

    /// Closes the datasets that were used longest ago and are not in use, until no more than `most`
    /// are open; those that are being verified last. Answers how many it has closed.
    pub(super) fn close_idle(&self, most: usize) -> usize {
        let mut idle: Vec<(bool, u64, Key)> = {
            let slots = crate::lock(&self.slots);
            let idle = slots.iter().filter_map(|(key, slot)| match slot {
                // No more than a hint: it may be in use before this one is closed.
                Slot::Open(dataset) if Arc::strong_count(dataset) == 1 => {
                    Some((dataset.is_verifying(), dataset.last_used(), *key))
                }
                _ => None,
            });
            idle.collect()
        };
        idle.sort_unstable();
        let mut closed = 0;
        for (_, _, key) in idle {
            if self.count() <= most {
                break;
            }
            if let Some((dataset, ending)) = self.take_idle(key) {
                if let Err(error) = dataset.close() {
                    log::error!("{error}");
                }
                // Its lock with it: the thread that waits for the end of this takes that anew.
                drop(dataset);
                drop(ending);
                closed += 1;
            }
        }
        closed
    }

    /// Takes a dataset that is not in use: no caller has it any more, nor can get it.
    fn take_idle(&self, key: Key) -> Option<(Dataset, Ending<'_>)> {
        let mut slots = crate::lock(&self.slots);
        let slot = slots.get_mut(&key)?;
        if matches!(slot, Slot::Busy(_)) {
            return None;
        }
        let transition: Arc<Transition> = Arc::default();
        let Slot::Open(dataset) = std::mem::replace(slot, Slot::Busy(transition.clone())) else {
            return None;
        };
        match Arc::try_unwrap(dataset) {
            Ok(dataset) => Some((dataset, self.ending(key, transition, Outcome::Closed))),
            Err(dataset) => {
                *slot = Slot::Open(dataset);
                None
            }
        }
    }

    /// Forgets the dataset of a directory that is about to be removed.
    pub(super) fn forget(&self, key: Key) {
        let mut slots = crate::lock(&self.slots);
        if matches!(slots.get(&key), Some(Slot::Open(_))) {
            slots.remove(&key);
        }
    }

    /// Forgets all datasets: the end of a mount.
    pub(super) fn clear(&self) {
        crate::lock(&self.slots).clear();
    }

    /// Closes idle datasets for their descriptors. False where there is none.
    pub(super) fn relieve(&self) -> bool {
        // Not everything that lacks a descriptor can be begun anew, and it is a rare case.
        wait::allowed(|| self.close_idle(self.count() / 4 * 3)) > 0
    }

    /// Does what an open dataset cannot do without a descriptor, where neither is one left nor an
    /// idle dataset that could give up its own.
    pub(super) fn with_reserve<T>(&self, work: impl FnOnce() -> T) -> T {
        self.reserve.lend(work)
    }

    /// Does what takes descriptors; where none is left, once more when idle datasets have given up
    /// theirs.
    pub(super) fn sparing<T, E>(
        &self,
        is_short: impl Fn(&E) -> bool,
        mut work: impl FnMut() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        for _ in 1..ATTEMPTS {
            match work() {
                Err(error) if is_short(&error) && self.relieve() => {}
                done => return done,
            }
        }
        work()
    }
}

/// How many descriptors this process can have.
fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// How many of the datasets that are not in use may stay open: they may hold half of the descriptors
/// that this process can have.
fn affordable(wanted: usize) -> usize {
    let most = usize::try_from(descriptors() / 2 / DESCRIPTORS).unwrap_or(usize::MAX);
    wanted.min(most).max(1)
}
