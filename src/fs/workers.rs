//! Threads for what takes long: copies, conversions and waits for the disk.
//!
//! They are started when all others are at work, up to a limit, and end after some idle seconds, so
//! that an idle mount has none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(10);

pub(crate) type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    /// How many threads there may be.
    most: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// There is a job that is to wait for less than the others.
    sooner: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workers")
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Jobs that are to wait until then.
    later: Vec<(Instant, Job)>,
    /// There is a thread that waits for all of them.
    waits: bool,
}

impl Workers {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            shared: Arc::default(),
            most,
        }
    }

    /// Runs `job` on a thread that may wait; on this one if there can be no other.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = crate::lock(&self.shared.state);
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() || state.threads >= self.most {
            self.shared.changed.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = self.shared.clone();
        let started = std::thread::Builder::new()
            .name("npyfs-worker".into())
            .spawn(move || shared.work());
        if let Err(error) = started {
            log::warn!("cannot start a worker thread: {error}");
            let mut state = crate::lock(&self.shared.state);
            state.threads -= 1;
            if state.threads == 0
                && let Some(job) = state.jobs.pop_back()
            {
                drop(state);
                job();
            }
        }
    }

    /// As [`Workers::run`], but once `delay` has passed. However many wait, they take one thread.
    pub(crate) fn run_later(
        self: &Arc<Self>,
        delay: Duration,
        job: impl FnOnce() + Send + 'static,
    ) {
        let mut state = crate::lock(&self.shared.state);
        state.later.push((Instant::now() + delay, Box::new(job)));
        if std::mem::replace(&mut state.waits, true) {
            self.shared.sooner.notify_one();
            return;
        }
        drop(state);
        let workers = self.clone();
        let started = std::thread::Builder::new()
            .name("npyfs-later".into())
            .spawn(move || workers.wait());
        if let Err(error) = started {
            log::warn!("cannot start a thread: {error}");
            // Dropping a job answers EIO.
            let mut state = crate::lock(&self.shared.state);
            state.waits = false;
            let dropped = std::mem::take(&mut state.later);
            drop(state);
            drop(dropped);
        }
    }

    /// Runs what was to wait, until there is nothing of it.
    fn wait(&self) {
        let mut state = crate::lock(&self.shared.state);
        loop {
            let Some(next) = state.later.iter().map(|(due, _)| *due).min() else {
                state.waits = false;
                return;
            };
            let now = Instant::now();
            if next > now {
                state = self
                    .shared
                    .sooner
                    .wait_timeout(state, next - now)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
                continue;
            }
            let due = state.later.extract_if(.., |(due, _)| *due <= now);
            let due: Vec<Job> = due.map(|(_, job)| job).collect();
            drop(state);
            for job in due {
                self.run(job);
            }
            state = crate::lock(&self.shared.state);
        }
    }

    /// Waits until all jobs are done.
    pub(crate) fn finish(&self) {
        let mut state = crate::lock(&self.shared.state);
        while !state.jobs.is_empty() || state.waits || state.idle < state.threads {
            state = self
                .shared
                .changed
                .wait_timeout(state, Duration::from_millis(20))
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = crate::lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job that panics has dropped its reply, which answers EIO.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                    log::error!("a worker thread panicked");
                }
                state = crate::lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (again, timeout) = self
                .changed
                .wait_timeout(state, IDLE)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            state = again;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn jobs_run_side_by_side_and_all_of_them() {
        let workers = Workers::new(16);
        let done = Arc::new(AtomicUsize::new(0));
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..4 {
            let (done, barrier) = (done.clone(), barrier.clone());
            workers.run(move || {
                barrier.wait();
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        for _ in 0..100 {
            let done = done.clone();
            workers.run(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        workers.finish();
        assert_eq!(done.load(Ordering::Relaxed), 104);
    }

    #[test]
    fn what_is_to_wait_takes_no_thread_of_those_that_work() {
        let workers = Arc::new(Workers::new(16));
        let done = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        for _ in 0..160 {
            let done = done.clone();
            workers.run_later(Duration::from_millis(300), move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let (send, receive) = std::sync::mpsc::channel();
        workers.run(move || send.send(begun.elapsed()).unwrap());
        assert!(receive.recv().unwrap() < Duration::from_millis(300));
        assert_eq!(done.load(Ordering::Relaxed), 0);
        workers.finish();
        assert_eq!(done.load(Ordering::Relaxed), 160);
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
}
