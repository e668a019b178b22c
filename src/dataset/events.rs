//! `.npyfs/log`: one line for each refusal and recovery, newest last.
//!
//! Lines are appended whole, so daemons that share a store do not mix theirs. A log over the limit
//! becomes `log.1`, and a new one begins. A producer that tries the same again and again gets a line a
//! second for it, with a count.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::disk::clock;
use crate::disk::paths::{CONTROL, LOG, OLD_LOG};
use crate::disk::{Open, StoreDir};
use crate::error::{Context, Error, Result};
use crate::printable;

const LIMIT: u64 = 8 << 20;

/// How long the same refusal of a name is only counted.
const QUIET: Duration = Duration::from_secs(1);

/// Of how many names it is known what was refused last.
const MOST_NAMES: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct Events {
    folder: Arc<dyn StoreDir>,
    read_only: bool,
    state: Mutex<State>,
    /// Something was counted, and not told yet.
    counted: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    last: Last,
    recent: Recent,
}

/// What there was so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last {
    pub(crate) refusals: u64,
    pub(crate) last_refusal: Option<String>,
}

/// What was refused lately, so that the same is told once.
#[derive(Debug, Default)]
pub(crate) struct Recent(HashMap<OsString, Refused>);

#[derive(Debug)]
struct Refused {
    reason: String,
    /// When it was told.
    told: Instant,
    /// How often it was refused since.
    more: u64,
}

impl Refused {
    fn count(&self, name: &OsStr) -> Option<String> {
        let again = match self.more {
            0 => return None,
            1 => "once more".into(),
            more => format!("{more} times more"),
        };
        Some(format!("{} ({again})", line(name, &self.reason)))
    }
}

/// The line of a refusal; one of no name is the whole directory's.
pub(crate) fn line(name: &OsStr, reason: &str) -> String {
    match name.is_empty() {
        true => format!("refused: {reason}"),
        false => format!("{} refused: {reason}", printable::name(name)),
    }
}

impl Recent {
    /// The lines that are due before this one is told; `None` where it is only counted.
    pub(crate) fn admit(&mut self, name: &OsStr, reason: &str) -> Option<Vec<String>> {
        if let Some(refused) = self.0.get_mut(name)
            && refused.reason == reason
            && refused.told.elapsed() < QUIET
        {
            refused.more += 1;
            return None;
        }
        let mut due = match self.0.len() >= MOST_NAMES {
            true => self.settle(Duration::ZERO),
            false => Vec::new(),
        };
        let fresh = Refused {
            reason: reason.to_owned(),
            told: Instant::now(),
            more: 0,
        };
        let before = self.0.insert(name.to_owned(), fresh);
        due.extend(before.and_then(|before| before.count(name)));
        Some(due)
    }

    /// Forgets what was told that long ago, and answers what was counted since.
    fn settle(&mut self, age: Duration) -> Vec<String> {
        let mut due = Vec::new();
        self.0.retain(|name, refused| {
            if refused.told.elapsed() < age {
                return true;
            }
            let Some(count) = refused.count(name) else {
                return false;
            };
            due.push(count);
            (refused.told, refused.more) = (Instant::now(), 0);
            true
        });
        due
    }
}

impl Events {
    pub(crate) fn new(folder: Arc<dyn StoreDir>, read_only: bool) -> Self {
        Self {
            folder,
            read_only,
            state: Mutex::default(),
            counted: AtomicBool::new(false),
        }
    }

    /// Notes a refusal, in the log and in the counters, and where the bytes are kept. False where the
    /// same was told just now: it is counted.
    pub(crate) fn refusal(&self, name: &OsStr, error: &Error, kept: Option<&str>) -> Result<bool> {
        let reason = error.to_string();
        let mut line = line(name, &reason);
        if let Some(kept) = kept {
            line.push_str(&format!(" (what was received is kept as {kept})"));
        }
        let mut state = crate::lock(&self.state);
        state.last.refusals += 1;
        state.last.last_refusal = Some(line.clone());
        if kept.is_none() {
            let Some(due) = state.recent.admit(name, &reason) else {
                self.counted.store(true, Ordering::Relaxed);
                return Ok(false);
            };
            due.iter().try_for_each(|line| self.append(line))?;
        }
        self.append(&line).map(|()| true)
    }

    /// Notes anything else.
    pub(crate) fn note(&self, line: &str) -> Result<()> {
        let _one_at_a_time = crate::lock(&self.state);
        self.append(line)
    }

    /// Tells what was counted: to be called about once a second.
    pub(crate) fn tell_counts(&self) -> Result<()> {
        if !self.counted.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.tell_counts_of(QUIET)
    }

    fn tell_counts_of(&self, age: Duration) -> Result<()> {
        let mut state = crate::lock(&self.state);
        let due = state.recent.settle(age);
        let is_counted = state.recent.0.values().any(|refused| refused.more > 0);
        self.counted.store(is_counted, Ordering::Relaxed);
        due.iter().try_for_each(|line| self.append(line))
    }

    pub(crate) fn state(&self) -> Last {
        crate::lock(&self.state).last.clone()
    }

    fn append(&self, line: &str) -> Result<()> {
        match self.read_only {
            true => Ok(()),
            false => append(&*self.folder, line),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.counted.load(Ordering::Relaxed)
            && let Err(error) = self.tell_counts_of(Duration::ZERO)
        {
            log::warn!("{error}");
        }
    }
}

/// Appends a line to the log of a directory.
pub(crate) fn append(folder: &dyn StoreDir, line: &str) -> Result<()> {
    // A name may hold a line break; a line of the log may not.
    let line = format!("{} {}\n", clock::iso(clock::now()), printable::text(line));
    let write = || -> std::io::Result<()> {
        folder.make_dir(Path::new(CONTROL))?;
        let blob = folder.open(Path::new(LOG), Open::Append)?;
        let len = blob.len()?;
        blob.write_at(line.as_bytes(), len)?;
        if len > LIMIT {
            folder.rename(Path::new(LOG), Path::new(OLD_LOG))?;
        }
        Ok(())
    };
    write().context(|| format!("cannot write {LOG}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Directory;

    fn events(directory: &Path) -> Events {
        let folder = Directory::open(directory).unwrap();
        Events::new(Arc::new(folder), false)
    }

    fn lines(directory: &Path) -> Vec<String> {
        let log = std::fs::read_to_string(directory.join(LOG)).unwrap();
        let said = |line: &str| line.split_once(' ').unwrap().1.to_owned();
        log.lines().map(said).collect()
    }

    #[test]
    fn the_same_refusal_of_a_name_is_told_once_and_then_counted() {
        let directory = tempfile::tempdir().unwrap();
        let events = events(directory.path());
        let refuse = |name: &str, why: &str| {
            let error = err!(EINVAL, "{why}");
            events.refusal(name.as_ref(), &error, None).unwrap()
        };
        assert!(refuse("a.npy", "too short"));
        for _ in 0..3 {
            assert!(!refuse("a.npy", "too short"));
        }
        assert!(refuse("b.npy", "too short"));
        assert!(refuse("a.npy", "too long"));
        assert!(!refuse("a.npy", "too long"));
        // Nothing is due yet.
        events.tell_counts().unwrap();
        assert_eq!(events.state().refusals, 7);
        drop(events);
        let expected = [
            "a.npy refused: too short",
            "b.npy refused: too short",
            "a.npy refused: too short (3 times more)",
            "a.npy refused: too long",
            "a.npy refused: too long (once more)",
        ];
        assert_eq!(lines(directory.path()), expected);
    }

    #[test]
    fn a_name_is_one_line_whatever_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let events = events(directory.path());
        let error = err!(EINVAL, "a\tb");
        let name = "x\ny\x1b[2J.npy";
        assert!(events.refusal(name.as_ref(), &error, None).unwrap());
        let expected = [r"x\ny\u{1b}[2J.npy refused: a\tb"];
        assert_eq!(lines(directory.path()), expected);
    }

    #[test]
    fn no_more_names_are_known_than_there_is_room_for() {
        let mut recent = Recent::default();
        for n in 0..3 * MOST_NAMES {
            assert!(recent.admit(format!("{n}").as_ref(), "no").is_some());
        }
        assert!(recent.0.len() <= MOST_NAMES);
    }
}
