//! What fuser 0.18 lacks, written to the session's device by hand: answers with two inode numbers or two
//! times (`entry`), answers from the page cache (`splice`), and a notification that it does not know
//! (`notify`). When fuser has them, this folder goes.

mod entry;
mod notify;
pub(super) mod splice;

pub(super) use entry::Device;
pub(super) use notify::Notify;
