//! One layer.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use pontoon_layer::{Digest, Landmark};
use pontoon_unpack::{Archive, Blocks, Expected, Streamed};

use crate::blob::Blob;
use crate::cut::{Cut, Cutter, Seen};
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::options::{Format, Options};
use crate::tail::Tail;
use crate::toc::{Toc, Written};
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
    /// How much of it is to be fetched before anybody asks, in bytes from its beginning.
    pub first_bytes: u64,
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
    write(reader, writer, expected, options, |blocks, put| {
        let mut archive = Archive::recording(blocks, &options.limits);
        Cutter::new(options, false, put)?.cut(&mut archive)
    })
}

/// Converts a layer in the way of `cut`, which cuts the archive that it is given into units.
pub(crate) fn write(
    reader: impl Read + Send,
    writer: impl Write + Send,
    expected: &Expected,
    options: &Options<'_>,
    cut: impl FnOnce(Blocks, &mut dyn FnMut(Unit) -> Result<()>) -> Result<Cut>,
) -> Result<LayerConverted> {
    options.validate()?;
    let Some(kind) = options.format.toc_kind() else {
        let name = options.format.name();
        let reason = format!("the layers of a {name} image are no layers alone: convert the image");
        return Err(Error::Option(reason));
    };
    let mut toc = Toc::new(options.format, options.level)?;
    let mut blob = Blob::new(writer);
    let (from, (cut, (mut blob, toc))) =
        pontoon_unpack::stream(reader, expected, &options.limits, |blocks| {
            let worker = || {
                let mut encoder = Encoder::new(options.format, options.level)?;
                Ok(move |unit| encoder.pack(unit))
            };
            let make = |put: &mut dyn FnMut(Unit) -> Result<()>| cut(blocks, put);
            pipeline::run(options.threads, worker, make, move |units| {
                for unit in units {
                    blob.unit(unit?, &mut toc)?;
                }
                Ok((blob, toc))
            })
        })?;
    let offset = blob.offset;
    let toc = toc.finish(cut.tar_split.as_ref().map(|split| &split.digest))?;
    let (tail, diff_id) = tail(options.format, offset, &toc, cut, &from)?;
    let landmark = tail.verify(kind, offset, &toc.json_digest)?;
    blob.append(&tail.bytes)?;
    let (digest, bytes) = blob.finish()?;
    Ok(LayerConverted {
        from,
        digest,
        bytes,
        diff_id,
        annotations: tail.annotations,
        first_bytes: match landmark {
            Landmark::Prefetch { blob_offset, .. } => blob_offset,
            Landmark::None | Landmark::NoPrefetch => 0,
        },
    })
}

/// What comes behind the data of a blob, and the digest of the archive in it.
fn tail(
    format: Format,
    offset: u64,
    toc: &Written,
    cut: Cut,
    from: &Streamed,
) -> Result<(Tail, Digest)> {
    let seen = match (cut.seen, format) {
        // It goes on with the table.
        (Some(seen), Format::Estargz) => return tail::estargz(offset, toc, seen),
        (seen, _) => seen.map(Seen::finish),
    };
    let (diff_id, bytes) = seen.unwrap_or((from.diff_id.clone(), from.archive_bytes));
    let tail = match cut.tar_split {
        Some(split) => tail::podman(offset, toc, &split)?,
        None => tail::stargz(offset, toc, bytes)?,
    };
    Ok((tail, diff_id))
}
