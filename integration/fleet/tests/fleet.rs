//! The short form: two hundred nodes. What it asserts is what the policy is for, with bounds that fail without it.

use std::time::Duration;

use pontoon_fleet::{Outcome, Peers, Scenario, simulate};

/// Two hundred nodes that start an image of 48 MiB within half a second.
fn scenario() -> Scenario {
    Scenario {
        nodes: 200,
        spread: Duration::from_millis(500),
        chunks: 48,
        hot: 8,
        ..Scenario::default()
    }
}

fn with(change: impl FnOnce(&mut Scenario)) -> Outcome {
    let mut scenario = scenario();
    change(&mut scenario);
    let outcome = simulate(&scenario);
    assert_eq!(outcome.complete, 200, "{outcome:?}");
    outcome
}

#[test]
fn the_registry_sends_few_images_and_without_the_policy_many() {
    let on = with(|_| ());
    let impatient = with(|scenario| scenario.peers = Peers::Impatient);
    let off = with(|scenario| scenario.peers = Peers::Off);
    // Once for each node, and nobody gives anything.
    assert!((off.egress - 200.0).abs() < 1e-9, "{off:?}");
    assert!(off.given_most == 0.0 && off.asks == 0.0, "{off:?}");
    assert!(on.egress <= 10.0, "{on:?}");
    assert!(impatient.egress > 4.0 * on.egress, "{impatient:?} {on:?}");
    // Nobody is much slower for it.
    assert!(on.ready[2] < off.ready[2], "{on:?} {off:?}");
}

#[test]
fn the_same_seed_ends_in_the_same_numbers() {
    let first = with(|_| ());
    assert_eq!(first, with(|_| ()));
    assert_ne!(first, with(|scenario| scenario.seed = 2));
}

#[test]
fn nodes_that_lie_are_banned_and_their_bytes_kept_by_nobody() {
    let outcome = with(|scenario| scenario.liars = 0.02);
    // Everybody has everything, and wrong bytes are not counted as had.
    assert!(outcome.bans > 0, "{outcome:?}");
    assert!(
        outcome.failures * 200.0 >= outcome.bans as f64,
        "{outcome:?}"
    );
}

#[test]
fn slow_nodes_are_gone_round() {
    let all_fast = with(|scenario| scenario.slow = 0.0);
    let some_slow = with(|scenario| scenario.slow = 0.05);
    assert!(some_slow.hedges > 0.0, "{some_slow:?}");
    // A slow node needs 100 ms for a chunk: who waits for it again and again is ready seconds later.
    assert!(
        some_slow.ready[1] < all_fast.ready[1] * 2.0 + 0.5,
        "{some_slow:?} {all_fast:?}"
    );
}
