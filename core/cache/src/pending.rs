//! What can be read but is not durable, and what is durable but must not be read.

use std::ops::Range;

use crate::layer::CachedLayer;
use crate::slot::lock;

/// What the file `ready` does not say yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) set: Vec<usize>,
    /// Done before those that are to be set.
    pub(crate) clear: Vec<usize>,
    /// Whether the flusher has the layer on its list.
    pub(crate) listed: bool,
}

impl CachedLayer {
    /// The chunks of `chunks` have to be fetched again.
    pub(crate) fn distrust(&self, chunks: Range<usize>) {
        for index in chunks {
            if self.is_zeros(index) || !self.unset(index) {
                continue;
            }
            self.shared.counters.distrusted_chunks.add(1);
            let mut pending = lock(&self.pending);
            pending.set.retain(|set| *set != index);
            pending.clear.push(index);
            self.list(&mut pending);
        }
    }

    /// Synced data was lost after all: these chunks, which were pending, cannot be trusted.
    pub(crate) fn forget(&self, chunks: &[usize]) {
        for index in chunks {
            if self.unset(*index) {
                self.shared.counters.distrusted_chunks.add(1);
            }
        }
    }

    /// The chunk's bit is to be in `ready` when its data is synced.
    pub(crate) fn want_durable(&self, index: usize) {
        let mut pending = lock(&self.pending);
        pending.set.push(index);
        self.list(&mut pending);
    }

    /// Puts the layer on the flusher's list.
    pub(crate) fn list(&self, pending: &mut Pending) {
        if !pending.listed
            && let Some(me) = self.me.upgrade()
        {
            pending.listed = true;
            self.shared.list(me);
        }
    }
}
