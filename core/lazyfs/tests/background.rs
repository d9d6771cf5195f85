//! What is fetched ahead, and that it is in nobody's way.

use std::time::Duration;

use pontoon_lazyfs::{BackgroundConfig, BackgroundState, Config, Prefetch, Read};
use pontoon_source::Urgency;

use crate::fixture::{Fault, Maker, Rig, exact, noise, open, open_cache_of, wait_until};

fn two_files() -> Maker {
    two_files_of(1)
}

fn two_files_of(seed: u64) -> Maker {
    let mut maker = Maker::new();
    maker.file("first", 0o644, &noise(seed, 300_000), 30_000);
    maker.file("second", 0o644, &noise(seed + 1, 300_000), 30_000);
    maker
}

fn small_requests() -> Config {
    Config {
        background: BackgroundConfig {
            requests: 2,
            request_bytes: 50_000,
            ..BackgroundConfig::default()
        },
        ..exact()
    }
}

#[test]
fn everything_comes_in_the_background() {
    let rig = Rig::new(small_requests(), two_files());
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("everything is here", || rig.layer.status().percent == 100.0);
    wait_until("the background is done", || {
        rig.layer.status().background == BackgroundState::Done
    });
    assert!(
        rig.blob
            .requests()
            .iter()
            .all(|(_, urgency)| *urgency == Urgency::Background)
    );
    rig.check("first");
    rig.check("second");
    let counted = rig.layer.status().counted;
    assert_eq!((counted.inflated_members, counted.demand_requests), (20, 0));
}

#[test]
fn a_landmark_ends_what_is_fetched_at_the_mount() {
    let rig = Rig::new(small_requests(), two_files());
    let landmark = 200_000;
    rig.layer.prefetch(Prefetch::BlobUpTo(landmark));
    wait_until("the background is done", || {
        rig.layer.status().background == BackgroundState::Done
    });
    assert!(matches!(
        rig.start("first", 0, 180_000),
        Read::Ready(180_000)
    ));
    assert!(
        rig.blob
            .requests()
            .iter()
            .all(|(range, _)| range.start < landmark)
    );
    assert!(rig.layer.status().percent < 50.0);
}

#[test]
fn a_recorded_order_is_followed() {
    let rig = Rig::new(small_requests(), two_files());
    rig.layer.prefetch(Prefetch::Chunks(vec![19, 3, 3, 1000]));
    wait_until("the background is done", || {
        rig.layer.status().background == BackgroundState::Done
    });
    assert!(matches!(
        rig.start("second", 270_000, 30_000),
        Read::Ready(30_000)
    ));
    assert!(matches!(
        rig.start("first", 90_000, 30_000),
        Read::Ready(30_000)
    ));
    assert_eq!(rig.layer.status().counted.inflated_members, 2);
}

#[test]
fn it_can_be_switched_off_but_for_landmarks() {
    let mut config = small_requests();
    config.background.enabled = false;
    let rig = Rig::new(config, two_files());
    rig.layer.prefetch(Prefetch::Everything);
    assert_eq!(rig.layer.status().background, BackgroundState::Idle);
    rig.layer.prefetch(Prefetch::BlobUpTo(100));
    wait_until("the background is done", || {
        rig.layer.status().background == BackgroundState::Done
    });
    assert_eq!(rig.layer.status().counted.inflated_members, 1);
}

#[test]
fn a_reader_overtakes_what_nobody_waits_for() {
    let rig = Rig::new(small_requests(), two_files());
    rig.blob.hold(0..u64::MAX, Some(Urgency::Background));
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("background requests are under way", || {
        rig.blob.count() >= 2
    });
    // Nobody has asked for this one yet.
    rig.check("second");
    // This is on its way, in a request that does not move.
    let Read::Pending(pending) = rig.start("first", 0, 10) else {
        panic!("it is not here");
    };
    rig.runtime.block_on(pending).unwrap();
    let requests = rig.blob.requests();
    let asked = |urgency| {
        let mut asked = requests.iter().filter(|(_, other)| *other == urgency);
        let asked = asked.find(|(range, _)| range.start == 33);
        asked
            .unwrap_or_else(|| panic!("{urgency:?}: {requests:?}"))
            .0
            .end
    };
    assert_eq!(asked(Urgency::Demand), asked(Urgency::Background));
}

#[test]
fn a_reader_does_not_wait_for_the_turn_of_what_nobody_waited_for() {
    let mut config = small_requests();
    config.background.requests = 1;
    let rig = Rig::new(config, two_files());
    rig.blob.hold(0..u64::MAX, Some(Urgency::Background));
    // Too far from each other for one request.
    rig.layer.prefetch(Prefetch::Chunks(vec![3, 19]));
    wait_until("the first request is under way", || rig.blob.count() == 1);
    let Read::Pending(pending) = rig.start("second", 270_000, 10) else {
        panic!("it is not here");
    };
    let read = async { tokio::time::timeout(Duration::from_secs(20), pending).await };
    let read = rig.runtime.block_on(read);
    read.expect("it does not stand behind the first").unwrap();
}

#[test]
fn the_background_stands_still_while_somebody_waits() {
    let rig = Rig::new(small_requests(), two_files());
    rig.blob.hold(0..u64::MAX, Some(Urgency::Demand));
    let Read::Pending(pending) = rig.start("second", 0, 10) else {
        panic!("it is not here");
    };
    rig.layer.prefetch(Prefetch::Everything);
    // Long enough to see it if it did move.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.blob.count(), 1);
    assert_eq!(rig.layer.status().local_bytes, 0);
    rig.blob.release();
    rig.runtime.block_on(pending).unwrap();
    wait_until("everything is here", || rig.layer.status().percent == 100.0);
}

#[test]
fn a_failure_in_the_background_is_tried_again() {
    let rig = Rig::new(small_requests(), two_files());
    rig.blob.fail([Fault::Unavailable, Fault::NotFound]);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("everything is here", || rig.layer.status().percent == 100.0);
    assert!(rig.layer.status().last_error.is_some());
}

#[test]
fn a_failure_in_the_background_is_not_a_readers() {
    let rig = Rig::new(small_requests(), two_files());
    rig.blob.hold_all();
    rig.blob.fail([Fault::NotFound, Fault::NotFound]);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("background requests are under way", || {
        rig.blob.count() == 2
    });
    let Read::Pending(pending) = rig.start("first", 0, 10) else {
        panic!("it is not here");
    };
    rig.blob.release();
    rig.runtime.block_on(pending).unwrap();
}

#[test]
fn a_limit_is_kept() {
    let mut config = small_requests();
    // What one worker begins with, then nothing for an hour; the others find that it is spent.
    config.background.bytes_per_second = 1;
    config.background.requests = 8;
    for _ in 0..8 {
        let rig = Rig::new(config.clone(), two_files());
        rig.layer.prefetch(Prefetch::Everything);
        wait_until("the first requests are under way", || rig.blob.count() > 0);
        std::thread::sleep(Duration::from_millis(50));
        assert!(rig.blob.count() <= 2, "{:?}", rig.blob.requests());
        // Readers are not limited.
        rig.check("second");
    }
}

/// Which member each request begins with, of twenty of the same size.
fn members(rig: &Rig) -> Vec<u64> {
    let size = rig.layer.status().blob_bytes / 20;
    let requests = rig.blob.requests();
    let starts = requests.iter().map(|(range, _)| range.start);
    starts.map(|start| (start + size / 2) / size).collect()
}

/// One request at a time, one member in each.
fn one_by_one() -> Config {
    let mut config = small_requests();
    config.background.requests = 1;
    config.background.request_bytes = 1;
    config
}

#[test]
fn what_was_learned_comes_before_what_is_told_and_that_before_the_rest() {
    let rig = Rig::new(one_by_one(), two_files());
    rig.blob.hold_all();
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("the first request is under way", || rig.blob.count() == 1);
    rig.layer.prefetch(Prefetch::Chunks(vec![9, 8]));
    rig.layer.follow(7, vec![12]);
    rig.layer.follow(3, vec![15]);
    rig.blob.release();
    wait_until("everything is here", || rig.layer.status().percent == 100.0);
    let asked = members(&rig);
    assert_eq!(asked[1..5], [15, 12, 9, 8], "{asked:?}");
    assert_eq!(asked.len(), 20, "something was asked for twice: {asked:?}");
}

#[test]
fn layers_share_one_order() {
    let rig = Rig::new(one_by_one(), two_files());
    let made = two_files_of(7).make();
    let directory = tempfile::tempdir().unwrap();
    let other = open(&rig.engine, &rig.cache, directory.path(), &made);
    // Nothing moves before all is said.
    rig.blob.hold_all();
    made.blob.hold_all();
    rig.layer.follow(0, vec![0]);
    wait_until("the first request is under way", || rig.blob.count() == 1);
    other.follow(1, vec![5]);
    rig.layer.follow(2, vec![6]);
    other.follow(3, vec![7]);
    rig.blob.release();
    wait_until("it is the other layer's turn", || made.blob.count() == 1);
    // What comes behind it waits, although it is of a layer that has nothing on its way.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((rig.blob.count(), made.blob.count()), (1, 1));
    made.blob.release();
    wait_until("all of it is here", || {
        rig.blob.count() == 2 && made.blob.count() == 2
    });
}

#[test]
fn who_waits_while_the_order_is_known_has_nothing_fetched_along() {
    let mut config = small_requests();
    config.along_bytes = 100_000;
    let rig = Rig::new(config, two_files());
    rig.blob.hold(0..u64::MAX, Some(Urgency::Background));
    rig.layer.follow(0, vec![19]);
    wait_until("the first request is under way", || rig.blob.count() == 1);
    rig.read("first", 0, 10).unwrap();
    let demand = rig.blob.requests().last().unwrap().0.clone();
    assert!(demand.end - demand.start < 40_000, "{demand:?}");
    // Once it has come, nobody knows what comes next.
    rig.blob.release();
    wait_until("the order has come", || {
        rig.layer.status().background == BackgroundState::Done
    });
    rig.read("first", 60_000, 10).unwrap();
    let demand = rig.blob.requests().last().unwrap().0.clone();
    assert!(demand.end - demand.start > 50_000, "{demand:?}");
}

#[test]
fn no_more_is_on_its_way_than_the_line_holds() {
    let mut config = exact();
    config.background.requests = 64;
    config.background.request_bytes = 50_000;
    let mut maker = Maker::new();
    maker.file("large", 0o644, &noise(1, 3_000_000), 30_000);
    let rig = Rig::new(config, maker);
    rig.blob.hold_all();
    rig.layer.prefetch(Prefetch::Everything);
    // Half a megabyte as long as nothing was measured, and the request that goes beyond it.
    let asked = || -> u64 {
        let requests = rig.blob.requests();
        requests
            .iter()
            .map(|(range, _)| range.end - range.start)
            .sum()
    };
    let mut sum = 0;
    wait_until("a window is asked for", || {
        sum = asked();
        sum >= 512 << 10
    });
    // All the rest would be asked for in the same moment.
    assert!(sum < (512 << 10) + 100_000, "{sum}");
    rig.blob.release();
    wait_until("everything is here", || rig.layer.status().percent == 100.0);
}

#[test]
fn the_window_follows_what_was_measured() {
    let mut maker = Maker::new();
    maker.file("large", 0o644, &noise(1, 3_000_000), 30_000);
    let rig = Rig::new(Config::default(), maker);
    // 8 Mbit/s and 100 ms.
    rig.blob.measure(Duration::from_millis(100), 1_000_000);
    // Who knows the way has asked before.
    rig.read("large", 2_990_000, 10).unwrap();
    for (bytes_per_second, window) in [(1_000_000, 256 << 10), (2_500_000, 500_000)] {
        rig.blob
            .measure(Duration::from_millis(100), bytes_per_second);
        let before = rig.blob.count();
        let offset = if window == 500_000 { 1_500_000 } else { 0 };
        rig.read("large", offset, 10).unwrap();
        let demand = rig.blob.requests()[before].0.clone();
        let bytes = demand.end - demand.start;
        assert!(
            bytes <= window && bytes > window - 40_000,
            "{bytes} of {window}"
        );
    }
}

#[test]
fn what_lies_behind_a_miss_comes_before_the_rest() {
    let mut config = one_by_one();
    config.background.requests = 1;
    let rig = Rig::new(config, two_files());
    rig.blob.hold(0..u64::MAX, Some(Urgency::Background));
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("the first request is under way", || rig.blob.count() == 1);
    rig.read("second", 120_000, 10).unwrap();
    rig.blob.release();
    wait_until("everything is here", || rig.layer.status().percent == 100.0);
    let asked = members(&rig);
    assert_eq!(asked[1..4], [14, 15, 16], "{asked:?}");
    assert_eq!(asked.len(), 20, "something was asked for twice: {asked:?}");
}

/// As long as the cache is full, or the registry away, nothing ends what waits to be fetched ahead.
#[test]
fn misses_leave_nothing_behind_while_nothing_is_fetched_ahead() {
    let mut maker = Maker::new();
    maker.file("large", 0o644, &noise(1, 600_000), 1000);
    let directory = tempfile::tempdir().unwrap();
    let cache = open_cache_of(directory.path(), 1);
    let rig = Rig::in_cache(directory, cache, small_requests(), maker);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("the cache is full", || {
        rig.layer.status().background == BackgroundState::NoSpace
    });
    let before = rig.runtime.metrics().num_alive_tasks();
    for burst in (0..5).rev() {
        for at in (0..32).rev() {
            rig.read("large", (burst * 32 + at) * 2000, 10).unwrap();
        }
        // It is calm for a while, and what is near has its turn.
        std::thread::sleep(Duration::from_millis(500));
    }
    let alive = || rig.runtime.metrics().num_alive_tasks();
    wait_until("what reads have begun is over", || alive() < before + 50);
}

/// A learned order that cannot be fetched is of one image; who waits for another's bytes must not pay for it.
#[test]
fn an_order_that_does_not_come_is_not_counted_on() {
    let mut config = small_requests();
    config.along_bytes = 100_000;
    let rig = Rig::new(config, two_files());
    let made = two_files_of(7).make();
    let directory = tempfile::tempdir().unwrap();
    let other = open(&rig.engine, &rig.cache, directory.path(), &made);
    made.blob.fail([Fault::Unavailable; 1000]);
    other.follow(0, vec![0]);
    wait_until("it has failed", || {
        other.status().background == BackgroundState::Failing
    });
    rig.read("first", 0, 10).unwrap();
    let demand = rig.blob.requests().last().unwrap().0.clone();
    assert!(demand.end - demand.start > 50_000, "{demand:?}");
}

/// Whatever a layer's members are, finding them is not work for hours.
#[test]
fn a_member_of_very_many_chunks_keeps_no_thread_busy() {
    let mut maker = Maker::new();
    let names: Vec<String> = (0..100_000).map(|name| name.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b"x"[..])).collect();
    maker.files_of_one_member(&files);
    let rig = Rig::new(small_requests(), maker);
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("it is asked for", || rig.blob.count() > 0);
}
