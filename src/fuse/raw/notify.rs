//! What the filesystem asks of the kernel by itself.
//!
//! A notification has the form of an answer to no request: `fuse_out_header` with the code where an
//! answer has its errno. fuser 0.18 does not know `FUSE_NOTIFY_PRUNE`, which Linux has since 6.18
//! (protocol 7.45, `fuse_notify_prune_out` of `include/uapi/linux/fuse.h`), so it is written here.

use std::io;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use super::Device;
use crate::fs::Kernel;

const NOTIFY_PRUNE: u32 = 9;
/// `struct fuse_out_header` and `struct fuse_notify_prune_out`.
const HEAD: usize = 16 + 16;

/// The way to the kernel of one session.
#[derive(Debug)]
pub(in crate::fuse) struct Notify {
    pub(in crate::fuse) notifier: Notifier,
    pub(in crate::fuse) device: Arc<Device>,
}

impl Kernel for Notify {
    fn write_back(&self, ino: u64) -> io::Result<()> {
        self.notifier.inval_inode(INodeNo(ino), 0, 0)
    }

    fn forget_attributes(&self, ino: u64) -> io::Result<()> {
        // With an offset below 0 it looks at no page, so it does not wait.
        self.notifier.inval_inode(INodeNo(ino), -1, 0)
    }

    fn prune(&self, inos: &[u64]) -> io::Result<()> {
        if inos.is_empty() {
            return Ok(());
        }
        self.device.write(&prune_message(inos))
    }
}

fn prune_message(inos: &[u64]) -> Vec<u8> {
    let len = HEAD + size_of_val(inos);
    let mut message = Vec::with_capacity(len);
    message.extend((len as u32).to_ne_bytes());
    message.extend(NOTIFY_PRUNE.to_ne_bytes());
    message.extend([0; 8]); // no request
    message.extend((inos.len() as u32).to_ne_bytes());
    message.extend([0; 12]); // padding, spare
    inos.iter()
        .for_each(|ino| message.extend(ino.to_ne_bytes()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prune_names_its_inodes_behind_their_count() {
        let message = prune_message(&[7, 8, 9]);
        let u32_at = |at: usize| u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!((u32_at(0), message.len()), (56, 56));
        assert_eq!(u32_at(4), 9, "the code");
        assert_eq!(u32_at(16), 3, "how many");
        assert_eq!((u32_at(32), u32_at(48)), (7, 9));
    }
}
