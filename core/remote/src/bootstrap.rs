//! Reads the bootstrap layer of an image in nydus' form: a small tar with the tree and the places of all chunks.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_layer::rafs::{self, Blob, ChunkInfos, Toc};
use pontoon_layer::{Kind, Landmark, Layer, Limits, NodeId, OpaqueXattr};
use pontoon_source::{Reference, Urgency};
use pontoon_unpack::{Archive, Blocks, Expected};

use crate::anywhere::Place;
use crate::first::First;
use crate::indexes;
use crate::nydus::{self, Bootstrap, refusal};
use crate::reason::{self, Refusal};
use crate::toc::{Parsed, Reading, Taken, on_a_thread};

/// Where the bootstrap is in its layer.
const PATH: &[u8] = b"image/image.boot";

/// Parts of a blob.
const PLACES: &str = "blob.meta";
const DIGESTS: &str = "blob.digest";

/// What parsing may take for each byte: the shortest inode with its name takes 50 and makes a node of 600.
const MEMORY_PER_BYTE: u64 = 12;

/// A bootstrap layer as it came, which is what the manifest names.
#[derive(Debug)]
pub(crate) struct Boot {
    of: Arc<Bootstrap>,
    reference: Reference,
    bytes: Bytes,
    /// Bytes of the bootstrap in it.
    pub(crate) boot_bytes: u64,
}

impl Reading {
    /// Fetches the bootstrap layer.
    pub(crate) async fn boot(
        &self,
        reference: &Reference,
        of: &Arc<Bootstrap>,
    ) -> Result<Boot, Refusal> {
        let bytes_max = self.limits.toc_bytes_max;
        let bytes = self.registry.fetch(reference, &of.descriptor, bytes_max);
        let bytes = bytes.await?.into_inner();
        let (packed, limits) = (bytes.clone(), self.limits.clone());
        let boot_bytes = on_a_thread(move || size(&packed, &limits)).await?;
        Ok(Boot {
            of: Arc::clone(of),
            reference: reference.clone(),
            bytes,
            boot_bytes,
        })
    }

    /// The image that a bootstrap layer is of.
    pub(crate) async fn read_boot(&self, boot: Boot) -> Result<Taken, Refusal> {
        let memory = boot.boot_bytes.saturating_mul(MEMORY_PER_BYTE);
        let memory = self.memory.take(memory).await;
        let limits = self.limits.clone();
        let packed = boot.bytes.clone();
        let opened = on_a_thread(move || {
            let unpacked = unpack(&packed, &limits)?;
            let opened = rafs::Bootstrap::open(&unpacked, &limits).map_err(refusal)?;
            let (blobs, lists) = (opened.blobs().to_vec(), opened.lists_chunks());
            Ok((unpacked, blobs, lists))
        });
        let (unpacked, blobs, lists_chunks) = opened.await?;
        let memory = match indexes::bytes(&blobs, &self.limits)? {
            0 => memory,
            // As they come, as they are kept, and what they are read from.
            bytes => {
                drop(memory);
                let boot = boot.boot_bytes.saturating_mul(MEMORY_PER_BYTE);
                let both = boot.saturating_add(bytes.saturating_mul(3));
                self.memory.take(both).await
            }
        };
        let reference = &boot.reference;
        let places = nydus::places(&self.registry, reference, &blobs, &boot.of.data).await?;
        let mut infos = self.indexes(reference, &blobs, &boot.bytes).await?;
        if !lists_chunks {
            for (blob, place) in blobs.iter().zip(&places) {
                if let Some(place) = place
                    && blob.index_blob.is_none()
                {
                    infos.push(self.infos(reference, blob, place).await?);
                }
            }
        }
        let (opaque, limits) = (self.opaque, self.limits.clone());
        let parsed = on_a_thread(move || parse(&unpacked, places, &infos, opaque, &limits));
        Ok((parsed.await?, memory))
    }

    /// What a blob says of its chunks.
    async fn infos(
        &self,
        reference: &Reference,
        blob: &Blob,
        place: &Place,
    ) -> Result<ChunkInfos, Refusal> {
        let source = self
            .registry
            .blob(reference, place.digest.clone(), place.size);
        let tail = place.size.saturating_sub(u64::from(blob.toc_size));
        let tail = source.read(tail..place.size, Urgency::Demand).await?;
        let toc = Toc::parse(&tail, blob).map_err(refusal)?;
        let mut parts = Vec::new();
        for name in [PLACES, DIGESTS] {
            let entry = toc.find(name).ok_or_else(|| Refusal {
                detail: Some(format!("blob {} has no part {name:?}", place.digest)),
                ..Refusal::new(reason::BAD_BOOTSTRAP)
            })?;
            let bytes_max = self.limits.toc_bytes_max;
            let length = entry.range.end.saturating_sub(entry.range.start);
            if length > bytes_max {
                return Err(refusal(pontoon_layer::FormatError::TooLarge {
                    what: "the size of a part of a blob in bytes".to_owned(),
                    size: length,
                    limit: bytes_max,
                }));
            }
            let bytes = source.read(entry.range.clone(), Urgency::Demand).await?;
            parts.push((entry.clone(), bytes));
        }
        let (blob, limits) = (blob.clone(), self.limits.clone());
        on_a_thread(move || {
            let mut unpacked = Vec::new();
            for (entry, bytes) in parts {
                unpacked.push(entry.unpack(&bytes, &limits).map_err(refusal)?);
            }
            let [places, digests] = unpacked.as_slice() else {
                return Err(Refusal::new(reason::BUG));
            };
            ChunkInfos::parse(&blob, places, digests, &limits).map_err(refusal)
        })
        .await
    }
}

/// The path of an entry as writers mean it.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    path.strip_prefix(b"/").unwrap_or(path)
}

/// Gives the bootstrap in the layer `packed` to `take`.
fn inside<T>(
    packed: &[u8],
    take: impl FnOnce(&mut Archive<Blocks>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let limits = pontoon_unpack::Limits::default().for_blob(packed.len() as u64);
    let unpacked = pontoon_unpack::stream(packed, &Expected::default(), &limits, |blocks| {
        let mut archive = Archive::new(blocks, &limits);
        while let Some(entry) = archive.next()? {
            if file_name(&entry.path) == PATH && entry.kind == pontoon_unpack::Kind::File {
                return Ok(take(&mut archive));
            }
        }
        Ok(Err(Refusal {
            detail: Some("its layer has no file image/image.boot; convert the image again".into()),
            ..Refusal::new(reason::BAD_BOOTSTRAP)
        }))
    });
    let unpacked: Result<_, pontoon_unpack::Error> = unpacked;
    let (_, taken) =
        unpacked.map_err(|error| Refusal::new(reason::BAD_BOOTSTRAP).because(&error))?;
    taken
}

fn size(packed: &[u8], limits: &Limits) -> Result<u64, Refusal> {
    inside(packed, |archive| {
        let size = archive.data_bytes();
        if size <= limits.toc_json_bytes_max {
            return Ok(size);
        }
        Err(refusal(pontoon_layer::FormatError::TooLarge {
            what: "the size of the bootstrap in bytes".to_owned(),
            size,
            limit: limits.toc_json_bytes_max,
        }))
    })
}

fn unpack(packed: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let bytes_max = usize::try_from(limits.toc_json_bytes_max).unwrap_or(usize::MAX);
    inside(packed, |archive| {
        let mut bytes = Vec::new();
        archive
            .read(&mut bytes, bytes_max)
            .map_err(|error| Refusal::new(reason::BAD_BOOTSTRAP).because(&error))?;
        Ok(bytes)
    })
}

fn parse(
    unpacked: &[u8],
    places: Vec<Option<Place>>,
    infos: &[ChunkInfos],
    opaque: OpaqueXattr,
    limits: &Limits,
) -> Result<Parsed, Refusal> {
    let opened = rafs::Bootstrap::open(unpacked, limits).map_err(refusal)?;
    let image = opened.image(infos, opaque).map_err(refusal)?;
    let used: BTreeSet<u32> = image.chunks.iter().map(|chunk| chunk.blob).collect();
    for (blob, place) in image.blobs.iter().zip(&places) {
        if place.is_none() && used.contains(&blob.index) {
            return Err(Refusal {
                detail: Some(format!(
                    "blob {} is no layer of the image, and the registry does not have it",
                    blob.id
                )),
                ..Refusal::new(reason::NO_BLOB)
            });
        }
    }
    let size = |place: &Option<Place>| place.as_ref().map_or(0, |place| place.size);
    let sizes: Vec<u64> = places.iter().map(size).collect();
    let chunks = image.table(&sizes).map_err(refusal)?;
    let first = first(&image, &chunks);
    let entries = image.tree.len().saturating_add(image.chunks.len());
    Ok(Parsed {
        layer: Layer {
            tree: image.tree,
            chunks,
            landmark: Landmark::None,
            entries: u32::try_from(entries).unwrap_or(u32::MAX),
        },
        // Without those that nobody has and nothing is in: they have no bytes.
        blobs: places.into_iter().flatten().collect(),
        first,
    })
}

/// The chunks that the image's prefetch table asks for; none if directories in it ask for more than half of all. Converters
/// put the root into the table unless they are told otherwise (nydus-snapshotter, `pkg/converter/tool/builder.go`), which
/// names everything and so says nothing: what a start needs would have to wait for the rest. Who names files one by one
/// knows what a start reads, be that most of a small image.
fn first(image: &rafs::Image, chunks: &pontoon_layer::ChunkTable) -> First {
    let mut first = First::default();
    let chunks = chunks.chunks();
    // A table may name the same directory without end.
    let mut seen = vec![false; image.tree.len()];
    // With whether a directory has led to it.
    let named = image.prefetch.iter().rev();
    let mut open: Vec<(NodeId, bool)> = named.map(|id| (*id, false)).collect();
    let all_bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    let mut bytes = 0_u64;
    while let Some((id, is_inside)) = open.pop() {
        match seen.get_mut(id.index()) {
            Some(seen) if !*seen => *seen = true,
            _ => continue,
        }
        let node = image.tree.node(id);
        match node.kind {
            Kind::Directory => {
                let from = open.len();
                open.extend(image.tree.children(id).map(|(_, child)| (child, true)));
                if let Some(added) = open.get_mut(from..) {
                    added.reverse();
                }
            }
            Kind::File { data_offset } if node.size > 0 => {
                let end = data_offset.saturating_add(node.size);
                let start = chunks.partition_point(|chunk| chunk.data_end() <= data_offset);
                let end = chunks.partition_point(|chunk| chunk.data_offset < end);
                bytes = bytes.saturating_add(if is_inside { node.size } else { 0 });
                if bytes > all_bytes / 2 {
                    return First::default();
                }
                if !first.add(start..end) {
                    break;
                }
            }
            _ => {}
        }
    }
    first
}
