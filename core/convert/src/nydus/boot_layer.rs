//! The last layer of a nydus image: an ordinary archive with the bootstrap in it.

use pontoon_layer::{Digest, Limits, path_names};
use pontoon_unpack::{Archive, Kind, Source};

use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::options::Format;
use crate::tail::{BLOCK_BYTES, own_header};

/// Where readers look for it (nydus-snapshotter, `pkg/converter/constant.go`).
const DIRECTORY: &[u8] = b"image";
pub(super) const BOOTSTRAP: &[u8] = b"image/image.boot";

/// The layer, compressed.
pub(crate) struct BootLayer {
    pub(crate) bytes: Vec<u8>,
    /// Of the archive.
    pub(crate) diff_id: Digest,
}

/// The layer with `bootstrap` in it.
pub(super) fn write(bootstrap: &[u8]) -> Result<BootLayer> {
    let mut archive = Vec::with_capacity(bootstrap.len() + 8 * BLOCK_BYTES);
    archive.extend(own_header(DIRECTORY, b'5', 0o755, 0));
    archive.extend(own_header(BOOTSTRAP, b'0', 0o444, bootstrap.len() as u64));
    archive.extend_from_slice(bootstrap);
    finish(archive)
}

/// Compresses an archive that has no end yet.
fn finish(mut archive: Vec<u8>) -> Result<BootLayer> {
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

/// The layer in `archive` with the bootstrap that `make` makes of the one that is in it. All else in it stays: an image over
/// ordinary layers has more there.
pub(crate) fn replace<S: Source>(
    archive: &mut Archive<S>,
    make: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
) -> Result<BootLayer> {
    let bytes_max = Limits::default().toc_json_bytes_max;
    let mut make = Some(make);
    let mut new = Vec::new();
    while let Some(entry) = archive.next()? {
        let headers = archive.take_raw();
        let what = "the bytes of the bootstrap's layer";
        let size = (new.len() as u64).saturating_add(archive.data_bytes());
        Error::check_limit(what, size, bytes_max)?;
        let mut data = Vec::new();
        archive.read(&mut data, usize::try_from(bytes_max).unwrap_or(usize::MAX))?;
        archive.skip()?;
        archive.take_raw();
        let is_bootstrap = path_names(&entry.path).join(&b'/') == BOOTSTRAP;
        match make.take_if(|_| is_bootstrap && entry.kind == Kind::File) {
            Some(make) => {
                let data = make(&data)?;
                new.extend(own_header(BOOTSTRAP, b'0', 0o444, data.len() as u64));
                new.extend(data);
            }
            None => {
                new.extend(headers);
                new.extend(data);
            }
        }
        new.resize(new.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    archive.drain()?;
    match make {
        None => finish(new),
        Some(_) => {
            let name = String::from_utf8_lossy(BOOTSTRAP);
            let reason = format!("it has no {name}");
            Err(Error::malformed("the last layer", reason))
        }
    }
}
