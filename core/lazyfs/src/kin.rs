//! Chunks that are here already: in other layers, or elsewhere in the same one.
//!
//! Before a request is made, its members are looked up by the digests of their chunks among the layers that [`Kin`] names,
//! and in the layer itself if its table says that chunks repeat. A member all of whose missing chunks are found is copied:
//! read, verified against the digest once more, stored. What turns out to be gone or damaged is fetched. So donors are never
//! believed, and nothing is fetched, nor waited for, because of them.
//!
//! Copies go through memory and take their space on the disk twice. Sharing it (FICLONERANGE) would need blocks of chunks to
//! begin at the same place in both files, filesystems that can, and trust in what was not read.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use pontoon_cache::{CachedLayer, Put};
use pontoon_layer::ChunkTableRef;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::LazyLayer;
use crate::fetch::Fetch;
use crate::flight::{Claim, Landed, Piece, Rush};
use crate::plan::Member;

/// Names the layers that may give chunks to one.
pub trait Kin: Send + Sync + fmt::Debug {
    /// Layers whose bytes everybody may have who may have those of this one. A digest alone gives nobody a right to what has
    /// it: it may be guessed, or told by a table of contents that somebody made for this.
    ///
    /// May read the disk; called on a thread that may wait for it, now and then as long as something is fetched.
    fn layers(&self) -> Vec<Arc<CachedLayer>>;
}

/// For so long it counts who is kin.
const KNOWN: Duration = Duration::from_secs(5);

/// For so long after they were of use layers are kept open.
const KEPT: Duration = Duration::from_secs(30);

/// Whoever waits does not wait longer for indexes to be made: the registry may be faster.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where a layer looks for chunks.
#[derive(Debug, Default)]
pub(crate) struct Donors {
    kin: OnceLock<Arc<dyn Kin>>,
    known: Mutex<Known>,
    /// How often it was found out who is kin.
    looks: watch::Sender<u64>,
    /// Bytes that came from other layers.
    taken_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    /// When this was found out.
    asked: Option<Instant>,
    /// It is being found out anew.
    is_asking: bool,
    /// When they were looked at last.
    used: Option<Instant>,
    /// They are let go some time.
    is_watched: bool,
    layers: Arc<[Arc<CachedLayer>]>,
}

impl Donors {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are known, and when that was found out.
    fn known(&self) -> (Arc<[Arc<CachedLayer>]>, Option<Instant>) {
        let mut known = self.lock();
        known.used = Some(Instant::now());
        (Arc::clone(&known.layers), known.asked)
    }

    /// Lets them go.
    pub(crate) fn clear(&self) {
        let mut known = self.lock();
        (known.asked, known.layers) = (None, Arc::default());
    }
}

/// While it lives somebody finds out who is kin.
struct Asking(Arc<LazyLayer>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.donors.lock().is_asking = false;
        self.0.donors.looks.send_modify(|looks| *looks += 1);
    }
}

/// A chunk of the layer, and where it is.
struct Place {
    index: usize,
    donor: Arc<CachedLayer>,
    at: usize,
}

/// Whether so much of a layer is here that an index of it is worth while. The other layers of an image that is being
/// started are not, as a rule.
fn is_worth_while(layer: &CachedLayer) -> bool {
    let chunks = layer.chunks().len();
    chunks > 0 && layer.ready_chunks() >= chunks / 2
}

impl LazyLayer {
    /// Has chunks taken from the layers that `kin` names. Once; what is told later is ignored.
    pub fn set_kin(self: &Arc<Self>, kin: Arc<dyn Kin>) {
        if self.donors.kin.set(kin).is_err() || self.cached().is_complete() {
            return;
        }
        // So that it is known when something is missing.
        self.ask_soon();
    }

    /// The layers to look into. Whoever is waited for waits for that only the first time, and not for long.
    async fn donors(self: &Arc<Self>, rush: &Rush) -> Arc<[Arc<CachedLayer>]> {
        if self.donors.kin.get().is_none() && !self.cached().chunks().repeats() {
            return Arc::default();
        }
        let (layers, asked) = self.donors.known();
        if asked.is_some_and(|asked| asked.elapsed() < KNOWN) {
            return layers;
        }
        let mut looks = self.donors.looks.subscribe();
        self.ask_soon();
        if asked.is_some() && rush.is_on() {
            return layers;
        }
        let patience = async {
            rush.on().await;
            sleep(PATIENCE).await;
        };
        tokio::select! {
            // The sender is the layer, so this does not fail.
            _ = looks.changed() => {}
            () = patience => {}
        }
        self.donors.known().0
    }

    /// Has it found out who may give chunks, unless somebody does.
    fn ask_soon(self: &Arc<Self>) {
        if std::mem::replace(&mut self.donors.lock().is_asking, true) {
            return;
        }
        let asking = Asking(Arc::clone(self));
        drop(self.engine.runtime.spawn_blocking(move || {
            let asking = asking;
            asking.0.ask();
        }));
    }

    /// Whether much of what is here came from other layers.
    pub(crate) fn is_like_another(&self) -> bool {
        let taken = self.donors.taken_bytes.load(Ordering::Relaxed);
        taken > self.cached().ready_bytes() / 4
    }

    /// Finds out who may give chunks, and makes their indexes.
    fn ask(self: &Arc<Self>) {
        let own = self.cached();
        let kin = self.donors.kin.get();
        let mut layers = kin.map(|kin| kin.layers()).unwrap_or_default();
        let algorithm = own.chunks().algorithm();
        layers.retain(|layer| {
            let is_other = !Arc::ptr_eq(layer, own);
            is_other && layer.chunks().algorithm() == algorithm && is_worth_while(layer)
        });
        // First the layer itself: it cannot be evicted meanwhile.
        if !layers.is_empty() || own.chunks().repeats() {
            layers.insert(0, Arc::clone(own));
        }
        layers.iter().for_each(|layer| layer.prepare_to_find());
        let mut known = self.donors.lock();
        let is_any = layers.len() > 1;
        (known.asked, known.layers) = (Some(Instant::now()), layers.into());
        if is_any && !std::mem::replace(&mut known.is_watched, true) {
            let watch = let_go(Arc::downgrade(self));
            self.engine.runtime.spawn(watch);
        }
    }

    /// Where all that is missing of `member` is. `None` if it is not.
    fn places(
        &self,
        table: &ChunkTableRef<'_>,
        member: &Member,
        donors: &[Arc<CachedLayer>],
    ) -> Option<Vec<Place>> {
        let chunks = member.chunks.clone();
        let missing = chunks.filter(|index| !self.cached().is_ready(*index));
        let place = |index| {
            let chunk = table.get(index)?;
            let digest = chunk.digest();
            donors.iter().find_map(|donor| {
                let at = donor.find(&digest, chunk.length)?;
                let donor = Arc::clone(donor);
                Some(Place { index, donor, at })
            })
        };
        missing.map(place).collect()
    }
}

/// Lets the donors of a layer go when they were of no use for a while.
async fn let_go(layer: Weak<LazyLayer>) {
    loop {
        sleep(KEPT).await;
        let Some(layer) = layer.upgrade() else {
            return;
        };
        let mut known = layer.donors.lock();
        if known.used.is_none_or(|used| used.elapsed() >= KEPT) {
            (known.asked, known.layers) = (None, Arc::default());
            known.is_watched = false;
            return;
        }
    }
}

/// What becomes of a request once it is known what is here.
pub(crate) struct Sourced {
    /// What has to be asked for.
    pub(crate) requests: Vec<Fetch>,
    /// What is taken from elsewhere.
    pub(crate) taking: Option<Taking>,
}

/// Members that are taken from elsewhere.
pub(crate) struct Taking {
    layer: Arc<LazyLayer>,
    rush: Arc<Rush>,
    members: Vec<(Claim, Vec<Place>)>,
}

impl Fetch {
    /// Looks who has what it is to bring.
    pub(crate) async fn sourced(self) -> Sourced {
        let layer = Arc::clone(self.layer());
        let donors = layer.donors(self.rush()).await;
        if donors.is_empty() {
            return Sourced {
                requests: vec![self],
                taking: None,
            };
        }
        let table = layer.cached().chunks();
        let mut members = Vec::new();
        let rush = Arc::clone(self.rush());
        let requests = self.without(|claim| {
            let Some(places) = layer.places(&table, &claim.member, &donors) else {
                return Some(claim);
            };
            members.push((claim, places));
            None
        });
        let taking = (!members.is_empty()).then(|| Taking {
            layer: Arc::clone(&layer),
            rush,
            members,
        });
        Sourced { requests, taking }
    }
}

impl Taking {
    /// Copies. The request for what could not be, if there is any.
    pub(crate) async fn run(self) -> Option<Fetch> {
        let Taking {
            layer,
            rush,
            members,
        } = self;
        let place = layer.engine.inflater(&rush).await;
        let (taker, runtime) = (Arc::clone(&layer), layer.engine.runtime.clone());
        let failed = runtime.spawn_blocking(move || {
            let _place = place;
            let members = members.into_iter();
            let failed = members.filter_map(|(claim, places)| take(&taker, claim, &places));
            failed.collect::<Vec<Claim>>()
        });
        // It fails if it has panicked, and claims that are dropped tell those who wait.
        let failed = failed.await.unwrap_or_default();
        (!failed.is_empty()).then(|| Fetch::new(&layer, failed, &rush))
    }
}

/// Stores what `claim` misses, read from `places`, and tells those who wait. The claim, if something is not there any more.
fn take(layer: &LazyLayer, claim: Claim, places: &[Place]) -> Option<Claim> {
    let mut pieces = std::collections::HashMap::new();
    for Place { index, donor, at } in places {
        if layer.is_closed() {
            return None;
        }
        let Some(verified) = donor.verified(*at) else {
            return Some(claim);
        };
        let bytes = verified.clone().into_inner();
        layer.count(|counters| &counters.taken_chunks, 1);
        layer.count(|counters| &counters.taken_bytes, bytes.len() as u64);
        if !Arc::ptr_eq(donor, layer.cached()) {
            let taken = &layer.donors.taken_bytes;
            taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        if let Put::NotStored(_) = layer.cached().put(*index, verified) {
            layer.keep(*index, bytes.clone());
            pieces.insert(*index, Piece::Memory(bytes));
        }
    }
    claim.land(match pieces.is_empty() {
        true => Landed::Stored,
        false => Landed::Mixed(Arc::new(pieces)),
    });
    None
}
