use super::*;
use crate::fixture::{gzip, noise, zstd};

type Pack = fn(&[u8]) -> Vec<u8>;

const BOTH: [(Compression, Pack); 2] = [(Compression::Gzip, gzip), (Compression::Zstd, zstd)];

#[test]
fn chunks_come_out_of_one_pass() {
    let data = noise(1, 300_000);
    for (compression, pack) in BOTH {
        let packed = pack(&data);
        let mut member = Member::new(compression, &packed);
        for (offset, length) in [(0, 10), (10, 100_000), (150_000, 1), (200_000, 100_000)] {
            let chunk = member.chunk(offset, length).unwrap();
            assert_eq!(chunk, data[offset as usize..][..length as usize]);
        }
        let again = member.chunk(5, 5).unwrap();
        assert_eq!(again, data[5..10]);
        assert_eq!(
            inflate(compression, &packed, 299_999, 1).unwrap(),
            data[299_999..]
        );
    }
    assert_eq!(
        inflate(Compression::None, &data, 7, 9).unwrap(),
        data[7..16]
    );
}

#[test]
fn a_stream_may_be_of_several_members() {
    let data = noise(2, 100_000);
    for (compression, pack) in BOTH {
        let packed: Vec<u8> = data
            .chunks(33_333)
            .flat_map(pack)
            .chain(pack(b""))
            .collect();
        assert_eq!(
            inflate(compression, &packed, 30_000, 70_000).unwrap(),
            data[30_000..]
        );
        let mut all = Vec::new();
        Member::new(compression, &packed)
            .read_to_end(&mut all)
            .unwrap();
        assert_eq!(all, data);
    }
}

#[test]
fn what_is_behind_a_chunk_does_not_matter() {
    let data = noise(3, 50_000);
    for (compression, pack) in BOTH {
        let mut packed = pack(&data);
        packed.extend_from_slice(b"garbage");
        assert_eq!(inflate(compression, &packed, 0, 50_000).unwrap(), data);
        let error = inflate(compression, &packed, 0, 50_001).unwrap_err();
        assert!(matches!(error, InflateError::Damaged { .. }), "{error}");
    }
}

#[test]
fn what_ends_too_early_is_an_error() {
    let data = noise(4, 50_000);
    for (compression, pack) in BOTH {
        let packed = pack(&data);
        let short = InflateError::Short {
            have: 50_000,
            want: 50_001,
        };
        assert_eq!(
            inflate(compression, &packed, 49_001, 1000),
            Err(short.clone())
        );
        assert_eq!(inflate(compression, &packed, 50_000, 1), Err(short));
        assert!(inflate(compression, &packed[..packed.len() / 2], 0, 50_000).is_err());
        assert!(inflate(compression, &packed, u64::MAX, u32::MAX).is_err());
        assert!(inflate(compression, b"", 0, 1).is_err());
        assert_eq!(inflate(compression, b"", 0, 0).unwrap(), b""[..]);
        let mut all = Vec::new();
        let mut cut = Member::new(compression, &packed[..packed.len() - 9]);
        assert!(cut.read_to_end(&mut all).is_err());
    }
    assert!(inflate(Compression::None, &data, 50_000, 1).is_err());
    assert!(inflate(Compression::None, &data, u64::MAX, 1).is_err());
}

#[test]
fn a_bomb_costs_no_more_than_what_was_asked_for() {
    for (compression, pack) in BOTH {
        let bomb = pack(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(
            inflate(compression, &bomb, 4096, 4096).unwrap(),
            [0; 4096][..]
        );
    }
}

#[test]
fn a_window_that_is_too_large_is_refused() {
    // A frame header alone: no content size, a window of 2^(10 + 21) bytes (RFC 8878, 3.1.1.1).
    let frame = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00";
    assert!(inflate(Compression::Zstd, frame, 0, 1).is_err());
}

proptest::proptest! {
    #[test]
    fn damage_never_makes_it_panic(
        seed: u64,
        length in 0_usize..20_000,
        flips in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 0..8),
        offset in 0_u64..30_000,
        wanted in 0_u32..30_000,
    ) {
        let data = noise(seed, length);
        for (compression, pack) in BOTH {
            let mut packed = pack(&data);
            let whole = inflate(compression, &packed, offset, wanted);
            let end = offset + u64::from(wanted);
            proptest::prop_assert_eq!(whole.is_ok(), end <= length as u64);
            if let Ok(whole) = whole {
                proptest::prop_assert_eq!(&whole[..], &data[offset as usize..end as usize]);
            }
            let size = packed.len();
            for (at, byte) in &flips {
                packed[at % size] ^= byte;
            }
            let _ = inflate(compression, &packed, offset, wanted);
            let _ = inflate(compression, &data, offset, wanted);
        }
    }
}

#[test]
fn an_lz4_block_is_one_chunk() {
    let data = b"some text, some text".repeat(100);
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(data.len())];
    let length = lz4_flex::block::compress_into(&data, &mut packed).unwrap();
    packed.truncate(length);
    let unpack = |offset, length| inflate(Compression::Lz4Block, &packed, offset, length);
    assert_eq!(unpack(0, 2000).unwrap(), data);
    assert_eq!(
        unpack(0, 2001),
        Err(InflateError::Short {
            have: 2000,
            want: 2001
        })
    );
    for (offset, length) in [(0, 1999), (1, 1999), (2000, 1)] {
        let refused = unpack(offset, length);
        assert!(
            matches!(refused, Err(InflateError::Damaged { .. })),
            "{offset}"
        );
    }
    assert!(inflate(Compression::Lz4Block, &packed[1..], 0, 2000).is_err());
    assert!(inflate(Compression::Lz4Block, b"", 0, 2000).is_err());
    // Nobody knows where it ends.
    let mut all = Vec::new();
    let read = Member::new(Compression::Lz4Block, &packed).read_to_end(&mut all);
    assert!(read.is_err() && all.is_empty());
}

#[test]
fn a_frame_that_says_its_length_is_inflated_at_once() {
    let data = noise(5, 40_000);
    let whole = zstd(&data);
    assert_eq!(
        zstd_safe::get_frame_content_size(&whole).unwrap(),
        Some(40_000)
    );
    let two = [whole.as_slice(), &whole].concat();
    let mut member = Member::new(Compression::Zstd, &two);
    for offset in [0, 40_000, 0] {
        assert_eq!(member.chunk(offset, 40_000).unwrap(), data);
        assert!(member.decoder.is_none());
    }
    // A part of one is not.
    assert_eq!(member.chunk(60_000, 20_000).unwrap(), data[20_000..]);
    assert_eq!(member.chunk(0, 39_999).unwrap(), data[..39_999]);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        // It has no checksum, so some damage is only found by its digest.
        if let Ok(chunk) = inflate(Compression::Zstd, &damaged, 0, 40_000) {
            assert_eq!(chunk.len(), 40_000);
        }
        assert!(inflate(Compression::Zstd, &whole[..at], 0, 40_000).is_err());
    }
}
