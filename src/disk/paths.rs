//! Every name in `.npyfs`, and the array beside it, as paths from a dataset's directory.

/// The live array.
pub const DATA: &str = "data.npy";
/// What npyfs keeps and says about the dataset.
pub const CONTROL: &str = ".npyfs";
/// The journal: which rows are called what.
pub(crate) const JOURNAL: &str = ".npyfs/chunks.log";
/// The lock of the daemon that writes.
pub(crate) const LOCK: &str = ".npyfs/lock";
/// Refusals and recoveries, a line each.
pub(crate) const LOG: &str = ".npyfs/log";
/// The log before it was begun anew.
pub(crate) const OLD_LOG: &str = ".npyfs/log.1";
/// The directory of the staged files.
pub(crate) const INCOMING: &str = ".npyfs/incoming";
/// The directory, within a dataset's.
pub(crate) const REJECTED: &str = ".npyfs/rejected";
/// The directory, within a dataset's.
pub(crate) const RESCUED: &str = ".npyfs/rescued";
/// Where the first commit puts the array before its journal record, and takes it from after.
pub(crate) const NEW_DATA: &str = ".npyfs/data.npy.new";
pub(crate) const ADOPTED: &str = ".npyfs/data.npy.adopted";
/// An array whose removal is decided.
pub(crate) const REMOVED: &str = ".npyfs/data.npy.removed";
