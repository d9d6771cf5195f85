//! The last layer of a nydus image: an ordinary archive with the bootstrap in it.

use pontoon_layer::Digest;

use crate::encode::Encoder;
use crate::error::Result;
use crate::options::Format;
use crate::tail::{BLOCK_BYTES, own_header};

/// Where readers look for it (nydus-snapshotter, `pkg/converter/constant.go`).
const DIRECTORY: &[u8] = b"image";
pub(super) const BOOTSTRAP: &[u8] = b"image/image.boot";

/// The layer, compressed.
pub(super) struct BootLayer {
    pub(super) bytes: Vec<u8>,
    /// Of the archive.
    pub(super) diff_id: Digest,
}

/// The layer with `bootstrap` in it.
pub(super) fn write(bootstrap: &[u8]) -> Result<BootLayer> {
    let mut archive = Vec::with_capacity(bootstrap.len() + 8 * BLOCK_BYTES);
    archive.extend(own_header(DIRECTORY, b'5', 0o755, 0));
    archive.extend(own_header(BOOTSTRAP, b'0', 0o444, bootstrap.len() as u64));
    archive.extend_from_slice(bootstrap);
    let blocks = archive.len().next_multiple_of(BLOCK_BYTES) + 2 * BLOCK_BYTES;
    archive.resize(blocks, 0);
    let mut bytes = Vec::new();
    let level = Format::Estargz.default_level();
    Encoder::new(Format::Estargz, level)?.stream(&archive, &mut bytes)?;
    Ok(BootLayer {
        bytes,
        diff_id: Digest::of(&archive),
    })
}
