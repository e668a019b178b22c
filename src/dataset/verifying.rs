//! A copy that is open while its rows are verified.
//!
//! Readers see the chunks that were verified so far; a producer that would write is told to wait. The copy is read
//! without its lock, on a thread that has the dataset only for moments: it ends when that is closed or
//! dropped. What it has found is kept, and believed as long as the files are what they were then.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::Dataset;
use super::published::Published;
use super::recovery::{Copied, Files, Step};
use crate::error::{Errno, Error, Result};
use crate::journal::Attributes;
use crate::stop::Stop;

/// After how long there is something to tell the log, first and then.
const FIRST_WORD: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a failure is the answer to a write, before the copy is read once more.
const RETRY: Duration = Duration::from_secs(10);

/// One pass through the rows of a copy.
#[derive(Debug)]
pub(crate) struct Verifying {
    pub(super) files: Files,
    /// What was set of the array, by the whole journal: a user whom it denies the rows cannot read them.
    pub(super) of_array: Option<(Attributes, i64)>,
    stop: Stop,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    step: Step,
    ended: Option<(Instant, Result<()>)>,
}

impl Verifying {
    /// Of a copy of which these rows were verified before.
    fn new(copy: &Copied, rows: u64, stop: Stop) -> Self {
        let step = Step {
            rows,
            ..Step::default()
        };
        Self {
            files: copy.files,
            of_array: copy.array_attributes(),
            stop,
            state: Mutex::new(State { step, ended: None }),
            ended: Condvar::new(),
        }
    }

    fn advance(&self, step: Step) {
        let mut state = crate::lock(&self.state);
        // An earlier pass may have come further.
        let rows = state.step.rows.max(step.rows);
        state.step = Step { rows, ..step };
    }

    /// How many rows are verified.
    pub(super) fn rows(&self) -> u64 {
        crate::lock(&self.state).step.rows
    }

    pub(super) fn cancel(&self) {
        self.stop.set();
    }

    fn is_over(&self) -> bool {
        self.stop.is_set() || crate::lock(&self.state).ended.is_some()
    }

    fn end(&self, outcome: Result<()>) {
        crate::lock(&self.state).ended = Some((Instant::now(), outcome));
        self.ended.notify_all();
    }

    /// How it ended; `Ok` also where it has not after that time.
    fn wait(&self, patience: Option<Duration>) -> Result<()> {
        let state = crate::lock(&self.state);
        let goes_on = |state: &mut State| state.ended.is_none();
        let state = match patience {
            Some(patience) => {
                let waited = self.ended.wait_timeout_while(state, patience, goes_on);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.ended.wait_while(state, goes_on);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        match &state.ended {
            Some((_, outcome)) => outcome.clone(),
            None => Ok(()),
        }
    }

    /// For status: what was verified, of how many bytes, and why it went no further.
    pub(super) fn progress(&self) -> (u64, u64, Option<Error>) {
        let state = crate::lock(&self.state);
        let error = state
            .ended
            .as_ref()
            .and_then(|(_, ended)| ended.clone().err());
        (state.step.done, state.step.total, error)
    }

    /// What a producer is told meanwhile, and for a while after a failure.
    fn refusal(&self) -> Option<Error> {
        let state = crate::lock(&self.state);
        match &state.ended {
            None if self.stop.is_set() => None,
            None => Some(err!(
                EBUSY,
                "the copy is being verified: {}; try again later",
                progress(state.step)
            )),
            Some((at, Err(error))) if error.errno() != Errno::ECANCELED && at.elapsed() < RETRY => {
                let error = error.clone();
                Some(error.context("the copy could not be verified"))
            }
            Some(_) => None,
        }
    }

    /// Reads the copy, and has the dataset take over what was found. Answers the next pass where its
    /// files were changed meanwhile.
    fn pass(&self, dataset: &Weak<Dataset>, copy: Box<Copied>) -> Result<Option<Pass>> {
        let next_word = Cell::new(Instant::now() + FIRST_WORD);
        let verified = copy.verify(&self.stop, &|step| {
            self.advance(step);
            let now = Instant::now();
            if now >= next_word.get()
                && let Some(dataset) = dataset.upgrade()
            {
                next_word.set(now + INTERVAL);
                dataset.note(&format!("the copy is being verified: {}", progress(step)));
            }
        })?;
        // What is known of a million chunks is read anew when the dataset is taken over.
        drop(copy);
        let gone = || err!(ECANCELED, "the dataset was closed while it was verified");
        let dataset = dataset.upgrade().ok_or_else(gone)?;
        *crate::lock(&dataset.verified) = Some(Arc::new(verified));
        match dataset.settle_in(Some(&self.stop))? {
            None => Ok(None),
            Some(copy) => {
                self.stop.check()?;
                dataset.note("the copy was changed while it was verified: it is verified anew");
                Ok(dataset.show(&copy)?.map(|verifying| (verifying, copy)))
            }
        }
    }
}

type Pass = (Arc<Verifying>, Box<Copied>);

/// Passes through the copy until its files stay the same for the time of one.
fn run(dataset: &Weak<Dataset>, mut pass: Pass) -> Result<()> {
    loop {
        let (verifying, copy) = pass;
        let passed = catch_unwind(AssertUnwindSafe(|| verifying.pass(dataset, copy)))
            .unwrap_or_else(|_| Err(err!(EIO, "a failure inside npyfs ended the verification")));
        match passed {
            Ok(Some(next)) => {
                verifying.end(Ok(()));
                pass = next;
            }
            Ok(None) => {
                verifying.end(Ok(()));
                return Ok(());
            }
            Err(error) => {
                if error.errno() != Errno::ECANCELED
                    && let Some(dataset) = dataset.upgrade()
                {
                    dataset.note(&format!("the copy could not be verified: {error}"));
                }
                verifying.end(Err(error.clone()));
                return Err(error);
            }
        }
    }
}

impl Dataset {
    /// The verification that this dataset is shown by, if it is.
    pub(super) fn verifying(&self) -> Option<Arc<Verifying>> {
        crate::lock(&self.follow).verifying.clone()
    }

    /// Whether it is a copy whose rows are being verified.
    #[doc(hidden)]
    pub fn is_verifying(&self) -> bool {
        self.verifying().is_some_and(|it| !it.is_over())
    }

    /// # Errors
    /// `EBUSY` while it is a copy that is being verified, and why that failed just now.
    pub(super) fn refuse_while_verifying(&self) -> Result<()> {
        match self.verifying().and_then(|it| it.refusal()) {
            None => Ok(()),
            Some(refusal) => Err(refusal),
        }
    }

    /// Verifies a copy, which is then taken over and repaired. Returns when that is
    /// done, or goes on for longer than this dataset's users wait for it.
    ///
    /// # Errors
    /// Those of reading it, as far as they are known by then.
    pub(super) fn verify(&self, copy: Box<Copied>) -> Result<()> {
        let patience = self.options.patience;
        let Some(verifying) = self.show(&copy)? else {
            // Another thread was faster.
            return match self.verifying() {
                Some(verifying) => verifying.wait(patience),
                None => Ok(()),
            };
        };
        let (dataset, pass) = (self.itself.clone(), (verifying.clone(), copy));
        let Some(patience) = patience else {
            return run(&dataset, pass);
        };
        let thread = thread::Builder::new().name("npyfs-verify".into());
        let started = thread.spawn(move || {
            if let Err(error) = run(&dataset, pass) {
                log::debug!("a verification has ended: {error}");
            }
        });
        if let Err(error) = started {
            let failed = Error::io(error, "no thread to verify the copy");
            verifying.end(Err(failed.clone()));
            return Err(failed);
        }
        verifying.wait(Some(patience))?;
        if self.is_verifying() {
            self.note("this is a copy that was not closed: its rows are being verified, and nothing is written to it before that is done");
        }
        Ok(())
    }

    /// Shows a copy by what is verified of it. `None`: it is shown so already, or is owned.
    fn show(&self, copy: &Copied) -> Result<Option<Arc<Verifying>>> {
        let mut follow = crate::lock(&self.follow);
        if self.is_owned() {
            return Ok(None);
        }
        let before = follow.verifying.take();
        if let Some(before) = &before {
            if before.files == copy.files && !before.is_over() {
                follow.verifying = Some(before.clone());
                return Ok(None);
            }
            before.cancel();
        }
        let same = before.filter(|before| before.files.are(&copy.files));
        let rows = same.as_ref().map_or(0, |before| before.rows());
        let verifying = Arc::new(Verifying::new(copy, rows, self.options.stop.part()));
        if same.is_none() {
            let array = copy.array()?;
            self.follow_identity(&mut follow);
            follow.begin_copy(verifying.clone());
            *crate::write(&self.damage) = None;
            *self.published_mut() = Published {
                array: Some(array),
                ..Published::default()
            };
        } else {
            follow.verifying = Some(verifying.clone());
        }
        Ok(Some(verifying))
    }
}

/// As people say it.
fn progress(step: Step) -> String {
    let (unit, digits, name) = match step.total {
        1_000_000_000.. => (1e9, 1, "GB"),
        1_000_000.. => (1e6, 1, "MB"),
        _ => (1.0, 0, "bytes"),
    };
    let (done, total) = (step.done as f64 / unit, step.total as f64 / unit);
    format!("{done:.digits$} of {total:.digits$} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_readable() {
        let at = |done, total| {
            progress(Step {
                done,
                total,
                rows: 0,
            })
        };
        assert_eq!(at(0, 999), "0 of 999 bytes");
        assert_eq!(at(1 << 20, 5 << 20), "1.0 of 5.2 MB");
        assert_eq!(at(3_040_000_000, 40_000_000_000), "3.0 of 40.0 GB");
    }
}
