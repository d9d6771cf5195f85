//! In which order a layer's chunks were first used. Always on, so cheap: one bit per chunk, and a list with an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The longest record, in chunks. What a start needs is at the beginning.
const CHUNKS_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Trace {
    used: Box<[AtomicU64]>,
    /// Each with its number among the first uses of all layers.
    order: Mutex<Vec<(u64, u32)>>,
}

impl Trace {
    pub(crate) fn new(chunks: usize) -> Self {
        Trace {
            used: (0..chunks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            order: Mutex::default(),
        }
    }

    /// A reader wants the chunk `index`. If he is the first, `number` gives it a number.
    pub(crate) fn note(&self, index: usize, number: impl FnOnce() -> u64) {
        let Some(word) = self.used.get(index / 64) else {
            return;
        };
        let bit = 1 << (index % 64);
        // Looked at first: nearly always it is set, and a word that is only read stays in every processor's cache.
        if word.load(Ordering::Relaxed) & bit != 0
            || word.fetch_or(bit, Ordering::Relaxed) & bit != 0
        {
            return;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.len() < CHUNKS_MAX
            && let Ok(index) = u32::try_from(index)
        {
            order.push((number(), index));
        }
    }

    /// What has a number from `since` on. Numbers ascend.
    pub(crate) fn since(&self, since: u64) -> Vec<(u64, u32)> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let from = order.partition_point(|(number, _)| *number < since);
        order[from..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_uses_are_noted_in_order_and_once() {
        let trace = Trace::new(70);
        let mut number = 10..;
        for index in [69, 3, 69, 0, 3, 1000] {
            trace.note(index, || number.next().unwrap());
        }
        assert_eq!(trace.since(0), [(10, 69), (11, 3), (12, 0)]);
        assert_eq!(trace.since(11), [(11, 3), (12, 0)]);
        assert_eq!(trace.since(13), []);
    }

    #[test]
    fn the_record_has_an_end() {
        let trace = Trace::new(CHUNKS_MAX + 10);
        (0..CHUNKS_MAX + 10).for_each(|index| trace.note(index, || index as u64));
        assert_eq!(trace.since(0).len(), CHUNKS_MAX);
    }
}
