//! Passthrough: which backing file the kernel has for which array.
//!
//! All opens of one array share one backing id, as the kernel demands; it is given back with the
//! last of them. Where the kernel refuses one, the mount goes on without.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};

use crate::array::View;
use crate::fs::{Mode, Opened};

/// The backing ids that the kernel has, and which open holds which.
#[derive(Debug, Default)]
pub(super) struct Backing {
    state: Mutex<BackingState>,
}

#[derive(Debug, Default)]
struct BackingState {
    /// The kernel offered passthrough at INIT.
    possible: bool,
    by_array: HashMap<usize, Weak<BackingId>>,
    by_handle: HashMap<u64, Arc<BackingId>>,
}

impl Backing {
    /// What the kernel has agreed to.
    pub(super) fn offer(&self, possible: bool) {
        crate::lock(&self.state).possible = possible;
    }

    pub(super) fn is_possible(&self) -> bool {
        crate::lock(&self.state).possible
    }

    /// Passthrough is off for the rest of the mount: inodes that were never opened stay consistent.
    fn give_up(&self, error: &io::Error) {
        let mut state = crate::lock(&self.state);
        if std::mem::replace(&mut state.possible, false) {
            log::info!("no passthrough here, mappings are cached instead: {error}");
        }
    }

    fn id(&self, view: &View, fh: u64, reply: &ReplyOpen) -> io::Result<Arc<BackingId>> {
        let (blob, array) = view.backing();
        let mut state = crate::lock(&self.state);
        if let Some(id) = state.by_array.get(&array).and_then(Weak::upgrade) {
            state.by_handle.insert(fh, id.clone());
            return Ok(id);
        }
        let file = blob
            .file()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        let id = Arc::new(reply.open_backing(file)?);
        state.by_array.retain(|_, id| id.strong_count() > 0);
        state.by_array.insert(array, Arc::downgrade(&id));
        state.by_handle.insert(fh, id.clone());
        Ok(id)
    }

    pub(super) fn release(&self, fh: u64) {
        crate::lock(&self.state).by_handle.remove(&fh);
    }

    /// Answers an open. `caching` is called before the kernel caches pages of an array, where it did
    /// not up to now.
    pub(super) fn answer(&self, opened: Opened, reply: ReplyOpen, caching: impl FnOnce()) {
        let fh = FileHandle(opened.fh);
        if let Mode::Passthrough(view) = &opened.mode
            && self.is_possible()
        {
            match self.id(view, opened.fh, &reply) {
                Ok(id) => {
                    let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                    reply.opened_passthrough(fh, flags, &id);
                    return;
                }
                Err(error) => {
                    caching();
                    self.give_up(&error);
                }
            }
        }
        reply.opened(fh, cache_flags(&opened.mode));
    }
}

/// How the kernel is to cache an open file.
pub(super) fn cache_flags(mode: &Mode) -> FopenFlags {
    match mode {
        Mode::Direct => FopenFlags::FOPEN_DIRECT_IO,
        Mode::Cached => FopenFlags::empty(),
        Mode::Kept | Mode::Passthrough(_) => {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
        }
    }
}
