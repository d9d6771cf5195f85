//! What an image itself names as needed at its start: chunks, in an order.
//!
//! It is noted beside the layer's data as text: `12-15 3 77-80`.

use std::ops::Range;

use std::fmt::Write;

/// A longer order is cut off: it is a note of the cache, which has room for twice this, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Chunks in an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct First(Vec<Range<u32>>);

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
        // Two numbers of ten digits, and what separates them.
        let is_full = (self.0.len() + 1).saturating_mul(22) > TEXT_BYTES_MAX;
        match self.0.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ if is_full => return false,
            _ => self.0.push(start..end),
        }
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it is noted.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for Range { start, end } in &self.0 {
            let separator = if text.is_empty() { "" } else { " " };
            // Writing to a text cannot fail.
            let _ = match end - start {
                1 => write!(text, "{separator}{start}"),
                _ => write!(text, "{separator}{start}-{}", end - 1),
            };
        }
        text
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
        assert!(added > 500 && first.text().len() <= TEXT_BYTES_MAX);
        assert_eq!(First::chunks(&first.text(), usize::MAX).len(), added);
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
