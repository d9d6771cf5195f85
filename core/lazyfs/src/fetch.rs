//! One request: fetched, taken apart, inflated, verified, stored.

use std::cmp::min;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_cache::Put;
use pontoon_layer::{Chunk, Member as Stream, Verified};
use pontoon_source::Blob;
use tokio::time::Instant;

use crate::engine::Place;
use crate::feed::Feed;
use crate::flight::{Claim, Landed, Piece, Rush};
use crate::line::Trip;
use crate::{Error, LazyLayer, Result};

/// The pause before a request is made again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// So many are asked before a refusal is believed.
const WAYS_MAX: usize = 8;

/// The duty to fetch members that one request brings. If it is dropped, their readers are told.
#[derive(Debug)]
pub(crate) struct Fetch {
    layer: Arc<LazyLayer>,
    /// What has not come yet, in the order in which it comes.
    claims: VecDeque<Claim>,
    rush: Arc<Rush>,
    /// Somebody waited when it began.
    demanded: bool,
    /// How long the registry has been waited for since something came last.
    waited: Duration,
    /// Until the request is made it is here.
    trip: Option<Trip>,
    /// Who is asked, and how many have refused before.
    from: Option<Arc<dyn Blob>>,
    refusals: usize,
}

impl Fetch {
    pub(crate) fn new(layer: &Arc<LazyLayer>, claims: Vec<Claim>, rush: &Arc<Rush>) -> Self {
        let mut fetch = Fetch {
            layer: layer.clone(),
            claims: claims.into(),
            rush: rush.clone(),
            demanded: rush.is_on(),
            waited: Duration::ZERO,
            trip: None,
            from: None,
            refusals: 0,
        };
        if fetch.demanded {
            fetch.trip = Some(layer.engine.line.demand(fetch.bytes()));
        }
        fetch
    }

    /// This one, for which there is room on the line: `trip`.
    pub(crate) fn on(self, trip: Trip) -> Self {
        Fetch {
            trip: Some(trip),
            ..self
        }
    }

    pub(crate) fn spawn(self) {
        let runtime = self.layer.engine.runtime.clone();
        runtime.spawn(self.run());
    }

    pub(crate) fn rush(&self) -> &Arc<Rush> {
        &self.rush
    }

    /// Compressed bytes that it will ask for.
    pub(crate) fn bytes(&self) -> u64 {
        match (self.claims.front(), self.claims.back()) {
            (Some(first), Some(last)) => last.member.blob.end - first.member.blob.start,
            _ => 0,
        }
    }

    /// Fetches; tries again what may be mended by time, as long as the patience lasts and somebody waits.
    pub(crate) async fn run(mut self) -> Result<()> {
        let layer = self.layer.clone();
        tokio::select! {
            ended = self.fly() => ended,
            // The claims land as given up.
            () = layer.closed() => Err(Error::Abandoned { layer: layer.digest().clone() }),
        }
    }

    async fn fly(&mut self) -> Result<()> {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.claims.len();
            let Err(error) = self.attempt().await else {
                return Ok(());
            };
            if self.claims.len() < before {
                pause = PAUSE_MIN;
            }
            if !error.is_transient() && self.turn_elsewhere() {
                continue;
            }
            let left = self.patience_left();
            if !error.is_transient() || !self.rush.is_on() || left.is_zero() {
                return Err(self.give_up(error));
            }
            self.layer.count(|counters| &counters.retries, 1);
            let wait = min(left, pause.max(error.retry_after().unwrap_or_default()));
            // Another registry may be well.
            self.trip = None;
            tokio::time::sleep(wait).await;
            self.waited += wait;
            pause = min(pause * 2, PAUSE_MAX);
        }
    }

    async fn attempt(&mut self) -> pontoon_source::Result<()> {
        let (Some(first), Some(last)) = (self.claims.front(), self.claims.back()) else {
            return Ok(());
        };
        let range = first.member.blob.start..last.member.blob.end;
        let layer = self.layer.clone();
        let rush = self.rush.clone();
        let line = &layer.engine.line;
        let trip = self.trip.take().unwrap_or_else(|| match rush.is_on() {
            true => line.demand(self.bytes()),
            false => line.ahead(self.bytes()),
        });
        let began = Instant::now();
        let connected = tokio::time::timeout(self.patience_left(), layer.link.blob()).await;
        self.waited += began.elapsed();
        let blob = match connected {
            Ok(blob) => blob?,
            Err(_) => return Err(layer.stalled("it does not answer")),
        };
        self.from = Some(Arc::clone(&blob));
        let mut feed = Feed::open(&layer, &rush, blob, range, trip);
        while let Some(claim) = self.claims.front() {
            let range = claim.member.blob.clone();
            let (bytes, place) = feed.take(range, &mut self.waited).await?;
            if let Some(claim) = self.claims.pop_front() {
                inflate(&layer, claim, bytes, place, &rush, feed.blob());
            }
        }
        Ok(())
    }

    /// Whoever is asked refuses. Whether there is somebody else to ask.
    fn turn_elsewhere(&mut self) -> bool {
        let link = &self.layer.link;
        self.refusals += 1;
        let others = link.ways().min(WAYS_MAX);
        let Some(blob) = self.from.take().filter(|_| self.refusals < others) else {
            return false;
        };
        link.leave(&blob);
        self.layer.count(|counters| &counters.retries, 1);
        true
    }

    fn patience_left(&self) -> Duration {
        let patience = self.layer.engine.config.patience;
        patience.saturating_sub(self.waited)
    }

    fn give_up(&mut self, error: pontoon_source::Error) -> Error {
        let digest = self.layer.digest().clone();
        let error = match error.is_transient() {
            true => Error::Unavailable {
                layer: digest,
                waited: self.waited,
                source: Arc::new(error),
            },
            false => {
                match self.demanded {
                    true => self.layer.link.refused(&error),
                    false => self.layer.link.reset(),
                }
                Error::Source {
                    layer: digest,
                    source: Arc::new(error),
                }
            }
        };
        self.layer.note_failure(&error);
        for claim in self.claims.drain(..) {
            claim.land(Landed::Failed(error.clone()));
        }
        error
    }
}

/// Has a member inflated and stored while the next one comes.
fn inflate(
    layer: &Arc<LazyLayer>,
    claim: Claim,
    bytes: Bytes,
    memory: Place,
    rush: &Arc<Rush>,
    blob: &Arc<dyn Blob>,
) {
    let (layer, rush, blob) = (layer.clone(), rush.clone(), blob.clone());
    let runtime = layer.engine.runtime.clone();
    runtime.clone().spawn(async move {
        let place = layer.engine.inflater(&rush).await;
        // Nobody waits for the thread: the claim tells those who wait.
        drop(runtime.spawn_blocking(move || {
            store(&layer, claim, &bytes, &rush, &*blob);
            drop((place, memory));
        }));
    });
}

/// Inflates, verifies and stores every chunk of a member that is missing. Bytes that are wrong are fetched once more,
/// and as long as there is somebody else to fetch them from.
fn store(
    layer: &Arc<LazyLayer>,
    mut claim: Claim,
    bytes: &[u8],
    rush: &Arc<Rush>,
    blob: &dyn Blob,
) {
    let table = layer.cached().chunks();
    let mut missing: Vec<(usize, Chunk)> = claim
        .member
        .chunks
        .clone()
        .filter(|index| !layer.cached().is_ready(*index))
        .filter_map(|index| Some((index, table.get(index)?)))
        .collect();
    // As they come out of the stream.
    missing.sort_by_key(|(_, chunk)| chunk.inner_offset);
    layer.count(|counters| &counters.inflated_members, 1);
    let mut stream = Stream::new(table.compression(), bytes);
    let mut pieces = HashMap::new();
    let mut wrong = false;
    for (index, chunk) in missing {
        match verified(&mut stream, &chunk) {
            Ok(verified) => {
                let bytes = verified.clone().into_inner();
                if let Put::NotStored(_) = layer.cached().put(index, verified) {
                    layer.keep(index, bytes.clone());
                    pieces.insert(index, Piece::Memory(bytes));
                }
            }
            Err(reason) => {
                wrong = true;
                if let Some(chunks) = layer.wrong_chunks.add() {
                    tracing::warn!(layer = %layer.digest(), chunk = index, second = claim.second, reason, chunks, "a chunk came with wrong bytes");
                }
                pieces.insert(index, Piece::Failed(layer.wrong_bytes(index, reason)));
            }
        }
    }
    if wrong {
        layer.count(|counters| &counters.wrong_members, 1);
        let is_elsewhere = blob.report_damage(claim.member.blob.clone());
        if is_elsewhere || !claim.second {
            claim.second = true;
            return Fetch::new(layer, vec![claim], rush).spawn();
        }
        pieces.values().for_each(|piece| {
            if let Piece::Failed(error) = piece {
                layer.note_failure(error);
            }
        });
    }
    claim.land(match pieces.is_empty() {
        true => Landed::Stored,
        false => Landed::Mixed(Arc::new(pieces)),
    });
}

fn verified(stream: &mut Stream<'_>, chunk: &Chunk) -> Result<Verified<Bytes>, String> {
    let bytes = stream
        .chunk(chunk.inner_offset, chunk.length)
        .map_err(|error| error.to_string())?;
    Verified::check(bytes, &chunk.digest()).map_err(|error| error.to_string())
}
