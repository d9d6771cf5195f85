//! Processes that are killed in the middle of their work.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::fixture::{Random, Sample, open, wait_until};
use crate::Put;

const DIRECTORY: &str = "PONTOON_CACHE_TEST_DIRECTORY";

fn samples() -> Vec<Sample> {
    (0..3).map(|seed| Sample::new(seed, 60, 4000)).collect()
}

/// What the child does until it is killed.
fn work(dir: &Path) {
    let cache = open(&dir.join("blobs"));
    std::fs::write(dir.join("started"), "").unwrap();
    let samples = samples();
    let seed = u64::from(std::process::id());
    thread::scope(|scope| {
        for thread in 0..3 {
            let (samples, cache) = (&samples, &cache);
            scope.spawn(move || {
                let mut random = Random::new(seed + thread);
                loop {
                    let sample = &samples[random.below(samples.len())];
                    let Ok(layer) = cache.create(&sample.key, &sample.table, sample.meta()) else {
                        continue;
                    };
                    match random.below(60) {
                        0 => drop(cache.flush()),
                        1 if random.below(20) == 0 => drop(cache.remove(&sample.key)),
                        2 if random.coin() => drop(cache.shared.evict_layer(&layer.slot)),
                        _ => {
                            let index = random.below(sample.len());
                            let put = sample.put(&layer, index);
                            assert!(matches!(put, Put::NotStored(_)) || layer.key() == &sample.key);
                        }
                    }
                }
            });
        }
    });
}

/// Not a test: what [`a_killed_process_leaves_no_bit_without_its_data`] starts.
#[test]
fn child() {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        work(Path::new(&dir));
    }
}

#[test]
fn a_killed_process_leaves_no_bit_without_its_data() {
    let rounds = if std::env::var_os("PONTOON_FULL").is_some() {
        300
    } else {
        12
    };
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(5);
    let blobs = dir.path().join("blobs");
    let mut most = 0;
    for round in 0.. {
        // On a busy machine a child may not come far.
        if round >= rounds && most > 10 {
            break;
        }
        assert!(
            round < rounds + 50,
            "never more than {most} chunks survived"
        );
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::kill::child", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = dir.path().join("started");
        wait_until("the child works", || started.exists());
        std::fs::remove_file(started).unwrap();
        thread::sleep(Duration::from_millis(10 + random.below(150) as u64));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            ended.is_none(),
            "round {round}: the child has ended: {ended:?}"
        );
        let cache = open(&blobs);
        for sample in samples() {
            if let Some(layer) = cache.layer(&sample.key).unwrap() {
                most = most.max(sample.ready(&layer).len());
            }
        }
        assert_eq!(cache.stats().damaged_layers, 0, "round {round}");
    }
}
