//! Reads chunks for other nodes.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_cache::{CachedLayer, Pin, Read};

use super::Shared;
use super::uploads::Slot;
use crate::PeerId;
use crate::policy::Class;

/// So much is read at once, in bytes.
pub(super) const FRAME_BYTES: usize = 256 << 10;

/// Gives some chunks of a layer piece by piece. While it lives they are not evicted.
pub(super) struct Frames {
    shared: Arc<Shared>,
    pin: Pin,
    slot: Arc<Slot>,
    peer: PeerId,
    class: Class,
    chunks: Range<usize>,
    /// What of the first one was given already, in bytes.
    given: u32,
}

/// What is read at once: a part of the layer's data, and where in it the bytes of chunks are.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    offset: u64,
    span: usize,
    parts: Vec<Range<usize>>,
}

/// A chunk cannot be read, though it was ready.
#[derive(Debug)]
pub(super) struct Gone;

impl Frames {
    pub(super) fn new(
        shared: &Arc<Shared>,
        pin: Pin,
        slot: Slot,
        (peer, class): (PeerId, Class),
        chunks: Range<usize>,
    ) -> Frames {
        Frames {
            shared: Arc::clone(shared),
            pin,
            slot: Arc::new(slot),
            peer,
            class,
            chunks,
            given: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The next piece, at most [`FRAME_BYTES`] long.
    pub(super) async fn next(&mut self) -> Result<Bytes, Gone> {
        let layer = Arc::clone(self.pin.layer());
        let (frame, rest) = cut(&layer, self.chunks.clone(), self.given).ok_or(Gone)?;
        let mut buffer = self.shared.buffers.take(Arc::clone(&self.slot));
        let Frame {
            offset,
            span,
            parts,
        } = frame;
        let space = buffer.space().get_mut(..span).ok_or(Gone)?;
        if !layer.read_now(offset, space) {
            // From the disk, where it takes its time.
            let read = tokio::task::spawn_blocking(move || {
                let space = buffer.space().get_mut(..span).unwrap_or_default();
                let read = layer.read_at(offset, space);
                (matches!(read, Ok(Read::Done)), buffer)
            });
            let (is_read, read) = read.await.map_err(|_| Gone)?;
            if !is_read {
                return Err(Gone);
            }
            buffer = read;
        }
        let used = close_up(buffer.space(), &parts);
        let uploads = &self.shared.uploads;
        uploads.pace(self.peer, self.class, used as u64).await;
        (self.chunks.start, self.given) = rest;
        Ok(buffer.into_bytes(used))
    }

    /// The next chunk, whole, as [`pack`](crate::wire::pack) packs it.
    pub(super) async fn next_packed(&mut self) -> Result<Bytes, Gone> {
        let layer = Arc::clone(self.pin.layer());
        let chunk = layer.chunks().get(self.chunks.start).ok_or(Gone)?;
        let packed = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; chunk.length as usize];
            let read = layer.read_at(chunk.data_offset, &mut bytes);
            matches!(read, Ok(Read::Done)).then(|| crate::wire::pack::pack(&bytes))
        });
        let packed = packed.await.ok().flatten().ok_or(Gone)?;
        let uploads = &self.shared.uploads;
        uploads
            .pace(self.peer, self.class, packed.len() as u64)
            .await;
        self.chunks.start += 1;
        Ok(packed.into())
    }
}

/// What to read next of `chunks`, of the first of which `given` bytes were given, and where that leaves off.
fn cut(layer: &CachedLayer, chunks: Range<usize>, given: u32) -> Option<(Frame, (usize, u32))> {
    let table = layer.chunks();
    let first = table.get(chunks.start)?;
    let offset = first.data_offset + u64::from(given);
    let rest = first.length.checked_sub(given)? as usize;
    if rest > FRAME_BYTES {
        let frame = Frame {
            offset,
            span: FRAME_BYTES,
            parts: iter::once(0..FRAME_BYTES).collect(),
        };
        return Some((frame, (chunks.start, given + FRAME_BYTES as u32)));
    }
    let mut parts: Vec<Range<usize>> = iter::once(0..rest).collect();
    let mut span = rest;
    let mut next = chunks.start + 1;
    while next < chunks.end {
        let chunk = table.get(next)?;
        let start = usize::try_from(chunk.data_offset - offset).ok()?;
        let end = start.checked_add(chunk.length as usize)?;
        if end > FRAME_BYTES {
            break;
        }
        match parts.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => parts.push(start..end),
        }
        (span, next) = (end, next + 1);
    }
    let frame = Frame {
        offset,
        span,
        parts,
    };
    Some((frame, (next, 0)))
}

/// Moves `parts` of `bytes` together at the beginning, and answers how long they are.
fn close_up(bytes: &mut [u8], parts: &[Range<usize>]) -> usize {
    let mut end = 0;
    for part in parts {
        if part.start > end {
            bytes.copy_within(part.clone(), end);
        }
        end += part.len();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_chunks_is_left_out() {
        let mut bytes = *b"abc..de.f";
        let used = close_up(&mut bytes, &[0..3, 5..7, 8..9]);
        assert_eq!(&bytes[..used], b"abcdef");
        assert_eq!(close_up(&mut bytes, &[0..4, 4..9]), 9);
    }
}
