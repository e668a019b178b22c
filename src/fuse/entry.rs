//! Answers to LOOKUP where the node is not the inode that `stat` shows.
//!
//! Every version of an array is a node of its own, and all of them show one inode number, because
//! cp compares what it found by name with what it opened. fuser 0.18 puts one number into both
//! places of its answer, so a version would need a GETATTR after every LOOKUP to show the right
//! one. This answer is written here instead: `fuse_out_header` and `fuse_entry_out` of Linux's
//! `include/uapi/linux/fuse.h`, the same since protocol 7.9.

use std::fs::File;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Generation, ReplyEntry};

use super::attributes;
use crate::fs::Attr;

/// `struct fuse_out_header`.
const HEADER: usize = 16;
/// `struct fuse_entry_out`, with its `struct fuse_attr`.
const ENTRY: usize = 128;

/// The way to the kernel, once the filesystem is mounted.
#[derive(Debug, Default)]
pub(super) struct Device(OnceLock<File>);

impl Device {
    pub(super) fn set(&self, device: File) {
        // There is one session to an adapter; a second device would be the same one.
        self.0.get_or_init(|| device);
    }

    /// Answers LOOKUP with an entry.
    pub(super) fn answer(&self, unique: u64, attr: &Attr, reply: ReplyEntry) {
        let shown = attributes(attr);
        if attr.node == attr.ino {
            reply.entry_with_ttls(&attr.attr_ttl, &attr.entry_ttl, &shown, Generation(0));
            return;
        }
        let Some(mut device) = self.0.get() else {
            // The kernel learns the node's number only, and has to ask for the rest.
            let node = fuser::FileAttr {
                ino: fuser::INodeNo(attr.node),
                ..shown
            };
            reply.entry_with_ttls(&Duration::ZERO, &attr.entry_ttl, &node, Generation(0));
            return;
        };
        match device.write_all(&message(unique, attr)) {
            // Dropping it would answer once more. What is not dropped is one reference to the
            // device, which lives as long as the daemon.
            Ok(()) => std::mem::forget(reply),
            Err(error) => failed(&error, reply),
        }
    }
}

/// The asking process was killed, or the mount is gone: as where fuser answers.
fn failed(error: &io::Error, reply: ReplyEntry) {
    log::debug!("a lookup could not be answered: {error}");
    reply.error(fuser::Errno::EIO);
}

fn message(unique: u64, attr: &Attr) -> [u8; HEADER + ENTRY] {
    let mut message = Message {
        bytes: [0; HEADER + ENTRY],
        len: 0,
    };
    let since = attr.mtime.duration_since(UNIX_EPOCH);
    let (secs, nanos) = match since {
        Ok(since) => (since.as_secs(), since.subsec_nanos()),
        Err(_) => before_epoch(attr.mtime),
    };
    let kind = if attr.is_dir {
        libc::S_IFDIR
    } else {
        libc::S_IFREG
    };
    message.u32((HEADER + ENTRY) as u32);
    message.u32(0); // no error
    message.u64(unique);
    message.u64(attr.node);
    message.u64(0); // generation
    message.u64(attr.entry_ttl.as_secs());
    message.u64(attr.attr_ttl.as_secs());
    message.u32(attr.entry_ttl.subsec_nanos());
    message.u32(attr.attr_ttl.subsec_nanos());
    message.u64(attr.ino);
    message.u64(attr.size);
    message.u64(attr.blocks);
    (0..3).for_each(|_| message.u64(secs)); // of access, modification and change
    (0..3).for_each(|_| message.u32(nanos));
    message.u32(kind | attr.mode & 0o7777);
    message.u32(attr.nlink);
    message.u32(attr.uid);
    message.u32(attr.gid);
    message.u32(0); // rdev
    message.u32(attr.blksize);
    message.u32(0); // flags
    message.bytes
}

/// Seconds, as the two's complement that the kernel reads, and nanoseconds after them.
fn before_epoch(time: SystemTime) -> (u64, u32) {
    let before = UNIX_EPOCH.duration_since(time).unwrap_or_default();
    let up = u64::from(before.subsec_nanos() > 0);
    let secs = 0u64.wrapping_sub(before.as_secs() + up);
    let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
    (secs, nanos)
}

/// Numbers in the machine's own byte order, one behind the other.
struct Message {
    bytes: [u8; HEADER + ENTRY],
    len: usize,
}

impl Message {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(message: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(message[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn the_node_and_the_inode_that_is_shown_have_their_own_places() {
        let attr = Attr {
            node: 7,
            ino: 1 << 62,
            is_dir: false,
            size: 4096,
            blocks: 8,
            mtime: UNIX_EPOCH - Duration::from_millis(1500),
            mode: 0o444,
            nlink: 1,
            uid: 3,
            gid: 4,
            blksize: 1 << 20,
            attr_ttl: Duration::from_millis(1500),
            entry_ttl: Duration::ZERO,
        };
        let message = message(99, &attr);
        assert_eq!(u64_at(&message, 0), 144, "length, and no error");
        assert_eq!(u64_at(&message, 8), 99);
        assert_eq!(u64_at(&message, 16), 7);
        assert_eq!(u64_at(&message, 40), 1, "seconds that attributes are valid");
        assert_eq!(u64_at(&message, 48), 500_000_000 << 32, "and nanoseconds");
        assert_eq!(u64_at(&message, 56), 1 << 62);
        assert_eq!(u64_at(&message, 64), 4096);
        assert_eq!(u64_at(&message, 88) as i64, -2, "seconds of modification");
        assert_eq!(message[HEADER + ENTRY - 12..][..4], [0; 4], "rdev");
    }
}
