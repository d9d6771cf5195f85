//! Chunks that could not be stored, for a little while: on a full disk a file is read in many small reads, and each
//! would fetch its whole chunk again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The most that is kept, in bytes; one chunk is, however large.
const BYTES_MAX: usize = 8 << 20;

/// A layer's number and a chunk's index.
type Name = (u64, usize);

#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first.
    chunks: VecDeque<(Name, Bytes)>,
    bytes: usize,
}

impl Leftovers {
    pub(crate) fn keep(&self, layer: u64, chunk: usize, bytes: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.chunks.iter().any(|(name, _)| *name == (layer, chunk)) {
            return;
        }
        kept.bytes += bytes.len();
        kept.chunks.push_back(((layer, chunk), bytes));
        while kept.bytes > BYTES_MAX
            && kept.chunks.len() > 1
            && let Some((_, dropped)) = kept.chunks.pop_front()
        {
            kept.bytes -= dropped.len();
        }
    }

    pub(crate) fn get(&self, layer: u64, chunk: usize) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunks = kept.chunks.iter();
        let (_, bytes) = chunks.find(|(name, _)| *name == (layer, chunk))?;
        Some(bytes.clone())
    }

    pub(crate) fn forget(&self, layer: u64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.chunks.retain(|((of, _), _)| *of != layer);
        kept.bytes = kept.chunks.iter().map(|(_, bytes)| bytes.len()).sum();
    }
}
