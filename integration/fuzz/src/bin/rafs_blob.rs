//! What a RAFS blob says of itself, with the digests that it should have, and chunks of it. The first bytes say which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::limits;
use pontoon_layer::rafs::{Blob, Bootstrap, Chunk, ChunkInfos, Compressor, Toc};
use pontoon_layer::{Algorithm, Digest, Hasher, Limits, OpaqueXattr, Verified};

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, length, features], rest)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let limits = limits();
    match kind % 3 {
        0 => toc(rest, &limits),
        1 => infos(rest, *length, *features, &limits),
        _ => chunk(rest, u32::from(*length) * 64 + 1, *features),
    }
});

/// A bootstrap of nothing but a blob, whose table of contents has the digest of `toc`.
fn bootstrap(toc: &[u8], chunks: u8, features: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(1024, &0xe0f5_e1e2_u32.to_le_bytes());
    put(1032, &0x4000_0000_u32.to_le_bytes());
    put(1036, &[12]);
    put(1104, &12_u32.to_le_bytes());
    put(1112, &11_u16.to_le_bytes());
    put(1152, &0x84_u64.to_le_bytes());
    put(1160, &4096_u64.to_le_bytes());
    put(1168, &256_u32.to_le_bytes());
    put(1172, &4096_u32.to_le_bytes());
    put(4096, b"blob");
    put(4164, &4096_u32.to_le_bytes());
    put(4168, &u32::from(chunks).to_le_bytes());
    put(4172, &3_u32.to_le_bytes());
    put(4180, &(1 | u32::from(features & 4)).to_le_bytes());
    put(4184, &(1_u64 << 30).to_le_bytes());
    put(4200, &(toc.len() as u32).to_le_bytes());
    put(4232, Digest::of(toc).bytes());
    bytes
}

fn with_blob(toc: &[u8], chunks: u8, features: u8, use_it: impl FnOnce(&Bootstrap<'_>, &Blob)) {
    let bytes = bootstrap(toc, chunks, features);
    let opened = Bootstrap::open(&bytes, &Limits::default()).expect("it is made right");
    use_it(&opened, &opened.blobs()[0]);
}

fn toc(bytes: &[u8], limits: &Limits) {
    with_blob(bytes, 1, 0, |_, blob| {
        let Ok(toc) = Toc::parse(bytes, blob) else {
            return;
        };
        for entry in toc.entries() {
            assert!(entry.range.end <= blob.size);
            let length = entry.range.end - entry.range.start;
            let part = bytes.get(..length as usize).unwrap_or(bytes);
            let _ = entry.unpack(part, limits).is_ok();
        }
    });
}

fn infos(bytes: &[u8], chunks: u8, features: u8, limits: &Limits) {
    with_blob(b"toc", chunks, features, |opened, blob| {
        let verified = |bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            Verified::check(bytes, &digest).expect("it is its own")
        };
        let digests = vec![0; 32 * usize::from(chunks)];
        let infos = ChunkInfos::parse(blob, &verified(bytes.to_vec()), &verified(digests), limits);
        if let Ok(infos) = infos {
            // There is no root in that bootstrap; how far it gets is what matters.
            assert!(opened.image(&[infos], OpaqueXattr::Trusted).is_err());
        }
    });
}

fn chunk(bytes: &[u8], length: u32, kind: u8) {
    let compressors = [
        Compressor::None,
        Compressor::Lz4Block,
        Compressor::Gzip,
        Compressor::Zstd,
    ];
    let mut chunk = Chunk {
        data_offset: 0,
        length,
        blob: 0,
        blob_offset: 0,
        blob_length: bytes.len() as u32,
        context: None,
        inner_offset: 0,
        compressor: compressors[usize::from(kind % 4)],
        algorithm: Algorithm::Blake3,
        digest: [0; 32],
    };
    // Whatever it decompresses to has another digest.
    assert!(chunk.unpack(bytes).is_err());
    if chunk.compressor == Compressor::None && bytes.len() as u32 >= length {
        let mut hasher = Hasher::new(Algorithm::Blake3);
        hasher.update(&bytes[..length as usize]);
        chunk.digest.copy_from_slice(hasher.finish().bytes());
        assert!(chunk.unpack(bytes).is_ok());
    }
}
