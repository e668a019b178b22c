//! Requests that a lease holds up.
//!
//! The first attempt to open a file on which another program has a lease (fcntl(2), `F_SETLEASE`) has
//! the kernel ask that program to give it up, and the daemon must not wait for that: neither on the
//! threads that answer the kernel, nor on the workers, of which there are few. So the request is made
//! again from time to time, until it is answered or has waited for long enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::guarded;
use crate::error::{Errno, Result};
use crate::fs::Fs;

/// How long a request waits. Who gives leases up at all does so within milliseconds.
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Answers with what `ask` says, which is asked again for as long as it says `EAGAIN`; at last with
/// `EBUSY`.
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
        Err(error) if error.errno() == Errno::EAGAIN => {
            if Instant::now() > until {
                let error = error.with_errno(Errno::EBUSY);
                return answer(fs, Err(error.context("it was not given up in time")));
            }
            let again = fs.clone();
            fs.run_later(PAUSE, move || {
                guarded(operation, || attempt(&again, operation, until, ask, answer));
            });
        }
        done => answer(fs, done),
    }
}
