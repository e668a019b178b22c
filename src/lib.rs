//! npyfs: a filesystem in which any program grows one NumPy array by writing files.

#[macro_use]
pub mod error;
#[path = "dataset/convert.rs"]
pub mod convert;
pub mod npy;
pub mod sys;

pub use error::{Error, Result};
