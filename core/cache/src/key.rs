//! What a cached layer is known by.

use std::fmt;

use pontoon_layer::Digest;

/// A blob, and the table of contents that vouches for its chunks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The digest of the layer's blob, as the manifest gives it.
    pub blob: Digest,
    /// The digest that the chunk table was checked against, as the manifest's annotations give it.
    pub toc: Digest,
}

impl Key {
    /// The key of `blob` as `toc` describes it.
    pub fn new(blob: Digest, toc: Digest) -> Self {
        Key { blob, toc }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (table of contents {})", self.blob, self.toc)
    }
}
