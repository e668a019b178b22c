//! Writes chunks with the Rust crates ndarray-npy and npyz: rows `[n, n + 0.5, n + 0.25]`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use ndarray::{Array2, ShapeBuilder};
use ndarray_npy::write_npy;
use npyz::WriterBuilder;

fn number(row: usize, column: usize) -> f64 {
    row as f64 + [0.0, 0.5, 0.25][column]
}

fn main() -> Result<(), Box<dyn Error>> {
    let dataset = PathBuf::from(std::env::args_os().nth(1).ok_or("which dataset?")?);
    let rows = |first: usize| Array2::from_shape_fn((100, 3), |(i, j)| number(first + i, j));
    write_npy(dataset.join("ndarray-npy.npy"), &rows(0))?;
    let columns = Array2::from_shape_fn((100, 3).f(), |(i, j)| number(100 + i, j));
    write_npy(dataset.join("ndarray-npy-fortran.npy"), &columns)?;

    let file = BufWriter::new(File::create(dataset.join("npyz.npy"))?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[100, 3])
        .writer(file)
        .begin_nd()?;
    writer.extend((200..300).flat_map(|i| (0..3).map(move |j| number(i, j))))?;
    writer.finish()?;
    Ok(())
}
