//! Layers in several blobs, whose chunks are compressed in several ways and occur several times.

use pontoon_layer::{Algorithm, Compression};
use pontoon_lazyfs::{Config, Error, Prefetch, Read};

use crate::fixture::{Fault, Maker, Rig, exact, gzip, noise, wait_until};

type Pack = fn(&[u8]) -> Vec<u8>;

const EVERY: [(Compression, Pack); 4] = [
    (Compression::None, <[u8]>::to_vec),
    (Compression::Gzip, gzip),
    (Compression::Zstd, zstd),
    (Compression::Lz4Block, lz4),
];

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    zstd_safe::compress(&mut frame, bytes, 3).unwrap();
    frame
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut block = vec![0; lz4_flex::block::get_maximum_output_size(bytes.len())];
    let length = lz4_flex::block::compress_into(bytes, &mut block).unwrap();
    block.truncate(length);
    block
}

/// Two blobs with a file for each compression, and files of which chunks are elsewhere too.
fn two_blobs(algorithm: Algorithm) -> Maker {
    let mut maker = Maker::new();
    maker.algorithm = algorithm;
    for blob in 0..2 {
        for (number, (compression, pack)) in (0..).zip(EVERY) {
            (maker.compression, maker.pack) = (compression, pack);
            let bytes = noise(10 * blob + number, 90_000);
            // What compresses well and what does not.
            let bytes = [&bytes[..50_000], &[7; 30_000]].concat();
            let name = format!("blob{blob}/{number}");
            maker.file(&name, 0o644, &bytes, 40_000);
        }
        if blob == 0 {
            maker.end_blob();
        }
    }
    maker.zeros("zeros", 5000);
    maker.again("again/0", "blob0/2");
    maker.again("again/1", "blob1/3");
    maker
}

#[test]
fn every_compression_and_hash_function_is_read_from_both_blobs() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        for config in [Config::default(), exact()] {
            let rig = Rig::new(config, two_blobs(algorithm));
            assert_eq!(rig.parts.len(), 2);
            let files: Vec<String> = rig.files.keys().cloned().collect();
            files.iter().for_each(|path| rig.check(path));
            assert!(rig.parts.iter().all(|part| part.count() > 0));
            assert_eq!(rig.blob.count(), 0);
            let requests = |rig: &Rig| -> usize { rig.parts.iter().map(|part| part.count()).sum() };
            let count = requests(&rig);
            files.iter().for_each(|path| rig.check(path));
            assert_eq!(requests(&rig), count, "what was here was fetched again");
            assert_eq!(rig.layer.status().percent, 100.0);
            assert_eq!(rig.layer.status().counted.failed_reads, 0);
            rig.cache.flush().unwrap();
            let rig = rig.restart();
            files.iter().for_each(|path| rig.check(path));
        }
    }
}

#[test]
fn no_request_goes_from_one_blob_into_the_next() {
    let mut maker = Maker::new();
    maker.file("first", 0o644, &noise(1, 20_000), 5000);
    maker.end_blob();
    maker.file("second", 0o644, &noise(2, 20_000), 5000);
    let rig = Rig::new(Config::default(), maker);
    // Both at once, and what follows along: they are next to each other in the layer and in the joined blob.
    rig.parts.iter().for_each(|part| part.hold_all());
    let Read::Pending(pending) = rig.layer.read_data(15_000, &mut vec![0; 10_000]).unwrap() else {
        panic!("it is not here");
    };
    // Side by side.
    wait_until("both are asked", || {
        rig.parts.iter().all(|part| part.count() == 1)
    });
    rig.parts.iter().for_each(|part| part.release());
    rig.runtime.block_on(pending).unwrap();
    rig.check("first");
    rig.check("second");
}

#[test]
fn chunks_of_the_same_bytes_are_fetched_and_inflated_once() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let mut maker = Maker::new();
        (maker.algorithm, maker.compression, maker.pack) = (algorithm, Compression::Zstd, zstd);
        maker.file("one", 0o644, &noise(1, 10_000), 5000);
        maker.file("between", 0o644, &noise(2, 5000), 5000);
        maker.again("two", "one");
        maker.again("three", "one");
        let start = maker.blob_bytes();
        let rig = Rig::new(exact(), maker);
        // All of the layer in one read.
        let mut all = vec![0; 4 * 12_288 - 4096 - 2288];
        let Read::Pending(pending) = rig.layer.read_data(0, &mut all).unwrap() else {
            panic!("it is not here");
        };
        rig.runtime.block_on(pending).unwrap();
        for path in ["one", "two", "three", "between"] {
            rig.check(path);
        }
        let [(request, _)] = &*rig.blob.requests() else {
            panic!("not one request: {:?}", rig.blob.requests());
        };
        assert_eq!(request.end, start);
        assert_eq!(rig.layer.status().counted.inflated_members, 3);
        assert_eq!(rig.layer.status().percent, 100.0);
    }
}

#[test]
fn wrong_bytes_are_wrong_for_all_who_have_them() {
    let rig = || {
        let mut maker = Maker::new();
        maker.algorithm = Algorithm::Blake3;
        (maker.compression, maker.pack) = EVERY[3];
        maker.file("one", 0o644, &noise(1, 5000), 5000);
        maker.file("between", 0o644, &noise(2, 5000), 5000);
        maker.again("two", "one");
        Rig::new(exact(), maker)
    };
    let read = |rig: &Rig| {
        let mut all = vec![0; 2 * 8192 + 5000];
        match rig.layer.read_data(0, &mut all).unwrap() {
            Read::Pending(pending) => rig.runtime.block_on(pending),
            Read::Ready(_) => Ok(all.into()),
        }
    };
    // One lie, then the truth.
    let once = rig();
    once.blob.fail([Fault::Lie]);
    read(&once).unwrap();
    for path in ["one", "between", "two"] {
        once.check(path);
    }
    assert_eq!(once.layer.status().counted.wrong_members, 2);
    let twice = rig();
    twice.blob.fail([Fault::Lie, Fault::Lie, Fault::Lie]);
    let error = read(&twice).unwrap_err();
    assert!(matches!(error, Error::WrongBytes { .. }), "{error}");
    // Whoever comes while the other members still fail shares their errors.
    wait_until("all have failed", || read(&twice).is_ok());
    for path in ["one", "between", "two"] {
        twice.check(path);
    }
}

#[test]
fn what_is_fetched_ahead_of_one_blob_and_of_the_other_is_all_that_there_is() {
    let rig = Rig::new(Config::default(), two_blobs(Algorithm::Blake3));
    rig.layer.prefetch(Prefetch::Everything);
    wait_until("all of it is here", || rig.layer.cached().is_complete());
    let asked: Vec<u64> = rig
        .parts
        .iter()
        .map(|part| {
            part.requests()
                .iter()
                .map(|(range, _)| range.end - range.start)
                .sum()
        })
        .collect();
    let files: Vec<String> = rig.files.keys().cloned().collect();
    files.iter().for_each(|path| rig.check(path));
    assert!(asked.iter().all(|bytes| *bytes > 0), "{asked:?}");
}
