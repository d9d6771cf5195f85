//! What somebody waits for is asked for where it is: at other nodes if they have it, at the registry if they do not, or are
//! late. Whoever has it first wins, and the other is not waited for.
//!
//! The registry's request has the claims (`flight.rs`), as it has where there are no other nodes. A race keeps no more than the right to
//! land them, so that whatever becomes of it, nobody waits for ever; and nobody is told that the registry fails as long as
//! other nodes may have what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_cache::Put;
use pontoon_layer::Verified;
use pontoon_source::Urgency;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::fetch::{Failed, Fetch};
use crate::flight::{Claim, Landed, Landing, Piece, Rush};
use crate::line::Trip;
use crate::peers::{News, Swarm};
use crate::{Error, LazyLayer};

/// Other nodes that sent nothing of what they have are asked again after so long, as long as somebody waits.
const AGAIN: Duration = Duration::from_millis(500);

/// What was asked for when nobody waited is asked for again as urgent if nothing of it comes for so long.
const GRACE: Duration = Duration::from_millis(30);

/// Whoever sends nothing for so long sends nothing more.
const SILENCE: Duration = Duration::from_secs(5);

/// What another node is about to fetch is waited for no longer than this, however long it takes to fetch.
const HOLD_MAX: Duration = Duration::from_secs(2);

/// So often they are asked for what the registry does not give, before who waits is told.
const TRIES: usize = 3;

/// See the module.
pub(crate) struct Race {
    layer: Arc<LazyLayer>,
    swarm: Arc<dyn Swarm>,
    rush: Arc<Rush>,
    /// By the keys of their members.
    parcels: BTreeMap<usize, Parcel>,
    registry: JoinSet<Result<(), Failed>>,
    /// What other nodes send.
    chunks: Option<mpsc::Receiver<News>>,
    /// Nobody waited when they were asked.
    is_for_nobody: bool,
    /// They are not asked again before.
    again: Instant,
    began: Instant,
    /// When something came from other nodes last, or was asked for.
    last: Instant,
    /// How many chunks came from them.
    came: usize,
    /// What it weighed on the line to the registry, until it is known whether that is asked.
    trip: Option<Trip>,
    error: Option<Error>,
    /// How often other nodes were asked in vain since then.
    tries: usize,
}

/// A member that is wanted.
struct Parcel {
    /// Until the registry is asked for it, and after that has failed.
    claim: Option<Claim>,
    landing: Landing,
    /// Its chunks.
    chunks: Range<usize>,
    /// Its bytes in the blob.
    bytes: u64,
    missing: BTreeSet<usize>,
    /// What came and could not be stored.
    pieces: HashMap<usize, Piece>,
    /// Other nodes were asked for it, and the answer has not ended.
    is_asked: bool,
    /// They were, and have not sent it.
    is_late: bool,
    /// It is left to another node to fetch.
    is_held: bool,
}

impl Race {
    /// A race for what `claims` are for.
    pub(crate) fn new(
        layer: &Arc<LazyLayer>,
        swarm: Arc<dyn Swarm>,
        claims: Vec<Claim>,
        rush: &Arc<Rush>,
        trip: Option<Trip>,
    ) -> Self {
        let parcel = |claim: Claim| (claim.member.key(), Parcel::of(layer, claim));
        let now = Instant::now();
        Race {
            parcels: claims.into_iter().map(parcel).collect(),
            layer: Arc::clone(layer),
            swarm,
            rush: Arc::clone(rush),
            registry: JoinSet::new(),
            chunks: None,
            is_for_nobody: false,
            again: now,
            began: now,
            last: now,
            came: 0,
            trip,
            error: None,
            tries: 0,
        }
    }

    /// Returns when everything has landed or failed, or when nobody waits for what has not come. How many chunks came from
    /// other nodes.
    pub(crate) async fn run(mut self) -> usize {
        let (layer, rush) = (Arc::clone(&self.layer), Arc::clone(&self.rush));
        let mut changes = self.swarm.changes();
        loop {
            changes.borrow_and_update();
            self.parcels.retain(|_, parcel| !parcel.landing.is_over());
            if self.parcels.is_empty() {
                return self.came;
            }
            self.hurry();
            self.ask_peers();
            self.ask_registry();
            self.trip = None;
            if self.is_over() {
                return self.fail();
            }
            self.note_held();
            let due = self.due();
            tokio::select! {
                news = next(&mut self.chunks) => match news {
                    Some(News::Chunk(index, bytes)) => self.arrived(index, bytes).await,
                    Some(News::Late(chunks)) => self.are_late(&chunks),
                    None => self.ended(),
                },
                Some(ended) = self.registry.join_next() => {
                    // It fails if it has panicked, and claims that are dropped tell those who wait.
                    if let Ok(Err(failed)) = ended {
                        self.failed(failed);
                    }
                }
                // The sender is kept by `self`, so this does not fail.
                _ = changes.changed(), if self.chunks.is_none() => {}
                () = rush.on(), if !rush.is_on() => {}
                () = sleep_until(due) => {}
                () = layer.closed() => return self.came,
            }
        }
    }

    /// Gives up an answer that does not come, and one that was asked for when nobody waited, if it is not about to come.
    fn hurry(&mut self) {
        let is_slow = self.is_slow();
        if self.chunks.is_none() || self.last.elapsed() < self.patience() {
            return;
        }
        match is_slow {
            true => self.chunks = None,
            false => self.ended(),
        }
    }

    /// Whether somebody waits for what was asked for when nobody did.
    fn is_slow(&self) -> bool {
        self.is_for_nobody && self.rush.is_on()
    }

    fn patience(&self) -> Duration {
        match self.is_slow() {
            true => GRACE,
            false => SILENCE,
        }
    }

    /// Asks other nodes for what they have, unless they are being asked.
    fn ask_peers(&mut self) {
        if self.chunks.is_some() {
            return;
        }
        let now = Instant::now();
        let swarm = &self.swarm;
        let mut wanted: Vec<Range<usize>> = Vec::new();
        for parcel in self.parcels.values_mut() {
            let was_tried = parcel.is_late || parcel.claim.is_none();
            let is_there = || parcel.missing.iter().all(|index| swarm.has(*index));
            if was_tried && now < self.again || !is_there() {
                continue;
            }
            parcel.is_asked = true;
            for index in parcel.missing.iter().copied() {
                match wanted.last_mut() {
                    Some(last) if last.end == index => last.end += 1,
                    _ => wanted.push(index..index + 1),
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
        let urgency = match self.rush.is_on() {
            true => Urgency::Demand,
            false => Urgency::Background,
        };
        self.last = now;
        self.is_for_nobody = urgency == Urgency::Background;
        self.chunks = Some(swarm.chunks(wanted, urgency));
    }

    /// Asks the registry for what it is time for.
    fn ask_registry(&mut self) {
        if !self.rush.is_on() || self.error.is_some() {
            return;
        }
        let now = Instant::now();
        let all = self.parcels.len();
        let due: Vec<usize> = self
            .parcels
            .iter()
            .filter(|(_, parcel)| parcel.claim.is_some() && self.due_of(parcel) <= now)
            .map(|(key, _)| *key)
            .collect();
        let (mut claims, mut in_vain) = (Vec::new(), false);
        for key in due {
            let Some(parcel) = self.parcels.get_mut(&key) else {
                continue;
            };
            if parcel.is_asked {
                self.layer.count(|counters| &counters.late_peers, 1);
            } else if std::mem::take(&mut parcel.is_held) && !parcel.is_late {
                in_vain = true;
            }
            claims.extend(parcel.claim.take());
        }
        if claims.is_empty() {
            return;
        }
        self.swarm.fetches();
        if in_vain {
            self.layer.trust.was_in_vain();
        }
        let is_all = claims.len() == all;
        let fetches = match is_all {
            true => vec![Fetch::new(&self.layer, in_order(claims), &self.rush)],
            false => Fetch::of(&self.layer, claims, &self.rush),
        };
        for fetch in fetches {
            self.registry.spawn(fetch.landed());
        }
        // Other nodes that come to have it while it is on its way are not asked at once.
        self.again = self.again.max(now + AGAIN);
    }

    /// When the registry is asked for `parcel`, if it did not fail.
    fn due_of(&self, parcel: &Parcel) -> Instant {
        if parcel.is_late {
            return self.began;
        }
        if parcel.is_asked {
            return self.last + SILENCE;
        }
        let hold = self.swarm.hold(parcel.chunks.clone(), Urgency::Demand);
        if hold.is_zero() {
            return self.began;
        }
        // Who fetches it began when we could have: with us it would not be here sooner, and with him later.
        let time = self.layer.registry_time(parcel.bytes) * 2;
        let hold = self.layer.trust.stretch(hold).max(time);
        self.began + hold.min(HOLD_MAX)
    }

    /// When there is something to do next, if nothing happens.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let silence = self.chunks.is_some().then(|| self.last + self.patience());
        let again = (self.chunks.is_none() && now < self.again).then_some(self.again);
        let is_asked_for = self.rush.is_on() && self.error.is_none();
        let parcels = self.parcels.values().filter(|_| is_asked_for);
        let in_hand = parcels.filter(|parcel| parcel.claim.is_some());
        let registry = in_hand.map(|parcel| self.due_of(parcel));
        let next = registry.chain(again).chain(silence).min();
        next.unwrap_or(now + SILENCE)
    }

    /// What was neither asked of other nodes nor of the registry is left to another node.
    fn note_held(&mut self) {
        let is_on = self.rush.is_on();
        for parcel in self.parcels.values_mut() {
            parcel.is_held |= is_on && parcel.claim.is_some() && !parcel.is_asked;
        }
    }

    /// Whether nothing comes any more of what has not come.
    fn is_over(&self) -> bool {
        if self.chunks.is_some() || !self.registry.is_empty() {
            return false;
        }
        if !self.rush.is_on() {
            return true;
        }
        let is_tried = || self.tries >= TRIES || !self.parcels.values().any(|p| self.is_there(p));
        self.error.is_some() && is_tried()
    }

    /// Whether other nodes have all that is missing of `parcel`.
    fn is_there(&self, parcel: &Parcel) -> bool {
        let mut missing = parcel.missing.iter();
        missing.all(|index| self.swarm.has(*index))
    }

    /// Tells those who wait why it does not come, if they do.
    fn fail(self) -> usize {
        if let Some(error) = &self.error {
            for claim in self.parcels.into_values().filter_map(|parcel| parcel.claim) {
                claim.land(Landed::Failed(error.clone()));
            }
        }
        self.came
    }

    /// Chunk `index` came from another node.
    async fn arrived(&mut self, index: usize, bytes: Verified<Bytes>) {
        self.last = Instant::now();
        let Some((_, parcel)) = self.parcels.range_mut(..=index).next_back() else {
            return;
        };
        if !parcel.missing.contains(&index) {
            return;
        }
        let layer = Arc::clone(&self.layer);
        let stored = self
            .layer
            .engine
            .runtime
            .spawn_blocking(move || put(&layer, index, bytes));
        // It fails if it has panicked; then it has not come.
        let Ok(piece) = stored.await else {
            return;
        };
        self.came += 1;
        if std::mem::take(&mut parcel.is_held) {
            self.layer.trust.was_right();
        }
        parcel.missing.remove(&index);
        parcel.pieces.extend(piece.map(|piece| (index, piece)));
        if !parcel.missing.is_empty() {
            return;
        }
        let pieces = std::mem::take(&mut parcel.pieces);
        parcel.landing.land(match pieces.is_empty() {
            true => Landed::Stored,
            false => Landed::Mixed(Arc::new(pieces)),
        });
    }

    /// Other nodes are not likely to send these chunks soon.
    fn are_late(&mut self, chunks: &Range<usize>) {
        let parcels = self.parcels.values_mut();
        let meant = parcels
            .filter(|parcel| parcel.chunks.start < chunks.end && chunks.start < parcel.chunks.end);
        meant.for_each(|parcel| parcel.is_late = true);
    }

    /// Other nodes send no more.
    fn ended(&mut self) {
        self.chunks = None;
        self.again = Instant::now() + AGAIN;
        self.tries += usize::from(self.error.is_some());
        for parcel in self.parcels.values_mut() {
            parcel.is_late |= std::mem::take(&mut parcel.is_asked);
        }
    }

    /// The registry does not give what is left of a request.
    fn failed(&mut self, failed: Failed) {
        self.error = Some(failed.error);
        for claim in failed.claims {
            if let Some(parcel) = self.parcels.get_mut(&claim.member.key()) {
                parcel.claim = Some(claim);
            }
        }
    }
}

impl Parcel {
    fn of(layer: &LazyLayer, claim: Claim) -> Self {
        let chunks = claim.member.chunks.clone();
        Parcel {
            landing: claim.landing(),
            missing: layer.cached().missing(chunks.clone()).flatten().collect(),
            chunks,
            bytes: claim.member.bytes(),
            claim: Some(claim),
            pieces: HashMap::new(),
            is_asked: false,
            is_late: false,
            is_held: false,
        }
    }
}

/// As a request brings them.
fn in_order(mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_by_key(|claim| {
        let member = &claim.member;
        (member.blob.start, member.blob.end, member.chunks.start)
    });
    claims
}

/// The next news, `None` at the end. Nothing as long as nobody is asked.
async fn next(chunks: &mut Option<mpsc::Receiver<News>>) -> Option<News> {
    match chunks {
        Some(chunks) => chunks.recv().await,
        None => std::future::pending().await,
    }
}

/// Stores a chunk. The chunk, if it could not be stored.
fn put(layer: &LazyLayer, index: usize, verified: Verified<Bytes>) -> Option<Piece> {
    let bytes = verified.clone().into_inner();
    layer.count(|counters| &counters.peer_chunks, 1);
    layer.count(|counters| &counters.peer_bytes, bytes.len() as u64);
    match layer.cached().put(index, verified) {
        Put::NotStored(_) => {
            layer.keep(index, bytes.clone());
            Some(Piece::Memory(bytes))
        }
        Put::Stored | Put::Known => None,
    }
}
