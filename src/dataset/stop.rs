//! Giving up what takes long: reading a whole journal or a whole array.
//!
//! The files of a dataset may have any length that its owner has given them, holes included. Who has
//! to end must not wait until they are read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;

/// Tells those who read for long that they are to give up. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Has all who read for long give up, now and from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// `ECANCELED` once it is set.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
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
