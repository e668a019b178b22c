//! Writes some rows of a dataset's array to a file that numpy loads:
//! `cargo run --example slice -- DATASET START STOP FILE.npy`

use std::error::Error;
use std::fs::File;
use std::io::Write;

use npyfs::npy::Header;
use npyfs::{Dataset, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [directory, start, stop, file] = &words[..] else {
        return Err("name a dataset, two rows and a file".into());
    };
    let rows = start.parse()?..stop.parse()?;
    let options = Options {
        read_only: true,
        ..Default::default()
    };
    let dataset = Dataset::open(directory, options)?;
    let array = dataset.snapshot()?.ok_or("it has no rows yet")?;
    let bytes = array.read_rows(rows.clone())?;
    let mut shape = array.shape();
    shape[0] = rows.end - rows.start;
    let mut file = File::create_new(file)?;
    file.write_all(&Header::encode(array.dtype(), &shape)?)?;
    file.write_all(&bytes)?;
    Ok(())
}
