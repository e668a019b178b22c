//! npyfs: a filesystem in which any program grows one NumPy array by writing files.
//!
//! Every import goes down this list:
//!
//! | room | holds |
//! | --- | --- |
//! | `bin/npyfs` | the command line, the daemon |
//! | [`fuse`] | the kernel's requests, translated |
//! | [`fs`] | the mount as file operations |
//! | [`store`] | the datasets that are open; directories and ordinary files |
//! | [`dataset`] | the engine: coordinates the parts below, which know no dataset |
//! | `chunk` | a chunk's name, and what makes it one |
//! | `array` | `data.npy`: layout, views, the room after its rows |
//! | `journal` | which rows are called what |
//! | `convert` | byte order and element order |
//! | [`disk`] | the only door to the store's files |
//! | [`npy`] | the format, pure |

#[macro_use]
pub mod error;
pub(crate) mod array;
pub(crate) mod chunk;
pub(crate) mod convert;
pub mod dataset;
pub mod disk;
pub mod fs;
pub mod fuse;
pub(crate) mod journal;
pub mod npy;
pub mod proc;
pub(crate) mod stop;
pub mod store;
pub mod sys;
pub(crate) mod wait;

pub use dataset::{Dataset, Options as DatasetOptions};
pub use error::{Error, Result};

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
