//! Prints the shape of a dataset's array whenever it has grown: `cargo run --example follow -- DATASET`
//!
//! A follower takes no lock, so a daemon or another program may write meanwhile.

use std::error::Error;
use std::thread::sleep;
use std::time::Duration;

use npyfs::{Dataset, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .ok_or("name a dataset's directory")?;
    let options = Options {
        read_only: true,
        ..Default::default()
    };
    let dataset = Dataset::open(&directory, options)?;
    let mut seen = 0;
    loop {
        if let Some(array) = dataset.snapshot()?
            && array.rows() > seen
        {
            let new = array.read_rows(seen..array.rows())?;
            println!(
                "{} of {:?}: {} new bytes",
                array.dtype(),
                array.shape(),
                new.len()
            );
            seen = array.rows();
        }
        sleep(Duration::from_millis(100));
    }
}
