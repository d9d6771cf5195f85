//! What the provider counts, as metrics.

use std::collections::BTreeMap;

use pontoon_daemon::Number;
use pontoon_peer::Node;
use pontoon_remote::Totals;

/// All of it. No series is of one layer or image: those come and go.
pub(crate) fn of(totals: &Totals) -> Vec<Number> {
    let mut numbers = layers(totals);
    numbers.extend(fetched(totals));
    numbers.extend(asked(totals));
    numbers.extend(kept(totals));
    numbers
}

/// What is counted of other nodes; nothing of it where none take part.
pub(crate) fn peers(node: Option<&Node>) -> Vec<Number> {
    let health = node.map(Node::health).unwrap_or_default();
    let asked = node.map(Node::asked).unwrap_or_default();
    let given = node.map(Node::given).unwrap_or_default();
    let gauge = |name, help, value: usize| Number::new(name, help, false, value as u64);
    vec![
        gauge(
            "peer_nodes",
            "Other nodes that are known well enough to be asked",
            health.known,
        ),
        gauge(
            "peer_connections",
            "Other nodes that are connected",
            health.connected,
        ),
        by(
            "peer_requests",
            "Requests to other nodes for chunks, by what came of them",
            "result",
            vec![
                ("asked", asked.requests),
                ("failed", asked.failures),
                ("busy", asked.busy),
            ],
        ),
        counter(
            "peer_bans",
            "Times that another node was banned, for a chunk with a wrong digest or for nonsense",
            asked.bans,
        ),
        counter(
            "peer_given_chunks",
            "Chunks that were given to other nodes",
            given.chunks,
        ),
        counter("peer_given_bytes", "Bytes of those chunks", given.bytes),
        counter(
            "peer_refused",
            "Times that a node was refused that is not admitted",
            given.refused + health.refused,
        ),
    ]
}

fn layers(totals: &Totals) -> Vec<Number> {
    let sum = |counts: &BTreeMap<&str, u64>| counts.values().sum();
    let decisions = &totals.decisions;
    vec![
        Number::new(
            "lazy_layers",
            "Lazy layers that snapshots refer to",
            false,
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
                ("refused", sum(&decisions.refused)),
            ],
        ),
        by(
            "layers_refused",
            "Layers that neither this daemon nor containerd can bring, so that the pull failed, by reason",
            "reason",
            counts(&decisions.refused),
        ),
        by(
            "layers_unpacked",
            "Ordinary layers that were unpacked here, by why they are not lazy",
            "reason",
            counts(&decisions.unpacked),
        ),
    ]
}

fn fetched(totals: &Totals) -> Vec<Number> {
    let counted = totals.fetched;
    vec![
        by(
            "lazy_reads",
            "Reads of lazy layers that reached the daemon, by whether their bytes were here",
            "result",
            vec![
                ("ready", counted.ready_reads),
                ("waited", counted.waited_reads),
                ("failed", counted.failed_reads),
            ],
        ),
        by(
            "lazy_read_failures",
            "Reads of lazy layers that failed, by reason",
            "reason",
            counts(&totals.failed_reads),
        ),
        by(
            "lazy_requests",
            "Requests for bytes of lazy layers, by whether somebody waited for them",
            "urgency",
            vec![
                ("demand", counted.demand_requests),
                ("background", counted.background_requests),
            ],
        ),
        counter(
            "lazy_fetched_bytes",
            "Compressed bytes of lazy layers that came",
            counted.fetched_bytes,
        ),
        counter(
            "lazy_taken_chunks",
            "Chunks of lazy layers that were here already, in another layer or elsewhere in the same one",
            counted.taken_chunks,
        ),
        counter(
            "lazy_taken_bytes",
            "Bytes of those chunks",
            counted.taken_bytes,
        ),
        counter(
            "lazy_peer_chunks",
            "Chunks of lazy layers that other nodes sent",
            counted.peer_chunks,
        ),
        counter(
            "lazy_peer_bytes",
            "Bytes of those chunks",
            counted.peer_bytes,
        ),
        counter(
            "lazy_late_peers",
            "Members of lazy layers that the registry was asked for too, because other nodes that have them were late",
            counted.late_peers,
        ),
        counter(
            "lazy_inflated_members",
            "Compressed members of lazy layers that were inflated",
            counted.inflated_members,
        ),
        counter(
            "lazy_wrong_members",
            "Members of lazy layers that had wrong bytes, each time",
            counted.wrong_members,
        ),
    ]
}

fn asked(totals: &Totals) -> Vec<Number> {
    vec![
        counter(
            "registry_requests",
            "Requests to registries and their token servers",
            totals.traffic.requests,
        ),
        counter(
            "registry_retries",
            "Requests that followed one that failed",
            totals.traffic.retries,
        ),
        by(
            "registry_failures",
            "Requests to registries that failed, also if the next try went well, by reason",
            "reason",
            counts(&totals.failed_requests),
        ),
        counter(
            "registry_blob_bytes",
            "Bytes of blobs that registries sent, unwanted ones included",
            totals.traffic.blob_bytes,
        ),
    ]
}

fn kept(totals: &Totals) -> Vec<Number> {
    let cache = &totals.cache;
    vec![
        counter(
            "cache_stored_chunks",
            "Chunks that were verified and stored",
            cache.stored_chunks,
        ),
        Number::new(
            "cache_bytes",
            "Decompressed data on disk",
            false,
            cache.bytes,
        ),
        Number::new(
            "cache_pinned_bytes",
            "Decompressed data of layers that are open, which is never evicted",
            false,
            cache.pinned_bytes,
        ),
        counter(
            "cache_evicted_bytes",
            "Decompressed data that was evicted to make room",
            cache.evicted_bytes,
        ),
        counter(
            "cache_damaged_chunks",
            "Chunks that the disk has changed: found before they were read, and fetched again",
            cache.damaged_chunks,
        ),
        counter(
            "cache_unstored_chunks",
            "Chunks that could not be stored, because the disk is full or fails: readers were answered from memory",
            cache.not_stored_chunks,
        ),
        counter(
            "cache_syncs",
            "Times that fetched data was made durable",
            cache.syncs,
        ),
        counter(
            "cache_thread_panics",
            "Panics of the cache's thread: a bug, even though it goes on",
            cache.thread_panics,
        ),
    ]
}

fn counts<'a>(counts: &BTreeMap<&'a str, u64>) -> Vec<(&'a str, u64)> {
    counts.iter().map(|(what, count)| (*what, *count)).collect()
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Number {
    Number::new(name, help, true, value)
}

fn by(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    samples: Vec<(&str, u64)>,
) -> Number {
    let owned = |(value, count): (&str, u64)| (value.to_owned(), count);
    Number {
        name,
        help,
        grows: true,
        label: Some(label),
        samples: samples.into_iter().map(owned).collect(),
    }
}
