//! A dataset whose lock another process holds: which one that is, and whether it is worth waiting for.

use std::path::Path;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::dataset::Dataset;
use crate::disk::Holder;
use crate::disk::paths::LOCK;
use crate::error::Error;

/// What was found is told for that long before it is looked for again: producers may try again and again.
const FRESH: Duration = Duration::from_secs(1);

/// How long a holder that may be about to let go is waited for.
const WAIT: Duration = Duration::from_secs(2);

/// How long none is waited for after one was in vain.
const IN_VAIN: Duration = Duration::from_secs(10);

/// How often it is looked whether the lock is free.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Contention(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    found: Option<(Instant, Holder)>,
    /// When one was waited for in vain.
    waited: Option<Instant>,
}

fn is_past(moment: Option<Instant>, age: Duration) -> bool {
    moment.is_none_or(|moment| moment.elapsed() >= age)
}

impl Dataset {
    /// What holds the lock; `None` where nothing does any more.
    fn holder(&self) -> Option<Holder> {
        let mut state = crate::lock(&self.contention.0);
        if let Some((at, holder)) = &state.found
            && at.elapsed() < FRESH
        {
            return Some(holder.clone());
        }
        let found = self.folder.holder(Path::new(LOCK));
        let found = found.unwrap_or_else(|error| {
            log::debug!("{}: what holds the lock is not seen: {error}", self.label());
            Some(Holder::Unseen)
        });
        state.found = found.clone().map(|holder| (Instant::now(), holder));
        found
    }

    /// Why the lock cannot be had; `None` where it can by now.
    pub(super) fn refused_by_holder(&self) -> Option<Error> {
        let holder = self.holder()?;
        Some(err!(EBUSY, "the dataset is being written by {holder}"))
    }

    /// Whether a request that needs the lock had better wait with [`Dataset::await_lock`] first.
    pub(crate) fn is_worth_awaiting(&self) -> bool {
        !self.is_owned()
            && !self.options.read_only
            && is_past(crate::lock(&self.contention.0).waited, IN_VAIN)
            && self.is_locked()
    }

    /// Waits a moment for the lock where what holds it is a daemon that is ending, or cannot be told:
    /// the daemon before this one may not have ended yet.
    #[doc(hidden)]
    pub fn await_lock(&self) {
        let until = Instant::now() + WAIT;
        while self.is_worth_awaiting() && !self.options.stop.is_set() {
            let Some(holder) = self.holder() else {
                return;
            };
            if !holder.may_be_ending() {
                return;
            }
            if Instant::now() >= until {
                crate::lock(&self.contention.0).waited = Some(Instant::now());
                return;
            }
            sleep(LOOK_EVERY);
        }
    }
}
