//! An image, and the next version of it: most of what is in its layers is the same, none of its large layers is.

use std::collections::HashSet;
use std::path::Path;

use super::lazy::noise;
use super::small::{base, shell};
use super::{LayerBuilder, Layout};
use crate::error::Result;

/// Files that are small, and their bytes.
const SMALL: usize = 40;
const SMALL_BYTES: usize = 250_000;

/// Bytes of the one that is large, and where the next version differs in it.
const LARGE_BYTES: usize = 12 << 20;
const LARGE_CHANGE: usize = (5 << 20) + 1000;

/// Those that the next version has with other content.
const CHANGED: [usize; 3] = [3, 17, 31];

/// A version of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageVersion {
    /// The first one.
    First,
    /// The one after it: three small files have other content, one is new, one is gone, all are in another order, and the
    /// large one differs in a byte.
    Next,
}

impl ImageVersion {
    /// The files of its large layer, in their order: their names below `/data`, and their content, which does not
    /// compress.
    pub fn files(self) -> Vec<(String, Vec<u8>)> {
        let small =
            |number: usize, seed: usize| (format!("{number:02}"), noise(seed as u64, SMALL_BYTES));
        let mut large = noise(500, LARGE_BYTES);
        let mut files: Vec<_> = (0..SMALL).map(|number| small(number, number + 1)).collect();
        if self == Self::Next {
            if let Some(byte) = large.get_mut(LARGE_CHANGE) {
                *byte ^= 1;
            }
            for number in CHANGED {
                files[number] = small(number, number + 100);
            }
            files.remove(0);
            files.push(small(SMALL, SMALL + 100));
            files.reverse();
        }
        files.push(("large".into(), large));
        files
    }

    /// Writes it to `dir`: a shell, and the files.
    pub fn write(self, dir: &Path) -> Result<Layout> {
        let mut layer = LayerBuilder::new();
        layer.dir("data", 0o755, 0, 0)?;
        for (name, content) in self.files() {
            layer.file(&format!("data/{name}"), 0o644, 0, 0, &content)?;
        }
        Layout::write(dir, &shell(), &[base()?, layer.finish()?])
    }

    /// Bytes of the chunks of `chunk_bytes` that the next version has and the first has not.
    pub fn new_bytes(chunk_bytes: usize) -> u64 {
        let chunks = |version: Self| {
            let files = version.files();
            let contents = files.into_iter().map(|(_, content)| content);
            contents.flat_map(move |content| {
                let chunks = content.chunks(chunk_bytes).map(<[u8]>::to_vec);
                chunks.collect::<Vec<_>>()
            })
        };
        let known: HashSet<Vec<u8>> = chunks(Self::First).collect();
        let new = chunks(Self::Next).filter(|chunk| !known.contains(chunk));
        new.map(|chunk| chunk.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_new() {
        let small = 4 * SMALL_BYTES as u64;
        assert_eq!(ImageVersion::new_bytes(1 << 20), small + (1 << 20));
        assert_eq!(ImageVersion::new_bytes(4 << 20), small + (4 << 20));
        let [first, next] = [ImageVersion::First, ImageVersion::Next].map(ImageVersion::files);
        assert_eq!(first.len(), next.len());
        assert_eq!(next.iter().filter(|file| !first.contains(file)).count(), 5);
    }
}
