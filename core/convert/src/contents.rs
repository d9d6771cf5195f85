//! What a lazy layer says of itself: its table of contents, found and verified.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek as _;
use std::os::unix::fs::FileExt as _;

use pontoon_layer::{
    ANNOTATION_TOC_DIGEST, Layer, Limits, OpaqueXattr, TAIL_BYTES, TocDigest, TocKind,
    parse_annotations, parse_tail, parse_toc,
};

use crate::error::{Error, Result};
use crate::options::{Dialect, Format};
use crate::place::Descriptor;

/// What came of looking for a table of contents.
pub(crate) enum Contents {
    /// There is none.
    None,
    /// There is one.
    Lazy(Box<Lazy>),
    /// There should be one, and this is wrong with it.
    Wrong(String),
}

/// A table of contents that is what the descriptor of its layer says.
pub(crate) struct Lazy {
    /// What the layer is.
    pub(crate) format: Format,
    /// The digest, of the kind that the layer's annotations have.
    pub(crate) digest: TocDigest,
    /// What is in it.
    pub(crate) layer: Layer,
}

/// The blob of a layer, in a file.
pub(crate) struct Blob<'a> {
    file: &'a File,
    descriptor: &'a Descriptor,
}

impl<'a> Blob<'a> {
    pub(crate) fn of(file: &'a File, descriptor: &'a Descriptor) -> Blob<'a> {
        Blob { file, descriptor }
    }

    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut bytes, offset);
        let path = self.descriptor.digest.to_string();
        read.map_err(Error::file("cannot read", path))?;
        Ok(bytes)
    }

    /// All of it, from the first byte on.
    pub(crate) fn reader(&self) -> Result<File> {
        let again = self.file.try_clone().and_then(|mut file| {
            file.rewind()?;
            Ok(file)
        });
        let path = self.descriptor.digest.to_string();
        again.map_err(Error::file("cannot read", path))
    }

    /// The table of contents of the layer, whose descriptor has these annotations.
    pub(crate) fn contents(
        &self,
        annotations: &BTreeMap<String, String>,
        limits: &Limits,
    ) -> Result<Contents> {
        let wrong = |reason: String| Ok(Contents::Wrong(reason));
        let size = self.descriptor.size;
        let tail_bytes = size.min(TAIL_BYTES as u64);
        let tail = self.read(size - tail_bytes, tail_bytes)?;
        let annotated = match parse_annotations(annotations, size, limits) {
            Ok(annotated) => annotated,
            Err(error) => return wrong(error.to_string()),
        };
        let footer = match parse_tail(&tail, size, limits) {
            Ok(footer) => footer,
            Err(error) => return wrong(error.to_string()),
        };
        let Some(digest) = annotated.digest else {
            return Ok(Contents::None);
        };
        let kind = match (&footer, &annotated.place) {
            (Some(footer), _) => footer.toc_kind(),
            (None, Some(_)) => TocKind::Zstd,
            (None, None) => return wrong("it has an annotation and no footer".to_owned()),
        };
        let from_footer = footer.as_ref().and_then(|footer| footer.place());
        if let (Some(one), Some(other)) = (from_footer, &annotated.place)
            && one != other
        {
            return wrong("annotations and footer name two places".to_owned());
        }
        let Some(place) = annotated.place.as_ref().or(from_footer) else {
            return wrong("the table of contents is in another blob".to_owned());
        };
        let toc = self.read(place.range.start, place.range.end - place.range.start)?;
        let opaque = OpaqueXattr::Trusted;
        match parse_toc(kind, &toc, place.payload_end, &digest, opaque, limits) {
            Ok(layer) => Ok(Contents::Lazy(Box::new(Lazy {
                format: format(kind, annotations),
                digest,
                layer,
            }))),
            Err(error) => wrong(error.to_string()),
        }
    }
}

/// What a layer is with a table of contents of this kind, and with these annotations: stargz-snapshotter serves none without
/// its own.
fn format(kind: TocKind, annotations: &BTreeMap<String, String>) -> Format {
    match (kind, annotations.contains_key(ANNOTATION_TOC_DIGEST)) {
        (TocKind::TarGzip, _) => Format::Estargz,
        (TocKind::Zstd, true) => Format::ZstdChunked(Dialect::Stargz),
        (TocKind::Zstd, false) => Format::ZstdChunked(Dialect::Podman),
    }
}
