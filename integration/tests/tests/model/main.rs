//! Random operations by several callers at once on the real daemon, which is killed at random moments, against a
//! model in memory.
//!
//! What was acknowledged is there, what was not is there whole or not at all; what was written into a snapshot
//! that was committed survives; there is nothing to repair but what was about to be made; and after Cleanup there is one directory for each snapshot.
//!
//! `PONTOON_SEED` repeats a run as far as the scheduling of callers allows, `PONTOON_FULL=1` makes it long.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod caller;
mod expected;
mod random;
mod stage;
mod twin;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use caller::{Caller, Stop};
use pontoon_overlay::{Finding, fsck};
use pontoon_rig::plugin::Kind as Program;
use random::Random;
use stage::Stage;

const CALLERS: usize = 6;

/// How a round ends for the daemon.
#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGKILL in the middle of it all.
    Killed,
    /// SIGTERM in the middle of it all.
    Stopped,
    /// It goes on.
    Spared,
}

/// The seed, which is printed, and whether to run long.
fn settings() -> (u64, bool) {
    let seed = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().subsec_nanos().into()
    });
    println!("PONTOON_SEED={seed}");
    (seed, std::env::var_os("PONTOON_FULL").is_some())
}

#[test]
fn what_is_acknowledged_survives() {
    let (seed, full) = settings();
    let length = Duration::from_secs(if full { 600 } else { 15 });
    let mut random = Random::new(seed);
    let mut stage = Stage::start();
    let mut callers: Vec<Caller> = (0..CALLERS)
        .map(|number| Caller::new(number, Random::new(random.next()), &stage))
        .collect();
    let begun = Instant::now();
    let (mut rounds, mut done, mut undone) = (0, 0, 0);
    let operations = AtomicU64::new(0);
    while begun.elapsed() < length {
        let end = *random.pick(&[
            End::Killed,
            End::Killed,
            End::Killed,
            End::Stopped,
            End::Spared,
        ]);
        let count = 10 + random.below(400);
        println!("round {rounds}: {count} operations, then {end:?}");
        play(&mut stage, &mut callers, &operations, count, end);
        let settled = settle(&stage, &mut callers);
        done += settled.iter().filter(|done| **done).count();
        undone += settled.iter().filter(|done| !**done).count();
        stage.assert_is(&callers, &mut random);
        rounds += 1;
    }
    let operations = operations.into_inner();
    println!(
        "{rounds} rounds, {operations} operations; of those without an answer {done} done, {undone} not"
    );
    assert!(rounds > 3 && operations > 300, "it did next to nothing");
    stage.end();
}

/// Lets the callers work until they have done `count` operations together, and then ends the daemon.
fn play(stage: &mut Stage, callers: &mut [Caller], operations: &AtomicU64, count: u64, end: End) {
    let stop = Stop::new(
        operations.load(Ordering::Relaxed) + count,
        matches!(end, End::Spared),
    );
    thread::scope(|scope| {
        for caller in callers {
            let stop = &stop;
            scope.spawn(move || {
                // A caller that panics must not leave the others waiting for its operations.
                let _leaving = stop.guard();
                caller.work(stop, operations);
            });
        }
        stop.wait(operations);
        match end {
            End::Killed => stage.plugin.kill().unwrap(),
            End::Stopped => assert!(stage.plugin.terminate().unwrap().success()),
            End::Spared => {}
        }
    });
    if !matches!(end, End::Spared) {
        if Program::from_env() != Program::Oracle {
            check(stage.plugin.root(), end);
        }
        stage.plugin.resume().unwrap();
    }
}

/// Panics unless a stopped daemon left nothing to repair, and a killed one only directories of what it was about to
/// make. Every other time they are repaired before the daemon starts, which does it otherwise.
fn check(root: &Path, end: End) {
    let report = fsck(root, false).unwrap();
    let expected =
        |finding: &Finding| matches!(end, End::Killed) && finding.problem == "no snapshot has it";
    assert!(
        report.findings.iter().all(expected),
        "{end:?}: {:#?}",
        report.findings
    );
    if report.snapshots.is_multiple_of(2) {
        fsck(root, true).unwrap();
        assert_eq!(fsck(root, false).unwrap().findings, []);
    }
}

/// Lets every caller find out what became of the operation that it was not answered; answers whether it was done,
/// for each that had one.
fn settle(stage: &Stage, callers: &mut [Caller]) -> Vec<bool> {
    stage.wait_reachable();
    thread::scope(|scope| {
        let settling = callers
            .iter_mut()
            .map(|caller| scope.spawn(|| caller.settle()));
        let settling: Vec<_> = settling.collect();
        settling
            .into_iter()
            .filter_map(|caller| caller.join().unwrap())
            .collect()
    })
}
