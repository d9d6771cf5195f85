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

/// `data` as raw deflate blocks that look back into `dictionary`.
fn deflate(data: &[u8], dictionary: &[u8]) -> Vec<u8> {
    let mut compress = flate2::Compress::new(flate2::Compression::new(6), false);
    compress.set_dictionary(dictionary).unwrap();
    let mut out = Vec::with_capacity(data.len() + 1000);
    let status = compress
        .compress_vec(data, &mut out, flate2::FlushCompress::Finish)
        .unwrap();
    assert_eq!(status, Status::StreamEnd);
    out
}

/// Bits of `bytes`, behind the lowest `skip` ones of a byte, which are ones.
fn shifted(bytes: &[u8], skip: u32) -> Vec<u8> {
    let mut out = vec![(1_u32 << skip) as u8 - 1];
    for byte in bytes {
        let both = u32::from(*byte) << skip;
        *out.last_mut().unwrap() |= both as u8;
        out.push((both >> 8) as u8);
    }
    out
}

#[test]
fn a_stream_goes_on_at_every_bit() {
    let before = noise(4, 32 << 10);
    let mut data = before[1000..30_000].to_vec();
    data.extend_from_slice(&before);
    data.extend(noise(5, 70_000));
    let packed = deflate(&data, &before);
    assert!(packed.len() < 71_000, "it looks back");
    for skip in 0..8 {
        let mut bytes = shifted(&packed, skip);
        // The end of the stream is in the last byte or in the one before.
        if skip == 0 {
            bytes.pop();
        }
        let (byte, rest) = match skip {
            0 => (0xff, &bytes[..]),
            _ => (bytes[0], &bytes[1..]),
        };
        let resume = Resume {
            bits: (8 - skip as u8) % 8,
            byte,
            dictionary: &before,
        };
        let mut member = Member::resume(resume, rest);
        for (offset, length) in [(0, 7), (100, 60_000), (130_000, 1), (5, 20_000)] {
            let chunk = member.chunk(offset, length).unwrap();
            assert_eq!(chunk, data[offset as usize..][..length as usize], "{skip}");
        }
        let end = data.len() as u64 - 10;
        assert_eq!(member.chunk(end, 10).unwrap(), data[end as usize..]);
        for wrong in [
            Resume {
                dictionary: &before[..before.len() - 1],
                ..resume
            },
            Resume {
                byte: !byte,
                ..resume
            },
        ] {
            let same = resume.bits == 0 && wrong.byte != byte;
            let chunk = Member::resume(wrong, rest).chunk(0, 100_000);
            assert_eq!(chunk.is_ok_and(|chunk| chunk == data[..100_000]), same);
        }
    }
}

/// `data`, of bytes below 144, as one last deflate block without matches, behind `skip` bits: it ends 10 bits behind the
/// last whole byte of it.
fn literals(data: &[u8], skip: u32) -> Vec<u8> {
    let mut bits = vec![true; skip as usize];
    bits.extend([true, true, false]);
    for byte in data {
        let code = 0x30 + byte;
        bits.extend((0..8).rev().map(|bit| code >> bit & 1 == 1));
    }
    bits.extend([false; 7]);
    let byte = |bits: &[bool]| (0..).zip(bits).map(|(at, bit)| u8::from(*bit) << at).sum();
    bits.chunks(8).map(byte).collect()
}

#[test]
fn members_follow_the_rest_of_one() {
    let data: Vec<u8> = noise(6, 60_000).iter().map(|byte| byte & 0x7f).collect();
    for skip in 1..8 {
        let mut bytes = literals(&data[..20_000], skip);
        bytes.extend_from_slice(b"checksum");
        bytes.extend(data[20_000..].chunks(25_000).flat_map(gzip));
        let resume = Resume {
            bits: 8 - skip as u8,
            byte: bytes[0],
            dictionary: &[],
        };
        let mut all = Vec::new();
        Member::resume(resume, &bytes[1..])
            .read_to_end(&mut all)
            .unwrap();
        assert_eq!(all, data, "{skip}");
        let mut member = Member::resume(resume, &bytes[1..]);
        assert_eq!(member.chunk(50_000, 10_000).unwrap(), data[50_000..]);
        assert_eq!(member.chunk(19_000, 2000).unwrap(), data[19_000..21_000]);
    }
}

#[test]
fn a_stream_that_cannot_go_on_is_damaged() {
    let packed = deflate(b"data", &[]);
    for (bits, length) in [(8, 0), (0, (32 << 10) + 1), (9, 5)] {
        let resume = Resume {
            bits,
            byte: 0,
            dictionary: &vec![0; length],
        };
        let error = Member::resume(resume, &packed).chunk(0, 4).unwrap_err();
        assert!(matches!(error, InflateError::Damaged { .. }), "{error}");
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
