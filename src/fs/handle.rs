//! Handles: what is open.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Attr;
use super::control::GeneratedFile;
use super::telling::LateLog;
use crate::array::View;
use crate::dataset::ChunkHandle;
use crate::error::Result;
use crate::store::Listed;

/// Something open.
#[derive(Debug)]
pub(crate) enum Handle {
    /// A committed chunk, for reading.
    View(OpenChunk),
    /// The array or a slice, as the node of this number has it.
    Version(View, u64),
    /// A chunk, for writing.
    Chunk(Chunk),
    /// An ordinary file, or one of `.npyfs`.
    File(OpenFile),
    /// What npyfs says.
    GeneratedFile(GeneratedFile),
    /// A log that was not there yet.
    LateLog(LateLog),
    /// A directory being listed.
    Dir(Listing),
}

#[derive(Debug)]
pub(crate) struct OpenChunk {
    pub(crate) view: View,
    pub(crate) ino: u64,
    /// As it was when it was opened: its name may be forgotten since.
    pub(crate) attr: Attr,
}

#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) writer: ChunkHandle,
    pub(crate) ino: u64,
    /// The number that `stat` shows, and `/proc` of its descriptors.
    pub(crate) number: u64,
    /// The flags that it was opened with.
    pub(crate) flags: i32,
    /// The thread that opened it, by the kernel's word; 0 where it is in another namespace.
    pub(crate) opener: u32,
    /// How many closes of its descriptors have come.
    pub(crate) closes: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) ino: u64,
    pub(crate) file: File,
    pub(crate) append: bool,
    /// May be mapped, shared and writable.
    pub(crate) mappable: bool,
    /// A rename has committed what was written: there is nowhere to write any more.
    pub(crate) committed: AtomicBool,
}

impl OpenFile {
    pub(crate) fn new(ino: u64, file: File, flags: i32) -> Self {
        Self {
            ino,
            file,
            append: flags & libc::O_APPEND != 0,
            mappable: flags & libc::O_ACCMODE == libc::O_RDWR,
            committed: AtomicBool::new(false),
        }
    }
}

/// A directory's names as they were when it was opened or rewound, but for its committed chunks,
/// which are read from the catalog as the listing goes on.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) state: Mutex<Names>,
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Everything but committed chunks.
    pub(crate) others: Vec<Listed>,
    /// Chunks from this id on were committed after the listing began.
    pub(crate) end_id: u32,
    /// The number of the array, which comes last.
    pub(crate) array: Option<u64>,
}

/// The table of handles. A number is never used twice.
#[derive(Debug)]
pub(crate) struct Handles {
    table: Mutex<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self {
            table: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn insert(&self, handle: Handle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        crate::lock(&self.table).insert(fh, Arc::new(handle));
        fh
    }

    pub(crate) fn get(&self, fh: u64) -> Result<Arc<Handle>> {
        crate::lock(&self.table)
            .get(&fh)
            .cloned()
            .ok_or_else(|| err!(EBADF, "handle {fh} is not open"))
    }

    pub(crate) fn remove(&self, fh: u64) -> Result<Arc<Handle>> {
        crate::lock(&self.table)
            .remove(&fh)
            .ok_or_else(|| err!(EBADF, "handle {fh} is not open"))
    }

    /// The open files of a node, and the chunks that are open by it.
    pub(crate) fn files_of(&self, ino: u64) -> Vec<Arc<Handle>> {
        let is_it = |handle: &&Arc<Handle>| match &***handle {
            Handle::File(open) => open.ino == ino,
            Handle::Chunk(chunk) => chunk.ino == ino,
            Handle::View(open) => open.ino == ino,
            _ => false,
        };
        crate::lock(&self.table)
            .values()
            .filter(is_it)
            .cloned()
            .collect()
    }

    /// Everything open, for the end of the mount.
    pub(crate) fn drain(&self) -> Vec<Arc<Handle>> {
        crate::lock(&self.table)
            .drain()
            .map(|(_, handle)| handle)
            .collect()
    }
}
