//! A chunk, without its dataset: its name, its bytes, and what is known of them.

pub(crate) mod name;
pub(crate) mod status;
pub(crate) mod validate;
pub(crate) mod written;

pub use name::Kind;
pub use status::Start;
pub use validate::judge_file;

/// A committed chunk. It keeps its id when it is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkId {
    /// Its place in the catalog.
    pub(crate) index: u32,
    /// Which files the dataset had when it was committed.
    pub(crate) epoch: u64,
}
