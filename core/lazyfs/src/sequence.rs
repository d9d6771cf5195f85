//! Whether a layer is read in order: then more is fetched along each time, as kernels read files ahead.

use std::sync::{Mutex, PoisonError};

/// How often what is fetched along doubles at most.
const DOUBLINGS_MAX: u32 = 3;

/// Where the last fetch that somebody waited for ended.
#[derive(Debug, Default)]
pub(crate) struct Sequence(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    /// The chunk behind it.
    end: usize,
    /// How many fetches before it have begun where another one ended.
    length: u32,
}

impl Sequence {
    /// By what `bytes` are multiplied for a reader who waits for the chunk `first`: more and more, if he has read all
    /// that was fetched before.
    pub(crate) fn widened(&self, first: usize, bytes: u64) -> u64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.length = match last.end == first && first > 0 {
            true => (last.length + 1).min(DOUBLINGS_MAX),
            false => 0,
        };
        bytes.saturating_mul(1 << last.length)
    }

    /// A fetch has ended before the chunk `end`.
    pub(crate) fn ended(&self, end: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_on_is_given_more_and_more() {
        let sequence = Sequence::default();
        assert_eq!(sequence.widened(0, 10), 10);
        let mut widened = Vec::new();
        for end in [5, 10, 20, 40, 80] {
            sequence.ended(end);
            widened.push(sequence.widened(end, 10));
        }
        assert_eq!(widened, [20, 40, 80, 80, 80]);
        sequence.ended(100);
        assert_eq!(sequence.widened(99, 10), 10);
        assert_eq!(sequence.widened(100, 10), 20);
    }
}
