//! Which chunks are fetched ahead, in which order, and how far that is. Pure.

use std::ops::Range;
use std::sync::Arc;

use crate::Prefetch;

/// A member up to this many bytes is small: most files of an image that a start reads are.
const SMALL: u64 = 64 << 10;

/// Chunks in an order, and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    chunks: Chunks,
    next: usize,
}

#[derive(Debug, Clone)]
enum Chunks {
    /// Of the chunks in this range, those whose bytes do not begin or end beyond a bound.
    Range(Range<usize>, Within),
    List(Arc<[u32]>),
}

/// Which members are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Within {
    /// Their bytes begin below this offset of the blob.
    below: u64,
    /// They have at most so many bytes.
    bytes_max: u64,
}

impl Within {
    const ALL: Within = Within {
        below: u64::MAX,
        bytes_max: u64::MAX,
    };

    /// Whether a member with these bytes of the blob is wanted.
    pub(crate) fn has(self, blob: &Range<u64>) -> bool {
        blob.start < self.below && blob.end.saturating_sub(blob.start) <= self.bytes_max
    }
}

impl Course {
    /// What `prefetch` says, of `chunks` chunks.
    pub(crate) fn new(prefetch: Prefetch, chunks: usize) -> Self {
        match prefetch {
            Prefetch::Everything => Course::range(0..chunks, Within::ALL),
            Prefetch::BlobUpTo(below) => {
                let within = Within {
                    below,
                    ..Within::ALL
                };
                Course::range(0..chunks, within)
            }
            Prefetch::Chunks(list) | Prefetch::Named(list) => Course::list(list),
        }
    }

    /// The small members among `chunks` chunks.
    pub(crate) fn small(chunks: usize) -> Self {
        let within = Within {
            bytes_max: SMALL,
            ..Within::ALL
        };
        Course::range(0..chunks, within)
    }

    /// Chunks of this range whose bytes begin below an offset of the blob.
    pub(crate) fn near(range: Range<usize>, below: u64) -> Self {
        let within = Within {
            below,
            ..Within::ALL
        };
        Course::range(range, within)
    }

    /// These chunks.
    pub(crate) fn list(list: Vec<u32>) -> Self {
        Course {
            chunks: Chunks::List(list.into()),
            next: 0,
        }
    }

    fn range(range: Range<usize>, within: Within) -> Self {
        Course {
            chunks: Chunks::Range(range, within),
            next: 0,
        }
    }

    /// The next chunk, if there is one, and whether its member is wanted.
    pub(crate) fn next(&mut self) -> Option<(usize, Within)> {
        let next = match &self.chunks {
            Chunks::Range(range, within) => {
                let index = range.start.checked_add(self.next)?;
                (index < range.end).then_some((index, *within))
            }
            Chunks::List(list) => list
                .get(self.next)
                .map(|index| (*index as usize, Within::ALL)),
        };
        self.next += usize::from(next.is_some());
        next
    }

    /// From the beginning.
    pub(crate) fn restart(&mut self) {
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut course: Course) -> Vec<usize> {
        std::iter::from_fn(|| course.next())
            .map(|(index, _)| index)
            .collect()
    }

    #[test]
    fn courses_end() {
        assert_eq!(all(Course::new(Prefetch::Everything, 3)), [0, 1, 2]);
        assert_eq!(all(Course::list(vec![7, 7, 1])), [7, 7, 1]);
        assert_eq!(all(Course::near(2..4, 100)), [2, 3]);
        assert_eq!(all(Course::small(0)), [0; 0]);
        let mut course = Course::list(vec![1]);
        while course.next().is_some() {}
        course.restart();
        assert_eq!(all(course), [1]);
    }

    #[test]
    fn bounds_are_of_members() {
        let small = Course::small(1).next().unwrap().1;
        assert!(small.has(&(5..5 + SMALL)));
        assert!(!small.has(&(5..6 + SMALL)));
        let near = Course::near(0..1, 100).next().unwrap().1;
        assert!(near.has(&(99..1000)) && !near.has(&(100..101)));
    }
}
