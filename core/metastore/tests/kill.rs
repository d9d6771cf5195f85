//! A real process, killed while several callers write.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pontoon_metastore::Store;
use pontoon_snapshot::SnapshotterName;

use crate::model::{Model, Op, observe, perform};
use crate::random::Random;

const CALLERS: usize = 4;
const ROUNDS: u64 = 8;
const DIRECTORY: &str = "METASTORE_TEST_DIRECTORY";
const ROUND: &str = "METASTORE_TEST_ROUND";

fn name(caller: usize) -> SnapshotterName {
    SnapshotterName::new(format!("caller-{caller}")).unwrap()
}

/// The operations of one caller in one round, the same in parent and child.
fn ops(round: u64, caller: usize) -> impl Iterator<Item = Op> {
    let mut random = Random::new(round * 100 + caller as u64);
    std::iter::from_fn(move || Some(random_op(&mut random)))
}

fn random_op(random: &mut Random) -> Op {
    let mut key = || format!("key-{}", random.below(12));
    let (first, second, third) = (key(), key(), key());
    let parent = random.coin().then_some(third);
    match random.below(12) {
        0..4 => Op::Create {
            view: random.coin(),
            key: first,
            parent,
        },
        4..5 => Op::Layer {
            name: first,
            parent,
        },
        5..8 => Op::Commit {
            key: first,
            name: second,
            parent,
        },
        8..11 => Op::Remove(first),
        _ => Op::Label {
            key: first,
            value: random.below(1000).to_string(),
        },
    }
}

/// The child: says the caller's number after each operation that was answered, until it is killed.
#[test]
#[ignore = "the child process of the next test"]
fn child() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else {
        return;
    };
    let store = Store::open(&Path::new(&directory).join("metadata.redb")).unwrap();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (store, round) = (&store, round.parse().unwrap());
            scope.spawn(move || {
                for op in ops(round, caller) {
                    perform(store, &name(caller), &op).ok();
                    // One write, so that a line is there or not.
                    let line = format!("answered {caller}\n");
                    std::io::stderr().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

struct KilledAtTheEnd(Child);

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs the child until it was answered `lines` times, kills it, and counts each caller's answers.
fn run_and_kill(directory: &Path, round: u64, lines: usize) -> [usize; CALLERS] {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = KilledAtTheEnd(child);
    let mut said = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let mut answered = [0; CALLERS];
    let mut count = |line: std::io::Result<String>| {
        if let Some(caller) = line.unwrap().strip_prefix("answered ") {
            answered[caller.parse::<usize>().unwrap()] += 1;
        }
    };
    said.by_ref().take(lines).for_each(&mut count);
    drop(child);
    said.for_each(&mut count);
    answered
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut models: [Model; CALLERS] = Default::default();
    for round in 0..ROUNDS {
        assert!(Instant::now() < deadline, "too slow");
        let lines = 60 + 37 * round as usize;
        let answered = run_and_kill(directory.path(), round, lines);
        assert!(answered.iter().sum::<usize>() >= lines, "{answered:?}");
        let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
        for (caller, model) in models.iter_mut().enumerate() {
            let mut ops = ops(round, caller);
            for op in ops.by_ref().take(answered[caller]) {
                model.apply(&op).ok();
            }
            let mut next = model.clone();
            next.apply(&ops.next().unwrap()).ok();
            let found = observe(&store, &name(caller)).snapshots;
            let possible = [&model.snapshots, &next.snapshots];
            assert!(
                possible.contains(&&found),
                "{found:?} is none of {possible:?}"
            );
            model.snapshots = found;
        }
    }
}
