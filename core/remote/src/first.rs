//! What an image itself names as needed at its start: chunks, in an order.
//!
//! It is noted beside the layer's data as text: `12-15 3 77-80`.

use std::ops::Range;

/// A longer order is cut off: it is a note of the cache, which has room for a third more, in bytes. Of an image with less
/// than a hundred thousand chunks that is the place of two thousand files at least, which are more than a start reads.
const TEXT_BYTES_MAX: usize = 24 << 10;

/// Chunks in an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct First {
    ranges: Vec<Range<u32>>,
    /// Bytes of the text of all but the last one, and of what separates them.
    bytes: usize,
}

impl First {
    /// These come behind the others. False if there is no room for them.
    pub(crate) fn add(&mut self, chunks: Range<usize>) -> bool {
        let index = |index| u32::try_from(index).ok();
        let (Some(start), Some(end)) = (index(chunks.start), index(chunks.end)) else {
            return false;
        };
        if start >= end {
            return true;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end == start => {
                let fits = self.bytes + word(&(last.start..end)).len() <= TEXT_BYTES_MAX;
                last.end = if fits { end } else { last.end };
                fits
            }
            last => {
                let before = last.map_or(0, |last| word(last).len() + 1);
                let fits = self.bytes + before + word(&(start..end)).len() <= TEXT_BYTES_MAX;
                if fits {
                    self.bytes += before;
                    self.ranges.push(start..end);
                }
                fits
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// As it is noted.
    pub(crate) fn text(&self) -> String {
        let words: Vec<String> = self.ranges.iter().map(word).collect();
        words.join(" ")
    }

    /// The chunks of such a text that are below `count`. What makes no sense ends it: it is advice.
    pub(crate) fn chunks(text: &str, count: usize) -> Vec<u32> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let range = |word: &str| {
            let (start, end) = word.split_once('-').unwrap_or((word, word));
            let (start, end): (u32, u32) = (start.parse().ok()?, end.parse().ok()?);
            Some(start..end.checked_add(1)?.min(count))
        };
        let mut chunks = Vec::new();
        for range in text.split_whitespace().map_while(range) {
            // As many as there are, however often they are named.
            if chunks.len() >= count as usize {
                break;
            }
            chunks.extend(range);
        }
        chunks.truncate(count as usize);
        chunks
    }
}

/// A range as it is noted.
fn word(Range { start, end }: &Range<u32>) -> String {
    match end - start {
        1 => start.to_string(),
        _ => format!("{start}-{}", end - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_noted() {
        let mut first = First::default();
        for range in [4..7, 7..9, 1..2, 0..0, 20..21] {
            assert!(first.add(range));
        }
        assert_eq!(first.text(), "4-8 1 20");
        assert_eq!(First::chunks(&first.text(), 100), [4, 5, 6, 7, 8, 1, 20]);
        // The table has become shorter.
        assert_eq!(First::chunks(&first.text(), 6), [4, 5, 1]);
        assert!(First::default().is_empty() && !first.is_empty());
    }

    #[test]
    fn an_order_without_end_is_cut_off() {
        let mut first = First::default();
        let added = (0..100_000).filter(|at| first.add(2 * at..2 * at + 1));
        let added = added.count();
        assert!(added > 4000 && first.text().len() <= TEXT_BYTES_MAX);
        assert_eq!(First::chunks(&first.text(), usize::MAX).len(), added);
        // What becomes longer needs room too.
        let mut first = First::default();
        for at in (0..100_000).step_by(10) {
            first.add(at..at + 1);
            first.add(at + 1..at + 2);
        }
        let bytes = first.text().len();
        assert!(
            (TEXT_BYTES_MAX - 20..=TEXT_BYTES_MAX).contains(&bytes),
            "{bytes}"
        );
    }

    #[test]
    fn what_makes_no_sense_ends_it() {
        assert_eq!(First::chunks("1 2-x 3", 9), [1]);
        assert_eq!(First::chunks("4294967295 1", 9), [0; 0]);
        assert_eq!(First::chunks("5-2 1", 9), [1]);
        // All of it, a thousand times.
        let again = "0-8 ".repeat(1000);
        assert_eq!(First::chunks(&again, 9).len(), 9);
    }
}
