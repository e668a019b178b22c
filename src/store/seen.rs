//! What was seen of a directory or an ordinary file, so that another in its place is noticed.

use nix::sys::stat::FileStat;

/// A file or directory, and what decides who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    device: u64,
    inode: u64,
    /// Permission bits.
    mode: u32,
    uid: u32,
    gid: u32,
}

/// How what is there now compares with what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// The same, with the same owner and permissions.
    Same,
    /// The same, and its permissions or its group are others.
    Changed,
    /// The same inode number with another owner: given away, or another file that has the number
    /// of one that was removed.
    GivenAway,
    /// Another file or directory.
    Another,
}

impl Seen {
    /// What there is to see.
    pub fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    /// Whether it is the same file or directory, with whatever owner.
    pub fn is_inode_of(&self, other: &Self) -> bool {
        self.inode() == other.inode()
    }

    /// Permission bits, owner and group.
    pub fn owner(&self) -> (u32, u32, u32) {
        (self.mode, self.uid, self.gid)
    }

    /// The group that a set-group-ID directory hands on to what is made in it.
    pub fn group_for_others(&self) -> Option<u32> {
        (self.mode & libc::S_ISGID != 0).then_some(self.gid)
    }

    /// Device and inode.
    pub fn inode(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Compares it with what is there now.
    pub fn compare(&self, stat: &FileStat) -> Now {
        let now = Self::of(stat);
        if !self.is_inode_of(&now) {
            Now::Another
        } else if self.uid != now.uid {
            Now::GivenAway
        } else if *self != now {
            Now::Changed
        } else {
            Now::Same
        }
    }
}
