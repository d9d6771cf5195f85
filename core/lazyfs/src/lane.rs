//! What other nodes have is fetched ahead from them, beside what is asked of the registry (`background.rs`), which leaves it
//! out meanwhile. So the line to the registry is kept for what only the registry has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pontoon_source::Urgency;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::LazyLayer;
use crate::course::Course;
use crate::flight::{Claim, Rush};
use crate::peers::Swarm;
use crate::plan::{Member, Members};
use crate::queue::Rank;
use crate::race::Race;

/// So many bytes of data are asked for at once, unless a single member has more.
const BATCH_BYTES: u64 = 1 << 20;

/// Batches of a layer at the same time.
const BATCHES: usize = 3;

/// How soon other nodes are asked again that have sent nothing of what they have: at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How soon a full cache is asked again.
const SPACE_PAUSE: Duration = Duration::from_secs(5);

/// How often it is looked whether the layer is still open.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be fetched ahead of a layer, for the way from other nodes.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// In the order in which they are followed.
    courses: Mutex<BTreeMap<(Rank, u64), Course>>,
    count: AtomicU64,
    wake: Notify,
    /// Other nodes have sent nothing of what they have when they were asked last.
    is_failing: AtomicBool,
}

impl Lane {
    /// Adds what is fetched ahead.
    pub(crate) fn add(&self, rank: Rank, course: &Course) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.courses().insert((rank, number), course.clone());
        self.wake.notify_one();
    }

    /// Everything, from the beginning.
    fn pass(&self) -> Vec<Course> {
        self.courses().values().cloned().collect()
    }

    fn courses(&self) -> MutexGuard<'_, BTreeMap<(Rank, u64), Course>> {
        self.courses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LazyLayer {
    /// Whether `member` need not be asked of the registry now: other nodes have it, so that it comes from there, or are about
    /// to.
    pub(crate) fn is_left_to_peers(&self, swarm: &dyn Swarm, member: &Member) -> bool {
        let missing = || self.cached().missing(member.chunks.clone()).flatten();
        let is_there = !self.lane.is_failing.load(Ordering::Relaxed)
            && missing().all(|index| swarm.has(index));
        is_there
            || !swarm
                .hold(member.chunks.clone(), Urgency::Background)
                .is_zero()
    }

    /// Starts fetching ahead from other nodes, until the layer is closed or dropped.
    pub(crate) fn open_lane(self: &Arc<Self>, swarm: &Arc<dyn Swarm>) {
        let lane = follow(Arc::downgrade(self), Arc::downgrade(swarm));
        self.engine.runtime.spawn(lane);
    }

    /// The claims to the next members of `courses` that other nodes have and nobody fetches: a batch of them, nothing at the
    /// end.
    fn next_batch(
        self: &Arc<Self>,
        swarm: &dyn Swarm,
        courses: &mut [Course],
        rush: &Arc<Rush>,
    ) -> Vec<Claim> {
        let table = self.cached().chunks();
        let (mut claims, mut seen, mut bytes) = (Vec::new(), Members::default(), 0);
        for course in courses {
            while bytes < BATCH_BYTES
                && let Some((index, within)) = course.next()
            {
                if self.cached().is_ready(index) || !swarm.has(index) || seen.has(index) {
                    continue;
                }
                let Some(member) = Member::of(&table, index) else {
                    continue;
                };
                // Another course may want it.
                if !within.has(&member.blob) {
                    continue;
                }
                seen.add(&member);
                let mut missing = self.cached().missing(member.chunks.clone()).flatten();
                if !missing.all(|index| swarm.has(index)) {
                    continue;
                }
                let mut gate = self.flights.gate();
                if self.is_free(&gate, &member) {
                    bytes += member.data_bytes(&table);
                    claims.push(gate.claim(member, rush));
                }
            }
        }
        claims
    }
}

/// Goes through what is to be fetched ahead again and again, whenever other nodes have more of it.
async fn follow(layer: Weak<LazyLayer>, swarm: Weak<dyn Swarm>) {
    let Some(mut changes) = swarm.upgrade().map(|swarm| swarm.changes()) else {
        return;
    };
    let mut pause = PAUSE_MIN;
    while let Some(open) = layer.upgrade().filter(|layer| !layer.is_closed()) {
        changes.borrow_and_update();
        if !open.engine.background.admits() {
            drop(open);
            sleep(SPACE_PAUSE).await;
            continue;
        }
        let Ok(came) = pass(&open, &swarm).await else {
            return;
        };
        let is_failing = came == Some(0);
        open.lane.is_failing.store(is_failing, Ordering::Relaxed);
        drop(open);
        if is_failing {
            sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
            continue;
        }
        pause = PAUSE_MIN;
        if !is_more(&layer, &mut changes).await {
            return;
        }
    }
}

/// Waits until there may be more to fetch. False if there never will be.
async fn is_more(layer: &Weak<LazyLayer>, changes: &mut watch::Receiver<u64>) -> bool {
    // It is not kept for longer than a look, so that it may be dropped.
    while let Some(layer) = layer.upgrade() {
        tokio::select! {
            changed = changes.changed() => return changed.is_ok(),
            () = layer.lane.wake.notified() => return true,
            () = layer.closed() => return false,
            () = sleep(LOOK) => {}
        }
    }
    false
}

/// There are no other nodes any more.
struct Gone;

/// Fetches what other nodes have, once. How many chunks came, if there were any to ask for.
async fn pass(layer: &Arc<LazyLayer>, swarm: &Weak<dyn Swarm>) -> Result<Option<usize>, Gone> {
    let mut courses = layer.lane.pass();
    let mut batches = JoinSet::new();
    let (mut is_any, mut came) = (false, 0);
    loop {
        if batches.len() >= BATCHES {
            came += ended(&mut batches).await;
            // They are asked again after a pause, not as fast as they refuse.
            if came == 0 {
                break;
            }
        }
        let place = tokio::select! {
            place = layer.engine.lanes.clone().acquire_owned() => place,
            () = layer.closed() => return Err(Gone),
        };
        let swarm = swarm.upgrade().ok_or(Gone)?;
        let rush = Rush::new(false);
        let claims = layer.next_batch(&*swarm, &mut courses, &rush);
        if claims.is_empty() {
            break;
        }
        is_any = true;
        let race = Race::new(layer, swarm, claims, &rush, None);
        batches.spawn(async move {
            let came = race.run().await;
            drop(place);
            came
        });
    }
    while !batches.is_empty() {
        came += ended(&mut batches).await;
    }
    Ok(is_any.then_some(came))
}

/// How many chunks the next batch to end has brought.
async fn ended(batches: &mut JoinSet<usize>) -> usize {
    let ended = batches.join_next().await;
    ended.and_then(Result::ok).unwrap_or(0)
}
