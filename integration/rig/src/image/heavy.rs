//! An image that asks for much: many layers, and a large file.

use std::fs;
use std::path::Path;

use super::lazy::noise;
use super::small::{base, shell};
use super::{Layer, LayerBuilder, Layout};
use crate::checkout;
use crate::error::{At, Result};
use crate::tools::{self, Tool};

/// How many layers [`heavy`] has: as many as containerd's own tests stack.
pub const HEAVY_LAYERS: usize = 50;

/// What the large file repeats: more than a chunk, so that no two chunks of it are the same.
const PATTERN: usize = (4 << 20) + 12_345;

/// An image of [`HEAVY_LAYERS`] layers: `/bin` is a static busybox, `/large` has `megabytes` MiB that do not
/// compress, and each other layer has one file of a megabyte, `/part/<number>`. Made on the first call and kept in
/// `target/rig`.
pub fn heavy(megabytes: usize) -> Result<Layout> {
    let images = checkout::rig_dir().join("images");
    fs::create_dir_all(&images).at("create", &images)?;
    let dir = images.join(format!("heavy-{megabytes}"));
    tools::once(&dir, &format!("{} 1", Tool::Debian12.version()?), || {
        write(&dir, megabytes)
    })?;
    Layout::open(&dir)
}

/// The content of `/large` of [`heavy`].
pub fn heavy_content(megabytes: usize) -> Vec<u8> {
    let pattern = noise(50, PATTERN);
    pattern.into_iter().cycle().take(megabytes << 20).collect()
}

/// The content of `/part/<number>` of [`heavy`].
pub fn heavy_part(number: usize) -> Vec<u8> {
    noise(1000 + number as u64, 1 << 20)
}

fn write(dir: &Path, megabytes: usize) -> Result<()> {
    let mut large = LayerBuilder::new();
    large.file("large", 0o644, 0, 0, &heavy_content(megabytes))?;
    let parts = (2..HEAVY_LAYERS)
        .map(part)
        .collect::<Result<Vec<Layer>>>()?;
    let mut layers = vec![base()?, large.finish()?];
    layers.extend(parts);
    Layout::write(dir, &shell(), &layers).map(drop)
}

fn part(number: usize) -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.dir("part", 0o755, 0, 0)?;
    let path = format!("part/{number}");
    layer.file(&path, 0o644, 0, 0, &heavy_part(number))?;
    layer.finish()
}

/// The files in `/small` of [`bulky`], and the size of each in bytes.
const SMALL: (usize, usize) = (100, 60_000);

/// The size of a file in `/large` of [`bulky`].
const LARGE: usize = 512 << 10;

/// The files of [`bulky`] with their contents, without those of `/bin`, as `/large/* /small/*` names them in a shell.
pub fn bulky_content(seed: u64, megabytes: usize) -> Vec<(String, Vec<u8>)> {
    let file = |dir: &str, number: usize, bytes: usize| {
        let bytes = noise(seed * 1000 + number as u64, bytes);
        (format!("{dir}/{number:03}"), bytes)
    };
    let large = (0..(megabytes << 20) / LARGE).map(|number| file("large", number, LARGE));
    let small = (0..SMALL.0).map(|number| file("small", 500 + number, SMALL.1));
    large.chain(small).collect()
}

/// Writes an image of three layers to `dir`: `/bin` is a static busybox, `/large` has files of half a MiB, `megabytes` MiB in all, and
/// `/small` a hundred smaller ones. None of them compress, and each `seed` makes other ones.
pub fn bulky(dir: &Path, seed: u64, megabytes: usize) -> Result<Layout> {
    let (mut large, mut small) = (LayerBuilder::new(), LayerBuilder::new());
    large.dir("large", 0o755, 0, 0)?;
    small.dir("small", 0o755, 0, 0)?;
    for (path, bytes) in bulky_content(seed, megabytes) {
        let layer = match path.starts_with("large") {
            true => &mut large,
            false => &mut small,
        };
        layer.file(&path, 0o644, 0, 0, &bytes)?;
    }
    Layout::write(dir, &shell(), &[base()?, large.finish()?, small.finish()?])
}
