//! What comes out of a member: inflated, verified, stored.

use std::collections::HashMap;

use bytes::Bytes;
use pontoon_cache::Put;
use pontoon_layer::{Chunk, ChunkTableRef, Compression, Member as Stream, Verified};

use crate::LazyLayer;
use crate::flight::{Claim, Piece};

/// Stores what `claims` miss of the member `bytes`. What is not in the cache then.
pub(crate) fn unpack(layer: &LazyLayer, claims: &[Claim], bytes: &[u8]) -> HashMap<usize, Piece> {
    let table = layer.cached().chunks();
    let chunks = claims.iter().flat_map(|claim| claim.member.chunks.clone());
    let mut missing: Vec<(usize, Chunk)> = chunks
        .filter(|index| !layer.cached().is_ready(*index))
        .filter_map(|index| Some((index, table.get(index)?)))
        .collect();
    // As they come out of the stream, the same ones after each other.
    missing.sort_by_key(|(_, chunk)| (chunk.inner_offset, chunk.length, chunk.digest));
    let mut unpacker = Unpacker::new(table, bytes);
    let is_second = claims.iter().any(|claim| claim.second);
    let mut pieces = HashMap::new();
    for (index, chunk) in missing {
        match unpacker.chunk(&chunk) {
            Ok(verified) => {
                let bytes = verified.clone().into_inner();
                if let Put::NotStored(_) = layer.cached().put(index, verified) {
                    layer.keep(index, bytes.clone());
                    pieces.insert(index, Piece::Memory(bytes));
                }
            }
            Err(reason) => {
                if let Some(chunks) = layer.wrong_chunks.add() {
                    tracing::warn!(layer = %layer.digest(), chunk = index, second = is_second, reason, chunks, "a chunk came with wrong bytes");
                }
                pieces.insert(index, Piece::Failed(layer.wrong_bytes(index, reason)));
            }
        }
    }
    pieces
}

/// Takes chunks out of a member, each once though several chunks are the same.
struct Unpacker<'a> {
    table: ChunkTableRef<'a>,
    bytes: &'a [u8],
    stream: Option<(Compression, Stream<'a>)>,
    last: Option<(Chunk, Result<Verified<Bytes>, String>)>,
}

impl<'a> Unpacker<'a> {
    fn new(table: ChunkTableRef<'a>, bytes: &'a [u8]) -> Self {
        Unpacker {
            table,
            bytes,
            stream: None,
            last: None,
        }
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<Verified<Bytes>, String> {
        let is_same = |last: &Chunk| {
            (last.inner_offset, last.length, last.compression)
                == (chunk.inner_offset, chunk.length, chunk.compression)
                && last.digest() == chunk.digest()
        };
        match &self.last {
            Some((last, unpacked)) if is_same(last) => unpacked.clone(),
            _ => {
                let unpacked = self.unpack(chunk);
                self.last = Some((*chunk, unpacked.clone()));
                unpacked
            }
        }
    }

    fn unpack(&mut self, chunk: &Chunk) -> Result<Verified<Bytes>, String> {
        let stream = match &mut self.stream {
            Some((compression, stream)) if *compression == chunk.compression => stream,
            stream => {
                let new = self.table.member(chunk, self.bytes);
                &mut stream.insert((chunk.compression, new)).1
            }
        };
        let bytes = stream
            .chunk(chunk.inner_offset, chunk.length)
            .map_err(|error| error.to_string())?;
        Verified::check(bytes, &chunk.digest()).map_err(|error| error.to_string())
    }
}
