//! The chunk table of an image: its blobs are read as if they were one.

use super::{Compressor, Image, malformed};
use crate::chunk::{Chunk, ChunkTable};
use crate::error::FormatError;
use crate::inflate::Compression;

impl From<Compressor> for Compression {
    fn from(compressor: Compressor) -> Compression {
        match compressor {
            Compressor::None => Compression::None,
            Compressor::Lz4Block => Compression::Lz4Block,
            Compressor::Gzip => Compression::Gzip,
            Compressor::Zstd => Compression::Zstd,
        }
    }
}

impl Image {
    /// Its chunks as a table that is kept and served as that of any layer is.
    ///
    /// Their blob is all of [`Image::blobs`] joined in this order: one begins where the sizes of those before it end.
    /// `sizes` are those of their layers in bytes, as the manifest has them; 0 for a blob that is none of its layers,
    /// which may be listed as long as no file has a chunk in it.
    pub fn table(&self, sizes: &[u64]) -> Result<ChunkTable, FormatError> {
        let mut end = 0u64;
        let mut places = Vec::with_capacity(sizes.len());
        for size in sizes {
            let start = end;
            end = end
                .checked_add(*size)
                .ok_or_else(|| malformed("its layers together are larger than anything can be"))?;
            places.push(start..end);
        }
        let chunks = self.chunks.iter().map(|chunk| {
            let place = places.get(chunk.blob as usize).cloned().unwrap_or(0..0);
            let chunk_end = chunk.blob_offset.checked_add(u64::from(chunk.blob_length));
            if chunk_end.is_none_or(|chunk_end| chunk_end > place.end - place.start) {
                return Err(malformed(format!(
                    "it has a chunk of {} bytes at {} of its blob {}, whose layer has {}",
                    chunk.blob_length,
                    chunk.blob_offset,
                    chunk.blob,
                    place.end - place.start
                )));
            }
            Ok(Chunk {
                data_offset: chunk.data_offset,
                length: chunk.length,
                blob_length: chunk.blob_length,
                blob_offset: place.start + chunk.blob_offset,
                inner_offset: 0,
                compression: chunk.compressor.into(),
                algorithm: chunk.algorithm,
                digest: chunk.digest,
            })
        });
        let chunks = chunks.collect::<Result<_, _>>()?;
        let compressor = self.blobs.first().map(|blob| blob.compressor.into());
        let compression = compressor.unwrap_or(Compression::None);
        ChunkTable::new(compression, self.data_size, chunks)
            .map_err(|error| malformed(error.to_string()))
    }
}
