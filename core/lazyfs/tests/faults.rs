//! Registries that fail and lie, and disks that are full.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_lazyfs::{Config, Connect, Error, LazyLayer, Read};
use pontoon_source::{Blob, BoxFuture};

use crate::fixture::{
    FakeBlob, Fault, Handle, Maker, Rig, cached, exact, find, map, noise, open, open_cache, read,
    wait_until,
};
use crate::log;

fn one_file() -> Maker {
    let mut maker = Maker::new();
    maker.file("file", 0o644, &noise(1, 100_000), 25_000);
    maker
}

#[test]
fn a_registry_that_comes_back_is_waited_for() {
    let rig = Rig::new(Config::default(), one_file());
    rig.blob
        .fail([Fault::Unavailable, Fault::Short, Fault::Unavailable]);
    rig.check("file");
    assert_eq!(rig.layer.status().counted.retries, 3);
    assert!(rig.layer.status().last_error.is_none());
}

#[test]
fn what_came_before_a_failure_is_not_fetched_again() {
    let rig = Rig::new(Config::default(), one_file());
    // 10,000 bytes come, so no member; then 25,000 and more from the first one on.
    rig.blob.fail([Fault::Short]);
    rig.check("file");
    let counted = rig.layer.status().counted;
    assert_eq!(counted.inflated_members, 4);
    assert_eq!(rig.blob.count(), 2);
}

#[test]
fn patience_ends() {
    let config = Config {
        patience: Duration::from_millis(300),
        ..Config::default()
    };
    let rig = Rig::new(config, one_file());
    rig.blob.fail([Fault::Unavailable; 100]);
    let error = rig.read("file", 0, 10).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let status = rig.layer.status();
    assert_eq!(status.last_error.unwrap().error.kind(), "unavailable");
    assert_eq!(status.counted.failed_reads, 1);
    // Later reads try again.
    rig.blob.fail_no_more();
    rig.check_soon("file");
}

#[test]
fn a_registry_that_says_nothing_is_not_waited_for_for_ever() {
    let config = Config {
        patience: Duration::from_millis(300),
        ..Config::default()
    };
    let rig = Rig::new(config, one_file());
    rig.blob.hold_all();
    let error = rig.read("file", 0, 10).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    rig.blob.release();
    rig.check_soon("file");
}

#[test]
fn a_registry_that_drips_is_not_waited_for_for_ever() {
    let config = Config {
        patience: Duration::from_millis(300),
        ..Config::default()
    };
    let rig = Rig::new(config, one_file());
    rig.blob.fail([Fault::Drip; 100]);
    let error = rig.read("file", 0, 10).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    rig.blob.fail_no_more();
    rig.check_soon("file");
}

#[test]
fn a_refusal_is_told_to_everybody_at_once() {
    let rig = Rig::new(Config::default(), one_file());
    rig.blob.hold_all();
    rig.blob.fail([Fault::NotFound]);
    let reads = [rig.start("file", 0, 10), rig.start("file", 10, 10)];
    rig.blob.release();
    for read in reads {
        let Read::Pending(pending) = read else {
            panic!("it is not here");
        };
        let error = rig.runtime.block_on(pending).unwrap_err();
        assert_eq!(error.kind(), "not-found");
        assert!(error.whole().contains("does not have"), "{}", error.whole());
    }
    assert_eq!(rig.blob.count(), 1);
    // Who asks again and again does not ask the registry each time, but not for long.
    for _ in 0..20 {
        let error = rig.read("file", 0, 10).unwrap_err();
        assert_eq!(error.kind(), "not-found");
    }
    assert_eq!(rig.blob.count(), 1);
    wait_until("it is asked again", || rig.read("file", 0, 10).is_ok());
    rig.check("file");
}

#[test]
fn wrong_bytes_are_fetched_once_more() {
    let rig = Rig::new(exact(), one_file());
    rig.blob.fail([Fault::Lie]);
    rig.read("file", 0, 10).unwrap();
    assert_eq!(rig.layer.status().counted.wrong_members, 1);
    assert_eq!(rig.blob.count(), 2);
    rig.check("file");
}

#[test]
fn who_delivers_wrong_bytes_is_told_on_as_long_as_there_are_others() {
    let rig = Rig::new(exact(), one_file());
    rig.blob.have_others(2);
    rig.blob.fail([Fault::Lie, Fault::Lie, Fault::Lie]);
    let error = rig.read("file", 0, 10).unwrap_err();
    assert!(matches!(error, Error::WrongBytes { .. }), "{error}");
    let range = rig.blob.requests()[0].0.clone();
    assert_eq!(rig.blob.damaged(), vec![range; 3]);
    rig.blob.have_others(2);
    rig.blob.fail([Fault::Lie, Fault::Lie]);
    rig.read("file", 0, 10).unwrap();
}

#[test]
fn a_queue_is_not_held_against_the_registry() {
    let patience = Duration::from_millis(300);
    let config = Config {
        patience,
        ..Config::default()
    };
    let rig = Rig::new(config, one_file());
    rig.blob.hold_all();
    let Read::Pending(pending) = rig.start("file", 0, 10) else {
        panic!("it is not here");
    };
    // Others are served until it is our turn.
    for _ in 0..60 {
        rig.blob.serve_others();
        std::thread::sleep(patience / 20);
    }
    rig.blob.release();
    rig.runtime.block_on(pending).unwrap();
    assert_eq!(rig.blob.count(), 1);
}

/// A layer whose registry has gone away, read until the memory would be used up, and one whose registry is well.
fn beside_a_layer_that_is_away(reads: usize, held: std::ops::Range<u64>) {
    let config = Config {
        // One member at a time.
        memory_bytes_max: 48 << 10,
        ..exact()
    };
    let rig = Rig::new(config, one_file());
    let mut maker = Maker::new();
    maker.file("other", 0o644, &noise(2, 100_000), 25_000);
    let made = maker.make();
    let directory = tempfile::tempdir().unwrap();
    let well = open(&rig.engine, &rig.cache, directory.path(), &made);
    rig.blob.hold(held, None);
    let away: Vec<Read> = (0..reads)
        .map(|chunk| rig.start("file", chunk as u64 * 25_000, 10))
        .collect();
    wait_until("the registry that is away was asked", || {
        rig.blob.count() == reads
    });
    let read = read(&well, find(&well, "other"), 0, 100_000);
    let read = async { tokio::time::timeout(Duration::from_secs(20), read).await };
    let bytes = rig.runtime.block_on(read);
    assert!(bytes.expect("nothing stands in its way").unwrap() == made.files["other"]);
    rig.blob.release();
    for read in away {
        let Read::Pending(pending) = read else {
            panic!("it is not here");
        };
        rig.runtime.block_on(pending).unwrap();
    }
}

#[test]
fn a_registry_that_is_away_keeps_no_others_readers_waiting() {
    beside_a_layer_that_is_away(4, 0..u64::MAX);
}

#[test]
fn a_registry_that_stops_halfway_keeps_no_others_readers_waiting() {
    // Of the first member, one piece comes.
    beside_a_layer_that_is_away(1, 20_000..u64::MAX);
}

#[test]
fn wrong_bytes_never_reach_anybody() {
    let rig = Rig::new(exact(), one_file());
    rig.blob.fail([Fault::Lie, Fault::Lie]);
    let error = rig.read("file", 30_000, 10).unwrap_err();
    assert!(
        matches!(error, Error::WrongBytes { chunk: 1, .. }),
        "{error}"
    );
    let status = rig.layer.status();
    assert_eq!(status.last_error.unwrap().error.kind(), "wrong-bytes");
    assert_eq!((status.local_bytes, status.counted.wrong_members), (0, 2));
    // Nothing of it was kept.
    rig.check("file");
}

/// A filesystem of its own, for a full disk.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(kib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={kib}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .status();
        assert!(mounted.unwrap().success());
        Small(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn a_full_disk_is_read_past() {
    let mut maker = Maker::new();
    maker.file("file", 0o644, &noise(1, 2_000_000), 500_000);
    let small = Small::mount(600);
    let directory = tempfile::tempdir_in(small.0.path()).unwrap();
    let rig = Rig::in_directory(directory, exact(), maker);
    for offset in (0..2_000_000).step_by(100_000) {
        let bytes = rig.read("file", offset as u64, 100_000).unwrap();
        assert!(
            bytes == rig.files["file"][offset..offset + 100_000],
            "at {offset}"
        );
    }
    let status = rig.layer.status();
    assert!(status.percent < 100.0);
    assert!(status.counted.unstored_chunks > 0);
    // Each chunk once, although it was read in five pieces.
    assert_eq!(rig.blob.count(), 4);
}

#[test]
fn a_reader_who_reads_on_after_errors_does_not_fill_the_log() {
    log::keep();
    let mut maker = Maker::new();
    // A layer of its own: its digest is what is looked for.
    maker.file("file", 0o644, &noise(77, 100_000), 25_000);
    let rig = Rig::new(Config::default(), maker);
    rig.blob.fail([Fault::NotFound; 100]);
    for _ in 0..20 {
        rig.read("file", 0, 10).unwrap_err();
    }
    let lines = log::lines_with(&rig.layer.digest().to_string());
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("failures=1"), "{lines:#?}");
    assert_eq!(rig.layer.status().counted.failed_reads, 20);
    assert_eq!(rig.engine.counted().failed_reads, 20);
}

#[test]
fn wrong_bytes_do_not_fill_the_log() {
    log::keep();
    let mut maker = Maker::new();
    maker.file("file", 0o644, &noise(78, 100_000), 25_000);
    let rig = Rig::new(exact(), maker);
    rig.blob.fail([Fault::Lie; 1000]);
    for _ in 0..5 {
        rig.read("file", 0, 100_000).unwrap_err();
    }
    let lines = log::lines_with(&rig.layer.digest().to_string());
    // That bytes are wrong, and that they cannot be had.
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[test]
fn failed_reads_are_counted_by_their_reasons() {
    let config = Config {
        patience: Duration::from_millis(300),
        ..exact()
    };
    let rig = Rig::new(config, one_file());
    for (faults, kind) in [
        (vec![Fault::Lie, Fault::Lie], "wrong-bytes"),
        (vec![Fault::Unavailable; 100], "unavailable"),
        (vec![Fault::NotFound], "not-found"),
    ] {
        rig.blob.fail(faults);
        let error = rig.read("file", 0, 10).unwrap_err();
        assert_eq!(error.kind(), kind);
        rig.blob.fail_no_more();
        assert_eq!(rig.engine.failures().get(kind), Some(&1));
    }
    let failures: u64 = rig.engine.failures().values().sum();
    assert_eq!(failures, rig.engine.counted().failed_reads);
}

/// A layer that two repositories have.
#[derive(Debug)]
struct Both {
    blobs: [Arc<FakeBlob>; 2],
    turn: AtomicUsize,
}

impl Connect for Both {
    fn connect(&self) -> BoxFuture<'_, pontoon_source::Result<Arc<dyn Blob>>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let blob = Arc::new(Handle(self.blobs[turn % 2].clone()));
        Box::pin(async move { Ok(blob as Arc<dyn Blob>) })
    }

    fn ways(&self) -> usize {
        2
    }
}

#[test]
fn what_one_repository_refuses_comes_from_another() {
    let rig = Rig::new(exact(), one_file());
    let made = one_file().make();
    for refusing in [1, 2] {
        let blobs = [one_file().make().blob, one_file().make().blob];
        for blob in blobs.iter().take(refusing) {
            blob.fail([Fault::NotFound; 100]);
        }
        let both = Both {
            blobs: blobs.clone(),
            turn: AtomicUsize::new(0),
        };
        let directory = tempfile::tempdir().unwrap();
        let cache = open_cache(directory.path());
        let tree = map(directory.path(), &made.image);
        let cached = cached(&cache, &made);
        let layer = LazyLayer::open(&rig.engine, tree, &cached, Arc::new(both)).unwrap();
        let nid = find(&layer, "file");
        // Whoever reads at the same time turns away from the same one.
        let start = |part: u64| {
            let read = layer
                .read(nid, part * 25_000, &mut vec![0; 25_000])
                .unwrap();
            let Read::Pending(pending) = read else {
                panic!("it is not here");
            };
            pending
        };
        let reads: Vec<_> = (0..4_u64).map(start).collect();
        for (part, read) in reads.into_iter().enumerate() {
            match rig.runtime.block_on(read) {
                Ok(read) => assert!(read == made.files["file"][part * 25_000..][..25_000]),
                Err(error) => assert_eq!((refusing, error.kind()), (2, "not-found")),
            }
        }
        let failed = layer.status().counted.failed_reads;
        assert_eq!(failed, if refusing == 2 { 4 } else { 0 });
        // Not again and again.
        assert!(blobs[0].count() <= 4 && blobs[1].count() <= 4);
        assert!(blobs[1].count() > 0);
    }
}
