//! Where a request is served: at once, on a worker thread, or where its dataset is opened.
//!
//! Opening a dataset may take long, up to a recovery of all its rows, or for ever where the disk
//! does not answer, and that concerns its own users only. So it is done on no thread that serves
//! others: the first request that needs it has a thread for it, and those that come meanwhile wait
//! in a list, with no thread each. The same holds for owning a dataset, whose lock the daemon before
//! this one may still have.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::handle::Handle;
use super::inodes::{ROOT, Use};
use super::workers::{Job, Workers};
use super::{AllowDelete, Fs};
use crate::dataset::{self, Dataset};

/// How many datasets may be opened at once.
const MOST: usize = 256;

/// Where a request is to be served.
#[derive(Debug)]
pub enum Route {
    /// On the thread that took it. The dataset stays open until then.
    Here(Option<Arc<Dataset>>),
    /// On a worker thread: it has much to do, or to wait for.
    Worker(Option<Arc<Dataset>>),
    /// After the dataset of this directory was opened, or owned.
    Opener {
        /// The directory's inode.
        dir: u64,
        /// What is to be done first.
        need: Need,
        /// Then on a worker thread.
        slow: bool,
    },
}

/// What a request needs of its dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// That it is open.
    Open,
    /// That it is owned, or that its lock is free or none that is waited for.
    Free,
    /// That it is owned, and that the store has not failed.
    Owned,
}

impl Need {
    fn is_met(self, dataset: &Dataset) -> bool {
        match self {
            Need::Open => true,
            Need::Free => !dataset.is_worth_awaiting(),
            Need::Owned => dataset.is_owned() && !dataset.has_failed(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Openings {
    /// By the inodes of their directories: who waits for an opening that is under way.
    lists: Mutex<HashMap<u64, VecDeque<Waiting>>>,
    threads: Workers,
}

struct Waiting {
    job: Job,
    need: Need,
    slow: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

impl Openings {
    pub(super) fn new() -> Self {
        Self {
            lists: Mutex::default(),
            threads: Workers::new(MOST),
        }
    }

    pub(super) fn finish(&self) {
        self.threads.finish();
    }
}

impl Fs {
    /// Runs a job where it belongs.
    pub fn run_at(self: &Arc<Self>, route: Route, job: impl FnOnce() + Send + 'static) {
        match route {
            Route::Here(_kept) => job(),
            Route::Worker(kept) => self.run_with(kept, Box::new(job)),
            Route::Opener { dir, need, slow } => {
                let job = Box::new(job);
                let waiting = Waiting { job, need, slow };
                let mut lists = crate::lock(&self.openings.lists);
                if let Some(list) = lists.get_mut(&dir) {
                    list.push_back(waiting);
                    return;
                }
                lists.insert(dir, VecDeque::new());
                drop(lists);
                let fs = self.clone();
                self.openings
                    .threads
                    .run(move || fs.serve_list(dir, waiting));
            }
        }
    }

    fn run_with(&self, kept: Option<Arc<Dataset>>, job: Job) {
        self.workers.run(move || {
            job();
            drop(kept);
        });
    }

    /// Runs the request that opens a dataset, and those that wait for it. Where it cannot be opened
    /// each of them tries by itself, one after the other.
    fn serve_list(self: &Arc<Self>, dir: u64, first: Waiting) {
        let mut next = Some(first);
        while let Some(waiting) = next {
            // A panic answers this request, and no other.
            let served = catch_unwind(AssertUnwindSafe(|| self.serve_waiting(dir, waiting)));
            if served.is_err() {
                log::error!("opening the dataset of inode {dir} panicked");
            }
            next = self.run_ready(dir, true);
        }
    }

    /// Runs those that wait for nothing more, and answers the next of the others, which is then no more
    /// in the list; none of them where `takes` is false. With the last of them the list goes.
    fn run_ready(&self, dir: u64, takes: bool) -> Option<Waiting> {
        let kept = self.inodes.dataset(dir);
        let is_met = |need: Need| kept.as_deref().is_some_and(|it| need.is_met(it));
        let (open, free, owned) = (kept.is_some(), is_met(Need::Free), is_met(Need::Owned));
        let is_ready = |waiting: &Waiting| match waiting.need {
            Need::Open => open,
            Need::Free => free,
            Need::Owned => owned,
        };
        let mut lists = crate::lock(&self.openings.lists);
        let list = lists.remove(&dir).unwrap_or_default();
        let (ready, mut later): (VecDeque<_>, VecDeque<_>) = list.into_iter().partition(is_ready);
        let next = if takes { later.pop_front() } else { None };
        if next.is_some() || !takes {
            lists.insert(dir, later);
        }
        drop(lists);
        for waiting in ready {
            self.run_with(kept.clone(), waiting.job);
        }
        next
    }

    fn serve_waiting(&self, dir: u64, waiting: Waiting) {
        if waiting.need != Need::Open
            && let Ok(dataset) = self.dataset(dir)
            && dataset.is_worth_awaiting()
        {
            // Nor do readers wait for a lock.
            self.run_ready(dir, false);
            dataset.await_lock();
        }
        if waiting.slow
            && let Ok(dataset) = self.dataset(dir)
        {
            self.run_with(Some(dataset), waiting.job);
        } else {
            (waiting.job)();
        }
    }

    /// The route of a request that needs the dataset of `dir`.
    pub(super) fn route(&self, dir: u64, need: Need, slow: bool) -> Route {
        self.route_in(dir, self.inodes.dataset(dir), need, slow)
    }

    fn route_in(&self, dir: u64, dataset: Option<Arc<Dataset>>, need: Need, slow: bool) -> Route {
        match dataset {
            _ if dir == ROOT => near(slow),
            Some(dataset) if slow && need.is_met(&dataset) => Route::Worker(Some(dataset)),
            Some(dataset) if need.is_met(&dataset) => Route::Here(Some(dataset)),
            Some(_) => Route::Opener { dir, need, slow },
            None if self.directory(dir).is_ok() => Route::Opener { dir, need, slow },
            // It is refused at once.
            None => near(slow),
        }
    }

    /// Of a lookup.
    pub fn lookup_route(&self, parent: u64, name: &OsStr) -> Route {
        match dataset::Kind::of(name) {
            dataset::Kind::Control => Route::Here(None),
            dataset::Kind::Ordinary => self.ordinary_route(parent, name),
            dataset::Kind::Array | dataset::Kind::Slice { .. } | dataset::Kind::Chunk => {
                self.route(parent, Need::Open, false)
            }
        }
    }

    /// Of a question for attributes.
    pub fn getattr_route(&self, ino: u64) -> Route {
        match self.inodes.dataset_of(ino, Use::Look) {
            Some((dir, dataset)) => self.route_in(dir, dataset, Need::Open, false),
            None => Route::Here(None),
        }
    }

    /// Of a change of attributes.
    pub fn setattr_route(&self, ino: u64) -> Route {
        match self.inodes.dataset_of(ino, Use::Change) {
            Some((dir, dataset)) => self.route_in(dir, dataset, Need::Free, false),
            None => Route::Here(None),
        }
    }

    /// Of the creation of a file. A chunk's dataset is owned first.
    pub fn create_route(&self, parent: u64, name: &OsStr) -> Route {
        if is_chunk(name) {
            self.route(parent, Need::Owned, false)
        } else {
            Route::Here(None)
        }
    }

    /// Of opening what an inode stands for. A chunk that is to be written has its dataset owned
    /// first.
    pub fn open_route(&self, ino: u64, flags: i32) -> Route {
        let writes = flags & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY;
        let need = if writes { Need::Owned } else { Need::Open };
        match self.inodes.dataset_of(ino, Use::Open) {
            Some((dir, dataset)) => self.route_in(dir, dataset, need, false),
            None => Route::Here(None),
        }
    }

    /// Of a removal. One of what is committed waits for the producer that commits.
    pub fn unlink_route(&self, parent: u64, name: &OsStr) -> Route {
        let slow = self.options.allow_delete != AllowDelete::Nothing;
        let need = if slow { Need::Free } else { Need::Open };
        match dataset::Kind::of(name) {
            dataset::Kind::Chunk | dataset::Kind::Array => self.route(parent, need, slow),
            _ => near(slow),
        }
    }

    /// Of the removal of a directory, whose dataset is opened to see that it is empty.
    pub fn rmdir_route(&self, parent: u64, name: &OsStr) -> Route {
        match self.inodes.number(parent, name) {
            Some(dir) => self.route(dir, Need::Free, true),
            None => near(true),
        }
    }

    /// Of a rename. One to or from a chunk's name may have a chunk to copy, or one that holds the
    /// writer to wait for.
    pub fn rename_route(
        &self,
        parent: u64,
        name: &OsStr,
        newparent: u64,
        newname: &OsStr,
    ) -> Route {
        let from = is_chunk(name).then(|| self.route(parent, Need::Free, true));
        let to = is_chunk(newname).then(|| self.route(newparent, Need::Free, true));
        match (from, to) {
            (Some(opener @ Route::Opener { .. }), _) => opener,
            (_, Some(route)) | (Some(route), None) => route,
            (None, None) => Route::Here(None),
        }
    }

    /// Of a listing.
    pub fn readdir_route(&self, ino: u64) -> Route {
        self.route(ino, Need::Open, false)
    }

    /// Of lining up for a sync, which may take long: all but that of a chunk in flight.
    pub fn fsync_route(&self, ino: u64, fh: u64) -> Route {
        let Ok(handle) = self.handles.get(fh) else {
            return Route::Here(None);
        };
        match &*handle {
            Handle::Chunk(chunk) if chunk.writer.is_new() => Route::Here(None),
            Handle::File(_) | Handle::GeneratedFile(_) | Handle::LateLog(_) => near(true),
            Handle::Chunk(_) | Handle::View(_) | Handle::Version(..) | Handle::Dir(_) => {
                match self.inodes.get(ino) {
                    Ok(node) => self.route(node.parent, Need::Open, true),
                    Err(_) => near(true),
                }
            }
        }
    }

    /// As [`Fs::fsync_route`], for a directory.
    pub fn fsyncdir_route(&self, ino: u64) -> Route {
        self.route(ino, Need::Open, true)
    }
}

/// The route of a request that needs no dataset to be opened.
pub(crate) fn near(slow: bool) -> Route {
    if slow {
        Route::Worker(None)
    } else {
        Route::Here(None)
    }
}

fn is_chunk(name: &OsStr) -> bool {
    dataset::Kind::of(name) == dataset::Kind::Chunk
}
