//! The chunk tables of images that `nydus-image` made (`tests/rafs/make.sh`), over their blobs joined.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use pontoon_layer::rafs::{Bootstrap, Image};
use pontoon_layer::{
    Chunk, ChunkTableRef, Compression, FormatError, Limits, Member, OpaqueXattr, Verified,
};

fn read(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rafs");
    std::fs::read(folder.join(name)).unwrap()
}

fn image(name: &str) -> Image {
    let packed = read(&format!("{name}.boot.gz"));
    let mut boot = Vec::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_end(&mut boot)
        .unwrap();
    let boot = Bootstrap::open(&boot, &Limits::default()).unwrap();
    boot.image(&[], OpaqueXattr::Trusted).unwrap()
}

fn content(chunk: &Chunk, joined: &[u8]) -> Verified<bytes::Bytes> {
    let packed = &joined[usize::try_from(chunk.blob_offset).unwrap()..];
    let packed = &packed[..chunk.blob_length as usize];
    let bytes = Member::new(chunk.compression, packed).chunk(chunk.inner_offset, chunk.length);
    Verified::check(bytes.unwrap(), &chunk.digest()).unwrap()
}

#[test]
fn every_chunk_is_found_in_the_joined_blobs() {
    for (name, blobs, compression) in [
        ("none", &["none"][..], Compression::None),
        ("lz4", &["lz4"], Compression::Lz4Block),
        ("zstd", &["zstd"], Compression::Zstd),
        ("sha", &["sha"], Compression::Zstd),
        ("next", &["next", "zstd"], Compression::Zstd),
        ("merged", &["lower", "upper"], Compression::Zstd),
    ] {
        let image = image(name);
        let blobs: Vec<_> = blobs
            .iter()
            .map(|name| read(&format!("{name}.blob")))
            .collect();
        let sizes: Vec<_> = blobs.iter().map(|blob| blob.len() as u64).collect();
        let joined = blobs.concat();
        let table = image.table(&sizes).unwrap();
        assert_eq!(table.data_size(), image.data_size);
        let encoded = table.encode();
        let opened = ChunkTableRef::open(&encoded).unwrap();
        assert!(opened.iter().eq(table.chunks().iter().copied()), "{name}");
        assert_eq!(opened.compression(), compression, "{name}");
        assert_eq!(opened.algorithm(), image.blobs[0].algorithm, "{name}");
        for (chunk, original) in opened.iter().zip(&image.chunks) {
            let blob =
                &blobs[original.blob as usize][usize::try_from(original.blob_offset).unwrap()..];
            let unpacked = original
                .unpack(&blob[..original.blob_length as usize])
                .unwrap();
            assert_eq!(content(&chunk, &joined), unpacked, "{name}");
        }
        // The script puts a file into the tree of which one chunk is twice in it and others are in another file.
        let places: BTreeSet<_> = opened.iter().map(|chunk| chunk.blob_offset).collect();
        assert_eq!(opened.repeats(), places.len() < opened.len(), "{name}");
    }
}

#[test]
fn a_chunk_beyond_its_layer_is_refused_and_a_blob_that_nobody_needs_is_not() {
    let image = image("next");
    let sizes = [read("next.blob"), read("zstd.blob")].map(|blob| blob.len() as u64);
    let needed: Vec<_> = [0, 1]
        .map(|number| {
            let of_blob = image.chunks.iter().filter(|chunk| chunk.blob == number);
            let ends = of_blob.map(|chunk| chunk.blob_offset + u64::from(chunk.blob_length));
            ends.max().unwrap()
        })
        .into();
    image.table(&needed).unwrap();
    let [first, second] = sizes;
    for sizes in [
        &[needed[0] - 1, second][..],
        &[first, needed[1] - 1],
        &[first, 0],
        &[first],
        &[],
        &[u64::MAX, second],
    ] {
        let refused = image.table(sizes);
        assert!(
            matches!(refused, Err(FormatError::Malformed { .. })),
            "{sizes:?}"
        );
    }
    // As if the second blob were only listed: what is in the first one stays where it was.
    let mut listed = image.clone();
    listed.chunks.retain(|chunk| chunk.blob == 0);
    let table = listed.table(&[first, 0]).unwrap();
    assert_eq!(table.chunks()[0].blob_offset, listed.chunks[0].blob_offset);
    let mut second_alone = image;
    second_alone.chunks.retain(|chunk| chunk.blob == 1);
    let table = second_alone.table(&[0, second]).unwrap();
    assert_eq!(
        table.chunks()[0].blob_offset,
        second_alone.chunks[0].blob_offset
    );
}
