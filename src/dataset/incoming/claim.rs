//! The claim on a chunk's name, for which a takeover, an unlink and a commit race.

use std::sync::atomic::{AtomicU8, Ordering};

/// Being written.
const OPEN: u8 = 0;
/// Closed incomplete: whoever comes next may take the name.
const PAUSED: u8 = 1;
/// A commit is under way or done: nobody can take anything away.
const SEALED: u8 = 2;
/// Taken over or unlinked.
const WITHDRAWN: u8 = 3;
/// Refused: its writer's answer stays, and only the name can be taken away.
const REFUSED: u8 = 4;

/// What became of an attempt to take a name away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    /// The chunk ends by it.
    Withdrawn,
    /// The chunk was refused or withdrawn before; only its name was left.
    Over,
    /// Its commit was faster.
    TooLate,
}

#[derive(Debug)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    pub(super) fn new() -> Self {
        Self(AtomicU8::new(OPEN))
    }

    /// One step: between two looks at it, it could go from one of `from` to another. The error is
    /// what it is instead.
    fn step(&self, from: &[u8], to: u8) -> Result<(), u8> {
        let next = |now| from.contains(&now).then_some(to);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .map(drop)
    }

    /// Its writer goes on. `false`: it has lost the name.
    pub(super) fn go_on(&self) -> bool {
        self.step(&[OPEN, PAUSED], OPEN).is_ok()
    }

    /// It was closed incomplete.
    pub(super) fn pause(&self) {
        // Who has taken the name meanwhile keeps it.
        self.step(&[OPEN], PAUSED).unwrap_or_default();
    }

    /// From here on it commits. `false`: it has lost the name.
    pub(super) fn seal(&self) -> bool {
        self.step(&[OPEN, PAUSED], SEALED).is_ok()
    }

    pub(super) fn refuse(&self) {
        self.0.store(REFUSED, Ordering::Release);
    }

    /// For a new writer, if it was closed incomplete.
    pub(super) fn give_way(&self) -> bool {
        self.step(&[PAUSED], WITHDRAWN).is_ok()
    }

    /// From whoever writes.
    pub(super) fn take_away(&self) -> Abort {
        match self.step(&[OPEN, PAUSED], WITHDRAWN) {
            Ok(()) => Abort::Withdrawn,
            Err(SEALED) => Abort::TooLate,
            Err(_) => Abort::Over,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.0.load(Ordering::Acquire) == PAUSED
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire) == WITHDRAWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// An unlink looked for a paused chunk, then for one that is written, and could miss one that
    /// went from the one to the other between the two.
    #[test]
    fn a_name_is_taken_away_though_its_writer_pauses_and_goes_on_meanwhile() {
        for _ in 0..500 {
            let (claim, over) = (Claim::new(), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) && claim.go_on() {
                        claim.pause();
                    }
                });
                std::thread::yield_now();
                let taken = claim.take_away();
                over.store(true, Ordering::Relaxed);
                assert_eq!(taken, Abort::Withdrawn);
            });
        }
    }

    #[test]
    fn what_commits_keeps_its_name_and_what_was_refused_has_only_that() {
        let claim = Claim::new();
        assert!(claim.seal());
        assert_eq!(claim.take_away(), Abort::TooLate);
        claim.refuse();
        assert_eq!(claim.take_away(), Abort::Over);
        assert!(!claim.go_on() && !claim.give_way() && !claim.is_withdrawn());
    }
}
