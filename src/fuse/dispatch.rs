//! Requests that a lease or a lack of descriptors holds up.
//!
//! The first attempt to open a file on which another program has a lease (fcntl(2), `F_SETLEASE`) has
//! the kernel ask that program to give it up. A request that found no free descriptor, though idle
//! datasets gave up theirs, gets one when another request ends. The daemon must not wait for either:
//! neither on the threads that answer the kernel, nor on the workers, of which there are few. So the
//! request is made again from time to time, until it is answered or has waited for long enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catch_panic;
use crate::error::{Errno, Error, Result};
use crate::fs::Fs;

/// How long a request waits. A program that gives leases up at all does so within milliseconds.
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Answers with what `ask` says, which is asked again for as long as it says `EAGAIN`, `EMFILE` or
/// `ENFILE`; at last with `EBUSY` for the first, and with the other two as they are.
pub(super) fn patiently<T: 'static>(
    fs: &Arc<Fs>,
    operation: &'static str,
    ask: impl Fn(&Fs) -> Result<T> + Send + 'static,
    answer: impl FnOnce(&Fs, Result<T>) + Send + 'static,
) {
    attempt(fs, operation, Instant::now() + LIMIT, ask, answer);
}

fn attempt<T: 'static>(
    fs: &Arc<Fs>,
    operation: &'static str,
    until: Instant,
    ask: impl Fn(&Fs) -> Result<T> + Send + 'static,
    answer: impl FnOnce(&Fs, Result<T>) + Send + 'static,
) {
    match ask(fs) {
        Err(error) if may_pass(error.errno()) => {
            if Instant::now() > until {
                return answer(fs, Err(over(error)));
            }
            let again = fs.clone();
            fs.run_later(PAUSE, move || {
                catch_panic(operation, || attempt(&again, operation, until, ask, answer));
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
