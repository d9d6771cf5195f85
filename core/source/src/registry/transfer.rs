//! Bytes on their way from one host, and from the next one where they stopped.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Buf, Bytes};
use tokio::sync::OwnedSemaphorePermit;

use super::blob::Source;
use super::body::Body;
use super::endpoint::{Answering, Endpoint};
use super::failure;
use super::tour::Tour;
use crate::blob::{BoxFuture, ByteStream, Urgency};
use crate::error::{Error, Result};

/// Bytes on their way.
pub(super) struct Transfer {
    source: Arc<Source>,
    /// What has not come yet.
    range: Range<u64>,
    urgency: Urgency,
    /// Told once, then nothing more comes.
    refusal: Option<Error>,
    tour: Option<Tour>,
    open: Option<(usize, Open)>,
    has_begun: bool,
}

/// The answer of a host, which is being read.
pub(super) struct Open {
    pub(super) body: Body,
    pub(super) host: String,
    pub(super) endpoint: Arc<Endpoint>,
    /// Bytes at its beginning that nobody asked for.
    pub(super) passed_over: u64,
    /// How fast it comes is measured until it ends.
    pub(super) _answering: Answering,
    /// Its place among the requests to this host.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer")
            .field("source", &self.source)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl ByteStream for Transfer {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(async move {
            let step = self.step().await;
            if step.is_err() {
                self.range.start = self.range.end;
            }
            step
        })
    }
}

impl Transfer {
    /// A transfer of `range`, or one that tells `refusal`.
    pub(super) fn new(
        source: &Arc<Source>,
        range: Range<u64>,
        urgency: Urgency,
        refusal: Option<Error>,
    ) -> Self {
        Transfer {
            source: Arc::clone(source),
            range,
            urgency,
            refusal,
            tour: None,
            open: None,
            has_begun: false,
        }
    }

    /// The next piece; not to be called again after an error.
    pub(super) async fn step(&mut self) -> Result<Option<Bytes>> {
        if let Some(refusal) = self.refusal.take() {
            self.range.end = self.range.start;
            return Err(refusal);
        }
        if let Some(tour) = &mut self.tour {
            tour.awaited();
        }
        while self.range.start < self.range.end {
            let tour = match &mut self.tour {
                Some(tour) => tour,
                none => none.insert(self.source.tour()?),
            };
            let (place, open) = match &mut self.open {
                Some(open) => open,
                none => {
                    self.source.gives_way(self.urgency)?;
                    let (place, endpoint) = tour.next().await?;
                    let queued = Instant::now();
                    let permit = endpoint.place(self.urgency).await;
                    tour.queued(queued.elapsed());
                    let opened =
                        self.source
                            .open(&endpoint, self.range.clone(), self.urgency, permit);
                    match opened.await {
                        Ok(open) => none.insert((place, open)),
                        Err(error) => {
                            tour.failed(place, error);
                            continue;
                        }
                    }
                }
            };
            let place = *place;
            match open
                .next(&self.source, self.range.end - self.range.start)
                .await
            {
                Ok(piece) => {
                    let end = self.range.start + piece.len() as u64;
                    self.source.delivered(self.range.start..end, &open.endpoint);
                    self.range.start = end;
                    self.has_begun = true;
                    open.endpoint.gave(piece.len());
                    tour.progressed(place, piece.len());
                    if self.range.is_empty() {
                        self.open = None;
                    }
                    return Ok(Some(piece));
                }
                Err(error) => {
                    self.open = None;
                    if self.has_begun {
                        self.source
                            .shared
                            .counters
                            .resumed
                            .fetch_add(1, Ordering::Relaxed);
                    }
                    tour.failed(place, error);
                }
            }
        }
        Ok(None)
    }
}

impl Open {
    /// The next piece of what was asked for, of at most `left` bytes.
    async fn next(&mut self, source: &Source, left: u64) -> Result<Bytes> {
        loop {
            let Some(mut piece) = self.body.next().await? else {
                let reason = "it ended too early";
                return Err(failure::unavailable(&self.host, &source.object, reason));
            };
            let counter = &source.shared.counters.blob_bytes;
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if self.endpoint.door.is_some() {
                let counter = &source.shared.counters.dragonfly_bytes;
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            let passed_over = self.passed_over.min(piece.len() as u64);
            self.passed_over -= passed_over;
            piece.advance(passed_over as usize);
            piece.truncate(left.min(piece.len() as u64) as usize);
            if piece.len() as u64 == left {
                self.body.end().await;
            }
            if !piece.is_empty() {
                return Ok(piece);
            }
        }
    }
}
