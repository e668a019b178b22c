//! The `.npy` format, pure: bytes in, values out, no I/O.
//!
//! What numpy writes and reads is defined in `numpy/lib/format.py`; what other writers make of it
//! is told apart here once, so that the engine only ever compares meanings. Nothing in this folder
//! panics on any input, and every refusal is a [`HeaderError`] with a sentence of its own.

pub mod byteswap;
pub mod dtype;
pub mod error;
pub mod growable;
pub mod header;
pub mod literal;
pub mod recount;

#[cfg(test)]
pub(crate) mod strategy;

pub use byteswap::ByteSwap;
pub use dtype::Dtype;
pub use error::HeaderError;
pub use growable::{CountWrites, GrowableHeader};
pub use header::{Header, MAX_HEADER, Prefix};
pub use recount::recounted;

/// The most dimensions: what every numpy can read.
pub(crate) const MAX_RANK: usize = 32;

/// A shape as Python prints it.
pub(crate) fn shape_text(shape: &[u64]) -> String {
    match shape {
        [one] => format!("({one},)"),
        many => {
            let many: Vec<String> = many.iter().map(u64::to_string).collect();
            format!("({})", many.join(", "))
        }
    }
}
