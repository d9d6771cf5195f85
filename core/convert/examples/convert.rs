//! Converts a layer on its own, or all of a layout directory, to measure that:
//! `convert FORMAT LEVEL THREADS FROM TO`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use pontoon_convert::{
    ChunkCompression, ChunkDigest, Dialect, Format, Layout, NewLayout, Nydus, Options, Plan,
    Selection, convert_layer,
};
use pontoon_unpack::Expected;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [format, level, threads, from, to] = &arguments[..] else {
        return Err("usage: convert FORMAT LEVEL THREADS FROM TO".into());
    };
    let format = match format.as_str() {
        "estargz" => Format::Estargz,
        "podman" => Format::ZstdChunked(Dialect::Podman),
        "stargz" => Format::ZstdChunked(Dialect::Stargz),
        "nydus" => Format::Nydus(Nydus::default()),
        "nydus-lz4" => Format::Nydus(Nydus {
            compression: ChunkCompression::Lz4Block,
            digest: ChunkDigest::Blake3,
        }),
        "nydus-none" => Format::Nydus(Nydus {
            compression: ChunkCompression::None,
            digest: ChunkDigest::Blake3,
        }),
        other => return Err(format!("{other} is no format: look at the source").into()),
    };
    let options = Options {
        level: level.parse()?,
        threads: threads.parse()?,
        ..Options::new(format)
    };
    if Path::new(from).is_dir() {
        let from = Arc::new(Layout::open(Path::new(from), None)?);
        let plan = Plan::read(from, &Selection::default())?;
        let to = NewLayout::create(Path::new(to), None)?;
        let converted = plan.run(&to, &options, &|_, _| {})?;
        println!("{converted:#?}");
        return Ok(());
    }
    let writer = BufWriter::new(File::create(to)?);
    let converted = convert_layer(File::open(from)?, writer, &Expected::default(), &options)?;
    println!("{} bytes, {:?}", converted.bytes, converted.annotations);
    Ok(())
}
