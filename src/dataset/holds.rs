//! Letting go of a dataset while its mount is served on, so that another daemon can write to it.
//!
//! Who needs to own it for more than one step holds it meanwhile. A chunk needs to from its beginning
//! until it has left the table of those in flight, and its body may lie in the array's tail for longer.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;

use super::Dataset;
use crate::error::{Errno, Result};

/// An owned dataset that is not let go of.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Dataset);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *crate::lock(&self.0.holds) -= 1;
    }
}

impl Dataset {
    /// Holds the right to write until the answer is dropped.
    ///
    /// # Errors
    /// Those of [`Dataset::acquire`].
    pub(super) fn hold(&self) -> Result<Held<'_>> {
        // Counted first: what is let go of before is owned again below.
        *crate::lock(&self.holds) += 1;
        let held = Held(self);
        self.acquire()?;
        Ok(held)
    }

    /// As [`Dataset::hold`]; where another process keeps it from that, the log tells what became of
    /// the chunk `name`.
    ///
    /// # Errors
    /// As there.
    pub(super) fn hold_for(&self, name: &OsStr) -> Result<Held<'_>> {
        self.hold().map_err(|error| match error.errno() {
            Errno::EBUSY => {
                self.report(name, &error);
                error.logged()
            }
            _ => error,
        })
    }

    /// As [`Dataset::close`], unless a chunk is in flight, something else needs it, or the store failed
    /// and does not work again: then it is owned as before. False for that.
    ///
    /// # Errors
    /// Those of closing it.
    pub(crate) fn let_go(&self) -> Result<bool> {
        if !self.is_owned() {
            return Ok(true);
        }
        // What was acknowledged is not closed in files that are not the store's any more.
        if !self.has_failed() && !self.writer.is_poisoned() {
            self.look_at_files()?;
        }
        let Ok(mut guard) = self.writer.lock() else {
            // What a failure has left is not worth keeping.
            return self.close().map(|()| true);
        };
        let Some(writer) = guard.as_mut() else {
            return Ok(true);
        };
        // What memory has and the disk has not would be lost with it.
        self.resume(writer);
        if writer.failed.is_some() {
            return Ok(false);
        }
        {
            let holds = crate::lock(&self.holds);
            let is_idle = *holds == 0
                && crate::lock(&self.in_flight).is_empty()
                && writer.tail.has_all_left();
            if !is_idle {
                return Ok(false);
            }
            let mut follow = crate::lock(&self.follow);
            follow.ended_owning(writer.names.data(), writer.journal.len());
            self.owned.store(false, Ordering::Release);
        }
        let settled = self.settle(writer);
        // The lock with it.
        guard.take();
        settled.map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crate::dataset::{Dataset, Options};
    use crate::npy::Header;

    fn chunk(first: u32, rows: u32) -> Vec<u8> {
        let dtype = "<u4".parse().unwrap();
        let mut bytes = Header::encode(&dtype, &[u64::from(rows)]).unwrap();
        bytes.extend((first..first + rows).flat_map(u32::to_le_bytes));
        bytes
    }

    #[test]
    fn what_is_let_go_of_all_the_time_is_written_to_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = Dataset::open(dir.path(), Options::default()).unwrap();
        dataset.append("first.npy", &chunk(0, 1)).unwrap();
        let done = AtomicBool::new(false);
        let (mut let_go, mut kept) = (0, 0);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let dataset = dataset.clone();
                    scope.spawn(move || {
                        for n in 0..40 {
                            let name = format!("{writer}-{n}.npy");
                            dataset.append(&name, &chunk(n, 3)).unwrap();
                            let renamed = format!("{writer}-{n}-renamed.npy");
                            dataset.rename(name.as_ref(), renamed.as_ref()).unwrap();
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match dataset.let_go().unwrap() {
                        true => let_go += 1,
                        false => kept += 1,
                    }
                }
            });
            let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            done.store(true, Ordering::Relaxed);
            for writer in ended {
                writer.unwrap();
            }
        });
        assert!(let_go > 0, "kept {kept} times");
        assert_eq!(dataset.snapshot().unwrap().unwrap().rows(), 241);
        dataset.close().unwrap();
        let again = Dataset::open(dir.path(), Options::default()).unwrap();
        assert_eq!(again.snapshot().unwrap().unwrap().rows(), 241);
        for writer in 0..2 {
            for n in 0..40 {
                let name = format!("{writer}-{n}-renamed.npy");
                assert!(again.chunk(name.as_ref()).unwrap().is_some(), "{name}");
            }
        }
    }

    #[test]
    fn what_another_has_written_since_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let first = Dataset::open(dir.path(), Options::default()).unwrap();
        let second = Dataset::open(dir.path(), Options::default()).unwrap();
        for round in 0..3 {
            for (dataset, other, name) in [(&first, &second, "a"), (&second, &first, "b")] {
                let name = format!("{name}{round}.npy");
                dataset.append(&name, &chunk(0, 2)).unwrap();
                assert_eq!(
                    dataset.snapshot().unwrap().unwrap().rows(),
                    other.snapshot().unwrap().unwrap().rows()
                );
                assert!(other.chunk(name.as_ref()).unwrap().is_some());
                assert!(dataset.let_go().unwrap());
            }
        }
        assert_eq!(first.snapshot().unwrap().unwrap().rows(), 12);
    }
}
