//! Compressed data. The first bytes say how it is compressed and which chunks are taken, and how it goes on if it is from
//! the middle of a stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_layer::{Compression, Member, Resume};

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
    // Half of the gzip streams go on in the middle.
    let resume = (kind & 0x83 == 0x81).then(|| {
        let (head, _) = packed.split_at(packed.len().min(64));
        Resume {
            bits: kind >> 2 & 0xf,
            byte: *first,
            dictionary: head,
        }
    });
    let member = || match resume {
        Some(resume) => Member::resume(resume, packed),
        None => Member::new(compression, packed),
    };
    let mut several = member();
    let (first, gap, length) = (
        u64::from(*first),
        u64::from(*gap) * 16,
        u32::from(*length) * 16,
    );
    for offset in [first, first + gap, first + 2 * gap, 0] {
        let chunk = several.chunk(offset, length);
        let alone = member().chunk(offset, length);
        if let (Ok(chunk), Ok(alone)) = (chunk, alone) {
            assert_eq!(chunk.len(), length as usize);
            assert_eq!(chunk, alone);
        }
    }
});
