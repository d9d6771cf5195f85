//! One layer: its files as a tree, and their data as a blob.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::io::{Read, Write};
use std::mem;
use std::sync::{Mutex, PoisonError};

use pontoon_layer::{Algorithm, EntryKind, Hasher, Limits, OpaqueXattr, Tree, TreeBuilder};
use pontoon_unpack::{Archive, Entry, Expected, Kind, Source, Streamed};

use super::Nydus;
use super::blob::{PackedChunk, Stored, Writer, Written};
use super::stock::{Blob, Chunk, Hash, Stock};
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::{pipeline, tail};

/// Chunks are handed to whoever compresses them in batches, for many files are small: of about so many bytes,
const BATCH_BYTES: usize = 256 << 10;
/// and of so many chunks at most.
const BATCH_CHUNKS: usize = 128;

/// A layer that was converted.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) from: Streamed,
    pub(super) tree: Tree,
    /// The number in the image of every chunk of every file. That of a file's first one is where the tree has where its
    /// data is.
    pub(super) numbers: Vec<u32>,
    /// Chunks that no lower layer had.
    pub(super) chunks: Vec<Chunk>,
    /// The blob with them, if there are any.
    pub(super) blob: Option<Blob>,
}

/// Chunks on their way to a compressor.
#[derive(Default)]
struct Batch {
    /// The number of its first chunk in the archive.
    first: u64,
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

/// Converts the layer that `reader` gives into a blob that is written to `writer`. `stock` is what the layers below have.
pub(super) fn convert(
    reader: impl Read + Send,
    writer: impl Write + Send,
    expected: &Expected,
    options: &Options<'_>,
    nydus: Nydus,
    stock: &Stock,
) -> Result<Layer> {
    let limits = &options.limits;
    let claims = Claims::default();
    let (from, (tree, written)) = pontoon_unpack::stream(reader, expected, limits, |blocks| {
        let worker = || {
            let mut packer = Packer {
                encoder: Encoder::new(options.format, options.level)?,
                algorithm: nydus.digest.algorithm(),
                stock,
                claims: &claims,
            };
            Ok(move |batch| packer.pack(&batch))
        };
        let make = |put: &mut dyn FnMut(Batch) -> Result<()>| {
            read(&mut Archive::new(blocks, limits), options, put)
        };
        let mut blob = Writer::new(writer, stock);
        pipeline::run(options.threads, worker, make, move |batches| {
            for batch in batches {
                for chunk in batch? {
                    blob.chunk(chunk)?;
                }
            }
            blob.finish()
        })
    })?;
    let Written {
        blob,
        chunks,
        numbers,
    } = written;
    Ok(Layer {
        from,
        tree,
        numbers,
        chunks,
        blob,
    })
}

/// The same on this thread, of an archive as it is: threads take longer than what is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn convert_here(
    archive: &[u8],
    writer: impl Write,
    options: &Options<'_>,
    nydus: Nydus,
    stock: &Stock,
) -> Result<Layer> {
    let mut packer = Packer {
        encoder: Encoder::new(options.format, options.level)?,
        algorithm: nydus.digest.algorithm(),
        stock,
        claims: &Claims::default(),
    };
    let mut blob = Writer::new(writer, stock);
    let mut put = |batch: Batch| {
        let mut chunks = packer.pack(&batch)?.into_iter();
        chunks.try_for_each(|chunk| blob.chunk(chunk))
    };
    let tree = read(
        &mut Archive::new(archive, &options.limits),
        options,
        &mut put,
    )?;
    let Written {
        blob,
        chunks,
        numbers,
    } = blob.finish()?;
    let digest = pontoon_layer::Digest::of(archive);
    Ok(Layer {
        from: Streamed {
            digest: digest.clone(),
            diff_id: digest,
            blob_bytes: archive.len() as u64,
            archive_bytes: archive.len() as u64,
        },
        tree,
        numbers,
        chunks,
        blob,
    })
}

/// Reads the archive: makes a tree of its entries, and batches of their data.
fn read<S: Source>(
    archive: &mut Archive<S>,
    options: &Options<'_>,
    put: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<Tree> {
    let limits = Limits::default();
    let chunk_bytes = options.chunk_bytes as usize;
    let mut builder = TreeBuilder::new(OpaqueXattr::Trusted, &limits);
    let mut batch = Batch::default();
    let mut count = 0;
    while let Some(entry) = archive.next()? {
        options.check_cancelled()?;
        if tail::is_special(&entry.path) {
            continue;
        }
        add(&mut builder, &entry, archive.data_bytes(), count)?;
        while archive.data_bytes() > 0 {
            options.check_cancelled()?;
            let before = batch.bytes.len();
            archive.read(&mut batch.bytes, chunk_bytes)?;
            batch.lengths.push(batch.bytes.len() - before);
            count += 1;
            Error::check_limit(
                "the chunks of the layer",
                count,
                u64::from(limits.entries_max),
            )?;
            if batch.bytes.len() >= BATCH_BYTES || batch.lengths.len() >= BATCH_CHUNKS {
                let next = Batch {
                    first: count,
                    ..Batch::default()
                };
                put(mem::replace(&mut batch, next))?;
            }
        }
    }
    put(batch)?;
    archive.drain()?;
    builder.finish().map_err(Error::Unreadable)
}

/// Adds an entry with `size` bytes of data, the first of which has the number `data`.
pub(crate) fn add(builder: &mut TreeBuilder, entry: &Entry, size: u64, data: u64) -> Result<()> {
    let kind = match entry.kind {
        Kind::HardLink => {
            let linked = builder.link(&entry.path, &entry.target);
            return linked.map_err(Error::Unreadable);
        }
        Kind::Directory => EntryKind::Directory,
        Kind::File => EntryKind::File { data_offset: data },
        Kind::Symlink => EntryKind::Symlink(&entry.target),
        Kind::CharDevice { major, minor } => EntryKind::CharDevice { major, minor },
        Kind::BlockDevice { major, minor } => EntryKind::BlockDevice { major, minor },
        Kind::Fifo => EntryKind::Fifo,
    };
    let entry = builder.add(
        &entry.path,
        pontoon_layer::Entry {
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size,
            xattrs: entry.xattrs.clone(),
        },
    );
    entry.map(drop).map_err(Error::Unreadable)
}

/// Which chunk of the archive is the first one with some hash, as far as anybody has looked.
#[derive(Default)]
struct Claims(Mutex<HashMap<Hash, u64>>);

impl Claims {
    /// Whether an earlier chunk than the one with this `number` is the same. That one will be stored then, since all
    /// are written in their order. If a later one was here before, both are compressed, and the later one is dropped.
    fn is_taken(&self, hash: Hash, number: u64) -> bool {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match claims.entry(hash) {
            Place::Vacant(place) => {
                place.insert(number);
                false
            }
            Place::Occupied(mut place) => {
                let taken = *place.get() < number;
                if !taken {
                    place.insert(number);
                }
                taken
            }
        }
    }
}

/// Hashes and compresses chunks.
struct Packer<'a> {
    encoder: Encoder,
    algorithm: Algorithm,
    stock: &'a Stock,
    claims: &'a Claims,
}

impl Packer<'_> {
    fn pack(&mut self, batch: &Batch) -> Result<Vec<PackedChunk>> {
        let mut packed = Vec::with_capacity(batch.lengths.len());
        let mut rest = &batch.bytes[..];
        for (number, length) in (batch.first..).zip(&batch.lengths) {
            let (chunk, behind) = rest.split_at((*length).min(rest.len()));
            rest = behind;
            let hash = self.hash(chunk);
            let stored =
                match self.stock.find(&hash).is_some() || self.claims.is_taken(hash, number) {
                    true => None,
                    false => {
                        let mut bytes = Vec::new();
                        let compressed = self.encoder.chunk(chunk, &mut bytes)?;
                        Some(Stored { compressed, bytes })
                    }
                };
            packed.push(PackedChunk {
                hash,
                bytes: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
                stored,
            });
        }
        Ok(packed)
    }

    fn hash(&self, chunk: &[u8]) -> Hash {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(chunk);
        let digest = hasher.finish();
        // All algorithms of chunks have 32 bytes.
        digest.bytes().try_into().unwrap_or_default()
    }
}
