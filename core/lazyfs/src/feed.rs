//! The bytes of one request as they come, taken member by member.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pontoon_source::{Blob, ByteStream, Error, Result, Urgency};
use tokio::time::Instant;

use crate::LazyLayer;
use crate::flight::Rush;

/// A background request that somebody has come to wait for is made again as an urgent one if nothing comes for so
/// long: it may stand in a queue. If it is under way its bytes are here sooner.
const GRACE: Duration = Duration::from_millis(100);

/// One request.
#[derive(Debug)]
pub(crate) struct Feed<'a> {
    layer: &'a LazyLayer,
    rush: &'a Rush,
    blob: Arc<dyn Blob>,
    stream: Box<dyn ByteStream>,
    urgency: Urgency,
    /// What has come and was not taken, and where in the blob it begins.
    held: VecDeque<Bytes>,
    start: u64,
    /// What was asked for ends here.
    end: u64,
}

impl<'a> Feed<'a> {
    /// Asks for `range`, as urgently as `rush` says.
    pub(crate) fn open(
        layer: &'a LazyLayer,
        rush: &'a Rush,
        blob: Arc<dyn Blob>,
        range: Range<u64>,
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
            held: VecDeque::new(),
            start: range.start,
            end: range.end,
        }
    }

    /// The bytes `range` of the blob. Ranges are taken in ascending order; what is between them is thrown away. Fails
    /// if nothing comes until `patience` is over.
    pub(crate) async fn take(&mut self, range: Range<u64>, patience: Duration) -> Result<Bytes> {
        self.skip_to(range.start);
        let length = range.end - range.start;
        while self.start < range.start || self.held_bytes() < length {
            let piece = self.next(patience).await?;
            self.layer
                .count(|counters| &counters.fetched_bytes, piece.len() as u64);
            self.held.push_back(piece);
            self.skip_to(range.start);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.start = range.end;
        match self.held.front_mut() {
            Some(piece) if piece.len() >= length => Ok(piece.split_to(length)),
            _ => Ok(self.join(length)),
        }
    }

    fn join(&mut self, length: usize) -> Bytes {
        let mut joined = BytesMut::with_capacity(length);
        while joined.len() < length
            && let Some(mut piece) = self.held.pop_front()
        {
            let part = piece.split_to(piece.len().min(length - joined.len()));
            joined.extend_from_slice(&part);
            if !piece.is_empty() {
                self.held.push_front(piece);
            }
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

    async fn next(&mut self, patience: Duration) -> Result<Bytes> {
        let piece = loop {
            if self.urgency == Urgency::Demand {
                let patience = Instant::now() + patience;
                break match tokio::time::timeout_at(patience, self.stream.next()).await {
                    Ok(piece) => piece?,
                    Err(_) => return Err(self.unavailable("it stalls")),
                };
            }
            if !self.rush.is_on() {
                // Others, for whom somebody waits, have the link meanwhile.
                tokio::select! {
                    () = self.rush.on() => {}
                    () = self.layer.engine.quiet() => {}
                }
            }
            let late = async {
                self.rush.on().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                piece = self.stream.next() => break piece?,
                () = late => self.hurry(),
            }
        };
        piece.ok_or_else(|| self.unavailable("it ended before all bytes had come"))
    }

    /// Asks for the rest anew, urgently.
    fn hurry(&mut self) {
        let from = self.start.saturating_add(self.held_bytes());
        self.urgency = Urgency::Demand;
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
