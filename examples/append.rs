//! Appends files to a dataset with no mount: `cargo run --example append -- DATASET CHUNK.npy...`

use std::error::Error;
use std::fs;
use std::path::Path;

use npyfs::{Dataset, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let directory = words.next().ok_or("name a dataset's directory")?;
    let dataset = Dataset::open(&directory, Options::default())?;
    for file in words {
        let name = Path::new(&file).file_name().ok_or("a file has a name")?;
        // The same file once more appends nothing.
        dataset.append(name, &fs::read(&file)?)?;
        let rows = dataset.snapshot()?.map_or(0, |array| array.rows());
        println!("{}: {rows} rows", Path::new(&file).display());
    }
    dataset.close()?;
    Ok(())
}
