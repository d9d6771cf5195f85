//! What is read is right, and nothing is fetched twice.

use std::sync::Arc;

use pontoon_lazyfs::{Config, Read};
use pontoon_source::Urgency;
use proptest::prelude::*;
use proptest::test_runner::Config as ProptestConfig;

use crate::fixture::{Maker, Rig, exact, noise, read, wait_until};

fn some_files() -> Maker {
    let mut maker = Maker::new();
    maker.file("bin/large", 0o755, &noise(1, 300_000), 40_000);
    maker.file("bin/small", 0o644, b"small", 100);
    maker.file("bin/empty", 0o644, b"", 100);
    maker.zeros("bin/zeros", 10_000);
    maker.gap(5000);
    let (one, two, three) = (noise(2, 5000), noise(3, 1), noise(4, 9000));
    maker.files_of_one_member(&[("etc/one", &one), ("etc/two", &two), ("etc/three", &three)]);
    maker
}

#[test]
fn every_byte_is_right_at_every_offset() {
    for config in [Config::default(), exact()] {
        let rig = Rig::new(config, some_files());
        let length = rig.files["bin/large"].len();
        for (offset, wanted) in [
            (0, 1),
            (39_999, 2),
            (40_000, 40_000),
            (299_999, 10),
            (123, 250_000),
            (300_000, 5),
            (u64::MAX, 5),
        ] {
            let bytes = rig.read("bin/large", offset, wanted).unwrap();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(length);
            let end = start.saturating_add(wanted).min(length);
            assert!(
                bytes == rig.files["bin/large"][start..end],
                "{wanted} bytes at {offset}"
            );
        }
        let files: Vec<String> = rig.files.keys().cloned().collect();
        files.iter().for_each(|path| rig.check(path));
        let requests = rig.blob.count();
        files.iter().for_each(|path| rig.check(path));
        assert_eq!(
            rig.blob.count(),
            requests,
            "what was here was fetched again"
        );
        let counted = rig.layer.status().counted;
        let members: u64 = 8 + 1 + 1;
        assert_eq!(counted.inflated_members, members);
        assert_eq!(counted.failed_reads, 0);
        assert_eq!(rig.layer.status().percent, 100.0);
        assert_eq!(rig.engine.counted(), counted);
    }
}

#[test]
fn any_number_of_readers_is_one_fetch() {
    let rig = Rig::new(exact(), some_files());
    rig.blob.hold_all();
    let mut waiting = Vec::new();
    for reader in 0..100 {
        match rig.start("bin/large", reader * 100, 100) {
            Read::Pending(pending) => waiting.push((reader as usize * 100, pending)),
            Read::Ready(_) => panic!("it is not here"),
        }
    }
    rig.blob.release();
    for (start, pending) in waiting {
        let bytes = rig.runtime.block_on(pending).unwrap();
        assert!(bytes == rig.files["bin/large"][start..start + 100]);
    }
    assert_eq!(rig.blob.count(), 1);
    let counted = rig.layer.status().counted;
    assert_eq!((counted.inflated_members, counted.waited_reads), (1, 100));
}

#[test]
fn readers_who_go_away_do_not_stop_a_fetch() {
    let rig = Rig::new(exact(), some_files());
    rig.blob.hold_all();
    let gone = rig.start("bin/large", 0, 10);
    let Read::Pending(stays) = rig.start("bin/large", 5, 10) else {
        panic!("it is not here");
    };
    drop(gone);
    drop(rig.start("bin/small", 0, 10));
    rig.blob.release();
    rig.runtime.block_on(stays).unwrap();
    wait_until("the file comes that nobody waits for", || {
        matches!(rig.start("bin/small", 0, 10), Read::Ready(5))
    });
    assert_eq!(rig.blob.count(), 2);
}

#[test]
fn files_of_one_member_come_together() {
    let rig = Rig::new(exact(), some_files());
    rig.check("etc/two");
    rig.check("etc/one");
    rig.check("etc/three");
    let counted = rig.layer.status().counted;
    assert_eq!((rig.blob.count(), counted.inflated_members), (1, 1));
}

#[test]
fn a_miss_fetches_what_follows() {
    let config = Config {
        along_bytes: 100_000,
        ..Config::default()
    };
    let rig = Rig::new(config, some_files());
    rig.read("bin/large", 0, 10).unwrap();
    wait_until("what follows is here", || {
        matches!(rig.start("bin/large", 0, 50_000), Read::Ready(50_000))
    });
    let [(request, Urgency::Demand)] = &*rig.blob.requests() else {
        panic!("not one request: {:?}", rig.blob.requests());
    };
    assert!(request.end - request.start > 50_000);
    assert!(request.end - request.start <= 100_000);
}

#[test]
fn what_is_missing_is_fetched_side_by_side_in_few_requests() {
    let mut maker = Maker::new();
    maker.file("a", 0o644, &noise(1, 100_000), 10_000);
    maker.gap(1_000_000);
    maker.file("b", 0o644, &noise(2, 4096), 4096);
    let (end_of_a, config) = (maker.blob_bytes() - 1_005_000, Config::default());
    let rig = Rig::new(config, maker);
    // Both are asked for before either has come.
    rig.blob.hold_all();
    let length = 102_400 + 4096;
    let Read::Pending(pending) = rig.layer.read_data(0, &mut vec![0; length]).unwrap() else {
        panic!("it is not here");
    };
    wait_until("both requests are made", || rig.blob.count() == 2);
    rig.blob.release();
    let bytes = rig.runtime.block_on(pending).unwrap();
    assert!(bytes[..100_000] == rig.files["a"]);
    assert!(bytes[100_000..102_400].iter().all(|byte| *byte == 0));
    assert!(bytes[102_400..] == rig.files["b"]);
    assert!(
        rig.blob
            .requests()
            .iter()
            .any(|(range, _)| range.start >= end_of_a)
    );
}

#[test]
fn first_reads_are_recorded_in_order() {
    let rig = Rig::new(exact(), some_files());
    rig.read("bin/large", 200_000, 1).unwrap();
    rig.read("bin/large", 0, 50_000).unwrap();
    rig.read("bin/large", 200_000, 1).unwrap();
    assert_eq!(rig.layer.accesses(), [5, 0, 1]);
}

#[test]
fn a_restart_needs_nobody() {
    let rig = Rig::new(Config::default(), some_files());
    let files: Vec<String> = rig.files.keys().cloned().collect();
    files.iter().for_each(|path| rig.check(path));
    rig.cache.flush().unwrap();
    let rig = rig.restart();
    files.iter().for_each(|path| rig.check(path));
    assert_eq!(rig.layer.status().percent, 100.0);
    assert_eq!(rig.layer.status().counted.waited_reads, 0);
}

#[test]
fn directories_have_no_bytes() {
    let rig = Rig::new(Config::default(), some_files());
    let error = rig.layer.read(rig.nid("bin"), 0, &mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), "not-a-file");
}

#[test]
fn what_is_unmounted_is_given_up() {
    let rig = Rig::new(Config::default(), some_files());
    rig.blob.hold_all();
    let Read::Pending(pending) = rig.start("bin/large", 0, 10) else {
        panic!("it is not here");
    };
    rig.layer.close();
    let error = rig.runtime.block_on(pending).unwrap_err();
    assert_eq!(error.kind(), "abandoned");
    let weak = Arc::downgrade(&rig.layer);
    drop(rig.layer);
    wait_until("nobody has the layer", || weak.strong_count() == 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Readers of random ranges, all at once, of a layer of random files: every byte right, every member inflated once.
    #[test]
    fn crowds_read_what_is_there(
        files in prop::collection::vec((1usize..60_000, 500usize..30_000), 1..6),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0u64..60_000, 1usize..70_000), 1..40),
        along_bytes in 0u64..100_000,
        gap_bytes_max in 0u64..20_000,
        request_bytes_max in 1u64..100_000,
    ) {
        let mut maker = Maker::new();
        let mut members = 0;
        for (index, (length, chunk)) in files.iter().enumerate() {
            maker.file(&format!("{index}"), 0o644, &noise(index as u64, *length), *chunk);
            maker.gap(index * 1000);
            members += length.div_ceil(*chunk) as u64;
        }
        let config = Config { along_bytes, gap_bytes_max, request_bytes_max, ..Config::default() };
        let rig = Rig::new(config, maker);
        let tasks: Vec<_> = reads
            .iter()
            .map(|(file, offset, length)| {
                let path = file.index(files.len()).to_string();
                let (layer, nid) = (rig.layer.clone(), rig.nid(&path));
                let (offset, length) = (*offset, *length);
                let task = rig.runtime.spawn(async move { read(&layer, nid, offset, length).await });
                (path, offset, length, task)
            })
            .collect();
        for (path, offset, length, task) in tasks {
            let bytes = rig.runtime.block_on(task).unwrap().unwrap();
            let whole = &rig.files[&path];
            let start = whole.len().min(offset as usize);
            let end = whole.len().min(start + length);
            prop_assert!(bytes == whole[start..end], "{length} bytes at {offset} of {path}");
        }
        prop_assert!(rig.layer.status().counted.inflated_members <= members);
    }
}

fn cases() -> u32 {
    if std::env::var_os("PONTOON_FULL").is_some() {
        500
    } else {
        25
    }
}
