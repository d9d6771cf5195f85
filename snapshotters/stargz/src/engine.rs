//! The overlay engine with a provider of lazy layers, as the daemon wants to see both.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_daemon::{Census, Number};
use pontoon_overlay::Engine;
use pontoon_remote::Remote;
use pontoon_snapshot::{Keyspaces, Result, Snapshotter, SnapshotterName};

/// An engine, and what brings its layers.
pub(crate) struct LazyEngine {
    pub(crate) engine: Arc<Engine>,
    pub(crate) remote: Arc<Remote>,
}

impl Keyspaces for LazyEngine {
    fn open(&self, name: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
        Keyspaces::open(&*self.engine, name)
    }
}

impl pontoon_daemon::Engine for LazyEngine {
    fn probe(&self) -> Result<()> {
        pontoon_daemon::Engine::probe(&*self.engine)
    }

    fn census(&self) -> Result<Census> {
        self.engine.census()
    }

    fn layers(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self.remote.report()).ok()
    }

    fn numbers(&self) -> Vec<Number> {
        let totals = self.remote.totals();
        let (fetched, cache, traffic) = (totals.fetched, totals.cache, totals.traffic);
        let counter = |name, help, value| Number::new(name, help, true, value);
        let gauge = |name, help, value| Number::new(name, help, false, value);
        let by = |name, help, label, samples: Vec<(&str, u64)>| Number {
            name,
            help,
            grows: true,
            label: Some(label),
            samples: samples
                .into_iter()
                .map(|(value, count)| (value.to_owned(), count))
                .collect(),
        };
        let sum = |counts: &BTreeMap<&str, u64>| counts.values().sum();
        let decisions = &totals.decisions;
        let unpacked = decisions.unpacked.iter();
        vec![
            gauge(
                "lazy_layers",
                "Lazy layers that snapshots refer to",
                totals.lazy_layers,
            ),
            by(
                "layers_asked",
                "Layers that were asked for, by what became of them",
                "state",
                vec![
                    ("lazy", decisions.lazy),
                    ("unpacked", sum(&decisions.unpacked)),
                    ("declined", sum(&decisions.declined)),
                ],
            ),
            by(
                "layers_unpacked",
                "Ordinary layers that were unpacked here, by reason",
                "reason",
                unpacked.map(|(reason, count)| (*reason, *count)).collect(),
            ),
            by(
                "lazy_reads",
                "Reads of lazy layers, by whether their bytes were here",
                "result",
                vec![
                    ("ready", fetched.ready_reads),
                    ("waited", fetched.waited_reads),
                    ("failed", fetched.failed_reads),
                ],
            ),
            by(
                "lazy_requests",
                "Requests for bytes of lazy layers, by who waited for them",
                "urgency",
                vec![
                    ("demand", fetched.demand_requests),
                    ("background", fetched.background_requests),
                ],
            ),
            counter(
                "lazy_fetched_bytes",
                "Compressed bytes of lazy layers that came",
                fetched.fetched_bytes,
            ),
            counter(
                "lazy_inflated_members",
                "Compressed members of lazy layers that were inflated",
                fetched.inflated_members,
            ),
            counter(
                "lazy_wrong_members",
                "Members that had wrong bytes, each time",
                fetched.wrong_members,
            ),
            counter(
                "lazy_chunks",
                "Chunks that were verified and stored",
                cache.stored_chunks,
            ),
            gauge(
                "cache_bytes",
                "Bytes of decompressed data on disk",
                cache.bytes,
            ),
            gauge(
                "cache_pinned_bytes",
                "Those of them that are mounted",
                cache.pinned_bytes,
            ),
            counter(
                "cache_evicted_bytes",
                "Bytes that were evicted to make room",
                cache.evicted_bytes,
            ),
            counter(
                "cache_syncs",
                "Times that data was made durable",
                cache.syncs,
            ),
            counter(
                "registry_requests",
                "Requests to registries and token servers",
                traffic.requests,
            ),
            counter(
                "registry_retries",
                "Requests that followed one that failed",
                traffic.retries,
            ),
            counter(
                "registry_blob_bytes",
                "Bytes of blobs that registries sent",
                traffic.blob_bytes,
            ),
        ]
    }

    fn close(&self) {
        self.engine.close();
    }
}
