//! The service before a keyspace that fails on command. What works is tested with the real engine elsewhere.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use pontoon_snapshot::{Class, Filter, Info, Kind, Mount, Usage, Visit};
use prometheus_client::registry::Registry;
use prost::Message;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::*;

/// Panics at Stat, Mounts and Commit; its List has as many snapshots as are read, or panics in the middle.
struct Broken {
    list_panics: bool,
}

impl Keyspaces for Broken {
    fn open(&self, _: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
        let list_panics = self.list_panics;
        Ok(Arc::new(Broken { list_panics }))
    }
}

impl Snapshotter for Broken {
    fn prepare(&self, _: &Key, _: Option<&Key>, _: Labels) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    fn view(&self, _: &Key, _: Option<&Key>, _: Labels) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    fn mounts(&self, _: &Key) -> Result<Vec<Mount>> {
        panic!("at mounts")
    }

    fn commit(&self, _: &Key, _: &Key, _: Option<&Key>, _: Labels) -> Result<()> {
        panic!("at commit")
    }

    fn remove(&self, _: &Key) -> Result<()> {
        Ok(())
    }

    fn stat(&self, _: &Key) -> Result<Info> {
        panic!("at stat")
    }

    fn update(&self, _: &Key, _: LabelChange) -> Result<Info> {
        panic!("at update")
    }

    fn walk(&self, _: &Filter, visit: Visit<'_>) -> Result<()> {
        for number in 0.. {
            assert!(!self.list_panics || number < 150, "at list");
            if visit(info(format!("k{number}"))) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn usage(&self, _: &Key) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn cleanup(&self) -> Result<()> {
        Ok(())
    }
}

fn info(key: String) -> Info {
    Info {
        key: Key::new(key).unwrap(),
        parent: None,
        kind: Kind::Active,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: Labels::default(),
    }
}

const PLACES: usize = 2;

/// How long anything may take that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn service(list_panics: bool) -> (Service, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(PLACES));
    let metrics = Arc::new(RpcMetrics::register(&mut Registry::default()));
    let engine = Arc::new(Broken { list_panics });
    (
        Service::new(engine, true, Arc::clone(&gate), 2, metrics),
        gate,
    )
}

fn stat_request() -> Request<v1::StatSnapshotRequest> {
    Request::new(v1::StatSnapshotRequest {
        snapshotter: "test".to_owned(),
        key: "k".to_owned(),
    })
}

fn usage_request(key: &str) -> Request<v1::UsageRequest> {
    Request::new(v1::UsageRequest {
        snapshotter: "test".to_owned(),
        key: key.to_owned(),
    })
}

fn list_request() -> Request<v1::ListSnapshotsRequest> {
    Request::new(v1::ListSnapshotsRequest {
        snapshotter: "test".to_owned(),
        filters: Vec::new(),
    })
}

fn infos(message: Bytes) -> usize {
    v1::ListSnapshotsResponse::decode(message)
        .unwrap()
        .info
        .len()
}

async fn nothing_is_worked_on(gate: &Semaphore) {
    let all = gate.acquire_many(PLACES as u32);
    let all = tokio::time::timeout(PATIENCE, all).await;
    drop(all.expect("a place is still taken").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_internal_error_and_gives_its_place_back() {
    let (service, gate) = service(false);
    for _ in 0..2 * PLACES {
        let status = service.stat(stat_request()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        let commit = v1::CommitSnapshotRequest {
            snapshotter: "test".to_owned(),
            name: "n".to_owned(),
            key: "k".to_owned(),
            ..Default::default()
        };
        let status = service.commit(Request::new(commit)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
    }
    assert_eq!(gate.available_permits(), PLACES);
}

#[tokio::test]
async fn a_list_that_breaks_off_is_an_error_not_a_shorter_list() {
    let (service, _gate) = service(true);
    let mut batches = service
        .list_encoded(list_request())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(infos(batches.next().await.unwrap().unwrap()), 100);
    let status = batches.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(batches.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_nobody_reads_ends_and_says_so() {
    let (service, gate) = service(false);
    let subject: fn(&v1::ListSnapshotsRequest) -> (&str, &str) = |m| (&m.snapshotter, "");
    let (call, message) = service
        .begin(Rpc::List, list_request(), subject)
        .await
        .unwrap();
    let mut batches = list::start(call, message.filters, Duration::from_millis(50));
    // The place is free again though nothing was read.
    nothing_is_worked_on(&gate).await;
    let mut read = 0;
    let status = loop {
        match batches.next().await.unwrap() {
            Ok(_) => read += 1,
            Err(status) => break status,
        }
    };
    assert!(read > 0);
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_reader_is_gone_ends() {
    let (service, gate) = service(false);
    let mut batches = service
        .list_encoded(list_request())
        .await
        .unwrap()
        .into_inner();
    batches.next().await.unwrap().unwrap();
    drop(batches);
    nothing_is_worked_on(&gate).await;
}

#[tokio::test]
async fn requests_wait_for_a_place_and_are_told_when_there_will_be_none() {
    let (service, gate) = service(false);
    let _all = gate.acquire_many(PLACES as u32).await.unwrap();
    let waiting = service.stat(stat_request());
    let mut waiting = std::pin::pin!(waiting);
    let soon = tokio::time::timeout(Duration::from_millis(20), &mut waiting);
    assert!(soon.await.is_err());
    gate.close();
    assert_eq!(waiting.await.unwrap_err().code(), Code::Unavailable);
}

/// A keyspace in which Mounts, Usage and Cleanup wait until the sender is dropped, and all else does nothing. The usage
/// of `recorded` is.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Receiver<()>>>);

impl Waiting {
    fn wait(&self) {
        let waited = self.0.lock().unwrap().recv_timeout(PATIENCE);
        assert_eq!(waited, Err(RecvTimeoutError::Disconnected));
    }
}

impl Keyspaces for Waiting {
    fn open(&self, _: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Snapshotter for Waiting {
    fn prepare(&self, _: &Key, _: Option<&Key>, _: Labels) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    fn view(&self, _: &Key, _: Option<&Key>, _: Labels) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    fn mounts(&self, _: &Key) -> Result<Vec<Mount>> {
        self.wait();
        Ok(Vec::new())
    }

    fn commit(&self, _: &Key, _: &Key, _: Option<&Key>, _: Labels) -> Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Key) -> Result<()> {
        Ok(())
    }

    fn stat(&self, _: &Key) -> Result<Info> {
        Ok(info("k".to_owned()))
    }

    fn update(&self, _: &Key, _: LabelChange) -> Result<Info> {
        Ok(info("k".to_owned()))
    }

    fn walk(&self, _: &Filter, _: Visit<'_>) -> Result<()> {
        Ok(())
    }

    fn usage(&self, _: &Key) -> Result<Usage> {
        self.wait();
        Ok(Usage::default())
    }

    fn recorded_usage(&self, key: &Key) -> Result<Option<Usage>> {
        let usage = Usage {
            size_bytes: 4096,
            inodes: 1,
        };
        Ok(Some(usage).filter(|_| key.as_str() == "recorded"))
    }

    fn cleanup(&self) -> Result<()> {
        self.wait();
        Ok(())
    }
}

/// A service before [`Waiting`], and what makes that go on when it is dropped.
fn waiting() -> (Service, Arc<Semaphore>, Sender<()>) {
    let (go_on, waits) = std::sync::mpsc::channel();
    let gate = Arc::new(Semaphore::new(PLACES));
    let metrics = Arc::new(RpcMetrics::register(&mut Registry::default()));
    let engine = Arc::new(Waiting(Arc::new(Mutex::new(waits))));
    let service = Service::new(engine, false, Arc::clone(&gate), 2, metrics);
    (service, gate, go_on)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_leaves_places_to_a_commit() {
    let (service, _gate, go_on) = waiting();
    let mut slow = JoinSet::new();
    for _ in 0..PLACES {
        let (usages, cleanups) = (service.clone(), service.clone());
        slow.spawn(async move { usages.usage(usage_request("k")).await.map(drop) });
        slow.spawn(async move {
            let request = v1::CleanupRequest {
                snapshotter: "test".to_owned(),
            };
            cleanups.cleanup(Request::new(request)).await.map(drop)
        });
    }
    // As many as may be are at it then, and the rest waits.
    let all_at_it = async {
        while service.slow.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let all_at_it = tokio::time::timeout(PATIENCE, all_at_it).await;
    all_at_it.expect("Usages do not begin");
    let commit = v1::CommitSnapshotRequest {
        snapshotter: "test".to_owned(),
        name: "n".to_owned(),
        key: "k".to_owned(),
        ..Default::default()
    };
    let committed = tokio::time::timeout(PATIENCE, service.commit(Request::new(commit))).await;
    committed.expect("a Commit waits for Usages").unwrap();
    let recorded = service.usage(usage_request("recorded"));
    let recorded = tokio::time::timeout(PATIENCE, recorded).await;
    let recorded = recorded.expect("what is recorded waits for scans");
    assert_eq!(recorded.unwrap().into_inner().size, 4096);
    drop(go_on);
    while let Some(done) = slow.join_next().await {
        done.unwrap().unwrap();
    }
}

/// Each request is a task, as in the server. One of them waits on the only thread of its runtime, whose other tasks
/// must go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mounts_that_may_wait_do_not_hold_up_a_socket() {
    let (service, _gate, go_on) = waiting();
    let (mounts_service, stat_service) = (service.clone(), service);
    let mounts = v1::MountsRequest {
        snapshotter: "test".to_owned(),
        key: "k".to_owned(),
    };
    let mounts = tokio::spawn(async move { mounts_service.mounts(Request::new(mounts)).await });
    let stat = tokio::spawn(async move { stat_service.stat(stat_request()).await });
    let stat = tokio::time::timeout(PATIENCE, stat).await;
    stat.expect("a Stat waits for Mounts").unwrap().unwrap();
    drop(go_on);
    mounts.await.unwrap().unwrap();
}

#[test]
fn every_error_has_the_code_of_its_class() {
    let error = pontoon_snapshot::Error::Exhausted {
        operation: "create directory /x".to_owned(),
        source: std::io::Error::other("disk full").into(),
    };
    let status = status::of(&error);
    assert_eq!(status.code(), convert::code(Class::Exhausted));
    assert_eq!(status.message(), error.to_string());
    assert!(
        !status.message().contains("disk full"),
        "causes are for the log"
    );
    assert!(status::Chain(&error).to_string().ends_with(": disk full"));
}

#[test]
fn the_namespace_comes_from_keys_of_containerd_only() {
    for (key, namespace) in [
        ("k8s.io/12/x", "k8s.io"),
        ("raw", ""),
        ("a/b", ""),
        ("", ""),
    ] {
        assert_eq!(namespace_of(key), namespace);
    }
}
