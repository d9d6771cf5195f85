//! What is told about layers: which are lazy and how far they are, and why the others are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_cache::Stats;
use pontoon_lazyfs::{BackgroundState, Counted};
use pontoon_source::Traffic;
use serde::Serialize;

use crate::decisions::Counts;
use crate::item::Item;
use crate::{Chosen, Remote};

/// All layers that this daemon knows of.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Who serves trees.
    pub front_end: Chosen,
    /// One entry for each.
    pub layers: Vec<LayerReport>,
    /// How often a layer was left to containerd since the start, by reason.
    pub declined: BTreeMap<&'static str, u64>,
    /// How often nobody could bring a layer since the start, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// How often an ordinary layer was unpacked here, by why it is not lazy.
    pub unpacked: BTreeMap<&'static str, u64>,
    /// Bytes of decompressed data on disk.
    pub cache_bytes: u64,
    /// Who keeps the connection. `None` if it ends with this daemon.
    pub holder: Option<HolderReport>,
}

/// The process that keeps connections when no daemon serves them.
#[derive(Debug, Clone, Serialize)]
pub struct HolderReport {
    /// The process. `None` if none runs: it is started when a layer is mounted.
    pub pid: Option<u32>,
    /// How many connections it keeps.
    pub kept: usize,
    /// How often it was lost since the start.
    pub lost: u64,
}

/// A layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// The image that it was pulled with, or one of them.
    pub image: String,
    /// The digest of its blob.
    pub digest: String,
    /// What it is.
    pub state: LayerState,
    /// Why it is not lazy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What exactly happened, if that says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it was decided, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<u64>,
    /// How far it is, if it is lazy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// Its bytes come when they are read.
    Lazy,
    /// It was unpacked by this daemon.
    Unpacked,
    /// It was left to containerd.
    Declined,
    /// Nobody can bring it, so the pull failed.
    Refused,
}

/// How far a lazy layer is.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// Bytes of the layer's blob.
    pub blob_bytes: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many of them are here.
    pub local_bytes: u64,
    /// The same in percent.
    pub percent: f64,
    /// How many snapshots have it.
    pub snapshots: usize,
    /// Its directory below the mount, if it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// What is doing in the background: `idle`, `running`, `no space`, `failing` or `done`.
    pub background: &'static str,
    /// Compressed bytes that came for it since it was opened.
    pub fetched_bytes: u64,
    /// The last failure, also if it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Everything that is counted, for metrics.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Layers that snapshots refer to.
    pub lazy_layers: u64,
    /// What became of the layers that were asked for.
    pub decisions: Counts,
    /// What was fetched and inflated.
    pub fetched: Counted,
    /// What the cache has and did.
    pub cache: Stats,
    /// What registries were asked for.
    pub traffic: Traffic,
    /// Reads that failed, by reason.
    pub failed_reads: BTreeMap<&'static str, u64>,
    /// Requests that failed, each time, by reason.
    pub failed_requests: BTreeMap<&'static str, u64>,
}

impl Remote {
    /// What is known of each layer.
    pub fn report(&self) -> Report {
        let shared = &self.shared;
        let counts = shared.decisions.counts();
        let lazy = shared
            .stock
            .items()
            .into_iter()
            .map(|item| self.lazy_report(&item));
        let mut layers: Vec<LayerReport> = lazy.collect();
        layers.extend(
            shared
                .decisions
                .all()
                .into_iter()
                .map(|decision| LayerReport {
                    image: decision.image,
                    digest: decision.layer,
                    state: match (decision.unpacked, decision.refused) {
                        (true, _) => LayerState::Unpacked,
                        (false, true) => LayerState::Refused,
                        (false, false) => LayerState::Declined,
                    },
                    reason: Some(decision.reason),
                    detail: decision.detail,
                    decided: Some(decision.when),
                    progress: None,
                }),
        );
        Report {
            front_end: shared.erofs.chosen().clone(),
            layers,
            declined: counts.declined,
            refused: counts.refused,
            unpacked: counts.unpacked,
            cache_bytes: shared.stock.cache.stats().bytes,
            holder: shared.front.holder().map(|state| HolderReport {
                pid: state.pid,
                kept: state.kept,
                lost: state.lost,
            }),
        }
    }

    fn lazy_report(&self, item: &Arc<Item>) -> LayerReport {
        let facts = item.record.facts;
        let mut progress = Progress {
            blob_bytes: item.record.blob_bytes,
            bytes: facts.data_bytes,
            local_bytes: 0,
            percent: 0.0,
            snapshots: item.snapshots(),
            number: None,
            background: "idle",
            fetched_bytes: 0,
            last_error: None,
        };
        match item.opened() {
            Some(layer) => {
                let status = layer.status();
                progress.local_bytes = status.local_bytes;
                progress.number = Some(item.record.number);
                progress.background = word(status.background);
                progress.fetched_bytes = status.counted.fetched_bytes;
                progress.last_error = status.last_error.map(|last| last.error.whole());
            }
            None => {
                let cached = self.shared.stock.cache.layer(item.key()).ok().flatten();
                progress.local_bytes = cached.map_or(0, |cached| cached.ready_bytes());
            }
        }
        progress.percent = percent(progress.local_bytes, progress.bytes);
        LayerReport {
            image: item.image(),
            digest: item.record.blob().to_owned(),
            state: LayerState::Lazy,
            reason: None,
            detail: None,
            decided: None,
            progress: Some(progress),
        }
    }

    /// Everything that is counted.
    pub fn totals(&self) -> Totals {
        let shared = &self.shared;
        Totals {
            lazy_layers: shared.stock.items().len() as u64,
            decisions: shared.decisions.counts(),
            fetched: shared.engine.counted(),
            cache: shared.stock.cache.stats(),
            traffic: shared.registry.traffic(),
            failed_reads: shared.engine.failures(),
            failed_requests: shared.registry.failures(),
        }
    }
}

fn word(state: BackgroundState) -> &'static str {
    match state {
        BackgroundState::Idle => "idle",
        BackgroundState::Running => "running",
        BackgroundState::NoSpace => "no space",
        BackgroundState::Failing => "failing",
        BackgroundState::Done => "done",
    }
}

/// 100 only if everything is here.
fn percent(local: u64, all: u64) -> f64 {
    if local >= all {
        return 100.0;
    }
    (u128::from(local) * 10_000 / u128::from(all)) as f64 / 100.0
}
