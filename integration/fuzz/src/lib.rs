//! What the fuzz targets share: wrapping what is fuzzed, and looking at what came out.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use pontoon_layer::{
    Attributes, ChunkTableRef, Digest, FormatError, Kind, Layer, Limits, NodeId, OpaqueXattr,
    TocDigest, TocKind, parse_toc, toc_json_bytes,
};

/// Where the data of the blobs ends that the fuzzed tables are of.
pub const PAYLOAD_END: u64 = 1 << 20;

/// Limits that are reached by small inputs.
pub fn limits() -> Limits {
    Limits {
        toc_json_bytes_max: 1 << 20,
        entries_max: 1000,
        depth_max: 64,
        chunk_bytes_max: 1 << 20,
        member_inflated_bytes_max: 2 << 20,
        data_bytes_max: 1 << 30,
        ..Limits::default()
    }
}

/// `json` as the only file of a gzipped tar. Not compressed: that would only take time.
pub fn tar_gzip(json: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..17].copy_from_slice(b"stargz.index.json");
    header[124..136].copy_from_slice(format!("{:011o}\0", json.len()).as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    let written = gzip
        .write_all(&header)
        .and_then(|()| gzip.write_all(json))
        .and_then(|()| gzip.finish());
    written.expect("memory takes everything")
}

/// `data` as a zstd frame.
pub fn zstd(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(data.len())];
    let length = zstd_safe::compress(frame.as_mut_slice(), data, 1).expect("there is room");
    frame.truncate(length);
    frame
}

/// Parses a table of contents whose digest is right, and looks at the layer, if it is one.
pub fn toc(kind: TocKind, toc: &[u8], digest: &TocDigest, limits: &Limits) {
    let bytes = toc_json_bytes(kind, toc, limits);
    let layer = parse_toc(kind, toc, PAYLOAD_END, digest, OpaqueXattr::Trusted, limits);
    match layer {
        Ok(layer) => {
            // Who makes room for it before it is parsed must not be told less.
            assert!(bytes.is_ok_and(|bytes| (2..=limits.toc_json_bytes_max).contains(&bytes)));
            check(layer, limits);
        }
        Err(FormatError::Digest(mismatch)) => panic!("the digest is right: {mismatch}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The digest of compressed bytes.
pub fn compressed(toc: &[u8]) -> TocDigest {
    TocDigest::Compressed(Digest::of(toc))
}

/// A layer must hold what its types promise.
fn check(mut layer: Layer, limits: &Limits) {
    let encoded = layer.chunks.encode();
    let table = ChunkTableRef::open(&encoded).expect("what is written is read");
    assert!(table.data_size() <= limits.data_bytes_max);
    for chunk in table.iter() {
        assert!(chunk.is_zeros() || chunk.blob_end() <= PAYLOAD_END);
        assert!(chunk.length <= limits.chunk_bytes_max);
    }
    let tree = &layer.tree;
    let mut names = vec![0_u32; tree.len()];
    tree.walk(|path, id| {
        names[id.index()] += 1;
        assert!(path.len() < 256 * limits.depth_max);
        assert!(
            path.split(|byte| *byte == b'/')
                .all(|name| name != b"." && name != b"..")
        );
        assert_eq!(tree.find(path), Some(id));
        true
    });
    for id in tree.ids() {
        let node = tree.node(id);
        assert!(node.mode <= 0o7777);
        match node.kind {
            Kind::Directory => assert_eq!(names[id.index()], 1),
            _ => assert_eq!(names[id.index()], node.links),
        }
        if let Kind::File { data_offset } = node.kind {
            let chunks = table.find(data_offset..data_offset + node.size);
            let lengths = chunks.filter_map(|index| table.get(index));
            assert_eq!(
                lengths.map(|chunk| u64::from(chunk.length)).sum::<u64>(),
                node.size
            );
        }
    }
    for (_, id) in layer.tree.implied() {
        layer.tree.adopt(id, Attributes::default());
    }
    assert!(layer.tree.implied().is_empty());
    assert!(layer.tree.node(NodeId::ROOT).is_directory());
}

/// The checksum of a chunk table.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// An archive with the right checksum in every header.
pub fn sealed(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.as_chunks_mut::<512>().0 {
        if block[257..].starts_with(b"ustar") {
            seal(block);
        }
    }
    archive
}

fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive of a script. Each line is an entry: typeflag, mode as a letter, path, `>` and a target or content.
pub fn script(text: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for line in text.split(|byte| *byte == b'\n').take(40) {
        let Some(([flag, mode], rest)) = line.split_first_chunk::<2>() else {
            continue;
        };
        let mut parts = rest.splitn(2, |byte| *byte == b'>');
        let (path, more) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let (path, more) = (&path[..path.len().min(100)], &more[..more.len().min(500)]);
        let has_data = matches!(flag, b'0' | b'x' | b'g' | b'L' | b'K');
        let mut block = [0; 512];
        block[..path.len()].copy_from_slice(path);
        let mode = u32::from(*mode) * 0o123 & 0o7777;
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        let size = if has_data { more.len() } else { 0 };
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = *flag;
        if !has_data {
            let target = &more[..more.len().min(100)];
            block[157..157 + target.len()].copy_from_slice(target);
        }
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        archive.extend_from_slice(&block);
        if has_data {
            archive.extend_from_slice(more);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
