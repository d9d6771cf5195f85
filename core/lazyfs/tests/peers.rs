//! What other nodes have is not fetched from the registry, and nothing depends on them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_cache::CachedLayer;
use pontoon_lazyfs::{Config, News, Peers, Prefetch, Read, Swarm};
use pontoon_source::Urgency;
use tokio::sync::{mpsc, watch};

use crate::fixture::{Fault, Maker, Rig, cached, exact, noise, open_cache, wait_until};

const FILES: usize = 20;
const FILE_BYTES: usize = 40_000;
const CHUNK_BYTES: usize = 20_000;
const CHUNKS: usize = FILES * FILE_BYTES / CHUNK_BYTES;

/// What other nodes do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Send,
    /// The answer ends without anything.
    Refuse,
    /// Nothing comes, and no end.
    BeSilent,
}

/// Other nodes, in memory.
#[derive(Debug)]
struct Others {
    donor: Arc<CachedLayer>,
    has: Mutex<BTreeSet<usize>>,
    changes: watch::Sender<u64>,
    manner: Mutex<Manner>,
    hedge: Mutex<Duration>,
    hold: Mutex<Duration>,
    asked: Mutex<Vec<(Vec<Range<usize>>, Urgency)>>,
    /// Answers that nobody listens to any more.
    given_up: AtomicUsize,
    is_joined: AtomicBool,
    _directory: tempfile::TempDir,
}

/// For as long as a layer is open.
#[derive(Debug)]
struct Joined(Arc<Others>);

#[derive(Debug)]
struct Node(Arc<Others>);

impl Peers for Node {
    fn join(&self, _: &Arc<CachedLayer>) -> Arc<dyn Swarm> {
        self.0.is_joined.store(true, Ordering::SeqCst);
        Arc::new(Joined(self.0.clone()))
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.is_joined.store(false, Ordering::SeqCst);
    }
}

impl Swarm for Joined {
    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn has(&self, index: usize) -> bool {
        self.0.has.lock().unwrap().contains(&index)
    }

    fn chunks(&self, wanted: Vec<Range<usize>>, urgency: Urgency) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(4);
        self.0.asked.lock().unwrap().push((wanted.clone(), urgency));
        let others = self.0.clone();
        let manner = *others.manner.lock().unwrap();
        tokio::spawn(async move {
            match manner {
                Manner::Refuse => {}
                Manner::BeSilent => {
                    let hedge = *others.hedge.lock().unwrap();
                    tokio::select! {
                        () = sender.closed() => {}
                        () = tokio::time::sleep(hedge) => {
                            for late in wanted {
                                let _ = sender.send(News::Late(late)).await;
                            }
                            sender.closed().await;
                        }
                    }
                }
                Manner::Send => {
                    for index in wanted.into_iter().flatten() {
                        let chunk = others.donor.verified(index).unwrap();
                        if sender.send(News::Chunk(index, chunk)).await.is_err() {
                            break;
                        }
                    }
                }
            }
            let given_up = usize::from(sender.is_closed());
            others.given_up.fetch_add(given_up, Ordering::SeqCst);
        });
        receiver
    }

    fn fetches(&self) {}

    fn hold(&self, _: Range<usize>, _: Urgency) -> Duration {
        *self.0.hold.lock().unwrap()
    }
}

fn maker() -> Maker {
    let mut maker = Maker::new();
    for number in 0..FILES {
        let bytes = noise(number as u64 + 1, FILE_BYTES);
        maker.file(&format!("{number}"), 0o644, &bytes, CHUNK_BYTES);
    }
    maker
}

/// So long that a test would fail if anybody waited for it.
const EVER: Duration = Duration::from_secs(3600);

impl Others {
    /// A layer, and other nodes that could have all of it but have nothing yet.
    fn beside(config: Config) -> (Rig, Arc<Others>) {
        Others::beside_all(config, maker)
    }

    /// The same with another layer.
    fn beside_all(config: Config, maker: fn() -> Maker) -> (Rig, Arc<Others>) {
        let directory = tempfile::tempdir().unwrap();
        let full = Rig::new(exact(), maker());
        full.files.keys().for_each(|path| full.check(path));
        let cache = open_cache(directory.path());
        let donor = cached(&cache, &maker().make());
        for index in 0..donor.chunks().len() {
            donor.put(index, full.layer.cached().verified(index).unwrap());
        }
        assert!(donor.is_complete());
        let others = Others {
            donor,
            has: Mutex::default(),
            changes: watch::Sender::new(0),
            manner: Mutex::new(Manner::Send),
            hedge: Mutex::new(EVER),
            hold: Mutex::default(),
            asked: Mutex::default(),
            given_up: AtomicUsize::new(0),
            is_joined: AtomicBool::new(false),
            _directory: directory,
        };
        let (rig, others) = (Rig::new(config, maker()), Arc::new(others));
        rig.layer.share(&Node(others.clone()));
        (rig, others)
    }

    fn get(&self, chunks: Range<usize>) {
        self.has.lock().unwrap().extend(chunks);
        self.changes.send_modify(|count| *count += 1);
    }

    fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn hold(&self, hold: Duration) {
        *self.hold.lock().unwrap() = hold;
    }

    fn hedge(&self, hedge: Duration) {
        *self.hedge.lock().unwrap() = hedge;
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn pending(rig: &Rig, path: &str) -> pontoon_lazyfs::PendingRead {
    match rig.start(path, 0, FILE_BYTES) {
        Read::Pending(read) => read,
        Read::Ready(_) => panic!("{path} is here already"),
    }
}

fn is_right(rig: &Rig, path: &str, read: pontoon_lazyfs::PendingRead) {
    let bytes = rig.runtime.block_on(read).unwrap();
    assert!(bytes[..] == rig.files[path][..], "{path} has other bytes");
}

/// Which chunks the registry was asked for.
fn fetched(rig: &Rig) -> BTreeSet<usize> {
    let requests = rig.blob.requests();
    let table = rig.layer.cached().chunks();
    let is_asked = |index: &usize| {
        let chunk = table.get(*index).unwrap();
        let mut ranges = requests.iter().map(|(range, _)| range);
        ranges.any(|range| range.start <= chunk.blob_offset && chunk.blob_end() <= range.end)
    };
    (0..CHUNKS).filter(is_asked).collect()
}

#[test]
fn what_other_nodes_have_is_read_without_the_registry() {
    let (rig, others) = Others::beside(exact());
    others.get(0..CHUNKS);
    (0..FILES).for_each(|number| rig.check(&format!("{number}")));
    assert_eq!(rig.blob.count(), 0);
    let counted = rig.layer.status().counted;
    assert_eq!(counted.peer_chunks, CHUNKS as u64);
    assert_eq!(counted.peer_bytes, (FILES * FILE_BYTES) as u64);
    assert_eq!((counted.late_peers, counted.failed_reads), (0, 0));
    assert!(rig.layer.cached().is_complete());
}

#[test]
fn what_nobody_has_is_asked_of_the_registry_at_once() {
    let (rig, others) = Others::beside(exact());
    others.get(2..CHUNKS);
    rig.check("0");
    assert_eq!(fetched(&rig), BTreeSet::from([0, 1]));
    assert_eq!(others.requests(), 0);
}

#[test]
fn a_read_across_both_takes_of_each_what_it_has() {
    let (rig, others) = Others::beside(exact());
    others.get(1..2);
    rig.check("0");
    assert_eq!(fetched(&rig), BTreeSet::from([0]));
    assert_eq!(rig.layer.status().counted.peer_chunks, 1);
}

#[test]
fn the_registry_is_asked_too_when_other_nodes_are_silent() {
    let (rig, others) = Others::beside(exact());
    others.get(0..CHUNKS);
    others.behave(Manner::BeSilent);
    others.hedge(Duration::from_millis(10));
    rig.check("3");
    assert_eq!(fetched(&rig), BTreeSet::from([6, 7]));
    assert_eq!(rig.layer.status().counted.late_peers, 2);
    // Who lost is not listened to any more.
    wait_until("the others are given up", || {
        others.given_up.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn the_registry_is_given_up_when_other_nodes_are_faster() {
    let (rig, others) = Others::beside(exact());
    rig.blob.hold_all();
    let read = pending(&rig, "3");
    wait_until("the registry is asked", || rig.blob.count() > 0);
    others.get(0..CHUNKS);
    is_right(&rig, "3", read);
    assert_eq!(rig.layer.status().counted.peer_chunks, 2);
    // Nothing keeps the layer: the request is gone.
    rig.layer.close();
    let layer = Arc::downgrade(&rig.layer);
    let Rig {
        layer: last,
        runtime: _kept,
        ..
    } = rig;
    drop(last);
    wait_until("the layer is gone", || layer.strong_count() == 0);
}

#[test]
fn refusing_nodes_fail_no_read() {
    let (rig, others) = Others::beside(exact());
    others.get(0..CHUNKS);
    others.behave(Manner::Refuse);
    (0..FILES).for_each(|number| rig.check(&format!("{number}")));
    assert_eq!(rig.layer.status().counted.peer_chunks, 0);
    assert!(others.requests() > 0);
}

#[test]
fn a_failing_registry_fails_no_read_that_other_nodes_answer() {
    let (rig, others) = Others::beside(exact());
    rig.blob.fail([Fault::NotFound; 1000]);
    others.get(0..CHUNKS);
    others.behave(Manner::BeSilent);
    others.hedge(Duration::ZERO);
    let read = pending(&rig, "5");
    wait_until("the registry has failed", || {
        rig.layer.status().last_error.is_some()
    });
    // They are silent for long, and whoever has asked them waits, and asks again.
    others.behave(Manner::Send);
    is_right(&rig, "5", read);
    assert_eq!(rig.layer.status().counted.failed_reads, 0);
}

#[test]
fn what_other_nodes_come_to_have_answers_who_waits_for_a_registry_that_is_away() {
    let (rig, others) = Others::beside(exact());
    rig.blob.fail([Fault::Unavailable; 1000]);
    let read = pending(&rig, "5");
    wait_until("the registry has failed", || {
        rig.layer.status().counted.retries > 0
    });
    others.get(10..12);
    is_right(&rig, "5", read);
    assert_eq!(rig.layer.status().counted.failed_reads, 0);
}

#[test]
fn a_registry_and_nodes_that_fail_are_an_error() {
    let (rig, others) = Others::beside(exact());
    rig.blob.fail([Fault::NotFound; 1000]);
    others.get(0..CHUNKS);
    others.behave(Manner::Refuse);
    rig.read("5", 0, 10).unwrap_err();
    rig.blob.fail_no_more();
    rig.check_soon("5");
}

#[test]
fn both_roads_are_used_and_none_for_what_the_other_brings() {
    let (rig, others) = Others::beside(exact());
    others.get(0..CHUNKS / 2);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("all of it is here", || rig.layer.cached().is_complete());
    assert_eq!(fetched(&rig), (CHUNKS / 2..CHUNKS).collect());
    let counted = rig.layer.status().counted;
    assert_eq!(counted.peer_chunks, (CHUNKS / 2) as u64);
    assert_eq!(counted.demand_requests, 0);
    (0..FILES).for_each(|number| rig.check(&format!("{number}")));
}

#[test]
fn large_members_come_from_other_nodes_too() {
    let maker = || {
        let mut maker = Maker::new();
        maker.file("small", 0o644, &noise(1, 500), 500);
        maker.file("large", 0o644, &noise(2, 400_000), 100_000);
        maker
    };
    let (rig, others) = Others::beside_all(exact(), maker);
    others.get(0..5);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("all of it is here", || rig.layer.cached().is_complete());
    assert_eq!(rig.blob.count(), 0);
    rig.check("large");
}

#[test]
fn nodes_that_send_nothing_of_what_they_have_keep_nothing_away() {
    let (rig, others) = Others::beside(exact());
    others.get(0..CHUNKS);
    others.behave(Manner::Refuse);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("all of it is here", || rig.layer.cached().is_complete());
    assert_eq!(fetched(&rig).len(), CHUNKS);
}

#[test]
fn who_reads_waits_for_what_others_fetch_no_longer_than_told() {
    let (rig, others) = Others::beside(exact());
    others.hold(EVER);
    let read = pending(&rig, "7");
    others.get(14..16);
    is_right(&rig, "7", read);
    assert_eq!(rig.blob.count(), 0);
    others.hold(Duration::from_millis(20));
    rig.check("8");
    assert_eq!(fetched(&rig), BTreeSet::from([16, 17]));
}

#[test]
fn what_others_are_about_to_fetch_is_fetched_ahead_only_when_they_do_not() {
    let (rig, others) = Others::beside(exact());
    others.hold(EVER);
    rig.layer.prefetch(Prefetch::Everything);
    others.get(0..CHUNKS / 2);
    wait_until("half of it is here", || {
        rig.layer.status().counted.peer_chunks == (CHUNKS / 2) as u64
    });
    assert_eq!(rig.blob.count(), 0);
    others.hold(Duration::ZERO);
    wait_until("all of it is here", || rig.layer.cached().is_complete());
    assert_eq!(fetched(&rig), (CHUNKS / 2..CHUNKS).collect());
}

#[test]
fn who_comes_to_wait_for_what_is_fetched_ahead_does_not_wait_for_silent_nodes() {
    let (rig, others) = Others::beside(exact());
    others.get(0..CHUNKS);
    others.behave(Manner::BeSilent);
    others.hold(EVER);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("other nodes are asked", || others.requests() > 0);
    // Those who are fetched from already do not hear of it.
    others.hedge(Duration::from_millis(10));
    rig.check("0");
    assert!(fetched(&rig).is_superset(&BTreeSet::from([0, 1])));
}

#[test]
fn other_nodes_are_told_as_long_as_the_layer_is_open() {
    let (rig, others) = Others::beside(exact());
    let is_joined = || others.is_joined.load(Ordering::SeqCst);
    assert!(is_joined());
    rig.layer.share(&Node(others.clone()));
    rig.layer.close();
    wait_until("the others know that it is closed", || !is_joined());
    rig.layer.share(&Node(others.clone()));
    assert!(!is_joined());
}
