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

    /// A sync failed: neither `chunks`, which it was for, nor any other chunk that is not durable can be trusted. The
    /// kernel forgets what it failed to write, whenever that was put, and says so once: the next sync succeeds.
    pub(crate) fn forget(&self, chunks: Vec<usize>) {
        let _alone = self.alone();
        let later = std::mem::take(&mut lock(&self.pending).set);
        for index in chunks.into_iter().chain(later) {
            if self.unset(index) {
                self.shared.counters.distrusted_chunks.add(1);
            }
        }
    }

    /// What the file `ready` says is anybody's guess, but the data are all there: all its bits are to be written again.
    pub(crate) fn restore_bits(&self) {
        lock(&self.ready).set_dirty();
        self.list(&mut lock(&self.pending));
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
