//! The right to append to a dataset, and what only who has it knows.

use std::sync::Arc;

use super::mine::names::Names;
use crate::array::check_compatible;
use crate::array::stream::NewArray;
use crate::array::tail::Tail;
use crate::error::Error;
use crate::journal::Journal;
use crate::npy::Header;

/// The right to append to a dataset: held by one daemon at a time.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) journal: Journal,
    /// The array's header is in the journal.
    pub(crate) array_recorded: bool,
    /// The chunks that stream, or have left bytes after the rows that are still to be moved.
    pub(crate) tail: Tail,
    pub(crate) new_array: Option<Arc<NewArray>>,
    /// Rows that the journal says have reached the disk.
    pub(crate) durable: u64,
    /// Something was written since the last sync.
    pub(crate) dirty: bool,
    /// Disk and memory may differ: why.
    pub(crate) failed: Option<Error>,
    /// What the names of its files stand for.
    pub(crate) names: Names,
    /// The first row that was committed since the dataset was taken.
    pub(crate) first_row: u64,
    pub(crate) lock: Box<dyn crate::disk::Lock>,
}

impl Writer {
    /// Whether the array to be has the form that this header asks for.
    pub(crate) fn expects(&self, header: &Header) -> bool {
        self.new_array.as_ref().is_some_and(|new_array| {
            check_compatible(header, &new_array.layout).is_ok()
                && header.dtype() == new_array.layout.dtype()
        })
    }
}
