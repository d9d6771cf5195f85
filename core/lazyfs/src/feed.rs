//! The bytes of one request as they come, taken member by member.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pontoon_source::{Blob, ByteStream, Error, Result, Urgency};
use tokio::time::{Instant, sleep_until};

use crate::LazyLayer;
use crate::background::WINDOW_UNKNOWN;
use crate::engine::Place;
use crate::flight::Rush;
use crate::line::Trip;

/// A background request that somebody has come to wait for is made again as an urgent one if nothing comes for so
/// long: it may stand in a queue. If it is under way its bytes are here sooner.
const GRACE: Duration = Duration::from_millis(100);

/// What waits counts as served when so many bytes have come. Fewer may drip for ever.
const SERVED: u64 = 16 << 10;

/// For how long memory, and a part of the line, is held while nothing comes. Then others have it: those who wait for a
/// registry that is away must not keep those waiting whose registry is well.
const LENT: Duration = Duration::from_secs(1);

/// One request.
#[derive(Debug)]
pub(crate) struct Feed<'a> {
    layer: &'a LazyLayer,
    rush: &'a Rush,
    blob: Arc<dyn Blob>,
    stream: Box<dyn ByteStream>,
    urgency: Urgency,
    trip: Trip,
    /// What the way to the registry holds, in bytes.
    window: u64,
    /// What has come and was not taken, and where in the blob it begins.
    held: VecDeque<Bytes>,
    start: u64,
    /// What was asked for ends here.
    end: u64,
    /// Bytes that came since the patience began anew.
    come: u64,
}

impl<'a> Feed<'a> {
    /// Asks for `range`, as urgently as `rush` says.
    pub(crate) fn open(
        layer: &'a LazyLayer,
        rush: &'a Rush,
        blob: Arc<dyn Blob>,
        range: Range<u64>,
        trip: Trip,
    ) -> Self {
        let urgency = match rush.is_on() {
            true => Urgency::Demand,
            false => Urgency::Background,
        };
        Feed {
            layer,
            rush,
            stream: ask(layer, &*blob, range.clone(), urgency),
            blob,
            urgency,
            trip,
            window: layer.window().unwrap_or(WINDOW_UNKNOWN),
            held: VecDeque::new(),
            start: range.start,
            end: range.end,
            come: 0,
        }
    }

    /// Where the bytes come from.
    pub(crate) fn blob(&self) -> &Arc<dyn Blob> {
        &self.blob
    }

    /// The bytes `range` of the blob, and the memory that they are allowed. Ranges are taken in ascending order, the next
    /// one begins at `next`: what is between them is thrown away, what is in both is kept. Fails if nothing comes as long
    /// as the patience lasts, of which `waited` is gone already.
    ///
    /// Memory is taken when something has come, not before: who holds some must not wait for a registry, nor for a
    /// place among its requests, which those have who wait for memory.
    pub(crate) async fn take(
        &mut self,
        range: Range<u64>,
        next: u64,
        waited: &mut Duration,
    ) -> Result<(Bytes, Place)> {
        self.skip_to(range.start);
        let length = range.end - range.start;
        let (layer, rush) = (self.layer, self.rush);
        let memory = || layer.engine.memory(length, rush);
        let mut place = None;
        while self.start < range.start || self.held_bytes() < length {
            let piece = self.piece(waited, &mut place).await?;
            self.layer
                .count(|counters| &counters.fetched_bytes, piece.len() as u64);
            self.held.push_back(piece);
            self.skip_to(range.start);
            if place.is_none() && self.start >= range.start {
                place = Some(memory().await);
            }
        }
        let place = match place {
            Some(place) => place,
            None => memory().await,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = match self.held.front() {
            Some(piece) if piece.len() >= length => piece.slice(..length),
            _ => self.join(length),
        };
        self.skip_to(next.min(range.end));
        Ok((bytes, place))
    }

    /// The next piece. If it does not come soon, `place` is given back.
    async fn piece(&mut self, waited: &mut Duration, place: &mut Option<Place>) -> Result<Bytes> {
        let began = Instant::now();
        let piece = {
            let mut next = pin!(self.next(waited));
            tokio::select! {
                piece = &mut next => piece,
                () = sleep_until(began + LENT) => {
                    *place = None;
                    next.await
                }
            }
        };
        if let Ok(piece) = &piece {
            self.trip.came(piece.len() as u64);
        }
        piece
    }

    fn join(&self, length: usize) -> Bytes {
        let mut joined = BytesMut::with_capacity(length);
        for piece in &self.held {
            let part = piece.len().min(length - joined.len());
            joined.extend_from_slice(piece.get(..part).unwrap_or_default());
        }
        joined.freeze()
    }

    fn held_bytes(&self) -> u64 {
        self.held.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Throws away what is before `offset`.
    fn skip_to(&mut self, offset: u64) {
        while self.start < offset
            && let Some(piece) = self.held.front_mut()
        {
            let skipped = (offset - self.start).min(piece.len() as u64);
            piece.advance(skipped as usize);
            self.start += skipped;
            if piece.is_empty() {
                self.held.pop_front();
            }
        }
    }

    /// The next piece; adds to `waited` how long too little came.
    async fn next(&mut self, waited: &mut Duration) -> Result<Bytes> {
        let began = Instant::now();
        let piece = match self.urgency {
            Urgency::Demand => self.wait(began, *waited).await,
            Urgency::Background => self.wait_for_nobody(*waited).await,
        };
        match piece {
            Ok(Some(piece)) => {
                self.come += piece.len() as u64;
                *waited += began.elapsed();
                if self.come >= SERVED {
                    (self.come, *waited) = (0, Duration::ZERO);
                }
                return Ok(piece);
            }
            Ok(None) => *waited += self.silence(began),
            Err(error) => {
                *waited += self.silence(began);
                return Err(error);
            }
        }
        Err(self.unavailable("it ended before all bytes had come"))
    }

    async fn wait(&mut self, began: Instant, waited: Duration) -> Result<Option<Bytes>> {
        let patience = self.layer.engine.config.patience;
        let blob = self.blob.clone();
        // Where others are served, we stand in a queue.
        let end = || match progress(&*blob).filter(|at| *at > began) {
            Some(at) => at + patience,
            None => began + patience.saturating_sub(waited),
        };
        let mut next = self.stream.next();
        let mut until = end();
        let mut rest = pin!(tokio::time::sleep(LENT));
        loop {
            tokio::select! {
                piece = &mut next => return piece,
                () = &mut rest, if !rest.is_elapsed() => self.trip.rest(),
                () = sleep_until(until) => match end() {
                    later if later > until => until = later,
                    _ => break,
                },
            }
        }
        drop(next);
        Err(self.unavailable("it stalls"))
    }

    async fn wait_for_nobody(&mut self, waited: Duration) -> Result<Option<Bytes>> {
        if !self.rush.is_on() {
            // Others, for whom somebody waits, have the line meanwhile.
            tokio::select! {
                () = self.rush.on() => {}
                () = self.layer.engine.line.free(self.window) => {}
            }
        }
        let late = async {
            self.rush.on().await;
            tokio::time::sleep(GRACE).await;
        };
        let rest = async {
            tokio::time::sleep(LENT).await;
            self.trip.rest();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            piece = self.stream.next() => return piece,
            () = late => {}
            () = rest => {}
        }
        self.hurry();
        self.wait(Instant::now(), waited).await
    }

    /// For how long the registry has given nothing to anybody, since `began` at most.
    fn silence(&self, began: Instant) -> Duration {
        let since = progress(&*self.blob).map_or(began, |at| at.max(began));
        since.elapsed()
    }

    /// Asks for the rest anew, urgently.
    fn hurry(&mut self) {
        let from = self.start.saturating_add(self.held_bytes());
        self.urgency = Urgency::Demand;
        self.trip = self.layer.engine.line.demand(self.end.saturating_sub(from));
        self.stream = ask(self.layer, &*self.blob, from..self.end, self.urgency);
    }

    fn unavailable(&self, reason: &str) -> Error {
        Error::Unavailable {
            host: "the registry".to_owned(),
            object: self.blob.digest().to_string(),
            reason: reason.to_owned(),
            retry_after: None,
            source: None,
        }
    }
}

fn progress(blob: &dyn Blob) -> Option<Instant> {
    blob.last_progress().map(Instant::from_std)
}

fn ask(
    layer: &LazyLayer,
    blob: &dyn Blob,
    range: Range<u64>,
    urgency: Urgency,
) -> Box<dyn ByteStream> {
    match urgency {
        Urgency::Demand => layer.count(|counters| &counters.demand_requests, 1),
        Urgency::Background => layer.count(|counters| &counters.background_requests, 1),
    }
    blob.stream(range, urgency)
}
