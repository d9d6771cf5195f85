//! Which chunks can be read now.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// One bit per chunk, read without a lock. Whoever sees a bit set also sees the data that was written before.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Box<[AtomicU64]>,
    len: usize,
}

impl Bits {
    /// `len` bits, none of them set.
    pub(crate) fn new(len: usize) -> Self {
        let words = (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Bits { words, len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// False for an index beyond the end.
    pub(crate) fn get(&self, index: usize) -> bool {
        let word = self.words.get(index / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) & mask(index) != 0)
    }

    /// Whether it was clear before.
    pub(crate) fn set(&self, index: usize) -> bool {
        let word = self.words.get(index / 64).filter(|_| index < self.len);
        word.is_some_and(|word| word.fetch_or(mask(index), Ordering::AcqRel) & mask(index) == 0)
    }

    /// Whether it was set before.
    pub(crate) fn clear(&self, index: usize) -> bool {
        let word = self.words.get(index / 64);
        word.is_some_and(|word| word.fetch_and(!mask(index), Ordering::AcqRel) & mask(index) != 0)
    }

    /// The first index in `range` whose bit is `wanted`.
    pub(crate) fn first(&self, range: Range<usize>, wanted: bool) -> Option<usize> {
        let end = range.end.min(self.len);
        let mut index = range.start;
        while index < end {
            let word = self.words.get(index / 64)?.load(Ordering::Acquire);
            let rest = (if wanted { word } else { !word }) >> (index % 64);
            if rest != 0 {
                let found = index + rest.trailing_zeros() as usize;
                return (found < end).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }

    /// The longest runs of bits in `range` that are all `wanted`, in order.
    pub(crate) fn runs(
        &self,
        range: Range<usize>,
        wanted: bool,
    ) -> impl Iterator<Item = Range<usize>> + '_ {
        let end = range.end.min(self.len);
        let mut next = range.start;
        std::iter::from_fn(move || {
            let start = self.first(next..end, wanted)?;
            next = self.first(start + 1..end, !wanted).unwrap_or(end);
            Some(start..next)
        })
    }
}

fn mask(index: usize) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words() {
        let bits = Bits::new(200);
        for index in (3..7).chain(60..130).chain([199]) {
            assert!(bits.set(index));
            assert!(!bits.set(index));
        }
        let ready: Vec<_> = bits.runs(0..usize::MAX, true).collect();
        assert_eq!(ready, [3..7, 60..130, 199..200]);
        let missing: Vec<_> = bits.runs(5..150, false).collect();
        assert_eq!(missing, [7..60, 130..150]);
        assert_eq!(bits.first(60..130, false), None);
        assert_eq!(bits.first(199..300, false), None);
        assert!(bits.clear(100) && !bits.clear(100));
        assert_eq!(bits.first(60..130, false), Some(100));
    }

    #[test]
    fn beyond_the_end_nothing_is_set() {
        let bits = Bits::new(70);
        assert!(!bits.set(70) && !bits.set(1000) && !bits.get(1000) && !bits.clear(1000));
        assert_eq!(bits.first(0..1000, true), None);
        assert_eq!(Bits::new(0).runs(0..10, false).count(), 0);
    }
}
