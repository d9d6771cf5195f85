//! List: filters that are wrong, thousands of snapshots, readers that do not read.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_proto::snapshots as v1;
use pontoon_proto::snapshots::snapshots_client::SnapshotsClient;
use tokio::task::JoinSet;
use tonic::Code;

use crate::daemon::{Daemon, NAME, channel, refused};

/// The most that containerd takes in one message, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[test]
fn filters_that_are_wrong_are_refused_with_the_place() {
    let mut daemon = Daemon::start();
    let (long, many) = ("n".repeat(100_000), vec!["name"; 1000]);
    let group = "(".repeat(10_000);
    for (filters, told) in [
        (&["name=x"][..], "at byte 4"),
        (&["kind==active", "name=="], "at byte 6"),
        (&["labels.\"a"], "does not end"),
        (&["name~=("], "regular expression"),
        (&["name~=(a{1000}){1000}"], "too big"),
        (&["name==a\0"], "at byte 7"),
        (&[&long], "64 KiB"),
        (&many, "256 filters"),
        (&[&format!("name~={group}")], "regular expression"),
    ] {
        let answer = refused(daemon.list(filters), Code::InvalidArgument);
        assert!(answer.contains(told), "{answer}");
    }
    daemon.assert_nothing_lost();
}

/// Prepares snapshots with these labels, several at a time.
fn fill(daemon: &Daemon, count: usize, labels: &BTreeMap<String, String>) {
    daemon.block_on(async {
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let mut service = daemon.service();
            let labels = labels.clone();
            callers.spawn(async move {
                for number in (caller..count).step_by(8) {
                    let request = v1::PrepareSnapshotRequest {
                        snapshotter: NAME.to_owned(),
                        key: format!("many-{number:05}"),
                        labels: labels.clone(),
                        ..Default::default()
                    };
                    service.prepare(request).await.unwrap();
                }
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    });
}

#[test]
fn thousands_come_in_batches_and_in_order() {
    let mut daemon = Daemon::start();
    let full = std::env::var_os("PONTOON_FULL").is_some();
    let count = if full { 10_000 } else { 1500 };
    fill(&daemon, count, &BTreeMap::new());
    let batches = daemon.list_batches(&[]).unwrap();
    assert!(batches.len() >= count / 100, "{} messages", batches.len());
    assert!(batches.iter().all(|batch| (1..=100).contains(&batch.len())));
    let names: Vec<String> = batches.concat().into_iter().map(|info| info.name).collect();
    assert_eq!(names.len(), count + 2);
    assert!(names.is_sorted());
    assert_eq!(daemon.list(&["name==many-01499"]).unwrap().len(), 1);
    assert_eq!(
        daemon
            .list_batches(&["name==nothing"])
            .unwrap()
            .concat()
            .len(),
        0
    );
    daemon.assert_kept();
}

#[test]
fn a_message_of_large_infos_is_not_too_large() {
    let mut daemon = Daemon::start();
    let labels = (0..63).map(|number| (format!("k{number}"), "v".repeat(4000)));
    fill(&daemon, 120, &labels.collect());
    let batches = daemon.list_batches(&[]).unwrap();
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 122);
    for batch in batches {
        let message = v1::ListSnapshotsResponse { info: batch };
        let bytes = prost::Message::encoded_len(&message);
        assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes}");
    }
    daemon.assert_kept();
}

#[test]
fn readers_that_do_not_read_hold_up_nobody() {
    let mut daemon = Daemon::start();
    let labels = (0..20).map(|number| (format!("k{number}"), "v".repeat(4000)));
    fill(&daemon, 300, &labels.collect());
    let socket = daemon.plugin.socket().to_owned();
    // As many as the daemon begins, each with a connection of its own; more Lists have to wait.
    let stuck = daemon.block_on(async {
        let mut stuck = Vec::new();
        for _ in 0..64 {
            let mut service = SnapshotsClient::new(channel(&socket));
            let request = v1::ListSnapshotsRequest {
                snapshotter: NAME.to_owned(),
                filters: Vec::new(),
            };
            let patience = Duration::from_secs(3);
            match tokio::time::timeout(patience, service.list(request)).await {
                Ok(answer) => stuck.push(answer.unwrap()),
                Err(_no_place) => break,
            }
        }
        stuck
    });
    assert!(!stuck.is_empty());
    let begun = std::time::Instant::now();
    daemon.prepare("new", "kept").unwrap();
    daemon.remove("new").unwrap();
    let limit = Duration::from_secs(20);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    drop(stuck);
    daemon.assert_kept();
}

#[test]
fn a_reader_that_goes_away_takes_nothing_with_it() {
    let mut daemon = Daemon::start();
    fill(&daemon, 500, &BTreeMap::new());
    for _ in 0..200 {
        let mut service = daemon.service();
        daemon.block_on(async {
            let request = v1::ListSnapshotsRequest {
                snapshotter: NAME.to_owned(),
                filters: Vec::new(),
            };
            let mut answer = service.list(request).await.unwrap().into_inner();
            answer.message().await.unwrap();
        });
    }
    assert_eq!(daemon.list(&[]).unwrap().len(), 502);
    daemon.assert_kept();
}
