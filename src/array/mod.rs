//! `data.npy`: its layout, the rows that are published, and the room after them.

pub(crate) mod adopt;
pub(crate) mod stream;
pub(crate) mod tail;
pub(crate) mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::Result;
use crate::npy::{Header, shape_text};
use view::Layout;
pub use view::View;

/// The array as it is published now.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) layout: Arc<Layout>,
    pub(crate) rows: u64,
    /// When the last row came, in nanoseconds since 1970.
    pub(crate) modified: i64,
}

/// Whether a chunk of this header belongs into this array, as it is or converted.
pub(crate) fn check_compatible(header: &Header, layout: &Layout) -> Result<()> {
    if !header.dtype().same_values(layout.dtype()) {
        return Err(err!(
            EINVAL,
            "dtype {}, this dataset holds {}",
            header.dtype(),
            layout.dtype()
        ));
    }
    if header.row_shape() != layout.row_shape() {
        let (is, holds) = (header.row_shape(), layout.row_shape());
        let mut why = format!(
            "rows of shape {}, this dataset holds rows of shape {}",
            shape_text(is),
            shape_text(holds)
        );
        if header.shape() == holds {
            let one: Vec<u64> = [&[1], holds].concat();
            why.push_str(&format!(": save one row with shape {}", shape_text(&one)));
        }
        return Err(err!(EINVAL, "{why}"));
    }
    Ok(())
}
