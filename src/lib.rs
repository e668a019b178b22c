//! npyfs: a filesystem in which any program grows one NumPy array by writing files.
//!
//! The library is the engine with no mount: a [`Dataset`] is a directory that holds one array; chunks are
//! [appended](Dataset::append) whole or [written](Dataset::create) in pieces; a [`View`] of the array, or of rows of
//! it, never changes. Several processes may have a dataset open; one at a time writes to it.
//!
//! ```
//! # fn main() -> npyfs::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! use npyfs::{Dataset, Options, npy::Header};
//!
//! let dataset = Dataset::open(dir.path(), Options::default())?;
//! let mut chunk = Header::encode(&"<f4".parse()?, &[2, 3])?;
//! chunk.extend([0; 2 * 3 * 4]);
//! dataset.append("first.npy", &chunk)?;
//! dataset.append("second.npy", &chunk)?;
//!
//! let reader = Dataset::open(dir.path(), Options { read_only: true, ..Options::default() })?;
//! let array = reader.snapshot()?.expect("there are rows");
//! assert_eq!(array.shape(), [4, 3]);
//! # Ok(())
//! # }
//! ```
//!
//! Inside, every import goes down this list:
//!
//! | room | holds |
//! | --- | --- |
//! | `bin/npyfs` | the command line, the daemon |
//! | `fuse` | the kernel's requests, translated |
//! | `fs` | the mount as file operations |
//! | `store` | the datasets that are open; directories and ordinary files |
//! | `dataset` | the engine: coordinates the parts below, which know no dataset |
//! | `chunk` | a chunk's name, and what makes it one |
//! | `array` | `data.npy`: layout, views, the room after its rows |
//! | `journal` | which rows are called what |
//! | `convert` | byte order and element order |
//! | `disk` | the only door to the store's files |
//! | [`npy`] | the format, pure |
//!
//! What is not documented here is open for the binary and the tests only, and changes without notice.

#[macro_use]
#[doc(hidden)]
pub mod error;
pub(crate) mod array;
pub(crate) mod chunk;
pub(crate) mod convert;
#[doc(hidden)]
pub mod dataset;
#[doc(hidden)]
pub mod disk;
#[doc(hidden)]
pub mod fs;
#[doc(hidden)]
pub mod fuse;
pub(crate) mod journal;
pub mod npy;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod proc;
pub(crate) mod stop;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod sys;
pub(crate) mod wait;

#[doc(inline)]
pub use dataset::{ChunkInfo, ChunkWriter, Dataset, Options, Report, Status, View};
#[doc(inline)]
pub use error::{Errno, Error, Result};

use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks a table that every operation leaves whole, even one that panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// As [`lock`], for reading.
pub(crate) fn read<T>(table: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    table
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// As [`lock`], for writing.
pub(crate) fn write<T>(table: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    table
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
