//! Several blobs one after another, read as if they were one.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use pontoon_layer::Digest;

use crate::blob::{Blob, BoxFuture, ByteStream, Pace, READ_BYTES_MAX, Urgency};
use crate::error::{Error, Result};

/// Blobs joined: each begins where the one before it ends.
///
/// What is asked of a range goes to the blobs that it is in, in order and one after the other. So a range across the end of
/// a blob costs a round trip more; [`Joined::ends`] says where these are.
#[derive(Debug)]
pub struct Joined {
    digest: Digest,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    place: Range<u64>,
    blob: Arc<dyn Blob>,
}

impl Joined {
    /// `blobs` in this order. `digest` is what they are called together: that of whatever names them all.
    ///
    /// [`Error::TooLarge`] if they are larger than anything can be.
    pub fn new(digest: Digest, blobs: Vec<Arc<dyn Blob>>) -> Result<Joined> {
        let mut end = 0u64;
        let mut parts = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let start = end;
            end = end
                .checked_add(blob.size())
                .ok_or_else(|| Error::TooLarge {
                    object: format!("what the blobs of {digest} have together"),
                    limit: u64::MAX,
                    unit: "bytes",
                })?;
            let place = start..end;
            parts.push(Part { place, blob });
        }
        Ok(Joined { digest, parts })
    }

    /// Where its blobs end, in ascending order.
    pub fn ends(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.place.end).collect()
    }

    /// The blobs that `range` has bytes of, and which bytes of them.
    fn split(&self, range: &Range<u64>) -> VecDeque<(Arc<dyn Blob>, Range<u64>)> {
        let parts = self.parts.iter().filter_map(|Part { place, blob }| {
            let start = range.start.max(place.start);
            let end = range.end.min(place.end);
            (start < end).then(|| (Arc::clone(blob), start - place.start..end - place.start))
        });
        parts.collect()
    }

    fn beyond(&self, range: &Range<u64>) -> Option<Error> {
        let is_inside = range.start <= range.end && range.end <= self.size();
        (!is_inside).then(|| Error::TooLarge {
            object: format!(
                "the range {}..{} of the blobs of {}",
                range.start, range.end, self.digest
            ),
            limit: self.size(),
            unit: "bytes",
        })
    }
}

impl Blob for Joined {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.place.end)
    }

    fn read(&self, range: Range<u64>, urgency: Urgency) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            if let Some(error) = self.beyond(&range) {
                return Err(error);
            }
            let length = range.end - range.start;
            if length > READ_BYTES_MAX {
                return Err(Error::TooLarge {
                    object: format!("a read of the blobs of {}", self.digest),
                    limit: READ_BYTES_MAX,
                    unit: "bytes",
                });
            }
            let mut parts = self.split(&range);
            let Some((blob, range)) = parts.pop_front() else {
                return Ok(Bytes::new());
            };
            let first = blob.read(range, urgency).await?;
            if parts.is_empty() {
                return Ok(first);
            }
            let mut bytes = BytesMut::with_capacity(length as usize);
            bytes.extend_from_slice(&first);
            for (blob, range) in parts {
                bytes.extend_from_slice(&blob.read(range, urgency).await?);
            }
            Ok(bytes.freeze())
        })
    }

    fn stream(&self, range: Range<u64>, urgency: Urgency) -> Box<dyn ByteStream> {
        let refusal = self.beyond(&range);
        let mut parts = match refusal {
            Some(_) => VecDeque::new(),
            None => self.split(&range),
        };
        // Nearly always there is one, and nothing to be done on its way.
        if parts.len() == 1
            && let Some((blob, range)) = parts.pop_front()
        {
            return blob.stream(range, urgency);
        }
        Box::new(JoinedStream {
            refusal,
            parts,
            urgency,
            current: None,
        })
    }

    fn report_damage(&self, range: Range<u64>) -> bool {
        let mut is_elsewhere = false;
        for (blob, range) in self.split(&range) {
            is_elsewhere |= blob.report_damage(range);
        }
        is_elsewhere
    }

    fn last_progress(&self) -> Option<Instant> {
        let progress = self.parts.iter().map(|part| part.blob.last_progress());
        progress.max().flatten()
    }

    fn pace(&self) -> Option<Pace> {
        self.parts.iter().find_map(|part| part.blob.pace())
    }
}

/// The bytes of one blob after those of the other.
#[derive(Debug)]
struct JoinedStream {
    /// Told once, then nothing more comes.
    refusal: Option<Error>,
    /// What has not been asked for.
    parts: VecDeque<(Arc<dyn Blob>, Range<u64>)>,
    urgency: Urgency,
    current: Option<Box<dyn ByteStream>>,
}

impl ByteStream for JoinedStream {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(async move {
            let step = self.step().await;
            if step.is_err() {
                (self.current, self.parts) = (None, VecDeque::new());
            }
            step
        })
    }
}

impl JoinedStream {
    async fn step(&mut self) -> Result<Option<Bytes>> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        loop {
            if let Some(current) = &mut self.current
                && let Some(piece) = current.next().await?
            {
                return Ok(Some(piece));
            }
            let Some((blob, range)) = self.parts.pop_front() else {
                self.current = None;
                return Ok(None);
            };
            self.current = Some(blob.stream(range, self.urgency));
        }
    }
}

#[cfg(test)]
mod tests;
