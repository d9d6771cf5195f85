//! What the daemon takes of a node's memory while everything is read at once.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pontoon_integration::full;
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{Conversion, HEAVY_LAYERS, convert, heavy, heavy_content, heavy_part};
use pontoon_rig::site;

use crate::stage::{Setup, Stage};

/// Anonymous memory, as docs/stargz-config.md promises it for `memory_bytes_max`: as much for what was fetched, as much
/// again for what is inflated, and 40 MiB for the daemon itself.
const MEMORY_MIB: u64 = 24;
const BUDGET: u64 = (2 * MEMORY_MIB + 40) << 20;

/// The end of each layer comes with its table of contents, and again with what of it is data.
const TAIL_BYTES: u64 = 256 << 10;

/// How many read at the same time.
const READERS: usize = 8;

#[test]
fn stays_within_its_budget() {
    let conversions = [
        Conversion::Estargz,
        Conversion::ZstdChunked,
        Conversion::EstargzSmallChunks,
    ];
    for conversion in conversions.into_iter().take(if full() { 3 } else { 1 }) {
        stays_within(Setup::new(Version::V2_3), conversion, megabytes());
    }
}

#[test]
fn stays_within_its_budget_with_nydus_images() {
    let conversions = [Conversion::Nydus, Conversion::NydusSmallChunks];
    for conversion in conversions.into_iter().take(if full() { 2 } else { 1 }) {
        let setup = Setup::new(Version::V2_3).nydus();
        stays_within(setup, conversion, megabytes());
    }
}

/// Of the large file, in MiB.
fn megabytes() -> usize {
    if full() { 500 } else { 60 }
}

fn stays_within(setup: Setup, conversion: Conversion, megabytes: usize) {
    let mut stage = Stage::start(&Setup {
        site: site::Setup {
            tls: true,
            ..site::Setup::default()
        },
        lazy: format!("memory_bytes_max = \"{MEMORY_MIB}MiB\"\n"),
        background: true,
        ..setup
    });
    if stage.rival {
        // It makes no promise.
        return;
    }
    let image = convert(&heavy(megabytes).unwrap(), conversion).unwrap();
    let reference = stage.publish(&image, "heavy");
    let layers = match conversion.is_nydus() {
        true => 1,
        false => HEAVY_LAYERS as u64,
    };
    let pid = stage.bench.cluster.plugin.process().unwrap().pid();
    let most = {
        // Everything begins to come while it is pulled.
        most_during(pid, || {
            stage.pull(&reference);
            let lazy = stage.number("pontoon_lazy_layers", "");
            assert_eq!(lazy, layers, "lazy layers");
            let view = stage.view(&reference);
            thread::scope(|scope| {
                for reader in 0..READERS {
                    let view = &view;
                    scope.spawn(move || {
                        if reader == 0 {
                            let large = view.read("large").unwrap();
                            assert!(large == heavy_content(megabytes), "wrong bytes");
                        }
                        let parts = (2..HEAVY_LAYERS).skip(reader % 4);
                        for number in parts.step_by(if reader < 4 { 4 } else { 1 }) {
                            let part = view.read(&format!("part/{number}")).unwrap();
                            assert!(part == heavy_part(number), "wrong bytes in {number}");
                        }
                    });
                }
            });
        })
    };
    let (pulled, size) = (stage.blob_bytes(), image.image.size().unwrap());
    println!("{}: {pulled} bytes came of {size}", conversion.name());
    let tails = layers * TAIL_BYTES;
    assert!(pulled < size + tails + size / 10, "bytes come twice");
    println!("{}: {} MB at most", conversion.name(), most / 1_000_000);
    assert!(most < BUDGET, "{most} bytes of anonymous memory");
    stage.finish();
}

/// The most anonymous memory that the process was seen to have while `work` was done, in bytes.
fn most_during(pid: u32, work: impl FnOnce()) -> u64 {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(anonymous_bytes(pid));
                thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap();
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
        most
    })
}

/// `RssAnon` of a process (proc_pid_status(5)).
fn anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kibibytes * 1024
}
