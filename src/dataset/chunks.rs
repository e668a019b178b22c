//! Changing what is known of committed chunks: their names and attributes, never their rows.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use super::published::ArrayChange;
use crate::dataset::Dataset;
use crate::disk::{Change, clock};
use crate::error::Result;
use crate::journal::{Attributes, Record};
use crate::wait;

impl Dataset {
    /// Gives a committed chunk another free name.
    ///
    /// # Errors
    /// `EEXIST` where the new name is committed, `EBUSY` where it is in flight, `ESTALE` where the
    /// old one is gone, and those of the journal.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        crate::chunk::name::check_chunk_name(to)?;
        let _held = self.hold()?;
        if crate::lock(&self.in_flight).contains_key(to) {
            return Err(err!(
                EBUSY,
                "{} is being written by another producer",
                to.display()
            ));
        }
        if self.chunk(to)?.is_some() {
            return Err(err!(
                EEXIST,
                "{} is committed; a name is appended once",
                to.display()
            ));
        }
        self.change_chunk(Record::Rename {
            from: from.as_bytes(),
            to: to.as_bytes(),
            at: Some(clock::now()),
        })
    }

    /// Sets mode, owner or time of a committed chunk.
    ///
    /// # Errors
    /// `ESTALE` where the name is gone, and those of the journal.
    #[doc(hidden)]
    pub fn set_attributes(&self, name: &OsStr, change: &Change) -> Result<()> {
        let _held = self.hold_for(name)?;
        let old = {
            let published = self.published();
            let (_, receipt) = published
                .catalog
                .find(name)
                .ok_or_else(|| err!(ESTALE, "{} is not a chunk any more", name.display()))?;
            receipt.attributes
        };
        let set = Attributes {
            mode: change.mode.unwrap_or(old.mode) & 0o7777,
            uid: change.uid.unwrap_or(old.uid),
            gid: change.gid.unwrap_or(old.gid),
            mtime: change.mtime.unwrap_or(old.mtime),
        };
        if set == old {
            return Ok(());
        }
        self.change_chunk(Record::Attributes {
            name: name.as_bytes(),
            set,
            at: Some(clock::now()),
        })
    }

    /// Writes a record about existing chunks, and takes it in.
    pub(super) fn change_chunk(&self, record: Record<'_>) -> Result<()> {
        if self.is_busy() {
            wait::may_wait()?;
        }
        let mut guard = self.mine()?;
        let writer = self.usable(&mut guard)?;
        self.written.store(true, Ordering::Relaxed);
        self.change(writer, &[record], ArrayChange::None)
    }
}
