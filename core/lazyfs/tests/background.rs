//! What is fetched ahead, and that it is in nobody's way.

use std::time::Duration;

use pontoon_lazyfs::{BackgroundConfig, BackgroundState, Config, Prefetch, Read};
use pontoon_source::Urgency;

use crate::fixture::{Fault, Maker, Rig, exact, noise, wait_until};

fn two_files() -> Maker {
    let mut maker = Maker::new();
    maker.file("first", 0o644, &noise(1, 300_000), 30_000);
    maker.file("second", 0o644, &noise(2, 300_000), 30_000);
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
