//! The end: what was begun is finished, what was answered is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pontoon_proto::snapshots::snapshots_client::SnapshotsClient;
use pontoon_proto::snapshots::{ListSnapshotsRequest, ListSnapshotsResponse};
use pontoon_snapshot::{Class, Labels};
use rustix::process::Signal;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::http::{get, metric};
use crate::process::{Daemon, Place, key};

/// Snapshots whose list is far longer than what fits between the daemon and a client that does not read.
const HEAVY: usize = 80;

fn heavy_labels() -> Labels {
    let labels = (0..60).map(|number| (format!("label-{number}"), "v".repeat(4000)));
    Labels::new(labels).unwrap()
}

/// A daemon that is at a List whose client does not read.
fn busy(
    place: &Place,
    config: &str,
) -> (
    Daemon,
    tokio::runtime::Runtime,
    Streaming<ListSnapshotsResponse>,
) {
    let file = place.config(config);
    let daemon = place.start(place.command().arg("--config").arg(file));
    let keyspace = place.keyspace("test");
    for number in 0..HEAVY {
        keyspace
            .prepare(&key(&format!("k{number}")), None, heavy_labels())
            .unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let socket = format!("unix:{}", place.socket().display());
    let listed = runtime.block_on(async {
        let channel: Channel = Endpoint::from_shared(socket)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = SnapshotsClient::new(channel).max_decoding_message_size(16 << 20);
        let request = ListSnapshotsRequest {
            snapshotter: "test".to_owned(),
            filters: Vec::new(),
        };
        client.list(request).await.unwrap().into_inner()
    });
    let admin = place.admin();
    daemon.wait_for("list in flight", || {
        metric(&admin, "pontoon_rpc_in_flight") == Some(1.0)
    });
    (daemon, runtime, listed)
}

#[test]
fn a_request_that_was_begun_is_finished() {
    let place = Place::new();
    let (mut daemon, runtime, mut listed) = busy(&place, "");
    daemon.signal(Signal::TERM);
    let admin = place.admin();
    daemon.wait_for("end of readiness", || get(&admin, "/ready").0 == 503);
    assert_eq!(get(&admin, "/live").0, 200);
    let count = runtime.block_on(async {
        let mut count = 0;
        while let Some(batch) = listed.message().await.unwrap() {
            count += batch.info.len();
        }
        count
    });
    assert_eq!(count, HEAVY);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("stopped"));
    assert!(!place.socket().exists());
}

#[test]
fn a_client_that_never_reads_does_not_keep_the_daemon() {
    let place = Place::new();
    let (mut daemon, _runtime, _listed) = busy(&place, "[limits]\ndrain_seconds = 1\n");
    let begun = Instant::now();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(
        daemon
            .log()
            .contains("requests did not finish in time and are cut off left=1"),
        "{}",
        daemon.log()
    );
    assert!(!place.socket().exists());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let (mut daemon, _runtime, _listed) = busy(&place, "[limits]\ndrain_seconds = 300\n");
    daemon.signal(Signal::TERM);
    daemon.wait_for("drain", || daemon.log().contains("stopping"));
    daemon.signal(Signal::INT);
    assert_eq!(daemon.ended().code(), Some(1), "{}", daemon.log());
}

#[test]
fn under_load_what_was_answered_is_kept_and_the_rest_is_unavailable() {
    let place = Place::new();
    let mut daemon = place.start(&mut place.command());
    let stopping = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let keyspace = place.keyspace("test");
            let stopping = Arc::clone(&stopping);
            std::thread::spawn(move || {
                let mut answered = Vec::new();
                for number in 0.. {
                    let key = key(&format!("k{caller}-{number}"));
                    match keyspace.prepare(&key, None, Labels::default()) {
                        Ok(_) => answered.push(key),
                        Err(error) => {
                            assert!(stopping.load(Ordering::SeqCst), "{error}");
                            assert_eq!(error.class(), Class::Unavailable, "{error}");
                            break;
                        }
                    }
                }
                answered
            })
        })
        .collect();
    let admin = place.admin();
    let prepared = "pontoon_rpc_total{rpc=\"prepare\",code=\"Ok\"}";
    daemon.wait_for("load", || {
        metric(&admin, prepared).is_some_and(|count| count > 100.0)
    });
    stopping.store(true, Ordering::SeqCst);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let answered: Vec<_> = callers
        .into_iter()
        .flat_map(|caller| caller.join().unwrap())
        .collect();
    assert!(answered.len() > 100);
    let _daemon = place.start(&mut place.command());
    let keyspace = place.keyspace("test");
    for key in answered {
        assert!(
            keyspace.stat(&key).is_ok(),
            "{key} was answered and is gone"
        );
    }
}
