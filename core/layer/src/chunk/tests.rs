use proptest::prelude::*;

use super::view::{HEADER_BYTES, RECORD_BYTES};
use super::*;
use crate::{Algorithm, Compression};

fn chunk(data_offset: u64, length: u32) -> Chunk {
    Chunk {
        data_offset,
        length,
        blob_length: 10,
        blob_offset: data_offset + 1,
        inner_offset: 0,
        compression: Compression::Zstd,
        algorithm: Algorithm::Sha256,
        digest: [3; 32],
    }
}

fn table(chunks: &[Chunk]) -> ChunkTable {
    ChunkTable::new(Compression::Zstd, 1 << 20, chunks.to_vec()).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let chunks = [chunk(0, 100), chunk(4096, 4096), chunk(8192, 1)];
    let bytes = table(&chunks).encode();
    assert_eq!(bytes.len(), HEADER_BYTES + 3 * RECORD_BYTES);
    let table = ChunkTableRef::open(&bytes).unwrap();
    assert_eq!(table.compression(), Compression::Zstd);
    assert_eq!(table.data_size(), 1 << 20);
    assert_eq!(table.iter().collect::<Vec<_>>(), chunks);
    assert_eq!(table.get(3), None);
    let empty = ChunkTable::new(Compression::None, 0, Vec::new())
        .unwrap()
        .encode();
    let empty = ChunkTableRef::open(&empty).unwrap();
    assert!(empty.is_empty());
    assert_eq!(empty.find(0..u64::MAX), 0..0);
    assert_eq!(empty.same_member(0), 0..0);
}

#[test]
fn every_changed_byte_is_noticed() {
    let bytes = table(&[chunk(0, 100), chunk(4096, 4096)]).encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(ChunkTableRef::open(&damaged).is_err(), "at {at}");
        assert!(ChunkTableRef::open(&bytes[..at]).is_err(), "up to {at}");
    }
    let mut version = bytes.clone();
    version[8] = 3;
    assert!(matches!(
        ChunkTableRef::open(&version),
        Err(ChunkTableError::Version(3))
    ));
}

/// A table that needs version 2: another hash function, another compression, the same bytes in two places.
fn mixed() -> [Chunk; 4] {
    let blake3 = |data_offset, inner_offset, compression, digest| Chunk {
        compression,
        inner_offset,
        algorithm: Algorithm::Blake3,
        digest: [digest; 32],
        ..chunk(data_offset, 100)
    };
    let [mut first, mut second, third, mut last] = [
        blake3(0, 0, Compression::Lz4Block, 1),
        blake3(4096, (1 << 56) - 101, Compression::Gzip, 2),
        blake3(8192, 5, Compression::None, 3),
        blake3(12288, 0, Compression::Lz4Block, 1),
    ];
    (first.blob_offset, last.blob_offset) = (7, 7);
    second.blob_offset = u64::MAX - 10;
    [first, second, third, last]
}

#[test]
fn version_2_says_what_version_1_cannot() {
    let chunks = mixed();
    let bytes = table(&chunks).encode();
    assert_eq!(bytes[8..12], [2, 0, 0, 0]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    assert_eq!(table.iter().collect::<Vec<_>>(), chunks);
    assert_eq!(table.algorithm(), Algorithm::Blake3);
    assert!(table.repeats());
    for index in 0..4 {
        assert_eq!(table.same_member(index), index..index + 1);
    }
    let reopened = ChunkTableRef::reopen(&bytes);
    assert!(reopened.iter().eq(table.iter()) && reopened.repeats());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(ChunkTableRef::open(&damaged).is_err(), "at {at}");
    }
    // Its checksum may be right all the same.
    for (at, value) in [(36, 2), (40, 1), (64 + 23, 9)] {
        let mut other = bytes.clone();
        other[at] = value;
        ChunkTableRef::seal(&mut other);
        assert!(ChunkTableRef::open(&other).is_err(), "at {at}");
    }
}

#[test]
fn what_an_older_pontoon_has_cached_stays_as_it_is() {
    let chunks = [chunk(0, 100), chunk(4096, 50)];
    let bytes = table(&chunks).encode();
    // Version 1 as it was first written.
    let mut old = b"PNTchunk\x01\0\0\0\x02\0\0\0\x02\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0".to_vec();
    old.resize(64, 0);
    for (data_offset, length) in [(0_u64, 100_u32), (4096, 50)] {
        old.extend(data_offset.to_le_bytes());
        old.extend((data_offset + 1).to_le_bytes());
        old.extend([0; 8]);
        old.extend(length.to_le_bytes());
        old.extend(10_u32.to_le_bytes());
        old.extend([3; 32]);
    }
    ChunkTableRef::seal(&mut old);
    assert_eq!(bytes, old);
    let table = ChunkTableRef::open(&old).unwrap();
    assert_eq!(table.iter().collect::<Vec<_>>(), chunks);
    assert!(!table.repeats());
}

#[test]
fn only_what_version_1_cannot_say_makes_it_version_2() {
    let version = |chunks: &[Chunk]| table(chunks).encode()[8];
    assert_eq!(version(&[]), 1);
    let plain = [chunk(0, 1), chunk(4096, 1), chunk(8192, 1)];
    assert_eq!(version(&plain), 1);
    let change = |change: fn(&mut Chunk)| {
        let mut chunks = plain;
        change(&mut chunks[2]);
        version(&chunks)
    };
    assert_eq!(change(|chunk| chunk.compression = Compression::None), 2);
    assert_eq!(change(|chunk| chunk.blob_offset = 1), 2);
    assert_eq!(change(|chunk| chunk.blob_length = 0), 1);
    // The next one may be of the same bytes as the one before, if it is behind it in them.
    assert_eq!(change(|chunk| chunk.blob_offset = 4097), 2);
    let behind = |chunk: &mut Chunk| (chunk.blob_offset, chunk.inner_offset) = (4097, 1);
    assert_eq!(change(behind), 1);
}

#[test]
fn chunks_that_make_no_sense_are_refused() {
    let beyond = Chunk {
        blob_offset: u64::MAX,
        ..chunk(0, 1)
    };
    let inner = Chunk {
        inner_offset: (1 << 56) - 1,
        ..chunk(0, 1)
    };
    let lz4 = Chunk {
        compression: Compression::Lz4Block,
        inner_offset: 1,
        ..chunk(0, 1)
    };
    let of = |algorithm, data_offset| Chunk {
        algorithm,
        ..chunk(data_offset, 1)
    };
    let (blake3, sha512) = (of(Algorithm::Blake3, 1), of(Algorithm::Sha512, 0));
    for chunks in [
        &[chunk(0, 0)][..],
        &[chunk(0, 100), chunk(99, 1)],
        &[chunk(100, 1), chunk(0, 1)],
        &[chunk(1 << 20, 1)],
        &[chunk(u64::MAX - 1, 100)],
        &[beyond],
        &[inner],
        &[lz4],
        &[chunk(0, 1), blake3],
        &[sha512],
    ] {
        let made = ChunkTable::new(Compression::Gzip, 1 << 20, chunks.to_vec());
        assert!(
            matches!(made, Err(ChunkTableError::Chunk { .. })),
            "{chunks:?}"
        );
    }
}

#[test]
fn siblings_share_their_bytes_of_the_blob() {
    let inner = |data_offset, blob_offset, blob_length, inner_offset| Chunk {
        blob_offset,
        blob_length,
        inner_offset,
        ..chunk(data_offset, 1)
    };
    let bytes = table(&[
        inner(0, 5, 10, 0),
        inner(1, 7, 10, 0),
        inner(2, 7, 10, 4),
        inner(3, 7, 10, 9),
        // The same again: another pass.
        inner(4, 7, 10, 9),
        inner(5, 7, 10, 10),
        inner(6, 7, 0, 20),
        inner(7, 7, 0, 30),
    ])
    .encode();
    let table = ChunkTableRef::open(&bytes).unwrap();
    let ranges: Vec<_> = (0..9).map(|index| table.same_member(index)).collect();
    assert_eq!(
        ranges,
        [0..1, 1..4, 1..4, 1..4, 4..6, 4..6, 6..7, 7..8, 8..8]
    );
}

proptest! {
    #[test]
    fn finding_is_what_looking_at_all_of_them_gives(
        lengths in prop::collection::vec((1_u32..100, 0_u64..100), 0..40),
        start in 0_u64..5000,
        length in 0_u64..5000,
    ) {
        let mut end = 0;
        let chunks: Vec<Chunk> = lengths
            .iter()
            .map(|(length, gap)| {
                let chunk = chunk(end + gap, *length);
                end = chunk.data_end();
                chunk
            })
            .collect();
        let bytes = table(&chunks).encode();
        let table = ChunkTableRef::open(&bytes).unwrap();
        let found = table.find(start..start + length);
        for (index, chunk) in chunks.iter().enumerate() {
            let touched = chunk.data_offset < start + length && chunk.data_end() > start;
            prop_assert_eq!(found.contains(&index), touched && length > 0);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        header: bool,
        second: bool,
    ) {
        if header {
            let good = match second {
                true => table(&mixed()).encode(),
                false => table(&[chunk(0, 1), chunk(5, 5)]).encode(),
            };
            let length = bytes.len().min(40);
            bytes[..length].copy_from_slice(&good[..length]);
            if bytes.len() >= HEADER_BYTES {
                let count = (bytes.len() as u64 - 64) / 64;
                bytes[16..24].copy_from_slice(&count.to_le_bytes());
                bytes[40..48].fill(0);
                let cut = bytes.len() - bytes.len() % 64;
                bytes.truncate(cut);
                ChunkTableRef::seal(&mut bytes);
            }
        }
        if let Ok(table) = ChunkTableRef::open(&bytes) {
            for index in 0..=table.len() {
                let _ = (table.get(index), table.same_member(index));
            }
            let _ = table.find(0..u64::MAX);
            let (start, end) = (u64::MAX, 0);
            prop_assert!(table.find(start..end).is_empty());
        }
    }
}
