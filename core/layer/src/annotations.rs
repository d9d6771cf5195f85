//! What the annotations of a layer's descriptor say about its table of contents.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::error::FormatError;
use crate::limits::Limits;
use crate::tail::{TocPlace, zstd_toc_place};
use crate::toc::TocDigest;

/// The digest of the JSON of the table of contents: eStargz, and zstd:chunked as stargz-snapshotter writes it.
pub const ANNOTATION_TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// The digest of the compressed table of contents: containers/storage's name, and stargz-snapshotter's.
const CHECKSUM: [&str; 2] = [
    "io.github.containers.zstd-chunked.manifest-checksum",
    "io.containers.zstd-chunked.manifest-checksum",
];

/// Where the table of contents is: `offset:compressed bytes:decompressed bytes:type`.
const POSITION: [&str; 2] = [
    "io.github.containers.zstd-chunked.manifest-position",
    "io.containers.zstd-chunked.manifest-position",
];

/// What was to be read, in errors.
const WHAT: &str = "an annotation of the layer";

/// What annotations say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotated {
    /// What the table of contents must be. Without it nothing can be verified.
    pub digest: Option<TocDigest>,
    /// Where it is, if the annotations say so. Then the blob is zstd:chunked, and its tail need not be fetched.
    pub place: Option<TocPlace>,
}

/// Reads the annotations (or the labels that containerd makes of them) of a layer of `blob_size` bytes.
pub fn parse_annotations(
    annotations: &BTreeMap<String, String>,
    blob_size: u64,
    limits: &Limits,
) -> Result<Annotated, FormatError> {
    let first = |keys: [&'static str; 2]| {
        let mut found = keys.into_iter();
        found.find_map(|key| annotations.get(key).map(|value| (key, value.as_str())))
    };
    let place = match first(POSITION) {
        Some((key, value)) => Some(position(key, value, blob_size, limits)?),
        None => None,
    };
    let digest = if let Some((key, value)) = first(CHECKSUM) {
        Some(TocDigest::Compressed(digest(key, value)?))
    } else if let Some(value) = annotations.get(ANNOTATION_TOC_DIGEST) {
        Some(TocDigest::Json(digest(ANNOTATION_TOC_DIGEST, value)?))
    } else {
        None
    };
    Ok(Annotated { digest, place })
}

fn digest(key: &str, value: &str) -> Result<crate::Digest, FormatError> {
    value
        .parse()
        .map_err(|error| FormatError::malformed(WHAT, format!("{key}: {error}")))
}

fn position(
    key: &str,
    value: &str,
    blob_size: u64,
    limits: &Limits,
) -> Result<TocPlace, FormatError> {
    let malformed = || {
        let value: String = value.chars().take(100).collect();
        FormatError::malformed(WHAT, format!("{key}: {value:?} is not four numbers"))
    };
    let mut numbers = [0; 4];
    let mut texts = value.split(':');
    for number in &mut numbers {
        let text = texts.next().ok_or_else(malformed)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        *number = text.parse().map_err(|_| malformed())?;
    }
    if texts.next().is_some() {
        return Err(malformed());
    }
    zstd_toc_place(numbers, blob_size, limits)
}
