//! RAFS bootstraps. What makes a bootstrap one is made right, for nothing would get past it otherwise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::limits;
use pontoon_layer::rafs::{Bootstrap, Image};
use pontoon_layer::{BLOCK_BYTES, FormatError, Kind, Limits, NodeId, OpaqueXattr};

const BLOCK: usize = BLOCK_BYTES as usize;

fuzz_target!(|bytes: &[u8]| {
    let limits = limits();
    read(bytes, &limits);
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().next_multiple_of(BLOCK).max(BLOCK), 0);
    whole[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
    whole[1036..1038].copy_from_slice(&[12, 0]);
    read(&whole, &limits);
});

fn read(bytes: &[u8], limits: &Limits) {
    let image =
        Bootstrap::open(bytes, limits).and_then(|boot| boot.image(&[], OpaqueXattr::Trusted));
    match image {
        Ok(image) => check(&image, limits),
        Err(FormatError::Digest(mismatch)) => panic!("nothing is compared: {mismatch}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// An image must hold what its types promise.
fn check(image: &Image, limits: &Limits) {
    let Image {
        tree,
        data_size,
        blobs,
        chunks,
        contexts,
        prefetch,
    } = image;
    // They are in the index of a gzip layer, and none was given: see `rafs_index`.
    assert!(contexts.is_empty());
    assert!(*data_size <= limits.data_bytes_max + BLOCK_BYTES);
    assert!(tree.len() <= limits.entries_max as usize + 1);
    let mut end = 0;
    for chunk in chunks {
        assert!(chunk.data_offset >= end && chunk.length > 0);
        assert!(chunk.length <= limits.chunk_bytes_max);
        end = chunk.data_offset + u64::from(chunk.length);
        let blob = &blobs[chunk.blob as usize];
        assert!(chunk.blob_offset + u64::from(chunk.blob_length) <= blob.size);
        assert_eq!(chunk.algorithm, blob.algorithm);
    }
    assert!(end <= *data_size);
    let mut names = vec![0_u32; tree.len()];
    tree.walk(|path, id| {
        names[id.index()] += 1;
        assert_eq!(tree.find(path), Some(id));
        true
    });
    for id in tree.ids() {
        let node = tree.node(id);
        assert!(node.mode <= 0o7777 && !node.implied);
        match node.kind {
            Kind::Directory => assert_eq!(names[id.index()], 1),
            _ => assert_eq!(names[id.index()], node.links),
        }
        if let Kind::File { data_offset } = node.kind {
            let inside = data_offset..data_offset + node.size;
            let first = chunks.partition_point(|chunk| chunk.data_offset < inside.start);
            let of_it = chunks[first..]
                .iter()
                .take_while(|chunk| chunk.data_offset < inside.end);
            let bytes: u64 = of_it.map(|chunk| u64::from(chunk.length)).sum();
            assert_eq!(bytes, node.size);
        }
    }
    assert!(prefetch.iter().all(|id| id.index() < tree.len()));
    assert!(tree.node(NodeId::ROOT).is_directory());
}
