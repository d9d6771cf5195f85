//! `unpack BLOB DIRECTORY`: unpacks a layer and says how long that took.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use pontoon_unpack::{Options, unpack};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [blob, target] = &arguments[..] else {
        return Err("usage: unpack BLOB DIRECTORY".into());
    };
    let start = Instant::now();
    let unpacked = unpack(File::open(blob)?, Path::new(target), &Options::new())?;
    println!("{:?}: {unpacked:#?}", start.elapsed());
    Ok(())
}
