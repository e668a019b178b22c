//! Which threads may wait.
//!
//! The threads that take the kernel's requests serve all producers and readers, so nothing that one of
//! them does may wait for a disk, for a lock that is held for long, or for much data to be moved. They
//! begin each operation [without waiting](never). A step that would have to wait asks [`may_wait`] first,
//! where its decision falls and before it has changed anything, and the error that it gets goes up
//! to where the request came from, which begins the operation anew on a thread that may wait. Steps that
//! are long by their nature, such as a sync, check that in debug builds: none can be forgotten.

use std::cell::Cell;

use crate::error::{Error, Result};

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(true) };
}

/// Restores what held before, also after a panic.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        MAY_WAIT.set(self.0);
    }
}

/// Runs `work`, in which no step waits.
pub(crate) fn never<T>(work: impl FnOnce() -> T) -> T {
    let _restore = Restore(MAY_WAIT.replace(false));
    work()
}

/// Runs `work`, which is past the point where it could begin anew: its steps wait where they must.
pub(crate) fn allowed<T>(work: impl FnOnce() -> T) -> T {
    let _restore = Restore(MAY_WAIT.replace(true));
    work()
}

/// Passes where this thread may wait.
///
/// # Errors
/// One for which [`Error::would_wait`] holds, where it may not.
pub(crate) fn may_wait() -> Result<()> {
    match MAY_WAIT.get() {
        true => Ok(()),
        false => Err(Error::waiting()),
    }
}

/// What is long by its nature is done here: a step before it should have asked.
pub(crate) fn waits_here() {
    debug_assert!(MAY_WAIT.get(), "a thread that serves requests waits");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_within_never_a_step_may_not_wait_and_a_panic_ends_that_too() {
        assert!(may_wait().is_ok());
        never(|| {
            assert!(may_wait().is_err_and(|error| error.would_wait()));
            allowed(|| assert!(may_wait().is_ok()));
            assert!(may_wait().is_err());
        });
        assert!(std::panic::catch_unwind(|| never(|| panic!("in it"))).is_err());
        assert!(may_wait().is_ok());
    }
}
