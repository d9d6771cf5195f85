//! Reads that wait for no disk.

use pontoon_layer::Chunk;

use crate::layer::CachedLayer;

impl CachedLayer {
    /// Fills `buffer` with the layer's data from `offset` on, if all of it can be read and is in memory already. If not,
    /// [`CachedLayer::read_at`] tells why, or reads it from the disk; until then the content of the buffer means nothing.
    ///
    /// For threads that must not wait.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(end) = offset.checked_add(buffer.len() as u64) else {
            return false;
        };
        let chunks = self.chunks().find(offset..end);
        // What is in doubt is checked first, which takes its time.
        let is_sure = self.doubts.is_empty() && self.missing(chunks.clone()).next().is_none();
        // A file without any chunk may be missing, and holes are nowhere in memory.
        let is_there = |chunk: Chunk| !chunk.is_zeros();
        if !is_sure
            || !chunks
                .clone()
                .all(|at| self.chunks().get(at).is_some_and(is_there))
        {
            return false;
        }
        self.slot.touch(self.shared.disk.now());
        let read = self.with_data(|file| {
            // Looked at again behind the gate: an eviction comes wholly before or wholly after.
            let is_ready = self.missing(chunks).next().is_none();
            is_ready && self.shared.disk.read_now(file, buffer, offset)
        });
        read.unwrap_or(false)
    }
}
