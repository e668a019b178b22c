//! The two answers that fuser cannot give, each of which saves a GETATTR.
//!
//! LOOKUP: the number that a node is asked for by is not the one that `stat` shows: that one is the same after
//! a remount, and for every version of an array, each of which is a node of its own. fuser 0.18 puts one
//! number into both places of its answer.
//!
//! CREATE: the name of a chunk in flight may vanish with a refusal and must not be kept, but its
//! attributes may be. fuser 0.18 takes one time for both.
//!
//! They are written here: `fuse_out_header`, `fuse_entry_out` and `fuse_open_out` of Linux's
//! `include/uapi/linux/fuse.h`, which are the same since protocol 7.9.

use std::fs::File;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileHandle, FopenFlags, Generation, INodeNo, ReplyCreate, ReplyEntry};

use super::super::attributes;
use crate::fs::Attr;

/// `struct fuse_out_header`.
const HEADER: usize = 16;
/// `struct fuse_entry_out`, with its `struct fuse_attr`.
const ENTRY: usize = 128;
/// `struct fuse_open_out`.
const OPEN: usize = 16;

/// The way to the kernel, once the filesystem is mounted.
#[derive(Debug, Default)]
pub(in crate::fuse) struct Device(OnceLock<File>);

impl Device {
    pub(in crate::fuse) fn set(&self, device: File) {
        // There is one session to an adapter; a second device would be the same one.
        self.0.get_or_init(|| device);
    }

    /// Answers LOOKUP with an entry.
    pub(in crate::fuse) fn entry(&self, unique: u64, attr: &Attr, reply: ReplyEntry) {
        let mut shown = attributes(attr);
        let mut attr_ttl = attr.attr_ttl;
        if attr.node != attr.ino {
            let sent = self.send(entry_message(unique, attr, None).bytes());
            if sent == Sent::Answered {
                // Dropping it would answer once more. What is not dropped is one reference to the
                // device, which lives as long as the daemon.
                std::mem::forget(reply);
                return;
            }
            // The kernel learns the node's number only, and has to ask for the rest.
            shown.ino = INodeNo(attr.node);
            attr_ttl = Duration::ZERO;
        }
        reply.entry_with_ttls(&attr_ttl, &attr.entry_ttl, &shown, Generation(0));
    }

    /// Answers CREATE with an entry and a handle.
    pub(in crate::fuse) fn created(
        &self,
        unique: u64,
        attr: &Attr,
        fh: FileHandle,
        flags: FopenFlags,
        reply: ReplyCreate,
    ) {
        let mut shown = attributes(attr);
        let mut ttl = attr.attr_ttl.min(attr.entry_ttl);
        if attr.attr_ttl != attr.entry_ttl || attr.node != attr.ino {
            let message = entry_message(unique, attr, Some((fh, flags)));
            if self.send(message.bytes()) == Sent::Answered {
                std::mem::forget(reply);
                return;
            }
        }
        // One time for both, so the shorter; and none where the kernel learns the node's number only.
        if attr.node != attr.ino {
            shown.ino = INodeNo(attr.node);
            ttl = Duration::ZERO;
        }
        reply.created(&ttl, &shown, Generation(0), fh, flags);
    }

    pub(in crate::fuse) fn file(&self) -> Option<&File> {
        self.0.get()
    }

    /// Writes one message, which the kernel takes as a whole or not at all.
    pub(in crate::fuse) fn write(&self, message: &[u8]) -> io::Result<()> {
        match self.0.get() {
            Some(mut device) => device.write_all(message),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send(&self, message: &[u8]) -> Sent {
        match self.write(message) {
            Ok(()) => Sent::Answered,
            // The asking process was killed, or the mount is gone; fuser will see the same.
            Err(error) => {
                log::debug!("an answer was not taken: {error}");
                Sent::Not
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Sent {
    Answered,
    Not,
}

fn entry_message(unique: u64, attr: &Attr, opened: Option<(FileHandle, FopenFlags)>) -> Message {
    let split = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs(), since.subsec_nanos()),
        Err(_) => before_epoch(time),
    };
    // Of access, modification and change.
    let times = [attr.mtime, attr.mtime, attr.ctime].map(split);
    let kind = if attr.is_dir {
        libc::S_IFDIR
    } else {
        libc::S_IFREG
    };
    let len = HEADER + ENTRY + if opened.is_some() { OPEN } else { 0 };
    let mut message = Message {
        bytes: [0; HEADER + ENTRY + OPEN],
        len: 0,
    };
    message.u32(len as u32);
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
    times.iter().for_each(|&(secs, _)| message.u64(secs));
    times.iter().for_each(|&(_, nanos)| message.u32(nanos));
    message.u32(kind | attr.mode & 0o7777);
    message.u32(attr.nlink);
    message.u32(attr.uid);
    message.u32(attr.gid);
    message.u32(0); // rdev
    message.u32(attr.blksize);
    message.u32(0); // flags
    if let Some((fh, flags)) = opened {
        message.u64(fh.0);
        message.u32(flags.bits());
        message.u32(0); // no backing file
    }
    message
}

/// Seconds, as the two's complement that the kernel reads, and nanoseconds after them.
fn before_epoch(time: SystemTime) -> (u64, u32) {
    let before = UNIX_EPOCH.duration_since(time).unwrap_or_default();
    let up = u64::from(before.subsec_nanos() > 0);
    let secs = 0u64.wrapping_sub(before.as_secs() + up);
    let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
    (secs, nanos)
}

/// Numbers in the machine's own byte order, one after the other.
struct Message {
    bytes: [u8; HEADER + ENTRY + OPEN],
    len: usize,
}

impl Message {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

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
            ctime: UNIX_EPOCH + Duration::from_secs(9),
            mode: 0o444,
            nlink: 1,
            uid: 3,
            gid: 4,
            blksize: 1 << 20,
            attr_ttl: Duration::from_millis(1500),
            entry_ttl: Duration::ZERO,
        };
        let opened = (FileHandle(8), FopenFlags::FOPEN_DIRECT_IO);
        let created = entry_message(99, &attr, Some(opened));
        assert_eq!(u64_at(created.bytes(), 0), 160);
        assert_eq!(u64_at(created.bytes(), 144), 8);
        assert_eq!(u64_at(created.bytes(), 152), 1);

        let message = entry_message(99, &attr, None);
        let message = message.bytes();
        assert_eq!(u64_at(message, 0), 144, "length, and no error");
        assert_eq!(u64_at(message, 8), 99);
        assert_eq!(u64_at(message, 16), 7);
        assert_eq!(u64_at(message, 40), 1, "seconds that attributes are valid");
        assert_eq!(u64_at(message, 48), 500_000_000 << 32, "and nanoseconds");
        assert_eq!(u64_at(message, 56), 1 << 62);
        assert_eq!(u64_at(message, 64), 4096);
        assert_eq!(u64_at(message, 88) as i64, -2, "seconds of modification");
        assert_eq!(u64_at(message, 96), 9, "seconds of change");
        assert_eq!(message[HEADER + ENTRY - 12..][..4], [0; 4], "rdev");
    }
}
