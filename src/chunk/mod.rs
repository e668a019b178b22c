//! A chunk, without its dataset: its name, its bytes, and what is known of them.

pub(crate) mod name;
pub(crate) mod status;
pub(crate) mod validate;
pub(crate) mod written;

pub use name::Kind;
pub use status::Start;
pub use validate::judge_file;
