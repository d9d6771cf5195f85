//! Rates of the store without gRPC and directories: `cargo run --release -p pontoon-metastore --example rates -- DIR`.
#![allow(clippy::unwrap_used, reason = "an example")]

use std::time::{Duration, Instant};

use pontoon_metastore::{CommitSnapshot, NewSnapshot, Store};
use pontoon_snapshot::{Key, Kind, Labels, SnapshotterName};

fn key(text: String) -> Key {
    Key::new(text).unwrap()
}

fn labels() -> Labels {
    Labels::new([
        (
            "containerd.io/snapshot.ref".to_owned(),
            format!("sha256:{:064}", 7),
        ),
        (
            "containerd.io/gc.root".to_owned(),
            "2026-08-01T00:00:00Z".to_owned(),
        ),
    ])
    .unwrap()
}

fn make(store: &Store, name: &SnapshotterName, kind: Kind, text: &Key, parent: Option<&Key>) {
    store
        .create(
            name,
            NewSnapshot {
                id: store.allocate_id(),
                key: text.clone(),
                kind,
                parent: parent.cloned(),
                labels: labels(),
            },
        )
        .unwrap();
}

fn cycle(store: &Store, name: &SnapshotterName, n: u64, times: &mut [Vec<Duration>; 4]) {
    let active = key(format!("default/{n}/extract-{n}-abcd sha256:{:064}", n));
    let layer = key(format!(
        "default/{}/sha256:{:064x}",
        n + 1,
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    ));
    let view = key(format!("default/{}/view-{n}", n + 2));
    let t = Instant::now();
    make(store, name, Kind::Active, &active, None);
    times[0].push(t.elapsed());
    let t = Instant::now();
    store
        .commit(
            name,
            CommitSnapshot {
                key: active,
                name: layer.clone(),
                parent: None,
                labels: labels(),
                usage: None,
            },
        )
        .unwrap();
    times[1].push(t.elapsed());
    let t = Instant::now();
    make(store, name, Kind::View, &view, Some(&layer));
    times[2].push(t.elapsed());
    let t = Instant::now();
    store.remove(name, &view).unwrap();
    times[3].push(t.elapsed());
    store.remove(name, &layer).unwrap();
}

fn rss_anon() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.to_owned()
}

fn main() {
    let directory = std::env::args().nth(1).unwrap();
    let path = std::path::Path::new(&directory).join("rates.redb");
    std::fs::remove_file(&path).ok();
    let store = Store::open(&path).unwrap();
    let name = SnapshotterName::new("overlayfs").unwrap();
    for size in [10_u64, 1_000, 10_000] {
        let from: u64 = store.names().unwrap().iter().map(|(_, count)| count).sum();
        std::thread::scope(|scope| {
            for worker in 0..16 {
                let (store, name) = (&store, &name);
                scope.spawn(move || {
                    for n in (from..size).filter(|n| n % 16 == worker) {
                        let k = key(format!(
                            "default/{n}/sha256:{:064x}",
                            n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                        ));
                        make(store, name, Kind::Active, &k, None);
                    }
                });
            }
        });
        let mut times: [Vec<Duration>; 4] = Default::default();
        let cpu = self::cpu();
        let start = Instant::now();
        for n in 0..1000 {
            cycle(&store, &name, 1_000_000 + n, &mut times);
        }
        let rate = 1000.0 / start.elapsed().as_secs_f64();
        let p50 = times.each_mut().map(|times| {
            times.sort();
            times[times.len() / 2].as_micros()
        });
        println!(
            "{size} snapshots: 1 caller {rate:.0} cycles/s, p50 us prepare/commit/view/remove {p50:?}"
        );
        let cpu = self::cpu();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let (store, name) = (&store, &name);
                scope.spawn(move || {
                    let mut times: [Vec<Duration>; 4] = Default::default();
                    for n in 0..300 {
                        cycle(store, name, 2_000_000 + worker * 1000 + n, &mut times);
                    }
                });
            }
        });
        let wall = start.elapsed();
        println!(
            "{size} snapshots: 8 callers {:.0} cycles/s, cpu {:.0} us an operation, {}, file {} KiB",
            2400.0 / wall.as_secs_f64(),
            (self::cpu() - cpu) * 1e6 / 12000.0,
            rss_anon(),
            std::fs::metadata(&path).unwrap().len() / 1024,
        );
    }
    let start = Instant::now();
    let mut count = 0;
    store
        .walk(&name, &mut |_| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    println!("walk of {count}: {:?}", start.elapsed());
    drop(store);
    let start = Instant::now();
    let store = Store::open(&path).unwrap();
    println!("open: {:?}, {}", start.elapsed(), rss_anon());
    drop(store);
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
