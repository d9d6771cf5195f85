//! Chunks, as they come.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, timeout};

use super::pool::Lease;
use super::{Order, ended, nonsense};
use crate::policy::Layout;
use crate::wire::error::{Error, Result};
use crate::wire::pack;

/// A chunk that is shorter is copied out of what it came in, in bytes: it may be kept, and should not keep all of that.
const COPIED: usize = 64 << 10;

/// Packed bytes that are unpacked on a thread that may take its time.
const UNPACKED_ELSEWHERE: usize = 64 << 10;

/// The slowest answer may take so much longer than its bytes.
const GRACE: Duration = Duration::from_secs(2);

/// The chunks of an answer. Dropping it before its end closes the connection.
pub struct Chunks {
    lease: Lease,
    body: Incoming,
    layout: Arc<dyn Layout>,
    /// Those to come.
    chunks: Range<usize>,
    /// What has come and was not taken.
    rest: Bytes,
    is_packed: bool,
    silence: Duration,
    until: Instant,
    is_over: bool,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Chunks");
        debug.field("peer", &self.lease.peer.id);
        debug.field("chunks", &self.chunks);
        debug.finish_non_exhaustive()
    }
}

impl Chunks {
    pub(super) fn new(
        lease: Lease,
        body: Incoming,
        order: &Order,
        is_packed: bool,
        silence: Duration,
        slowest: u64,
    ) -> Chunks {
        let most = GRACE + Duration::from_secs(order.bytes() / slowest.max(1));
        Chunks {
            lease,
            body,
            layout: Arc::clone(&order.layout),
            chunks: order.chunks.clone(),
            rest: Bytes::new(),
            is_packed,
            silence,
            until: order.deadline.min(Instant::now() + most),
            is_over: false,
        }
    }

    /// The next chunk: as long as the table says, and not checked against its digest. `None` after the last one. After an error
    /// nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.is_over {
            return None;
        }
        let place = self
            .chunks
            .next()
            .and_then(|chunk| self.layout.place(chunk));
        let Some((_, length)) = place else {
            self.is_over = true;
            return self.end().await.err().map(Err);
        };
        let chunk = match self.is_packed {
            true => self.packed(length as usize).await,
            false => self.take(length as usize).await,
        };
        self.is_over = chunk.is_err();
        // The last one may have been all of it: then the connection is free before the chunk is looked at.
        if chunk.is_ok() && self.chunks.is_empty() && self.is_drained() {
            self.is_over = true;
            self.lease.give_back();
        }
        Some(chunk)
    }

    fn is_drained(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// After the last chunk nothing may come.
    async fn end(&mut self) -> Result<()> {
        if !self.rest.is_empty() || self.more().await? {
            return Err(nonsense(self.lease.peer.id, "more than it was asked for"));
        }
        self.lease.give_back();
        Ok(())
    }

    async fn take(&mut self, length: usize) -> Result<Bytes> {
        if self.rest.is_empty() && !self.more().await? {
            return Err(self.cut(length));
        }
        if self.rest.len() >= length {
            return Ok(match length < COPIED {
                true => {
                    let chunk = Bytes::copy_from_slice(self.rest.get(..length).unwrap_or_default());
                    self.rest.advance(length);
                    chunk
                }
                false => self.rest.split_to(length),
            });
        }
        let mut chunk = BytesMut::with_capacity(length);
        loop {
            let part = self.rest.len().min(length - chunk.len());
            chunk.extend_from_slice(self.rest.get(..part).unwrap_or_default());
            self.rest.advance(part);
            if chunk.len() == length {
                return Ok(chunk.freeze());
            }
            if !self.more().await? {
                return Err(self.cut(length - chunk.len()));
            }
        }
    }

    async fn packed(&mut self, length: usize) -> Result<Bytes> {
        let peer = self.lease.peer.id;
        let wrong = |error: pack::Malformed| nonsense(peer, &error.to_string());
        let start = self.take(pack::HEADER_BYTES).await?;
        let start = start.first_chunk().copied().unwrap_or_default();
        let (bytes, is_packed) = pack::header(start, length).map_err(wrong)?;
        let packed = self.take(bytes).await?;
        if !is_packed {
            return Ok(packed);
        }
        let unpack = move || pack::unpack(&packed, length);
        let unpacked = match bytes < UNPACKED_ELSEWHERE {
            true => unpack(),
            false => match tokio::task::spawn_blocking(unpack).await {
                Ok(unpacked) => unpacked,
                Err(_) => return Err(self.cut(length)),
            },
        };
        unpacked.map(Bytes::from).map_err(wrong)
    }

    /// Waits for more bytes. False if there are none.
    async fn more(&mut self) -> Result<bool> {
        let peer = self.lease.peer.id;
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let next = timeout(left.min(self.silence), self.body.frame()).await;
            let next = next.map_err(|_| Error::Slow {
                peer,
                what: "chunks",
            })?;
            let frame = match next {
                None => return Ok(false),
                Some(Ok(frame)) => frame,
                Some(Err(source)) => return Err(ended(peer, source, self.left())),
            };
            // Trailers are nothing.
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                self.rest = bytes;
                return Ok(true);
            }
        }
    }

    /// The end came too soon: of the chunk under way, `missing` bytes are not here.
    fn cut(&self, missing: usize) -> Error {
        Error::Cut {
            peer: self.lease.peer.id,
            missing: self.left() + missing as u64,
        }
    }

    /// The bytes of the chunks that are not begun.
    fn left(&self) -> u64 {
        let lengths = self
            .chunks
            .clone()
            .filter_map(|chunk| self.layout.place(chunk));
        lengths.map(|(_, length)| u64::from(length)).sum()
    }
}
