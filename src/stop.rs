//! Giving up what takes long: reading a whole journal or a whole array.
//!
//! The files of a dataset may have any length that its owner has given them, holes included. A daemon
//! that ends must not wait until they are read.

use std::io;
use std::iter::successors;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;

/// Tells threads that read for long that they are to give up. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    of_all: Option<Stop>,
}

impl Stop {
    /// Makes all that read for long give up, now and from now on.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::Relaxed);
    }

    /// One for a part of those: it is set when this is, and can be set alone.
    pub(crate) fn part(&self) -> Self {
        Self(Arc::new(Flag {
            set: AtomicBool::new(false),
            of_all: Some(self.clone()),
        }))
    }

    pub(crate) fn is_set(&self) -> bool {
        successors(Some(self), |stop| stop.0.of_all.as_ref())
            .any(|stop| stop.0.set.load(Ordering::Relaxed))
    }

    /// # Errors
    /// `ECANCELED` once it is set.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            return Err(err!(
                ECANCELED,
                "the dataset was still being read when npyfs was told to end; nothing is changed"
            ));
        }
        Ok(())
    }

    /// As [`Stop::check`], among reads.
    pub(crate) fn check_io(&self) -> io::Result<()> {
        self.check().map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_stopped_alone_or_with_all() {
        let all = Stop::default();
        let (one, other) = (all.part(), all.part());
        one.set();
        assert!(one.is_set() && !other.is_set() && !all.is_set());
        all.set();
        assert!(other.is_set() && other.check().is_err());
    }
}
