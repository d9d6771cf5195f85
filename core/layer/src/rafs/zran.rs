//! Images over ordinary gzip layers ("zran", `--oci-ref`).
//!
//! There the chunks are in somebody else's gzip stream, which nothing can read from the middle. So nydus has another blob,
//! the index, which says of every chunk where in the stream inflating may begin for it: in a [`Context`], a place between
//! two deflate blocks, with the bytes that came out before. A context comes about every 512 KiB of the stream or every
//! 2 MiB of what comes out of it, and many chunks share one. As a chunk may begin in the middle of a block, a context
//! begins up to a block before the end of the one before.
//!
//! [`Blob::id`] is the gzip layer, [`Blob::index_blob`] says which blob is its index. That one is what an image's manifest
//! lists: the gzip layer is not in it, but in the same repository.

use bytes::Bytes;

use super::blob::{Blob, Compressor};
use super::chunk::{Chunk, ChunkError, Record, unpack};
use super::field::{array_at, slice_at, u32_at, u64_at};
use super::info::{V2_BYTES, v2};
use crate::digest::Digest;
use crate::error::FormatError;
use crate::inflate::{Member, Resume};
use crate::limits::Limits;
use crate::verified::Verified;

/// What was to be read, in errors.
const WHAT: &str = "the index of a gzip layer";

/// Bytes of what is behind the index.
const HEADER_BYTES: usize = 4096;
/// At the beginning and at the end of it.
const MAGIC: u32 = 0xb10b_b10b;
/// Bytes of a context.
const CONTEXT_BYTES: usize = 40;
/// Block to whose multiple nydus pads the index in a file of its own.
const FILE_BLOCK_BYTES: usize = 4096;

/// Where the index of a gzip layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBlob {
    /// The SHA-256 of the blob that has it, which is a layer of the image.
    pub digest: Digest,
    /// Bytes of that blob. It is small, some hundredths of the gzip layer.
    pub size: u64,
    compressor: Compressor,
    offset: u64,
    length: u64,
    /// Decompressed bytes of the index.
    pub index_bytes: u64,
}

impl IndexBlob {
    /// How many bytes the file has that [`super::ChunkInfos::of_index_file`] reads.
    pub fn file_bytes(&self) -> u64 {
        let padded = self
            .index_bytes
            .checked_next_multiple_of(FILE_BLOCK_BYTES as u64);
        padded
            .and_then(|padded| padded.checked_add(HEADER_BYTES as u64))
            .unwrap_or(u64::MAX)
    }

    /// What a record of the table of blobs says of it.
    pub(super) fn read(record: &[u8], id: &str) -> Result<IndexBlob, FormatError> {
        let digest: [u8; 32] = array_at(record, 168).unwrap_or([0; 32]);
        if digest == [0; 32] {
            return Err(FormatError::Unverifiable {
                path: id.to_owned(),
                what: WHAT.to_owned(),
            });
        }
        let long = |at| u64_at(record, at).unwrap_or_default();
        let compressor = u32_at(record, 108).and_then(Compressor::from_code);
        Ok(IndexBlob {
            digest: Digest::sha256(digest),
            size: long(200),
            compressor: compressor.ok_or_else(|| refuse("it has an unknown compression"))?,
            offset: long(112),
            length: long(120),
            index_bytes: long(128),
        })
    }
}

/// Where inflating a gzip layer may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The number of the blob that is the gzip layer.
    pub blob: u32,
    /// Where what has to be fetched begins in it.
    pub blob_offset: u64,
    /// How many bytes that are.
    pub blob_length: u32,
    /// How many bytes come out of these.
    pub length: u32,
    /// How many bits before them belong to the first block: the highest ones of `byte`.
    pub bits: u8,
    /// The byte before them.
    pub byte: u8,
    /// What came out before, at most 32 KiB.
    pub dictionary: Bytes,
}

impl Context {
    /// How inflating goes on here.
    pub fn resume(&self) -> Resume<'_> {
        Resume {
            bits: self.bits,
            byte: self.byte,
            dictionary: &self.dictionary,
        }
    }

    /// `chunk`, which names this context, out of `bytes`, which are [`Context::blob_length`] bytes from
    /// [`Context::blob_offset`] of the gzip layer. Takes memory for its length, whatever the bytes are.
    pub fn unpack(&self, chunk: &Chunk, bytes: &[u8]) -> Result<Verified<Bytes>, ChunkError> {
        let mut member = Member::resume(self.resume(), bytes);
        let data = member.chunk(chunk.inner_offset, chunk.length)?;
        Ok(Verified::check(data, &chunk.digest())?)
    }
}

/// What the index of one gzip layer says.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// The number of the blob that is the gzip layer.
    blob: u32,
    /// Of each chunk, without its digest, how it is found.
    places: Vec<(Record, Place)>,
    contexts: Vec<Context>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    context: u32,
    inner_offset: u32,
}

impl Index {
    /// Reads the whole blob [`Blob::index_blob`].
    pub(super) fn of_blob(
        blob: &Blob,
        bytes: &Verified<impl AsRef<[u8]>>,
        limits: &Limits,
    ) -> Result<Index, FormatError> {
        let place = place(blob)?;
        if *bytes.digest() != place.digest {
            return Err(refuse("it is that of another layer"));
        }
        let end = place.offset.saturating_add(place.length);
        let packed = slice_at(bytes, place.offset, place.length);
        let header = slice_at(bytes, end, HEADER_BYTES as u64);
        let (Some(packed), Some(header)) = (packed, header) else {
            return Err(refuse(format!(
                "it has {} bytes instead of {end}",
                bytes.len()
            )));
        };
        let size = index_size(place, limits)?;
        if place.compressor == Compressor::None && packed.len() != size as usize {
            return Err(refuse("it is stored as it is, with another length"));
        }
        let index =
            unpack(place.compressor, packed, size).map_err(|error| refuse(error.to_string()))?;
        Index::parse(blob, place, index, header, limits)
    }

    /// Reads the file `DIGEST.blob.meta` that newer images have beside their bootstrap.
    pub(super) fn of_file(
        blob: &Blob,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Index, FormatError> {
        let place = place(blob)?;
        let size = index_size(place, limits)? as usize;
        let header = bytes
            .get(size.next_multiple_of(FILE_BLOCK_BYTES)..)
            .filter(|header| header.len() == HEADER_BYTES);
        let (Some(index), Some(header)) = (bytes.get(..size), header) else {
            return Err(refuse(format!(
                "a file of {} bytes does not have its {size}",
                bytes.len()
            )));
        };
        Index::parse(blob, place, Bytes::copy_from_slice(index), header, limits)
    }

    /// Chunks, then contexts, then dictionaries.
    fn parse(
        blob: &Blob,
        place: &IndexBlob,
        index: Bytes,
        header: &[u8],
        limits: &Limits,
    ) -> Result<Index, FormatError> {
        let word = |at| u32_at(header, at).unwrap_or_default();
        let long = |at| u64_at(header, at).unwrap_or_default();
        let sizes = (long(24), long(32));
        if (word(0), word(HEADER_BYTES - 4)) != (MAGIC, MAGIC)
            || word(12) != blob.chunks
            || sizes != (place.length, place.index_bytes)
        {
            return Err(refuse(
                "what is behind it does not say what the bootstrap says",
            ));
        }
        let (offset, length, count) = (long(40), long(48), word(56));
        for (what, count) in [("chunks", blob.chunks), ("contexts", count)] {
            FormatError::check_limit(
                &format!("the number of {what} of a gzip layer"),
                u64::from(count),
                u64::from(limits.entries_max),
            )?;
        }
        let table = u64::from(count) * CONTEXT_BYTES as u64;
        let dictionaries = usize::try_from(offset.saturating_add(table)).unwrap_or(usize::MAX);
        let end = usize::try_from(offset.saturating_add(length)).unwrap_or(usize::MAX);
        let chunks = slice_at(&index, 0, u64::from(blob.chunks) * V2_BYTES as u64);
        let table = slice_at(&index, offset, table);
        let (Some(chunks), Some(table)) = (chunks, table) else {
            return Err(refuse("it was cut off"));
        };
        if end > index.len() || dictionaries > end {
            return Err(refuse("it was cut off"));
        }
        let dictionaries = index.slice(dictionaries..end);
        let (table, _) = table.as_chunks::<CONTEXT_BYTES>();
        let contexts: Vec<_> = table
            .iter()
            .map(|context| Context::read(context, blob, &dictionaries, limits))
            .collect::<Result<_, _>>()?;
        let (chunks, _) = chunks.as_chunks::<V2_BYTES>();
        let places = (0..)
            .zip(chunks)
            .map(|(number, chunk)| Place::read(number, chunk, blob, &contexts))
            .collect::<Result<_, _>>()?;
        Ok(Index {
            blob: blob.index,
            places,
            contexts,
        })
    }
}

impl Context {
    fn read(
        context: &[u8; CONTEXT_BYTES],
        blob: &Blob,
        dictionaries: &Bytes,
        limits: &Limits,
    ) -> Result<Context, FormatError> {
        let word = |at| u32_at(context, at).unwrap_or_default();
        let long = |at| u64_at(context, at).unwrap_or_default();
        let (blob_offset, blob_length, length) = (long(0), word(24), word(28));
        FormatError::check_limit(
            "the compressed bytes behind a context of a gzip layer",
            u64::from(blob_length),
            u64::from(limits.member_bytes_max),
        )?;
        FormatError::check_limit(
            "the bytes behind a context of a gzip layer",
            u64::from(length),
            limits.member_inflated_bytes_max,
        )?;
        let end = blob_offset.checked_add(u64::from(blob_length));
        if blob_length == 0 || end.is_none_or(|end| end > blob.size) {
            return Err(refuse(format!(
                "a context cannot be {blob_length} bytes at {blob_offset} of {}",
                blob.size
            )));
        }
        let start = usize::try_from(long(16)).unwrap_or(usize::MAX);
        let end = start.saturating_add(word(32) as usize);
        if end > dictionaries.len() {
            return Err(refuse("the dictionary of a context is not there"));
        }
        let [byte, bits] = array_at(context, 36).unwrap_or_default();
        let context = Context {
            blob: blob.index,
            blob_offset,
            blob_length,
            length,
            bits,
            byte,
            dictionary: dictionaries.slice(start..end),
        };
        if !context.resume().is_sound() {
            return Err(refuse("nothing can be inflated from a context on"));
        }
        Ok(context)
    }
}

impl Place {
    fn read(
        number: u32,
        chunk: &[u8; V2_BYTES],
        blob: &Blob,
        contexts: &[Context],
    ) -> Result<(Record, Place), FormatError> {
        let (mut record, data) = v2(chunk, true)?;
        (record.blob, record.index) = (blob.index, number);
        let place = Place {
            context: (data >> 32) as u32,
            inner_offset: data as u32,
        };
        let end = u64::from(place.inner_offset) + u64::from(record.length);
        match contexts.get(place.context as usize) {
            Some(context) if end <= u64::from(context.length) => Ok((record, place)),
            _ => Err(refuse(format!("chunk {number} is behind no context"))),
        }
    }
}

/// All contexts of an image.
#[derive(Debug, Default)]
pub(super) struct Indexes<'a> {
    /// With the number of their first context.
    indexes: Vec<(u32, &'a Index)>,
}

impl<'a> Indexes<'a> {
    pub(super) fn new(
        indexes: impl Iterator<Item = &'a Index>,
        limits: &Limits,
    ) -> Result<Indexes<'a>, FormatError> {
        let mut first = 0;
        let mut all = Indexes::default();
        for index in indexes {
            all.indexes.push((first, index));
            first = first.saturating_add(u32::try_from(index.contexts.len()).unwrap_or(u32::MAX));
            FormatError::check_limit(
                "the number of contexts of the image",
                u64::from(first),
                u64::from(limits.entries_max),
            )?;
        }
        Ok(all)
    }

    /// Where what the bootstrap lists as `record` is: the number of its context, that, and where the chunk begins in what
    /// comes out of it.
    pub(super) fn find(&self, record: &Record) -> Result<(u32, &'a Context, u64), FormatError> {
        let number = record.index;
        let refuse = |reason: &str| refuse(format!("it does not have {reason} {number}"));
        let found = self
            .indexes
            .iter()
            .find(|(_, index)| index.blob == record.blob);
        let (first, index) = found.ok_or_else(|| refuse("been given, for chunk"))?;
        let place = index.places.get(number as usize);
        let (listed, place) = place.ok_or_else(|| refuse("chunk"))?;
        if (listed.data_offset, listed.length) != (record.data_offset, record.length) {
            return Err(refuse("the bootstrap's chunk"));
        }
        let context = index.contexts.get(place.context as usize);
        let context = context.ok_or_else(|| refuse("the context of chunk"))?;
        let number = first.saturating_add(place.context);
        Ok((number, context, u64::from(place.inner_offset)))
    }

    /// In the order of their numbers.
    pub(super) fn contexts(&self) -> Vec<Context> {
        let indexes = self.indexes.iter();
        let contexts = indexes.flat_map(|(_, index)| &index.contexts);
        contexts.cloned().collect()
    }
}

fn place(blob: &Blob) -> Result<&IndexBlob, FormatError> {
    let place = blob.index_blob.as_ref();
    place.ok_or_else(|| refuse("the chunks of the blob are in the blob itself"))
}

fn index_size(place: &IndexBlob, limits: &Limits) -> Result<u32, FormatError> {
    FormatError::check_limit(
        "the size of the index of a gzip layer in bytes",
        place.index_bytes,
        limits.toc_json_bytes_max,
    )?;
    u32::try_from(place.index_bytes).map_err(|_| refuse("it is too large"))
}

fn refuse(reason: impl Into<String>) -> FormatError {
    FormatError::malformed(WHAT, reason)
}
