//! Compressed data. The first bytes say how it is compressed and which chunks are taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_layer::{Compression, Member, inflate};

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, first, gap, length], packed)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let compression = match kind % 4 {
        0 => Compression::None,
        1 => Compression::Gzip,
        2 => Compression::Zstd,
        _ => Compression::Lz4Block,
    };
    let mut member = Member::new(compression, packed);
    let (first, gap, length) = (
        u64::from(*first),
        u64::from(*gap) * 16,
        u32::from(*length) * 16,
    );
    for offset in [first, first + gap, first + 2 * gap, 0] {
        let chunk = member.chunk(offset, length);
        let alone = inflate(compression, packed, offset, length);
        if let (Ok(chunk), Ok(alone)) = (chunk, alone) {
            assert_eq!(chunk.len(), length as usize);
            assert_eq!(chunk, alone);
        }
    }
});
