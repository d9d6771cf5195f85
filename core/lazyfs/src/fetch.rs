//! One request: fetched, taken apart, inflated, verified, stored.

use std::cmp::min;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_source::Blob;
use tokio::time::Instant;

use crate::engine::Place;
use crate::feed::Feed;
use crate::flight::{Claim, Landed, Piece, Rush, Ticket};
use crate::line::Trip;
use crate::missing::TAKEN_GAP_MAX;
use crate::peers::Swarm;
use crate::plan::{Member, coalesce};
use crate::race::Race;
use crate::unpack::unpack;
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

/// What a request could not bring, and why.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) claims: Vec<Claim>,
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

    /// Takes what is here elsewhere, and has the rest fetched from whoever has it first.
    pub(crate) fn start(self) {
        let runtime = self.layer.engine.runtime.clone();
        runtime.spawn(async move {
            let sourced = self.sourced().await;
            sourced.requests.into_iter().for_each(Fetch::spawn);
            if let Some(taking) = sourced.taking
                && let Some(rest) = taking.run().await
            {
                rest.spawn();
            }
        });
    }

    /// Has it fetched from whoever has it first.
    pub(crate) fn spawn(self) {
        let runtime = self.layer.engine.runtime.clone();
        match self.layer.swarm() {
            Some(swarm) => drop(runtime.spawn(self.race(swarm).run())),
            None => drop(runtime.spawn(self.run())),
        }
    }

    /// The same, from other nodes too.
    fn race(mut self, swarm: Arc<dyn Swarm>) -> Race {
        let claims = self.claims.drain(..).collect();
        Race::new(&self.layer, swarm, claims, &self.rush, self.trip)
    }

    pub(crate) fn layer(&self) -> &Arc<LazyLayer> {
        &self.layer
    }

    pub(crate) fn rush(&self) -> &Arc<Rush> {
        &self.rush
    }

    /// Requests for what `keep` gives back of it.
    pub(crate) fn without(mut self, keep: impl FnMut(Claim) -> Option<Claim>) -> Vec<Fetch> {
        let before = self.claims.len();
        let kept: Vec<Claim> = self.claims.drain(..).filter_map(keep).collect();
        if kept.len() == before {
            self.claims = kept.into();
            return vec![self];
        }
        // What it weighed on the line it does no more.
        self.trip = None;
        Fetch::of(&self.layer, kept, &self.rush)
    }

    /// Requests for some of what was to be fetched: what lies between them is not wanted.
    pub(crate) fn of(layer: &Arc<LazyLayer>, claims: Vec<Claim>, rush: &Arc<Rush>) -> Vec<Fetch> {
        let members = claims.iter().map(|claim| claim.member.clone()).collect();
        let mut claims: HashMap<usize, Claim> = claims
            .into_iter()
            .map(|claim| (claim.member.key(), claim))
            .collect();
        let mut bounds = layer.bounds(layer.engine.config.request_bytes_max);
        bounds.gap_max = bounds.gap_max.min(TAKEN_GAP_MAX);
        let groups = coalesce(members, bounds).into_iter();
        let fetch = |group: Vec<Member>| {
            let claims = group
                .iter()
                .filter_map(|member| claims.remove(&member.key()));
            Fetch::new(layer, claims.collect(), rush)
        };
        groups.map(fetch).collect()
    }

    /// Compressed bytes that it will ask for.
    pub(crate) fn bytes(&self) -> u64 {
        match (self.claims.front(), self.claims.back()) {
            (Some(first), Some(last)) => last.member.blob.end - first.member.blob.start,
            _ => 0,
        }
    }

    /// Fetches; tries again what may be mended by time, as long as the patience lasts and somebody waits.
    pub(crate) async fn run(self) -> Result<()> {
        let ended = self.end().await;
        ended.map_err(|failed| {
            for claim in failed.claims {
                claim.land(Landed::Failed(failed.error.clone()));
            }
            failed.error
        })
    }

    /// The same, but nobody is told of a failure yet. Ends also when others have brought all of it.
    pub(crate) async fn end(mut self) -> Result<(), Failed> {
        let layer = self.layer.clone();
        // Without other nodes nobody else brings anything, and a request has a thousand members.
        let is_raced = layer.swarm().is_some();
        let tickets: Vec<Ticket> = match is_raced {
            true => self.claims.iter().map(Claim::ticket).collect(),
            false => Vec::new(),
        };
        let brought = async {
            for mut ticket in tickets {
                ticket.landed().await;
            }
        };
        let ended = tokio::select! {
            ended = self.fly() => ended,
            () = brought, if is_raced => Ok(()),
            // The claims land as given up.
            () = layer.closed() => {
                self.claims.clear();
                Err(Error::Abandoned { layer: layer.digest().clone() })
            }
        };
        ended.map_err(|error| Failed {
            error,
            claims: self.claims.into(),
        })
    }

    /// As [`Fetch::end`]; ends well only when all of it has landed.
    pub(crate) async fn landed(self) -> Result<(), Failed> {
        let tickets: Vec<Ticket> = self.claims.iter().map(Claim::ticket).collect();
        self.end().await?;
        for mut ticket in tickets {
            ticket.landed().await;
        }
        Ok(())
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
        self.claims.retain(|claim| !claim.has_landed());
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
            if claim.has_landed() {
                self.claims.pop_front();
                continue;
            }
            let range = claim.member.blob.clone();
            let same = self.claims.iter();
            let same = same.take_while(|claim| claim.member.blob == range).count();
            let next = self.claims.get(same);
            let next = next.map_or(range.end, |claim| claim.member.blob.start);
            let (bytes, place) = feed.take(range, next, &mut self.waited).await?;
            let claims = self.claims.drain(..same).collect();
            inflate(&layer, claims, bytes, place, &rush, feed.blob());
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
        error
    }
}

/// Has members that have the same bytes inflated and stored while the next ones come.
fn inflate(
    layer: &Arc<LazyLayer>,
    claims: Vec<Claim>,
    bytes: Bytes,
    memory: Place,
    rush: &Arc<Rush>,
    blob: &Arc<dyn Blob>,
) {
    let (layer, rush, blob) = (layer.clone(), rush.clone(), blob.clone());
    let runtime = layer.engine.runtime.clone();
    runtime.clone().spawn(async move {
        let place = layer.engine.inflater(&rush).await;
        // Nobody waits for the thread: the claims tell those who wait.
        drop(runtime.spawn_blocking(move || {
            store(&layer, claims, &bytes, &rush, &*blob);
            drop((place, memory));
        }));
    });
}

/// Inflates, verifies and stores every chunk of members of the same bytes that is missing. Bytes that are wrong are fetched
/// once more, and as long as there is somebody else to fetch them from.
fn store(
    layer: &Arc<LazyLayer>,
    claims: Vec<Claim>,
    bytes: &[u8],
    rush: &Arc<Rush>,
    blob: &dyn Blob,
) {
    layer.count(|counters| &counters.inflated_members, 1);
    let mut pieces = unpack(layer, &claims, bytes);
    let is_wrong = |piece: &Piece| matches!(piece, Piece::Failed(_));
    let mut is_elsewhere = false;
    if pieces.values().any(is_wrong) {
        layer.count(|counters| &counters.wrong_members, 1);
        let range = claims.first().map(|claim| claim.member.blob.clone());
        is_elsewhere = range.is_some_and(|range| blob.report_damage(range));
    }
    let mut again = Vec::new();
    for mut claim in claims {
        let chunks = claim.member.chunks.clone();
        let own = chunks.filter_map(|index| pieces.remove_entry(&index));
        let own: HashMap<usize, Piece> = own.collect();
        if own.values().any(is_wrong) && (is_elsewhere || !claim.second) {
            claim.second = true;
            again.push(claim);
            continue;
        }
        own.values().for_each(|piece| {
            if let Piece::Failed(error) = piece {
                layer.note_failure(error);
            }
        });
        claim.land(match own.is_empty() {
            true => Landed::Stored,
            false => Landed::Mixed(Arc::new(own)),
        });
    }
    if !again.is_empty() {
        Fetch::new(layer, again, rush).spawn();
    }
}
