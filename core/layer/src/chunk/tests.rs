use proptest::prelude::*;

use super::view::{HEADER_BYTES, RECORD_BYTES};
use super::*;
use crate::Compression;

fn chunk(data_offset: u64, length: u32) -> Chunk {
    Chunk {
        data_offset,
        length,
        blob_length: 10,
        blob_offset: data_offset + 1,
        inner_offset: 0,
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
    version[8] = 2;
    assert!(matches!(
        ChunkTableRef::open(&version),
        Err(ChunkTableError::Version(2))
    ));
}

#[test]
fn chunks_that_make_no_sense_are_refused() {
    let beyond = Chunk {
        blob_offset: u64::MAX,
        ..chunk(0, 1)
    };
    let inner = Chunk {
        inner_offset: u64::MAX,
        ..chunk(0, 1)
    };
    for chunks in [
        &[chunk(0, 0)][..],
        &[chunk(0, 100), chunk(99, 1)],
        &[chunk(100, 1), chunk(0, 1)],
        &[chunk(1 << 20, 1)],
        &[chunk(u64::MAX - 1, 100)],
        &[beyond],
        &[inner],
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
    let inner = |data_offset, blob_offset, blob_length| Chunk {
        blob_offset,
        blob_length,
        ..chunk(data_offset, 1)
    };
    let bytes = table(&[
        inner(0, 5, 10),
        inner(1, 7, 10),
        inner(2, 7, 10),
        inner(3, 7, 10),
        inner(4, 7, 0),
        inner(5, 7, 0),
    ])
    .encode();
    let table = ChunkTableRef::open(&bytes).unwrap();
    let ranges: Vec<_> = (0..7).map(|index| table.same_member(index)).collect();
    assert_eq!(ranges, [0..1, 1..4, 1..4, 1..4, 4..5, 5..6, 6..6]);
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
    ) {
        if header {
            let good = table(&[chunk(0, 1), chunk(5, 5)]).encode();
            let length = bytes.len().min(32);
            bytes[..length].copy_from_slice(&good[..length]);
            if bytes.len() >= HEADER_BYTES {
                let count = (bytes.len() as u64 - 64) / 64;
                bytes[16..24].copy_from_slice(&count.to_le_bytes());
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
