//! The last steps of making a layer: where data goes, and how much of the blob each chunk needs.

use super::data::{Data, File};
use super::stream::WHAT;
use crate::chunk::{BLOCK_BYTES, Chunk};
use crate::error::FormatError;
use crate::tree::{NodeId, Tree};

/// Where all data is.
pub(super) struct LaidOut {
    /// Sorted by their offsets in the data file.
    pub(super) chunks: Vec<Chunk>,
    /// Where each file of the table of contents begins in the data file, or would.
    pub(super) starts: Vec<u64>,
    /// Bytes of the data file.
    pub(super) size: u64,
}

impl Data<'_> {
    /// Lays out what is still in `tree`, whose nodes have new `numbers`, and tells it.
    pub(super) fn finish(
        mut self,
        tree: &mut Tree,
        numbers: &[Option<NodeId>],
    ) -> Result<LaidOut, FormatError> {
        self.end_file()?;
        self.boundaries.sort_unstable();
        self.boundaries.dedup();
        let (starts, size) = self.lay_out(tree, numbers);
        self.measure()?;
        self.check_members()?;
        Ok(LaidOut {
            chunks: self.chunks,
            starts,
            size,
        })
    }

    /// Puts the files that are still in the tree one after another into the data file, in the order of the table of
    /// contents, and drops the chunks of others. Answers where each file begins, and the size of the data file.
    fn lay_out(&mut self, tree: &mut Tree, numbers: &[Option<NodeId>]) -> (Vec<u64>, u64) {
        let mut starts = Vec::with_capacity(self.files.len());
        let mut cursor: u64 = 0;
        let mut kept = 0;
        let ends = self.files.iter().skip(1).map(|file| file.first);
        let ends: Vec<usize> = ends.chain([self.chunks.len()]).collect();
        for (File { node, size, first }, end) in self.files.iter().zip(ends) {
            starts.push(cursor);
            let Some(id) = numbers.get(node.index()).copied().flatten() else {
                continue;
            };
            tree.place(id, cursor);
            for index in *first..end {
                let mut chunk = self.chunks[index];
                // Cannot overflow: the sum of all sizes is limited.
                chunk.data_offset = chunk.data_offset.saturating_add(cursor);
                self.chunks[kept] = chunk;
                kept += 1;
            }
            let next = cursor.saturating_add(*size);
            cursor = next.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(next);
        }
        self.chunks.truncate(kept);
        self.chunks.shrink_to_fit();
        (starts, cursor)
    }

    /// A chunk needs the blob from its offset up to the next offset that anything has.
    fn measure(&mut self) -> Result<(), FormatError> {
        for chunk in &mut self.chunks {
            if chunk.is_zeros() {
                continue;
            }
            let next = self
                .boundaries
                .partition_point(|boundary| *boundary <= chunk.blob_offset);
            let end = self.boundaries.get(next).copied().unwrap_or(u64::MAX);
            let length = end.min(self.payload_end).saturating_sub(chunk.blob_offset);
            FormatError::check_limit(
                "the compressed size of a chunk in bytes",
                length,
                u64::from(self.limits.member_bytes_max),
            )?;
            chunk.blob_length = u32::try_from(length).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    /// A member that comes again after another would be fetched and inflated again, once for each of its chunks.
    fn check_order(&self) -> Result<(), FormatError> {
        let mut starts: Vec<u64> = runs(&self.chunks).collect();
        starts.sort_unstable();
        match starts.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(FormatError::malformed(
                WHAT,
                format!(
                    "chunks from {} of the blob do not follow each other",
                    pair[0]
                ),
            )),
            None => Ok(()),
        }
    }

    /// Chunks that come out of the same bytes must come one after another, so that one inflation yields them all and
    /// never more than it may.
    fn check_members(&self) -> Result<(), FormatError> {
        self.check_order()?;
        for pair in self.chunks.windows(2) {
            let [one, other] = pair else { continue };
            if overlap(one, other) {
                return Err(FormatError::malformed(
                    WHAT,
                    format!(
                        "two chunks at {} of the blob, {} bytes into its content, overlap",
                        other.blob_offset, other.inner_offset
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Where each run of chunks of one member begins in the blob, zeros between them aside.
fn runs(chunks: &[Chunk]) -> impl Iterator<Item = u64> + '_ {
    let mut last = None;
    let fetched = chunks.iter().filter(|chunk| !chunk.is_zeros());
    fetched
        .map(|chunk| chunk.blob_offset)
        .filter(move |offset| last.replace(*offset) != Some(*offset))
}

fn overlap(one: &Chunk, other: &Chunk) -> bool {
    !one.is_zeros()
        && !other.is_zeros()
        && one.blob_offset == other.blob_offset
        && other.inner_offset < one.inner_offset.saturating_add(u64::from(one.length))
}
