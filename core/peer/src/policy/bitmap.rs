//! Which chunks somebody has.

use std::ops::Range;

/// One bit for each chunk of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    /// `len` bits, none of them set.
    pub fn new(len: usize) -> Bitmap {
        Bitmap {
            words: vec![0; len.div_ceil(64)],
            len,
        }
    }

    /// `len` bits, all of them set.
    pub fn full(len: usize) -> Bitmap {
        let mut bitmap = Bitmap::new(len);
        bitmap.set(0..len);
        bitmap
    }

    /// The bits in `bytes`, lowest first, if they are as many as `len` takes and none is set beyond.
    pub fn from_bytes(bytes: &[u8], len: usize) -> Option<Bitmap> {
        if bytes.len() != len.div_ceil(8) {
            return None;
        }
        let words = bytes.chunks(8).map(|eight| {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            u64::from_le_bytes(word)
        });
        let bitmap = Bitmap {
            words: words.collect(),
            len,
        };
        let last = bitmap.words.last().copied().unwrap_or_default();
        let beyond = match len % 64 {
            0 => 0,
            bits => last >> bits,
        };
        (beyond == 0).then_some(bitmap)
    }

    /// As [`Bitmap::from_bytes`] reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        bytes.truncate(self.len.div_ceil(8));
        bytes
    }

    /// How many bits it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bits are set.
    pub fn count(&self) -> usize {
        let ones = self.words.iter().map(|word| word.count_ones() as usize);
        ones.sum()
    }

    /// False for an index beyond the end.
    pub fn get(&self, index: usize) -> bool {
        let word = self.words.get(index / 64);
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Sets what of `range` there is.
    pub fn set(&mut self, range: Range<usize>) {
        self.change(range, |word, mask| *word |= mask);
    }

    /// Clears what of `range` there is.
    pub fn clear(&mut self, range: Range<usize>) {
        self.change(range, |word, mask| *word &= !mask);
    }

    fn change(&mut self, range: Range<usize>, change: impl Fn(&mut u64, u64)) {
        let (mut next, end) = (range.start, range.end.min(self.len));
        while next < end {
            let stop = ((next / 64 + 1) * 64).min(end);
            let bits = u64::MAX >> (64 - (stop - next));
            if let Some(word) = self.words.get_mut(next / 64) {
                change(word, bits << (next % 64));
            }
            next = stop;
        }
    }

    /// The first index in `range` whose bit is `wanted`.
    pub fn first(&self, range: Range<usize>, wanted: bool) -> Option<usize> {
        let end = range.end.min(self.len);
        let mut index = range.start;
        while index < end {
            let word = *self.words.get(index / 64)?;
            let rest = (if wanted { word } else { !word }) >> (index % 64);
            if rest != 0 {
                let found = index + rest.trailing_zeros() as usize;
                return (found < end).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }

    /// The longest runs of bits in `range` that are set, in order.
    pub fn runs(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let end = range.end.min(self.len);
        let mut next = range.start;
        std::iter::from_fn(move || {
            let start = self.first(next..end, true)?;
            next = self.first(start + 1..end, false).unwrap_or(end);
            Some(start..next)
        })
    }

    /// Whether anything is set in it that is not in `other`.
    pub fn has_more_than(&self, other: &Bitmap) -> bool {
        let mut words = self.words.iter().enumerate();
        words.any(|(at, word)| word & !other.words.get(at).copied().unwrap_or_default() != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_like_a_list_of_bools(
            len in 0_usize..300,
            changes in prop::collection::vec((0_usize..320, 0_usize..320, any::<bool>()), 0..20),
        ) {
            let (mut bitmap, mut model) = (Bitmap::new(len), vec![false; len]);
            for (start, end, value) in changes {
                if value { bitmap.set(start..end) } else { bitmap.clear(start..end) }
                if start < end.min(len) {
                    model[start..end.min(len)].fill(value);
                }
            }
            prop_assert!((0..len + 70).all(|index| bitmap.get(index) == model.get(index).copied().unwrap_or(false)));
            prop_assert_eq!(bitmap.count(), model.iter().filter(|bit| **bit).count());
            let mut again = Bitmap::new(len);
            bitmap.runs(0..usize::MAX).for_each(|run| again.set(run));
            prop_assert_eq!(&again, &bitmap);
            prop_assert_eq!(Bitmap::from_bytes(&bitmap.to_bytes(), len), Some(bitmap.clone()));
            prop_assert!(!bitmap.has_more_than(&Bitmap::full(len)));
            prop_assert_eq!(bitmap.has_more_than(&Bitmap::new(len)), bitmap.count() > 0);
        }
    }

    #[test]
    fn bits_beyond_the_end_are_refused() {
        assert_eq!(Bitmap::from_bytes(&[0b0000_0111], 3), Some(Bitmap::full(3)));
        assert_eq!(Bitmap::from_bytes(&[0b0000_1111], 3), None);
        assert_eq!(Bitmap::from_bytes(&[1, 0], 3), None);
        assert_eq!(Bitmap::from_bytes(&[], 0), Some(Bitmap::full(0)));
    }
}
