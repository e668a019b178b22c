//! Owner, mode and time of a file, as they are and as they are to be.

/// Mode, owner and size of a chunk in flight, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    /// Bytes written so far, or set by `truncate`.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change in nanoseconds since 1970, where the producer set it.
    pub mtime: Option<i64>,
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last change, in nanoseconds since 1970.
    pub mtime: Option<i64>,
}
