//! What the annotations of a layer's descriptor say about its table of contents.

use std::collections::BTreeMap;

use crate::error::FormatError;
use crate::limits::Limits;
use crate::tail::TocPlace;
use crate::toc::TocDigest;

/// The digest of the JSON of the table of contents: eStargz, and zstd:chunked as stargz-snapshotter writes it.
pub const ANNOTATION_TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// What annotations say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotated {
    /// What the table of contents must be. Without it nothing can be verified.
    pub digest: Option<TocDigest>,
    /// Where it is, if the annotations say so (zstd:chunked): then the blob's tail need not be fetched.
    pub place: Option<TocPlace>,
}

/// Reads the annotations (or labels) of a layer of `blob_size` bytes.
pub fn parse_annotations(
    _annotations: &BTreeMap<String, String>,
    _blob_size: u64,
    _limits: &Limits,
) -> Result<Annotated, FormatError> {
    unimplemented!()
}
