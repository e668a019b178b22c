//! The inode numbers that `stat` and listings show.
//!
//! They are the same in both, and after a remount: a file or directory has the store's. What is no file of the
//! store has a hash, above all that a store gives; that of the array is above those of chunks, since
//! `rm -r` and others remove what a directory has in the order of these numbers.

use std::ffi::OsStr;

use nix::sys::stat::FileStat;

use super::Fs;
use super::control::{self, Control};
use super::inodes::ROOT;
use crate::dataset::{self, Dataset, number_in};
use crate::disk::paths::CONTROL;
use crate::error::Result;
use crate::store::Seen;

const CHUNK: u64 = 1 << 61;
const ARRAY: u64 = 1 << 62;

/// A chunk, committed or in flight, or what has its name until it comes.
pub(super) fn of_chunk(dataset: &Dataset, name: &OsStr) -> Result<u64> {
    dataset.number_of(name).map(chunk)
}

/// Of the hash that a dataset has for a chunk.
pub(super) fn chunk(hash: u64) -> u64 {
    CHUNK | hash >> 3
}

/// The array, or a slice of it, of the dataset in this directory: all versions have one number, as cp
/// compares what it found by name with what it opened, and a commit in between must not look like
/// another file.
pub(super) fn of_array(dir: &Seen, name: &OsStr) -> u64 {
    ARRAY | number_in(dir.inode().1, name) >> 2
}

/// What npyfs says of the dataset in this directory.
pub(super) fn of_control(dir: &FileStat, control: &Control) -> u64 {
    let name = control::name_of(control).unwrap_or(OsStr::new(CONTROL));
    CHUNK | number_in(dir.st_ino, name) >> 3
}

impl Fs {
    /// The number of a file of the store, which has the number `stored` there.
    pub(super) fn file_number(&self, dir: u64, name: &OsStr, stored: u64) -> Result<u64> {
        // One of no bytes becomes the chunk that is written to it.
        if dir != ROOT && dataset::Kind::of(name) == dataset::Kind::Chunk {
            return of_chunk(&*self.dataset(dir)?, name);
        }
        Ok(stored)
    }
}
