//! What a mounted layer knows of the other nodes that have it, and what it has asked them for.
//!
//! [`policy::Swarm`] decides; here is who tells it what happens and does what it says. What comes is verified here, against the
//! layer's own chunk table: no byte goes on that was not.

mod ask;
mod look;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pontoon_cache::{CachedLayer, Key};
use pontoon_layer::Verified;
use pontoon_lazyfs::{News, Swarm, Urgency};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::node::Shared;
use crate::policy::{self, AskId, Bitmap, Failure, Layout, Step, SwarmId};
use crate::status::LayerStatus;
use crate::{Class, Peer, PeerId};
use state::{Asked, State, Wish};

/// What is known of who fetches an extent is so old at most.
const HOLD_AGE: Duration = Duration::from_millis(50);

/// An extent is left to others for no longer than this, whatever they say of what they fetch.
const HOLDS_MAX: Duration = Duration::from_secs(5 * 60);

/// Whoever has joined a layer, or asked the registry for some of it, no longer ago is about to get something of it.
const BEGINNING: Duration = Duration::from_secs(2);

/// As long as it is being found out who has a layer, nothing of it is fetched ahead from the registry, but not longer.
const FIRST_LOOK: Duration = Duration::from_millis(400);

/// A layer that this node has, or is getting.
pub(crate) struct Joined {
    me: Weak<Joined>,
    node: Arc<Shared>,
    layer: Arc<CachedLayer>,
    layout: Arc<dyn Layout>,
    since: Instant,
    state: Mutex<State>,
    /// The chunks that others have.
    had: RwLock<Bitmap>,
    changes: watch::Sender<u64>,
    /// Something has happened.
    wake: Arc<Notify>,
    /// Somebody has come.
    met: Arc<Notify>,
    /// For how long extents are left to others.
    holds: Mutex<HashMap<(usize, Class), Held>>,
    tasks: Mutex<JoinSet<()>>,
    /// When this node fetched some of it last, in milliseconds since `since`.
    fetched: AtomicU64,
}

/// For how long an extent is left to others.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Since when others have said that they get it.
    since: Instant,
    /// When that was found out.
    at: Instant,
    /// Whether others say so.
    is_said: bool,
    hold: Duration,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined")
            .field("key", self.key())
            .finish_non_exhaustive()
    }
}

impl Joined {
    /// Begins to look for others that have `layer`.
    pub(crate) fn new(node: &Arc<Shared>, layer: &Arc<CachedLayer>) -> Arc<Joined> {
        let layout: Arc<dyn Layout> = Arc::clone(layer) as _;
        let key = layer.key();
        let id = SwarmId {
            layer: policy::print(format!("{}/{}", key.blob, key.toc).as_bytes()),
            me: node.print(),
        };
        let joined = Arc::new_cyclic(|me| Joined {
            me: Weak::clone(me),
            node: Arc::clone(node),
            had: RwLock::new(Bitmap::new(layout.len())),
            state: Mutex::new(State::new(policy::Swarm::new(Arc::clone(&layout), id))),
            layout,
            layer: Arc::clone(layer),
            since: Instant::now(),
            changes: watch::Sender::new(0),
            wake: Arc::default(),
            met: Arc::default(),
            holds: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
            fetched: AtomicU64::new(0),
        });
        let (wake, met) = (Arc::clone(&joined.wake), Arc::clone(&joined.met));
        joined.spawn(drive(Weak::clone(&joined.me), wake));
        joined.spawn(look::discover(Weak::clone(&joined.me)));
        joined.spawn(look::watch(Weak::clone(&joined.me), met));
        joined
    }

    pub(crate) fn key(&self) -> &Key {
        self.layer.key()
    }

    pub(crate) fn layer(&self) -> &Arc<CachedLayer> {
        &self.layer
    }

    /// The other nodes that have the layer.
    pub(crate) fn members(&self) -> Vec<PeerId> {
        self.state()
            .swarm
            .members()
            .map(|member| member.peer)
            .collect()
    }

    /// The same, as others can reach them.
    pub(crate) fn addressed(&self) -> Vec<Peer> {
        let members = self.members().into_iter();
        members.filter_map(|peer| self.node.peer(peer)).collect()
    }

    /// How it is with the layer.
    pub(crate) fn status(&self) -> LayerStatus {
        LayerStatus {
            blob: self.key().blob.to_string(),
            nodes: self.members().len(),
            chunks_elsewhere: self
                .had
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .count(),
            chunks_here: self.layer.ready_chunks(),
            chunks: self.layout.len(),
        }
    }

    /// Whether chunks of it are on their way, or likely to be soon.
    pub(crate) fn is_active(&self) -> bool {
        let fetched = self.since + Duration::from_millis(self.fetched.load(Ordering::Relaxed));
        fetched.elapsed() < BEGINNING || !self.state().wishes.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` until it ends or the layer is let go.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(work, &self.node.runtime)
    }

    /// Does what there is to do. When to look again.
    fn drive(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        let steps = state.swarm.plan(&mut self.node.standing(), now);
        for step in steps {
            match step {
                Step::Ask(ask) => {
                    let chunks = ask.chunks.clone();
                    let id = ask.id;
                    let task = self.spawn(ask::run(
                        Weak::clone(&self.me),
                        Arc::clone(&self.node),
                        Arc::clone(&self.layer),
                        Arc::clone(&self.layout),
                        ask,
                    ));
                    state.asks.insert(id, Asked { chunks, task });
                }
                Step::Cancel(id) => {
                    if let Some(asked) = state.asks.remove(&id) {
                        asked.task.abort();
                    }
                }
                Step::Registry(chunks) => state.are_late(&chunks),
            }
        }
        state.end_wishes();
        state.swarm.next()
    }

    /// A request brought a chunk.
    fn came(&self, id: AskId, index: usize, bytes: &Verified<Bytes>) {
        let mut state = self.state();
        let now = Instant::now();
        let mut standing = self.node.standing();
        state.swarm.on_chunk(&mut standing, now, id, index);
        drop(standing);
        for wish in state.wishes.values_mut() {
            if wish.left.remove(&index) {
                // There is room for everything that is wished for.
                let _ = wish.sender.try_send(News::Chunk(index, bytes.clone()));
            }
        }
        self.wake.notify_one();
    }

    /// A request is over.
    fn ended(&self, id: AskId, peer: PeerId, result: Result<(), (Failure, String)>) {
        let mut state = self.state();
        state.asks.remove(&id);
        let failure = result.as_ref().map(|_| ()).map_err(|(failure, _)| *failure);
        let now = Instant::now();
        let ban = state
            .swarm
            .on_end(&mut self.node.standing(), now, id, failure);
        drop(state);
        if let Err((failure, reason)) = result {
            tracing::debug!(%peer, layer = %self.key(), ?failure, reason, "another node did not send what it was asked for");
            if let Some(ban) = ban {
                self.node.banned(&ban, &reason);
            }
        }
        // What was under way may have kept other layers waiting.
        self.node.wake_all();
    }

    /// Has it done what there is to do.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Another node may have the layer, and was met at this address.
    pub(crate) fn meet(&self, peer: Peer) {
        self.join(peer, false);
    }

    /// Somebody says that another node has the layer.
    fn hear_of(&self, peer: Peer) {
        self.join(peer, true);
    }

    fn join(&self, peer: Peer, is_hearsay: bool) {
        let Some(member) = self.node.member(peer, is_hearsay) else {
            return;
        };
        let now = Instant::now();
        self.state().swarm.join(&self.node.standing(), now, member);
        self.met.notify_one();
    }

    /// The node is not to be asked any more.
    pub(crate) fn part_from(&self, peer: PeerId) {
        self.state().swarm.leave(peer);
        self.look_again();
    }

    /// Finds out anew what others have, and has everybody told who waits for that.
    fn look_again(&self) {
        let had = match self.node.is_off() {
            true => Bitmap::new(self.layout.len()),
            false => self.state().swarm.had_by_others(),
        };
        *self.had.write().unwrap_or_else(PoisonError::into_inner) = had;
        self.changes.send_modify(|changes| *changes += 1);
        self.wake.notify_one();
    }

    /// Nobody listens to a wish any more.
    fn forget(&self, number: u64) {
        let mut state = self.state();
        let Some(mut wish) = state.wishes.remove(&number) else {
            return;
        };
        let is_wanted = |chunk: &usize| {
            let mut wishes = state.wishes.values();
            wishes.any(|wish| wish.left.contains(chunk))
        };
        let mut unwanted = std::mem::take(&mut wish.left);
        unwanted.retain(|chunk| !is_wanted(chunk));
        let now = Instant::now();
        let mut standing = self.node.standing();
        for chunk in unwanted {
            state.swarm.unwant(&mut standing, now, chunk..chunk + 1);
        }
        drop(standing);
        self.wake.notify_one();
    }
}

impl Swarm for Joined {
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has(&self, index: usize) -> bool {
        if self.node.has_stopped() {
            return false;
        }
        self.had
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index)
    }

    fn chunks(&self, wanted: Vec<Range<usize>>, urgency: Urgency) -> mpsc::Receiver<News> {
        let left: BTreeSet<usize> = wanted.iter().cloned().flatten().collect();
        // Each comes once and may be late several times; what does not fit is no loss.
        let (sender, receiver) = mpsc::channel(4 * left.len() + 4);
        if self.node.has_stopped() {
            // Nobody would ever end it.
            return receiver;
        }
        let mut state = self.state();
        let number = state.wish_count;
        state.wish_count += 1;
        let now = Instant::now();
        for chunks in wanted {
            state.swarm.want(now, chunks, class(urgency));
        }
        let (me, heard) = (Weak::clone(&self.me), sender.clone());
        let listener = self.spawn(async move {
            heard.closed().await;
            if let Some(joined) = me.upgrade() {
                joined.forget(number);
            }
        });
        let wish = Wish {
            sender,
            left,
            late: BTreeSet::new(),
            listener,
        };
        state.wishes.insert(number, wish);
        drop(state);
        self.wake.notify_one();
        receiver
    }

    fn fetches(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.fetched.store(now, Ordering::Relaxed);
    }

    fn hold(&self, chunks: Range<usize>, urgency: Urgency) -> Duration {
        if self.node.has_stopped() {
            return Duration::ZERO;
        }
        let class = class(urgency);
        let now = Instant::now();
        let Some(extent) = self.node.extent(&*self.layout, chunks.start) else {
            return Duration::ZERO;
        };
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = holds.get(&(extent, class)).copied();
        if let Some(known) = known
            && now.saturating_duration_since(known.at) < HOLD_AGE
        {
            return known.hold;
        }
        let state = self.state();
        let hold = match self.is_looking(&state, now, class) {
            true => FIRST_LOOK,
            false => {
                let standing = self.node.standing();
                state.swarm.may_fetch(&standing, now, chunks, class)
            }
        };
        // What is said to come is believed for long, but not for ever.
        let is_said = !hold.is_zero();
        let known = known.filter(|known| known.is_said);
        let known = known.filter(|known| now.saturating_duration_since(known.at) < HOLDS_MAX);
        let since = known.map_or(now, |known| known.since);
        let hold = match now.saturating_duration_since(since) < HOLDS_MAX {
            true => hold,
            false => Duration::ZERO,
        };
        let held = Held {
            since,
            at: now,
            is_said,
            hold,
        };
        holds.insert((extent, class), held);
        hold
    }
}

impl Joined {
    /// Whether it is not known yet who has the layer, and nobody waits.
    fn is_looking(&self, state: &State, now: Instant, class: Class) -> bool {
        class == Class::Prefetch
            && !state.has_looked
            && now.saturating_duration_since(self.since) < FIRST_LOOK
            && self.node.is_acquainted()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.node.parted(self);
    }
}

fn class(urgency: Urgency) -> Class {
    match urgency {
        Urgency::Demand => Class::Demand,
        Urgency::Background => Class::Prefetch,
    }
}

/// Does what there is to do whenever something happens.
async fn drive(joined: Weak<Joined>, wake: Arc<Notify>) {
    loop {
        let Some(next) = joined.upgrade().map(|joined| joined.drive()) else {
            return;
        };
        let rest = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wake.notified() => {}
            () = rest => {}
        }
    }
}
