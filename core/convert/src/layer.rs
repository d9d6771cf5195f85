//! One layer.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use pontoon_layer::Digest;
use pontoon_unpack::{Archive, Expected, Streamed};

use crate::blob::Blob;
use crate::cut::Cutter;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::toc::Toc;
use crate::unit::Unit;
use crate::{pipeline, tail};

/// A layer that was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerConverted {
    /// What was read: its digests, and its sizes.
    pub from: Streamed,
    /// The digest of the blob that was written.
    pub digest: Digest,
    /// Bytes of it.
    pub bytes: u64,
    /// The digest of the archive in it, decompressed. That of the archive that was read, except for eStargz.
    pub diff_id: Digest,
    /// What its descriptor has to say of the table of contents.
    pub annotations: BTreeMap<String, String>,
}

/// Converts the layer that `reader` gives (gzip, zstd, or not compressed; the first bytes say which), and writes it to
/// `writer`. `reader` is read on another thread, and to its end before a digest is compared.
///
/// A table of contents and landmarks of eStargz that are in the archive are left out where new ones go in.
///
/// # Errors
/// Any of [`Error`](crate::Error); what was written then is of no use.
pub fn convert_layer(
    reader: impl Read + Send,
    writer: impl Write + Send,
    expected: &Expected,
    options: &Options<'_>,
) -> Result<LayerConverted> {
    options.validate()?;
    let Some(kind) = options.format.toc_kind() else {
        let name = options.format.name();
        let reason = format!("the layers of a {name} image are no layers alone: convert the image");
        return Err(Error::Option(reason));
    };
    let limits = &options.limits;
    let mut toc = Toc::new(options.format, options.level)?;
    let mut blob = Blob::new(writer);
    let (from, (cut, (mut blob, toc))) =
        pontoon_unpack::stream(reader, expected, limits, |blocks| {
            let make = |put: &mut dyn FnMut(Unit) -> Result<()>| {
                let mut archive = Archive::recording(blocks, limits);
                Cutter::new(options, put)?.cut(&mut archive)
            };
            let worker = || {
                let mut encoder = Encoder::new(options.format, options.level)?;
                Ok(move |unit| encoder.pack(unit))
            };
            pipeline::run(options.threads, worker, make, move |units| {
                for unit in units {
                    blob.unit(unit?, &mut toc)?;
                }
                Ok((blob, toc))
            })
        })?;
    let offset = blob.offset;
    let toc = toc.finish(cut.tar_split.as_ref().map(|split| &split.digest))?;
    let (tail, diff_id) = match (cut.seen, &cut.tar_split) {
        (Some(seen), _) => tail::estargz(offset, &toc, seen)?,
        (None, Some(split)) => (tail::podman(offset, &toc, split)?, from.diff_id.clone()),
        (None, None) => (
            tail::stargz(offset, &toc, from.archive_bytes)?,
            from.diff_id.clone(),
        ),
    };
    tail.verify(kind, offset, &toc.json_digest)?;
    blob.append(&tail.bytes)?;
    let (digest, bytes) = blob.finish()?;
    Ok(LayerConverted {
        from,
        digest,
        bytes,
        diff_id,
        annotations: tail.annotations,
    })
}
