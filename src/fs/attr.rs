//! What `stat` shows of each kind of thing.
//!
//! It is what programs go by that copy files: sizes are true, what has bytes has blocks, and times of
//! change move with every change.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use nix::sys::stat::FileStat;

use super::control::{self, Control};
use super::inodes::ROOT;
use super::numbers;
use crate::array::view::Version;
use crate::dataset::{self, Attributes};
use crate::disk::{Face, clock};
use crate::store::{self, Seen};

/// For names and attributes that change only through this mount, or rarely.
pub(super) const TTL: Duration = Duration::from_secs(1);
/// For names that stand for something else with every commit.
pub(super) const NEVER: Duration = Duration::ZERO;
/// cp writes this many bytes at a time, if `st_blksize` says so.
const WRITE_SIZE: u32 = 1 << 20;
/// Python's buffer is as large as `st_blksize` says, and the kernel pins all of it for a direct read
/// of the header alone: at 1 MiB that took half the time of opening an array. cp out of the mount is
/// as fast with it.
const READ_SIZE: u32 = 256 << 10;

/// What `stat` shows.
#[derive(Clone, Debug)]
pub struct Attr {
    /// The number that requests are to name it by.
    pub node: u64,
    /// The inode's number as `stat` shows it.
    pub ino: u64,
    /// A directory, or a file.
    pub is_dir: bool,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes: those that it takes in the store, or that the bytes of a chunk would
    /// take. Programs take a file with bytes and no blocks for one that is a hole.
    pub blocks: u64,
    /// Time of last change of its bytes, as it was set.
    pub mtime: SystemTime,
    /// Time of last change of anything, here.
    pub ctime: SystemTime,
    /// Permission bits.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many bytes to write at a time.
    pub blksize: u32,
    /// How long the kernel may keep these attributes.
    pub attr_ttl: Duration,
    /// How long the kernel may keep the name.
    pub entry_ttl: Duration,
}

impl Attr {
    pub(super) fn at(mut self, node: u64) -> Self {
        self.node = node;
        self
    }

    /// Of what no name leads to any more.
    pub(super) fn unlinked(mut self) -> Self {
        self.nlink = 0;
        self
    }
}

/// Read permission for those who have it on `mode`.
fn readable_like(mode: u32) -> u32 {
    mode & 0o444
}

fn blocks(size: u64) -> u64 {
    size.div_ceil(512)
}

/// An ordinary file, or a directory with its links as the store has them.
pub(super) fn file_attr(stat: &FileStat) -> Attr {
    let is_dir = store::is_dir(stat);
    let links = stat.st_nlink as u32;
    Attr {
        node: 0,
        ino: stat.st_ino,
        is_dir,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        mtime: store::mtime_system(stat),
        ctime: store::ctime_system(stat),
        mode: stat.st_mode & 0o7777,
        // Only one of a file's names is one here.
        nlink: if is_dir { links } else { links.min(1) },
        uid: stat.st_uid,
        gid: stat.st_gid,
        blksize: WRITE_SIZE,
        attr_ttl: TTL,
        entry_ttl: TTL,
    }
}

/// A version of the array, or a slice: with the owner of the dataset's directory `dir`, and readable for those
/// who may read that, unless others were `set`.
pub(super) fn view_attr(
    view: &Version,
    name: &OsStr,
    dir: &Seen,
    set: Option<(Attributes, i64)>,
) -> Attr {
    let last = view.modified();
    let (mode, uid, gid) = match &set {
        Some((set, _)) => (set.mode, set.uid, set.gid),
        None => {
            let (mode, uid, gid) = dir.owner();
            (readable_like(mode), uid, gid)
        }
    };
    Attr {
        node: 0,
        ino: numbers::of_array(dir, name),
        is_dir: false,
        size: view.len(),
        blocks: blocks(view.len()),
        mtime: clock::to_system(dataset::array_modified(last, set)),
        ctime: clock::to_system(set.map_or(last, |(_, at)| last.max(at))),
        mode,
        nlink: 1,
        uid,
        gid,
        blksize: READ_SIZE,
        attr_ttl: TTL,
        entry_ttl: NEVER,
    }
}

/// What was refused is its producer's; everything else is said to those who may read the dataset's
/// directory, `dir`, whosever the file is in the store.
pub(super) fn control_attr(stat: &FileStat, dir: (u64, &FileStat), control: &Control) -> Attr {
    let is_dir = matches!(control, Control::Dir | Control::Kept(_));
    let mut attr = file_attr(stat);
    let (node, dir) = dir;
    if !store::is_file(stat) {
        attr.size = 0;
        attr.blocks = 0;
    }
    if !matches!(control, Control::KeptFile(..)) {
        attr.ino = numbers::of_control(dir, control);
        (attr.uid, attr.gid) = (dir.st_uid, dir.st_gid);
        attr.mode = match control {
            // What was refused is removed by those who may remove such a file from the dataset.
            Control::Kept(_) => dir.st_mode & 0o1777,
            Control::Dir => dir.st_mode & 0o555,
            _ => readable_like(dir.st_mode),
        };
    }
    attr.is_dir = is_dir;
    attr.nlink = match control {
        Control::Dir => 2 + control::directories(node == ROOT),
        Control::Kept(_) => 2,
        _ => 1,
    };
    (attr.attr_ttl, attr.entry_ttl) = (NEVER, NEVER);
    attr
}

pub(super) fn chunk_attr(chunk: &dataset::Committed, number: u64) -> Attr {
    let attributes = &chunk.receipt.attributes;
    Attr {
        node: 0,
        ino: number,
        is_dir: false,
        size: chunk.view.len(),
        blocks: blocks(chunk.view.len()),
        mtime: clock::to_system(attributes.mtime),
        ctime: clock::to_system(chunk.changed),
        mode: attributes.mode,
        nlink: 1,
        uid: attributes.uid,
        gid: attributes.gid,
        blksize: WRITE_SIZE,
        attr_ttl: TTL,
        entry_ttl: TTL,
    }
}

pub(super) fn in_flight_attr(face: &Face, number: u64) -> Attr {
    let now = SystemTime::now();
    Attr {
        node: 0,
        ino: number,
        is_dir: false,
        size: face.len,
        blocks: blocks(face.len),
        mtime: face.mtime.map_or(now, clock::to_system),
        ctime: now,
        mode: face.mode,
        nlink: 1,
        uid: face.uid,
        gid: face.gid,
        blksize: WRITE_SIZE,
        // A refusal takes the name away, and the kernel is to see that at once.
        attr_ttl: NEVER,
        entry_ttl: NEVER,
    }
}
