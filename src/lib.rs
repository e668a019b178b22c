//! npyfs: a filesystem in which any program grows one NumPy array by writing files.

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
