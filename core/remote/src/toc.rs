//! Fetches the table of contents of a layer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pontoon_layer::{
    Annotated, Digest, Limits, OpaqueXattr, TAIL_BYTES, TocDigest, TocKind, TocPlace, parse_tail,
    parse_toc,
};
use pontoon_source::{Blob, Descriptor, Reference, Registry, Urgency};

use tokio::sync::Semaphore;

use crate::reason::{self, Refusal};

/// So many bytes of the end of a blob are fetched at once: the tables of most layers are among them.
const TAIL_READ_BYTES: u64 = 256 << 10;

/// Names the layer of which a layer of the image with tables of contents is the table
/// (stargz-snapshotter's `nativeconverter/estargz/externaltoc`).
const ANNOTATION_LAYER: &str = "containerd.io/snapshot/stargz/layer.digest";

/// What the tag of that image ends with.
const TOC_IMAGE_SUFFIX: &str = "-esgztoc";

/// How tables are read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) registry: Registry,
    pub(crate) limits: Limits,
    pub(crate) opaque: OpaqueXattr,
    /// A large table takes memory while it is parsed.
    pub(crate) places: Arc<Semaphore>,
}

/// Tables that are parsed at the same time.
pub(crate) const PARSED_AT_ONCE: usize = 2;

/// A table of contents as it came, and what it is.
struct Raw {
    kind: TocKind,
    bytes: Bytes,
    payload_end: u64,
}

impl Reading {
    /// Fetches, verifies and parses the table of contents of the layer `descriptor` of the image `reference`.
    pub(crate) async fn layer(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        annotated: &Annotated,
    ) -> Result<pontoon_layer::Layer, Refusal> {
        let unverifiable = || Refusal::new(reason::UNVERIFIABLE);
        let expected = annotated.digest.clone().ok_or_else(unverifiable)?;
        let raw = self.fetch(reference, descriptor, annotated).await?;
        // Never closed.
        let _place = self.places.acquire().await;
        let (opaque, limits) = (self.opaque, self.limits.clone());
        let parsed = tokio::task::spawn_blocking(move || {
            let Raw {
                kind,
                bytes,
                payload_end,
            } = raw;
            parse_toc(kind, &bytes, payload_end, &expected, opaque, &limits)
        });
        let parsed = parsed.await.map_err(|_| Refusal::new(reason::BUG))?;
        Ok(parsed?)
    }

    async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        annotated: &Annotated,
    ) -> Result<Raw, Refusal> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        let blob = self.registry.blob(reference, digest.clone(), size);
        if let Some(place) = &annotated.place {
            let bytes = blob.read(place.range.clone(), Urgency::Demand).await?;
            return Ok(Raw {
                kind: TocKind::Zstd,
                bytes,
                payload_end: place.payload_end,
            });
        }
        let start = size.saturating_sub(TAIL_READ_BYTES.max(TAIL_BYTES as u64));
        let end = blob.read(start..size, Urgency::Demand).await?;
        let tail = parse_tail(&end, size, &self.limits)?;
        let tail = tail.ok_or_else(|| Refusal::new(reason::NO_FOOTER))?;
        let bytes = match tail.place() {
            Some(place) => inside(&*blob, place, start, end).await?,
            None => self.external(reference, digest).await?,
        };
        Ok(Raw {
            kind: tail.toc_kind(),
            bytes,
            payload_end: tail.payload_end(),
        })
    }

    /// The table of contents of `layer` from the image that has nothing but such tables.
    async fn external(&self, reference: &Reference, layer: &Digest) -> Result<Bytes, Refusal> {
        let missing = || Refusal::new(reason::NO_TOC_IMAGE);
        let (host, repository) = (reference.host(), reference.repository());
        let tag = reference.tag().ok_or_else(missing)?;
        let name = format!("{host}/{repository}:{tag}{TOC_IMAGE_SUFFIX}");
        let tables = Reference::parse(&name)?;
        let digest = match self.registry.resolve(&tables).await {
            Err(pontoon_source::Error::NotFound { .. }) => return Err(missing()),
            resolved => resolved?,
        };
        let manifest = self.registry.manifest(&tables, &digest).await?;
        let layer = layer.to_string();
        let is_wanted =
            |descriptor: &&Descriptor| descriptor.annotations.get(ANNOTATION_LAYER) == Some(&layer);
        let table = manifest.layers.iter().find(is_wanted).ok_or_else(missing)?;
        let bytes_max = self.limits.toc_bytes_max;
        let bytes = self.registry.fetch(&tables, table, bytes_max).await?;
        Ok(bytes.into_inner())
    }
}

/// The bytes at `place`, of which those from `start` on are here.
async fn inside(
    blob: &dyn Blob,
    place: &TocPlace,
    start: u64,
    end: Bytes,
) -> Result<Bytes, Refusal> {
    let range = &place.range;
    let index = |offset: u64| usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
    let here = index(range.start)..index(range.end).min(end.len());
    if range.start >= start {
        return Ok(end.slice(here));
    }
    let missing = range.start..range.end.min(start);
    let before = blob.read(missing, Urgency::Demand).await?;
    let mut whole = BytesMut::with_capacity(before.len() + here.len());
    whole.extend_from_slice(&before);
    whole.extend_from_slice(end.get(here).unwrap_or_default());
    Ok(whole.freeze())
}

/// The digest that vouches for a layer, whichever form of its table of contents has it.
pub(crate) fn digest_of(expected: &TocDigest) -> &Digest {
    match expected {
        TocDigest::Json(digest) | TocDigest::Compressed(digest) => digest,
    }
}
