//! Fetches the table of contents of a layer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pontoon_layer::{
    Annotated, Digest, Layer, Limits, OpaqueXattr, TAIL_BYTES, TocDigest, TocKind, TocPlace,
    parse_tail, parse_toc, toc_json_bytes,
};
use pontoon_source::{Blob, Descriptor, Reference, Registry, Urgency};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::anywhere::Place;
use crate::bootstrap::Boot;
use crate::first::First;
use crate::nydus::Bootstrap;
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
    pub(crate) memory: Memory,
}

/// Memory for tables that are parsed at the same time: many small ones, or one that is large. A single one may take more,
/// as much as [`Limits`] allow.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Semaphore>);

/// Memory for tables, in MiB.
const MEMORY_MIB: u32 = 512;

/// What parsing may take for each byte of JSON: the shortest entries have 25 bytes and take 600 (crate layer,
/// tests/large.rs).
const MEMORY_PER_BYTE: u64 = 24;

/// A larger table is not parsed before its layer is asked for: what it becomes would be kept in memory until then, and
/// that of other layers too.
const AHEAD_JSON_BYTES_MAX: u64 = 8 << 20;

impl Memory {
    pub(crate) fn new() -> Self {
        Memory(Arc::new(Semaphore::new(MEMORY_MIB as usize)))
    }

    /// So many bytes of memory, when there are.
    pub(crate) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let mib = u32::try_from(bytes >> 20)
            .unwrap_or(u32::MAX)
            .clamp(1, MEMORY_MIB);
        // Never closed.
        Arc::clone(&self.0).acquire_many_owned(mib).await.ok()
    }
}

/// A table of contents that was fetched.
#[derive(Debug)]
pub(crate) enum Table {
    Parsed(Parsed),
    /// A large one, which is parsed when it is needed.
    Unparsed(Raw),
    /// A large bootstrap.
    Boot(Boot),
}

/// A layer that was read, and of which nothing is on disk yet.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) layer: Layer,
    /// Where its bytes are, if that is not the layer's own blob.
    pub(crate) blobs: Vec<Place>,
    /// What the image itself wants to be fetched first.
    pub(crate) first: First,
}

impl From<Layer> for Parsed {
    fn from(layer: Layer) -> Self {
        Parsed {
            layer,
            blobs: Vec::new(),
            first: First::default(),
        }
    }
}

/// A table of contents as it came, and what it is.
#[derive(Debug)]
pub(crate) struct Raw {
    kind: TocKind,
    bytes: Bytes,
    payload_end: u64,
    expected: TocDigest,
    json_bytes: u64,
}

/// The layer of a table, and the memory that it takes while something is made of it.
pub(crate) type Taken = (Parsed, Option<OwnedSemaphorePermit>);

impl Reading {
    /// Fetches the table of contents of the layer `descriptor` of the image `reference`, and verifies and parses it unless
    /// it is large.
    pub(crate) async fn table(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        annotated: &Annotated,
    ) -> Result<Table, Refusal> {
        let unverifiable = || Refusal::new(reason::UNVERIFIABLE);
        let expected = annotated.digest.clone().ok_or_else(unverifiable)?;
        let raw = self
            .fetch(reference, descriptor, annotated, expected)
            .await?;
        let limits = self.limits.clone();
        let raw = on_a_thread(move || {
            let json_bytes = toc_json_bytes(raw.kind, &raw.bytes, &limits)?;
            Ok(Raw { json_bytes, ..raw })
        });
        let raw = raw.await?;
        if raw.json_bytes > AHEAD_JSON_BYTES_MAX {
            return Ok(Table::Unparsed(raw));
        }
        let (layer, _memory) = self.parse(raw).await?;
        Ok(Table::Parsed(layer))
    }

    /// Fetches the bootstrap layer `of`, and parses it unless it is large.
    pub(crate) async fn bootstrap(
        &self,
        reference: &Reference,
        of: &Arc<Bootstrap>,
    ) -> Result<Table, Refusal> {
        let boot = self.boot(reference, of).await?;
        if boot.boot_bytes > AHEAD_JSON_BYTES_MAX {
            return Ok(Table::Boot(boot));
        }
        let (parsed, _memory) = self.read_boot(boot).await?;
        Ok(Table::Parsed(parsed))
    }

    /// The layer of `table`.
    pub(crate) async fn take(&self, table: Table) -> Result<Taken, Refusal> {
        match table {
            Table::Parsed(parsed) => Ok((parsed, None)),
            Table::Unparsed(raw) => self.parse(raw).await,
            Table::Boot(boot) => self.read_boot(boot).await,
        }
    }

    async fn parse(&self, raw: Raw) -> Result<Taken, Refusal> {
        let memory = raw.json_bytes.saturating_mul(MEMORY_PER_BYTE);
        let memory = self.memory.take(memory).await;
        let (opaque, limits) = (self.opaque, self.limits.clone());
        let parsed: Result<Layer, Refusal> = on_a_thread(move || {
            let Raw {
                kind,
                bytes,
                payload_end,
                expected,
                ..
            } = raw;
            Ok(parse_toc(
                kind,
                &bytes,
                payload_end,
                &expected,
                opaque,
                &limits,
            )?)
        })
        .await;
        Ok((parsed?.into(), memory))
    }

    async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        annotated: &Annotated,
        expected: TocDigest,
    ) -> Result<Raw, Refusal> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        let blob = self.registry.blob(reference, digest.clone(), size);
        if let Some(place) = &annotated.place {
            let bytes = blob.read(place.range.clone(), Urgency::Demand).await?;
            return Ok(Raw {
                kind: TocKind::Zstd,
                bytes,
                payload_end: place.payload_end,
                expected,
                json_bytes: 0,
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
            expected,
            json_bytes: 0,
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

/// Does `work` on a thread that may be busy for long.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Refusal::new(reason::BUG))?
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn small_tables_are_parsed_side_by_side_and_a_large_one_alone() {
        let memory = Memory::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut take = |bytes: u64| match pin!(memory.take(bytes.saturating_mul(MEMORY_PER_BYTE)))
            .poll(&mut context)
        {
            Poll::Ready(taken) => taken,
            Poll::Pending => None,
        };
        let mut small = Vec::new();
        for _ in 0..8 {
            small.push(take(2 << 20).expect("all of them fit"));
        }
        assert!(take(u64::MAX).is_none());
        assert!(take(64 << 20).is_none());
        drop(small);
        // More than there is: all of it.
        let large = take(u64::MAX).expect("nobody else has any");
        assert!(take(0).is_none());
        drop(large);
        assert!(take(0).is_some());
    }
}
