//! Which chunks of a layer a node holds.

use crate::Peer;

/// What a peer told about one layer.
#[derive(Debug, Clone)]
pub struct Have {
    /// Rises whenever the peer holds more; of the same peer only comparable within one run of it.
    pub generation: u64,
    /// The chunks that it holds, each verified by itself.
    pub chunks: Bitmap,
    /// Whether it holds all of them.
    pub complete: bool,
    /// Others that have mounted the layer, as far as it knows: hints, at most [`PEERS_TOLD_MAX`].
    pub peers: Vec<Peer>,
}

/// How many other peers one answer may name.
pub const PEERS_TOLD_MAX: usize = 32;

/// The longest bitmap that is taken from a peer, in bytes.
pub const BITMAP_BYTES_MAX: usize = 1 << 20;

/// A set of chunks of one layer: bit `i % 8` of byte `i / 8` stands for chunk `i` of its chunk table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Vec<u8>,
    chunks: usize,
}

impl Bitmap {
    /// The empty set of a layer of so many chunks.
    pub fn new(chunks: usize) -> Bitmap {
        Bitmap {
            bytes: vec![0; chunks.div_ceil(8)],
            chunks,
        }
    }

    /// The set that a peer told of a layer that has, by our own table, so many chunks. `None`: of another length, larger than
    /// [`BITMAP_BYTES_MAX`], or with bits beyond the last chunk.
    pub fn from_bytes(bytes: Vec<u8>, chunks: usize) -> Option<Bitmap> {
        if bytes.len() > BITMAP_BYTES_MAX || bytes.len() != chunks.div_ceil(8) {
            return None;
        }
        let used = chunks % 8;
        let beyond = bytes
            .last()
            .is_some_and(|last| used != 0 && last >> used != 0);
        (!beyond).then_some(Bitmap { bytes, chunks })
    }

    /// The bytes as they go over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many chunks the layer has.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether the chunk is in it. One that the layer does not have is not.
    pub fn contains(&self, chunk: usize) -> bool {
        chunk < self.chunks && self.bytes[chunk / 8] >> (chunk % 8) & 1 == 1
    }

    /// Adds a chunk. One that the layer does not have is ignored.
    pub fn insert(&mut self, chunk: usize) {
        if chunk < self.chunks {
            self.bytes[chunk / 8] |= 1 << (chunk % 8);
        }
    }

    /// How many chunks are in it.
    pub fn len(&self) -> usize {
        self.bytes
            .iter()
            .map(|byte| byte.count_ones() as usize)
            .sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_of_another_length_or_with_chunks_beyond_the_last_is_refused() {
        assert!(Bitmap::from_bytes(vec![0b0000_0111], 3).is_some());
        assert!(Bitmap::from_bytes(vec![0b0000_1111], 3).is_none());
        assert!(Bitmap::from_bytes(vec![0b0000_0111, 0], 3).is_none());
        assert!(Bitmap::from_bytes(vec![], 3).is_none());
        assert!(Bitmap::from_bytes(vec![0xff], 8).is_some());
        let over = BITMAP_BYTES_MAX + 1;
        assert!(Bitmap::from_bytes(vec![0; over], over * 8).is_none());
    }

    #[test]
    fn a_chunk_is_where_the_wire_says() {
        let mut bitmap = Bitmap::new(10);
        bitmap.insert(9);
        bitmap.insert(0);
        bitmap.insert(10);
        assert_eq!(bitmap.as_bytes(), [0b01, 0b10]);
        assert_eq!((bitmap.len(), bitmap.is_empty()), (2, false));
        assert!(bitmap.contains(9) && !bitmap.contains(8) && !bitmap.contains(10));
    }
}
