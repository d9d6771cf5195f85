//! RAFS images that `nydus-image` made (`tests/rafs/make.sh`), file for file, and what becomes of damaged ones.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

#[path = "rafs/zran.rs"]
mod zran;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use pontoon_layer::rafs::{Blob, Bootstrap, Chunk, ChunkInfos, Compressor, Image, Toc, TocEntry};
use pontoon_layer::{
    Algorithm, BLOCK_BYTES, Digest, FormatError, Kind, Limits, Node, NodeId, OpaqueXattr, Tree,
    Verified,
};
use serde_json::{Value, json};

/// Where RAFS' own superblock is, and in it the length of the table of chunks.
const EXTENDED: usize = 1024 + 128;
const CHUNK_TABLE_BYTES: usize = EXTENDED + 32;

fn read(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rafs");
    std::fs::read(folder.join(name)).unwrap()
}

fn gunzip(name: &str) -> Vec<u8> {
    let packed = read(name);
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn boot(name: &str) -> Vec<u8> {
    gunzip(&format!("{name}.boot.gz"))
}

fn image(boot: &[u8]) -> Result<Image, FormatError> {
    Bootstrap::open(boot, &Limits::default())?.image(&[], OpaqueXattr::Trusted)
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All of the data file, out of blobs.
fn data(image: &Image, blobs: &[Vec<u8>]) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(image.data_size).unwrap()];
    let mut end = 0;
    for chunk in &image.chunks {
        assert!(
            chunk.data_offset >= end,
            "chunks are sorted and do not overlap"
        );
        end = chunk.data_offset + u64::from(chunk.length);
        let packed = packed(chunk, blobs);
        let unpacked = image.unpack(chunk, packed).unwrap();
        data[usize::try_from(chunk.data_offset).unwrap()..][..unpacked.len()]
            .copy_from_slice(&unpacked);
    }
    data
}

fn packed<'a>(chunk: &Chunk, blobs: &'a [Vec<u8>]) -> &'a [u8] {
    let blob = &blobs[chunk.blob as usize];
    &blob[usize::try_from(chunk.blob_offset).unwrap()..][..chunk.blob_length as usize]
}

/// A file as `make.sh` lists it.
fn describe(path: &[u8], node: &Node<'_>, data: &[u8]) -> Value {
    let (kind, extra) = match node.kind {
        Kind::Directory => (0o040_000, json!({})),
        Kind::File { data_offset } => {
            assert_eq!(data_offset % BLOCK_BYTES, 0);
            let content = &data[usize::try_from(data_offset).unwrap()..];
            let content = &content[..usize::try_from(node.size).unwrap()];
            (
                0o100_000,
                json!({"sha256": Digest::of(content).hex(), "size": node.size}),
            )
        }
        Kind::Symlink(target) => (
            0o120_000,
            json!({"target": text(target), "size": target.len()}),
        ),
        Kind::CharDevice { major, minor } => (0o020_000, json!({"device": [major, minor]})),
        Kind::BlockDevice { major, minor } => (0o060_000, json!({"device": [major, minor]})),
        Kind::Fifo => (0o010_000, json!({})),
        Kind::Socket => (0o140_000, json!({})),
    };
    let mut entry = json!({
        "path": text(path), "mode": kind | u32::from(node.mode), "uid": node.uid, "gid": node.gid,
        "mtime": [node.mtime.seconds, node.mtime.nanoseconds],
    });
    let map = entry.as_object_mut().unwrap();
    map.extend(extra.as_object().unwrap().clone());
    if !node.is_directory() {
        map.insert("links".to_owned(), json!(node.links));
    }
    let xattrs: BTreeMap<_, _> = node
        .xattrs()
        .iter()
        .map(|(name, value)| (String::from_utf8(name.clone()).unwrap(), text(value)))
        .collect();
    if !xattrs.is_empty() {
        map.insert("xattrs".to_owned(), json!(xattrs));
    }
    entry
}

/// The files in an image, sorted by their paths.
fn files(image: &Image, blobs: &[Vec<u8>]) -> Vec<Value> {
    let data = data(image, blobs);
    let mut files = Vec::new();
    image.tree.walk(|path, id| {
        let node = image.tree.node(id);
        assert!(!node.implied);
        files.push((path.to_vec(), describe(path, &node, &data)));
        true
    });
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    files.into_iter().map(|(_, entry)| entry).collect()
}

fn expected(name: &str) -> Vec<Value> {
    let lines = String::from_utf8(gunzip(&format!("{name}.jsonl.gz"))).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Compares entry by entry, for a difference shall be readable. nydus-image does not write when a root directory was
/// modified.
fn assert_same(name: &str, found: &[Value], expected: &[Value]) {
    for (found, expected) in found.iter().zip(expected) {
        let (mut found, mut expected) = (found.clone(), expected.clone());
        if found["path"] == json!("") {
            assert_eq!(found["mtime"], json!([0, 0]));
            expected["mtime"] = found["mtime"].take();
            found["mtime"] = expected["mtime"].clone();
        }
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(found.len(), expected.len(), "{name}");
}

#[test]
fn every_file_of_real_images_is_read() {
    for (name, tree, blobs, compressor, algorithm) in [
        (
            "none",
            "tree",
            &["none"][..],
            Compressor::None,
            Algorithm::Sha256,
        ),
        (
            "lz4",
            "tree",
            &["lz4"],
            Compressor::Lz4Block,
            Algorithm::Blake3,
        ),
        (
            "zstd",
            "tree",
            &["zstd"],
            Compressor::Zstd,
            Algorithm::Blake3,
        ),
        ("sha", "tree", &["sha"], Compressor::Zstd, Algorithm::Sha256),
        (
            "early",
            "tree",
            &["early"],
            Compressor::Zstd,
            Algorithm::Blake3,
        ),
        // A dictionary: chunks of the first blob and of one of an older image.
        (
            "next",
            "next",
            &["next", "zstd"],
            Compressor::Zstd,
            Algorithm::Blake3,
        ),
    ] {
        let image = image(&boot(name)).unwrap();
        let contents: Vec<_> = blobs
            .iter()
            .map(|name| read(&format!("{name}.blob")))
            .collect();
        assert_eq!(image.blobs.len(), blobs.len());
        for blob in &image.blobs {
            assert_eq!(
                (blob.compressor, blob.algorithm),
                (compressor, algorithm),
                "{name}"
            );
        }
        let used: std::collections::BTreeSet<_> =
            image.chunks.iter().map(|chunk| chunk.blob).collect();
        assert_eq!(used.len(), blobs.len(), "{name}: every blob is used");
        assert_same(name, &files(&image, &contents), &expected(tree));
    }
}

#[test]
fn an_image_of_a_tar_is_read() {
    let image = image(&boot("tar")).unwrap();
    let mut expected = expected("tree");
    // The script's tar leaves it out: nydus-image does not read GNU tar's header of one.
    expected.retain(|entry| entry["path"] != json!(text(b"fifo")));
    // nydus-image makes the root itself when a tar begins with "./", and drops nanoseconds.
    let mut found = files(&image, &[read("tar.blob")]);
    assert!(image.tree.node(NodeId::ROOT).is_directory());
    assert_eq!(found.remove(0)["path"], json!(""));
    expected.remove(0);
    for entry in expected.iter_mut().chain(&mut found) {
        entry["mtime"][1] = json!(0);
    }
    assert_same("tar", &found, &expected);
}

#[test]
fn layers_are_merged_and_nothing_removed_is_seen() {
    let image = image(&boot("merged")).unwrap();
    let blobs: Vec<_> = ["lower", "upper"]
        .map(|name| read(&format!("{name}.blob")))
        .into();
    for (blob, content) in image.blobs.iter().zip(&blobs) {
        assert_eq!(blob.id, Digest::of(content).hex());
        assert_eq!(blob.size, content.len() as u64);
        let toc = &content[content.len() - blob.toc_size as usize..];
        assert!(Toc::parse(toc, blob).unwrap().find("image.boot").is_some());
    }
    let found = files(&image, &blobs);
    let expected = expected("merged");
    assert_same("merged", &found, &expected);
}

#[test]
fn what_is_to_be_fetched_early_is_named_in_order() {
    let Image { tree, prefetch, .. } = image(&boot("early")).unwrap();
    let named = |path: &[u8]| tree.find(path).unwrap();
    assert_eq!(
        prefetch,
        [b"usr/lib/whole".as_slice(), b"many", b"etc"].map(named)
    );
    assert!(image(&boot("zstd")).unwrap().prefetch.is_empty());
}

#[test]
fn files_are_found_without_a_tree() {
    let bytes = boot("early");
    let opened = Bootstrap::open(&bytes, &Limits::default()).unwrap();
    let mut names = opened.names();
    let first: Vec<u64> = opened.prefetch_nids().collect();
    assert_eq!(names.file(b"usr/lib/whole").unwrap(), Some(first[0]));
    assert_eq!(
        names.file(b"/usr/./lib/../lib/whole").unwrap(),
        Some(first[0])
    );
    let (mut files, mut others) = (0, 0);
    let image = image(&bytes).unwrap();
    let mut nids = std::collections::HashMap::new();
    image.tree.walk(|path, id| {
        let found = names.file(path).unwrap();
        match image.tree.node(id).kind {
            Kind::File { .. } => {
                files += 1;
                // Another name of the same file is the same inode.
                let nid = found.unwrap();
                assert_eq!(*nids.entry(id.index()).or_insert(nid), nid);
            }
            _ => {
                others += 1;
                assert_eq!(found, None, "{}", String::from_utf8_lossy(path));
            }
        }
        true
    });
    assert!(files > 200 && others > 5 && nids.len() < files);
    for path in [&b"nowhere"[..], b"usr/lib/whole/in", b"", b"..", b"link/x"] {
        assert_eq!(names.file(path).unwrap(), None);
    }
}

#[test]
fn a_chunk_that_is_there_twice_has_one_place() {
    let image = image(&boot("zstd")).unwrap();
    let places = |path: &[u8]| {
        let node = image.tree.node(image.tree.find(path).unwrap());
        let Kind::File { data_offset } = node.kind else {
            panic!("it is a file");
        };
        let end = data_offset + node.size;
        let inside = |chunk: &&Chunk| (data_offset..end).contains(&chunk.data_offset);
        image
            .chunks
            .iter()
            .filter(inside)
            .map(|chunk| chunk.blob_offset)
            .collect::<Vec<_>>()
    };
    let (twice, tool) = (places(b"usr/lib/twice"), places(b"usr/bin/tool"));
    assert_eq!(twice.len(), 5);
    assert_eq!(twice[..3], tool[..3]);
    assert_eq!(twice[3], twice[0]);
}

/// A part of a blob, verified.
fn part(entry: &TocEntry, content: &[u8]) -> Result<Verified<Bytes>, FormatError> {
    let [start, end] = [entry.range.start, entry.range.end].map(|at| usize::try_from(at).unwrap());
    entry.unpack(&content[start..end], &Limits::default())
}

/// What a blob says of its chunks.
fn infos(blob: &Blob, content: &[u8]) -> Result<ChunkInfos, FormatError> {
    let toc = Toc::parse(&content[content.len() - blob.toc_size as usize..], blob)?;
    let named = |name| part(toc.find(name).unwrap(), content);
    let (meta, digests) = (named("blob.meta")?, named("blob.digest")?);
    ChunkInfos::parse(blob, &meta, &digests, &Limits::default())
}

#[test]
fn a_blob_says_of_its_chunks_what_a_bootstrap_says() {
    for name in ["zstd", "sha"] {
        let mut boot = boot(name);
        let listed = image(&boot).unwrap();
        boot[CHUNK_TABLE_BYTES..][..8].fill(0);
        let content = read(&format!("{name}.blob"));
        let opened = Bootstrap::open(&boot, &Limits::default()).unwrap();
        assert!(!opened.lists_chunks());
        let infos = infos(&opened.blobs()[0], &content).unwrap();
        let told = opened.image(&[infos], OpaqueXattr::Trusted).unwrap();
        assert_eq!(told.chunks, listed.chunks);
        assert_same(name, &files(&told, &[content]), &expected("tree"));
        // Without, no chunk is known.
        assert!(matches!(
            opened.image(&[], OpaqueXattr::Trusted),
            Err(FormatError::Malformed { .. })
        ));
    }
}

#[test]
fn a_damaged_table_of_contents_is_not_believed() {
    let boot = boot("zstd");
    let opened = Bootstrap::open(&boot, &Limits::default()).unwrap();
    let blob = &opened.blobs()[0];
    let content = read("zstd.blob");
    let toc = content.len() - blob.toc_size as usize;
    let places = toc + 128;
    for at in [toc, places + 30, places + 60, content.len() - 1] {
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        assert!(
            matches!(infos(blob, &damaged), Err(FormatError::Digest(_))),
            "{at}"
        );
    }
    // The parts that it names are compared with the digests in it.
    let entry = Toc::parse(&content[toc..], blob)
        .unwrap()
        .find("blob.digest")
        .unwrap()
        .clone();
    let mut damaged = content.clone();
    damaged[usize::try_from(entry.range.start).unwrap()] ^= 1;
    assert!(matches!(infos(blob, &damaged), Err(FormatError::Digest(_))));
    // A blob whose table has no digest.
    let lz4 = self::boot("lz4");
    let opened = Bootstrap::open(&lz4, &Limits::default()).unwrap();
    assert!(matches!(
        Toc::parse(&content[toc..], &opened.blobs()[0]),
        Err(FormatError::Unverifiable { .. })
    ));
}

#[test]
fn a_damaged_chunk_is_not_given_out() {
    for name in ["none", "lz4", "zstd"] {
        let image = image(&boot(name)).unwrap();
        let blobs = [read(&format!("{name}.blob"))];
        for chunk in &image.chunks {
            let good = packed(chunk, &blobs);
            assert_eq!(*chunk.unpack(good).unwrap().digest(), chunk.digest());
            let mut damaged = good.to_vec();
            *damaged.last_mut().unwrap() ^= 0x55;
            assert!(chunk.unpack(&damaged).is_err(), "{name}");
            assert!(chunk.unpack(&good[..good.len() - 1]).is_err(), "{name}");
            assert!(chunk.unpack(&[]).is_err(), "{name}");
        }
    }
}

#[test]
fn a_gzip_chunk_is_unpacked() {
    let data = b"some text, some text".repeat(100);
    let mut gzip = flate2::read::GzEncoder::new(&data[..], flate2::Compression::new(6));
    let mut packed = Vec::new();
    gzip.read_to_end(&mut packed).unwrap();
    let chunk = Chunk {
        data_offset: 0,
        length: 2000,
        blob: 0,
        blob_offset: 0,
        blob_length: packed.len() as u32,
        context: None,
        inner_offset: 0,
        compressor: Compressor::Gzip,
        algorithm: Algorithm::Sha256,
        digest: *Digest::of(&data).as_sha256().unwrap(),
    };
    assert_eq!(&*chunk.unpack(&packed).unwrap(), &data[..]);
}

#[test]
fn the_longer_records_of_a_blob_are_read() {
    let mut boot = boot("zstd");
    let listed = image(&boot).unwrap();
    let table = u64::from_le_bytes(boot[EXTENDED + 8..][..8].try_into().unwrap());
    // Version 2 of the records in the blob: made by hand, for nydus-image 2.2 writes them for zran only.
    let features = usize::try_from(table).unwrap() + 84;
    boot[features] |= 4;
    boot[CHUNK_TABLE_BYTES..][..8].fill(0);
    let opened = Bootstrap::open(&boot, &Limits::default()).unwrap();
    let blob = &opened.blobs()[0];
    let original = self::boot("zstd");
    let chunks = u64::from_le_bytes(original[EXTENDED + 24..][..8].try_into().unwrap());
    let bytes = &original[usize::try_from(chunks).unwrap()..][..80 * blob.chunks as usize];
    let word = |at: usize| u64::from(u32::from_le_bytes(bytes[at..][..4].try_into().unwrap()));
    let (mut meta, mut digests) = (
        vec![0; 24 * blob.chunks as usize],
        vec![0; 32 * blob.chunks as usize],
    );
    for at in (0..bytes.len()).step_by(80) {
        let index = word(at + 72) as usize;
        let data = (word(at + 56) / BLOCK_BYTES)
            | ((word(at + 44) - 1) << 32)
            | ((word(at + 36) & 1) << 56);
        let place = word(at + 48) | (word(at + 40) << 40);
        meta[24 * index..][..8].copy_from_slice(&data.to_le_bytes());
        meta[24 * index + 8..][..8].copy_from_slice(&place.to_le_bytes());
        digests[32 * index..][..32].copy_from_slice(&bytes[at..][..32]);
    }
    let verified = |bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        Verified::check(Bytes::from(bytes), &digest).unwrap()
    };
    let (meta, digests) = (verified(meta), verified(digests));
    let infos = ChunkInfos::parse(blob, &meta, &digests, &Limits::default()).unwrap();
    let told = opened.image(&[infos], OpaqueXattr::Trusted).unwrap();
    assert_eq!(told.chunks, listed.chunks);
    let short = verified(meta[24..].to_vec());
    assert!(ChunkInfos::parse(blob, &short, &digests, &Limits::default()).is_err());
}

/// The message of what is refused because it is not supported.
fn unsupported(boot: &[u8]) -> String {
    match image(boot) {
        Err(error @ FormatError::Unsupported { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_read_is_refused_with_its_reason() {
    assert!(unsupported(&boot("five")).contains("RAFS v5"));
    let good = boot("zstd");
    let table = usize::try_from(u64::from_le_bytes(
        good[EXTENDED + 8..][..8].try_into().unwrap(),
    ))
    .unwrap();
    let chunks = usize::try_from(u64::from_le_bytes(
        good[EXTENDED + 24..][..8].try_into().unwrap(),
    ))
    .unwrap();
    for (at, value, reason) in [
        (EXTENDED + 3, 2, "encrypted"),
        (EXTENDED + 1, 2, "tarfs"),
        (table + 84, 0x80, "batch"),
        (table + 85, 1, "encrypted"),
        (table + 84, 0x40, "tarfs"),
        (table + 85, 8, "outside"),
        (table + 87, 0x80, "unknown"),
        (chunks + 36, 4, "encrypted"),
        (chunks + 36, 8, "batch"),
        (chunks + 36, 2, "unknown"),
    ] {
        let mut boot = good.clone();
        boot[at] |= value;
        let message = unsupported(&boot);
        assert!(message.contains(reason), "{at:#x}: {message}");
    }
}

#[test]
fn limits_are_kept() {
    let boot = boot("zstd");
    let limits = Limits::default();
    for limits in [
        Limits {
            entries_max: 20,
            ..limits.clone()
        },
        Limits {
            entries_max: 200,
            ..limits.clone()
        },
        Limits {
            toc_json_bytes_max: 4096,
            ..limits.clone()
        },
        Limits {
            depth_max: 2,
            ..limits.clone()
        },
        Limits {
            data_bytes_max: 20_000,
            ..limits.clone()
        },
        Limits {
            chunk_bytes_max: 4095,
            ..limits.clone()
        },
        Limits {
            member_bytes_max: 100,
            ..limits.clone()
        },
        Limits {
            text_bytes_max: 1000,
            ..limits.clone()
        },
        Limits {
            xattr_bytes_max: 20,
            ..limits.clone()
        },
        Limits {
            xattrs_max: 1,
            ..limits.clone()
        },
    ] {
        let image =
            Bootstrap::open(&boot, &limits).and_then(|boot| boot.image(&[], OpaqueXattr::Trusted));
        assert!(
            matches!(image, Err(FormatError::TooLarge { .. })),
            "{limits:?}: {image:?}"
        );
    }
}

#[test]
fn directories_without_end_and_names_that_lead_out_are_refused() {
    let good = boot("merged");
    let tree: Tree = image(&good).unwrap().tree;
    assert!(tree.find(b"keep/file").is_some());
    // A name with a slash in it.
    let at = good
        .windows(4)
        .position(|window| window == b"keep")
        .unwrap();
    let mut boot = good.clone();
    boot[at + 1] = b'/';
    assert!(matches!(image(&boot), Err(FormatError::Malformed { .. })));
    // Not sorted.
    boot[at..at + 4].copy_from_slice(b"zzzz");
    assert!(matches!(image(&boot), Err(FormatError::Malformed { .. })));
    // A directory that is its own child.
    let root = u64::from(u16::from_le_bytes([good[1024 + 14], good[1024 + 15]]));
    let entries = (0..good.len() - 12)
        .step_by(4)
        .filter(|at| good[at + 10] == 2 && good[at + 11] == 0);
    let mut refused = 0;
    for entry in entries.collect::<Vec<_>>() {
        let mut boot = good.clone();
        boot[entry..entry + 8].copy_from_slice(&root.to_le_bytes());
        refused +=
            u32::from(image(&boot).is_err_and(|error| error.to_string().contains("two parents")));
    }
    assert!(refused >= 2, "{refused}");
}

/// A byte anywhere in the metadata: any answer but a panic, and what is answered is sound.
#[test]
fn no_damage_panics() {
    let good = boot("merged");
    let last = good.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (1024..=last).filter(|at| good[*at] != 0 || at % 3 == 0) {
        for change in [1, 0x80, 0xff] {
            let mut boot = good.clone();
            boot[at] ^= change;
            if let Ok(image) = image(&boot) {
                for chunk in &image.chunks {
                    let blob = &image.blobs[chunk.blob as usize];
                    assert!(chunk.blob_offset + u64::from(chunk.blob_length) <= blob.size);
                    assert!(chunk.data_offset + u64::from(chunk.length) <= image.data_size);
                }
            }
        }
    }
    for length in (0..good.len()).step_by(512) {
        let _ = image(&good[..length]).is_ok();
    }
}

#[test]
fn of_two_records_of_a_chunk_the_last_one_counts() {
    let mut boot = boot("zstd");
    boot[CHUNK_TABLE_BYTES..][..8].fill(0);
    let content = read("zstd.blob");
    let opened = Bootstrap::open(&boot, &Limits::default()).unwrap();
    let blob = &opened.blobs()[0];
    let toc = Toc::parse(&content[content.len() - blob.toc_size as usize..], blob).unwrap();
    let meta = part(toc.find("blob.meta").unwrap(), &content).unwrap();
    let with_digests = |byte| {
        let digests = vec![byte; 32 * blob.chunks as usize];
        let digests = Verified::check(&digests, &Digest::of(&digests)).unwrap();
        ChunkInfos::parse(blob, &meta, &digests, &Limits::default()).unwrap()
    };
    let infos = [with_digests(1), with_digests(2)];
    let image = opened.image(&infos, OpaqueXattr::Trusted).unwrap();
    assert!(!image.chunks.is_empty());
    assert!(image.chunks.iter().all(|chunk| chunk.digest == [2; 32]));
}
