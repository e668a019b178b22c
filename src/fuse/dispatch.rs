//! Where and how often a request is tried until it is answered.
//!
//! The thread that took a request tries it [without waiting](crate::wait). An operation that has to wait is
//! begun anew by a worker thread.
//!
//! Two kinds of wait take no thread at all. The first attempt to open a file on which another program has a
//! lease (fcntl(2), `F_SETLEASE`) has the kernel ask that program to give it up. A request that found no free
//! descriptor, though idle datasets gave up theirs, gets one when another request ends. Such a request is
//! made again from time to time, until it is answered or has waited for long enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Adapter, catch_panic};
use crate::error::{Errno, Error, Result};
use crate::fs::{Fs, Route};
use crate::wait;

/// How long a request waits. A program that gives leases up at all does so within milliseconds.
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

impl Adapter {
    /// Has `ask` answer a request, where its route says, and then on a worker if it has to wait.
    pub(super) fn dispatch<T: 'static>(
        &self,
        operation: &'static str,
        route: Route,
        ask: impl Fn(&Fs) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Fs, Result<T>) + Send + 'static,
    ) {
        let fs = self.fs.clone();
        let kept = match route {
            Route::Here(kept) => kept,
            elsewhere => {
                self.fs.run_at(elsewhere, move || {
                    catch_panic(operation, || patiently(&fs, operation, ask, answer));
                });
                return;
            }
        };
        self.serve(operation, || match wait::never(|| ask(&fs)) {
            Err(error) if error.would_wait() => {
                let waiting = fs.clone();
                fs.run_at(Route::Worker(kept), move || {
                    catch_panic(operation, || patiently(&waiting, operation, ask, answer));
                });
            }
            done => settle(&fs, operation, Instant::now() + LIMIT, done, ask, answer),
        });
    }

    /// As [`Adapter::dispatch`], for what is not begun anew.
    pub(super) fn run(
        &self,
        operation: &'static str,
        route: Route,
        job: impl FnOnce() + Send + 'static,
    ) {
        match route {
            Route::Here(_kept) => self.serve(operation, job),
            elsewhere => self
                .fs
                .run_at(elsewhere, move || catch_panic(operation, job)),
        }
    }
}

/// Answers with what `ask` says, which is asked again for as long as it says `EAGAIN`, `EMFILE` or
/// `ENFILE`; at last with `EBUSY` for the first, and with the other two as they are.
pub(super) fn patiently<T: 'static>(
    fs: &Arc<Fs>,
    operation: &'static str,
    ask: impl Fn(&Fs) -> Result<T> + Send + 'static,
    answer: impl FnOnce(&Fs, Result<T>) + Send + 'static,
) {
    let done = ask(fs);
    settle(fs, operation, Instant::now() + LIMIT, done, ask, answer);
}

fn settle<T: 'static>(
    fs: &Arc<Fs>,
    operation: &'static str,
    until: Instant,
    done: Result<T>,
    ask: impl Fn(&Fs) -> Result<T> + Send + 'static,
    answer: impl FnOnce(&Fs, Result<T>) + Send + 'static,
) {
    match done {
        Err(error) if may_pass(error.errno()) => {
            if Instant::now() > until {
                return answer(fs, Err(over(error)));
            }
            let again = fs.clone();
            fs.run_later(PAUSE, move || {
                catch_panic(operation, || {
                    let done = ask(&again);
                    settle(&again, operation, until, done, ask, answer);
                });
            });
        }
        done => answer(fs, done),
    }
}

fn may_pass(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE)
}

fn over(error: Error) -> Error {
    match error.errno() {
        Errno::EAGAIN => error
            .with_errno(Errno::EBUSY)
            .context("it was not given up in time"),
        _ => error.context("no descriptor was free in time: the limit of open files is too low"),
    }
}
