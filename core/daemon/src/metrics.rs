//! What a daemon counts. `docs/metrics.md` lists all of it; a test compares.

mod engine;
mod process;

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::plugin::Engine;
use crate::rpc::Rpc;

/// Upper bounds of latency, in seconds: a read takes a tenth of a millisecond, a write half of one, a slow disk's
/// fsync ten, and 2 seconds are what containerd's callers begin to feel.
const LATENCY_BOUNDS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0,
];

/// A registry with everything in it that every daemon counts.
pub(crate) fn registry(engine: Arc<dyn Engine>) -> (Registry, Arc<RpcMetrics>) {
    let mut registry = Registry::with_prefix("pontoon");
    let rpcs = Arc::new(RpcMetrics::register(&mut registry));
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of this daemon", build);
    registry.register_collector(Box::new(engine::Engine(engine)));
    registry.register_collector(Box::new(process::Process));
    (registry, rpcs)
}

/// Counters of the gRPC service.
#[derive(Debug)]
pub(crate) struct RpcMetrics {
    handled: Family<Handled, Counter>,
    in_flight: Gauge,
    /// By the number of the RPC: no look-up where every microsecond is the caller's.
    seconds: Vec<Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    rpc: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRpc {
    rpc: &'static str,
}

/// One request that is worked on; counted when this is dropped.
pub(crate) struct Running<'a> {
    metrics: &'a RpcMetrics,
    rpc: Rpc,
    begun: Instant,
    /// How it ended; internal unless something else is said, so that a panic is one.
    pub(crate) code: Code,
}

impl RpcMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let handled = Family::<Handled, Counter>::default();
        registry.register(
            "rpc",
            "Requests answered, by RPC and gRPC code",
            handled.clone(),
        );
        let in_flight = Gauge::default();
        registry.register(
            "rpc_in_flight",
            "Requests that are worked on",
            in_flight.clone(),
        );
        let histogram: fn() -> Histogram = || Histogram::new(LATENCY_BOUNDS);
        let latency = Family::<OfRpc, Histogram, _>::new_with_constructor(histogram);
        registry.register_with_unit(
            "rpc_duration",
            "Time from the arrival of a request to its answer, waiting for a place included",
            Unit::Seconds,
            latency.clone(),
        );
        let of = |rpc: &Rpc| latency.get_or_create_owned(&OfRpc { rpc: rpc.name() });
        RpcMetrics {
            handled,
            in_flight,
            seconds: Rpc::ALL.iter().map(of).collect(),
        }
    }

    /// Counts one request from here to the drop of the answer; it arrived at `begun`.
    pub(crate) fn begin(&self, rpc: Rpc, begun: Instant) -> Running<'_> {
        self.in_flight.inc();
        Running {
            metrics: self,
            rpc,
            begun,
            code: Code::Internal,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let handled = Handled {
            rpc: self.rpc.name(),
            code: format!("{:?}", self.code),
        };
        self.metrics.handled.get_or_create(&handled).inc();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.metrics.seconds[self.rpc as usize].observe(seconds);
    }
}
