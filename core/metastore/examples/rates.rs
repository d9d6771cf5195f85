//! Rates of the store alone, without directories and gRPC, at 10, 1,000 and 10,000 snapshots:
//! `cargo run --release -p pontoon-metastore --example rates -- DIRECTORY`.
#![allow(clippy::unwrap_used, reason = "an example")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use pontoon_metastore::{CommitSnapshot, NewSnapshot, Store};
use pontoon_snapshot::{Key, Kind, LABEL_SNAPSHOT_REF, Labels, SnapshotterName};

const ONE_CALLER_CYCLES: u64 = 1000;
const CALLERS: u64 = 8;
const CYCLES_PER_CALLER: u64 = 300;
/// Prepare, commit, view, remove, remove.
const OPERATIONS_PER_CYCLE: f64 = 5.0;

struct Bench {
    path: PathBuf,
    store: Store,
    name: SnapshotterName,
}

impl Bench {
    fn new(path: PathBuf) -> Self {
        Bench {
            store: Store::open(&path).unwrap(),
            path,
            name: SnapshotterName::new("overlayfs").unwrap(),
        }
    }

    fn make(&self, kind: Kind, key: &Key, parent: Option<&Key>) {
        let new = NewSnapshot {
            id: self.store.allocate_id(),
            key: key.clone(),
            kind,
            parent: parent.cloned(),
            labels: labels(),
        };
        self.store.create(&self.name, new).unwrap();
    }

    fn fill(&self, from: u64, to: u64) {
        thread::scope(|scope| {
            for caller in 0..16 {
                scope.spawn(move || {
                    for n in (from..to).filter(|n| n % 16 == caller) {
                        self.make(Kind::Active, &chain_id(n), None);
                    }
                });
            }
        });
    }

    /// How long each operation took.
    fn cycle(&self, n: u64) -> [Duration; 4] {
        let active = key(format!("default/{n}/extract-{n}-abcd sha256:{n:064}"));
        let (layer, view) = (chain_id(n), key(format!("default/{n}/view-{n}")));
        let commit = CommitSnapshot {
            key: active.clone(),
            name: layer.clone(),
            parent: None,
            labels: labels(),
            usage: None,
        };
        let times = [
            timed(|| self.make(Kind::Active, &active, None)),
            timed(|| drop(self.store.commit(&self.name, commit).unwrap())),
            timed(|| self.make(Kind::View, &view, Some(&layer))),
            timed(|| drop(self.store.remove(&self.name, &view).unwrap())),
        ];
        self.store.remove(&self.name, &layer).unwrap();
        times
    }

    fn one_caller(&self, size: u64) {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let times: Vec<_> = (0..ONE_CALLER_CYCLES)
            .map(|n| self.cycle(1_000_000 + n))
            .collect();
        let cycles = ONE_CALLER_CYCLES as f64;
        println!(
            "{size} snapshots, 1 caller: {:.0} cycles/s, cpu {:.0} us an operation, p50 us prepare {} commit {} view {} remove {}",
            cycles / start.elapsed().as_secs_f64(),
            (cpu_seconds() - cpu) * 1e6 / cycles / OPERATIONS_PER_CYCLE,
            median(&times, 0),
            median(&times, 1),
            median(&times, 2),
            median(&times, 3),
        );
    }

    fn many_callers(&self, size: u64) {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                scope.spawn(move || {
                    for n in 0..CYCLES_PER_CALLER {
                        self.cycle(2_000_000 + caller * CYCLES_PER_CALLER + n);
                    }
                });
            }
        });
        let cycles = (CALLERS * CYCLES_PER_CALLER) as f64;
        println!(
            "{size} snapshots, {CALLERS} callers: {:.0} cycles/s, cpu {:.0} us an operation, {}, file {} KiB",
            cycles / start.elapsed().as_secs_f64(),
            (cpu_seconds() - cpu) * 1e6 / cycles / OPERATIONS_PER_CYCLE,
            rss_anon(),
            self.path.metadata().unwrap().len() / 1024,
        );
    }
}

fn main() {
    let directory = std::env::args().nth(1).expect("a directory");
    let path = PathBuf::from(directory).join("rates.redb");
    std::fs::remove_file(&path).ok();
    let bench = Bench::new(path.clone());
    let mut filled = 0;
    for size in [10, 1_000, 10_000] {
        bench.fill(filled, size);
        filled = size;
        bench.one_caller(size);
        bench.many_callers(size);
    }
    let mut count = 0;
    let mut visit = |_| {
        count += 1;
        ControlFlow::Continue(())
    };
    let walk = timed(|| bench.store.walk(&bench.name, &mut visit).unwrap());
    println!("walk of {count}: {walk:?}");
    drop(bench);
    let open = timed(|| drop(Bench::new(path.clone())));
    println!("open and close: {open:?}, {}", rss_anon());
    std::fs::remove_file(&path).unwrap();
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn median(times: &[[Duration; 4]], operation: usize) -> u128 {
    let mut times: Vec<_> = times.iter().map(|times| times[operation]).collect();
    times.sort_unstable();
    times[times.len() / 2].as_micros()
}

fn key(text: String) -> Key {
    Key::new(text).unwrap()
}

/// Spread over the keyspace as digests are.
fn chain_id(n: u64) -> Key {
    let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key(format!("default/{n}/sha256:{spread:064x}"))
}

fn labels() -> Labels {
    Labels::new([
        (LABEL_SNAPSHOT_REF.to_owned(), format!("sha256:{:064}", 7)),
        ("example.org/created".to_owned(), "2026-08-01".to_owned()),
    ])
    .unwrap()
}

fn rss_anon() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// User and system time of this process, which the kernel counts in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
