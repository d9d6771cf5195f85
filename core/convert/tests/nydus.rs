//! nydus images.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use pontoon_convert::{ChunkCompression, ChunkDigest, Converted, Error, Format, Nydus, Options};
use pontoon_layer::rafs::{Bootstrap, Image};
use pontoon_layer::{Algorithm, Digest, Kind, Limits, OpaqueXattr};
use serde_json::{Value, json};
use support::layout::{Layout, MANIFEST, checked, index, read};
use support::{Tar, gunzip, noise};

const CHUNK_BYTES: u32 = 64 << 10;

fn nydus(compression: ChunkCompression, digest: ChunkDigest) -> Format {
    Format::Nydus(Nydus {
        compression,
        digest,
    })
}

fn convert(from: &Path, to: &Path, format: Format, threads: usize) -> Result<Converted, Error> {
    let options = Options {
        chunk_bytes: CHUNK_BYTES,
        threads: NonZeroUsize::new(threads).unwrap(),
        ..Options::new(format)
    };
    support::layout::convert(from, to, &options)
}

/// What a lower layer has.
fn lower() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.directory("etc/", 0o755);
    tar.file("etc/kept", b"from below");
    tar.file("etc/gone", b"gone");
    tar.file("etc/replaced", b"old");
    tar.directory("opaque/", 0o700);
    tar.file("opaque/hidden", b"hidden");
    tar.directory("now-a-file/", 0o755);
    tar.file("now-a-file/inside", b"inside");
    // More than one chunk, the last one short; and the same data again under another name.
    tar.file("large", &noise(3 * CHUNK_BYTES as usize + 5));
    tar.file("twin", &noise(3 * CHUNK_BYTES as usize + 5));
    tar.file("zeros", &vec![0; 2 * CHUNK_BYTES as usize + 1]);
    tar.file("text", &b"some words, again and again; ".repeat(9000));
    tar.file("empty", b"");
    tar.link("alias", "large");
    tar.link("another-alias", "large");
    tar.symlink("link", "etc/kept");
    tar.symlink("long-link", &"t/".repeat(1500));
    tar.device("null", b'3', 1, 3);
    tar.device("disk", b'4', 259, 70_000);
    tar.device("pipe", b'6', 0, 0);
    tar.pax(&[
        ("mtime", b"1700000000.123456789"),
        ("SCHILY.xattr.user.comment", b"a\0value"),
        (
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        (
            "SCHILY.xattr.system.posix_acl_access",
            b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff",
        ),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.unknown.namespace", b"nobody takes it"),
        ("uid", b"70000"),
    ]);
    tar.file("attributed", b"x");
    // Names that need several blocks.
    tar.directory("many/", 0o1777);
    for number in 0..300 {
        tar.file(
            &format!("many/a-rather-long-name-{number:04}"),
            &[1 + (number % 7) as u8],
        );
    }
    tar.finish()
}

/// What is on it.
fn upper() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.file("etc/.wh.gone", b"");
    tar.file("etc/replaced", b"new");
    tar.directory("opaque/", 0o711);
    tar.file("opaque/.wh..wh..opq", b"");
    tar.file("opaque/seen", b"seen");
    tar.file("now-a-file", b"now");
    tar.file(".wh.another-alias", b"");
    // Data that is below too, under a name in a directory that no layer lists.
    tar.file("un/listed/copy", &noise(3 * CHUNK_BYTES as usize + 5));
    tar.finish()
}

fn sample() -> Layout {
    let layout = Layout::new();
    layout.index(&[layout.image("amd64", &[&lower(), &upper()])]);
    layout
}

/// The manifest of the only image, and its bootstrap as its reader opens it.
fn open(layout: &Path) -> (Value, Image) {
    let manifest = read(layout, &index(layout)["manifests"][0]);
    let layers = manifest["layers"].as_array().unwrap();
    let archive = gunzip(&blob(layout, layers.last().unwrap()));
    let config = read(layout, &manifest["config"]);
    let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(ids.len(), layers.len());
    assert_eq!(ids.last().unwrap(), &Digest::of(&archive).to_string());
    let mut entries = tar::Archive::new(&archive[..]);
    let mut bootstrap = Vec::new();
    for entry in entries.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap() == Path::new("image/image.boot") {
            std::io::Read::read_to_end(&mut entry, &mut bootstrap).unwrap();
        }
    }
    let opened = Bootstrap::open(&bootstrap, &Limits::default()).unwrap();
    (manifest, opened.image(&[], OpaqueXattr::Trusted).unwrap())
}

fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
    fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap()
}

/// The data of all files, every chunk of it verified.
fn data(layout: &Path, manifest: &Value, image: &Image) -> BTreeMap<String, Vec<u8>> {
    let blobs = manifest["layers"].as_array().unwrap();
    let mut all = vec![0; image.data_size as usize];
    for chunk in &image.chunks {
        let bytes = blob(layout, &blobs[chunk.blob as usize]);
        let start = chunk.blob_offset as usize;
        let bytes = &bytes[start..start + chunk.blob_length as usize];
        let unpacked = chunk.unpack(bytes).unwrap();
        let start = chunk.data_offset as usize;
        all[start..start + unpacked.len()].copy_from_slice(&unpacked);
    }
    let mut files = BTreeMap::new();
    image.tree.walk(|path, id| {
        let node = image.tree.node(id);
        if let Kind::File { data_offset } = node.kind {
            let start = data_offset as usize;
            let bytes = all[start..start + node.size as usize].to_vec();
            files.insert(String::from_utf8(path.to_vec()).unwrap(), bytes);
        }
        true
    });
    files
}

#[test]
fn its_tree_is_that_of_all_layers_together() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let format = nydus(ChunkCompression::Zstd, ChunkDigest::Sha256);
    convert(layout.path(), &to, format, 2).unwrap();
    let (manifest, image) = open(&to);
    let files = data(&to, &manifest, &image);
    let large = noise(3 * CHUNK_BYTES as usize + 5);
    for (path, expected) in [
        ("etc/kept", &b"from below"[..]),
        ("etc/replaced", b"new"),
        ("opaque/seen", b"seen"),
        ("now-a-file", b"now"),
        ("large", &large),
        ("alias", &large),
        ("twin", &large),
        ("un/listed/copy", &large),
        ("empty", b""),
        ("zeros", &vec![0; 2 * CHUNK_BYTES as usize + 1]),
        ("many/a-rather-long-name-0299", &[1 + (299 % 7) as u8]),
    ] {
        assert_eq!(files.get(path).map(Vec::as_slice), Some(expected), "{path}");
    }
    assert!(!files.contains_key("etc/gone"));
    assert!(!files.contains_key("opaque/hidden"));
    let tree = &image.tree;
    let node = |path: &str| tree.node(tree.find(path.as_bytes()).unwrap());
    assert!(tree.find(b"another-alias").is_none());
    assert_eq!(tree.find(b"alias"), tree.find(b"large"));
    assert_eq!(node("large").links, 2, "the third name is gone");
    assert_eq!(node("opaque").mode, 0o711);
    assert!(node("opaque").xattrs().is_empty(), "nothing is below it");
    assert_eq!((node("many").mode, node("many").links), (0o1777, 2));
    assert_eq!(node("un/listed").mode, 0o755);
    assert_eq!(
        node("disk").kind,
        Kind::BlockDevice {
            major: 259,
            minor: 70_000
        }
    );
    assert_eq!(node("null").kind, Kind::CharDevice { major: 1, minor: 3 });
    assert_eq!(node("pipe").kind, Kind::Fifo);
    assert_eq!(
        node("long-link").kind,
        Kind::Symlink("t/".repeat(1500).as_bytes())
    );
    let attributed = node("attributed");
    assert_eq!(
        (attributed.uid, attributed.mtime.nanoseconds),
        (70_000, 123_456_789)
    );
    let names = attributed.xattrs().iter();
    let names: Vec<&[u8]> = names.map(|(name, _)| &name[..]).collect();
    assert_eq!(
        names,
        [
            &b"security.capability"[..],
            b"system.posix_acl_access",
            b"user.comment"
        ]
    );
}

#[test]
fn all_options_make_images_that_are_as_the_ordinary_one() {
    let layout = sample();
    for compression in [
        ChunkCompression::Zstd,
        ChunkCompression::Lz4Block,
        ChunkCompression::None,
    ] {
        for digest in [ChunkDigest::Sha256, ChunkDigest::Blake3] {
            let place = tempfile::tempdir().unwrap();
            let to = place.path().join("new");
            convert(layout.path(), &to, nydus(compression, digest), 2).unwrap();
            let found = checked(layout.path(), &to);
            assert_eq!(found.findings, [""; 0], "{compression:?} {digest:?}");
            assert_eq!((found.images, found.layers, found.lazy_layers), (1, 3, 2));
            assert_eq!(found.files, 322);
            let (_, image) = open(&to);
            let algorithm = match digest {
                ChunkDigest::Sha256 => Algorithm::Sha256,
                ChunkDigest::Blake3 => Algorithm::Blake3,
            };
            assert!(image.blobs.iter().all(|blob| blob.algorithm == algorithm));
        }
    }
}

#[test]
fn equal_chunks_are_stored_once() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let format = nydus(ChunkCompression::None, ChunkDigest::Sha256);
    convert(layout.path(), &to, format, 4).unwrap();
    let (_, image) = open(&to);
    // In the lower one: small files of etc, opaque and now-a-file (5), four of noise, the zeros' two kinds, four of text,
    // one of an attributed file, and seven of many.
    assert_eq!(image.blobs[0].chunks, 5 + 4 + 2 + 4 + 1 + 7);
    assert_eq!(
        image.blobs[1].chunks, 3,
        "the copy is in the lower layer's blob"
    );
    let copies = image.tree.find(b"un/listed/copy").unwrap();
    let Kind::File { data_offset } = image.tree.node(copies).kind else {
        panic!("it is a file");
    };
    let mut chunks = image.chunks.iter();
    let first = chunks.find(|chunk| chunk.data_offset == data_offset);
    assert_eq!(first.unwrap().blob, 0);
}

#[test]
fn the_same_image_becomes_the_same_bytes() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let format = nydus(ChunkCompression::Zstd, ChunkDigest::Sha256);
    let indexes = [1, 2, 7].map(|threads| {
        let to = place.path().join(threads.to_string());
        convert(layout.path(), &to, format, threads).unwrap();
        index(&to)
    });
    assert_eq!(indexes[0], indexes[1]);
    assert_eq!(indexes[0], indexes[2]);
}

#[test]
fn its_manifest_is_as_nydus_has_it() {
    let layout = Layout::new();
    let mut links = Tar::default();
    links.symlink("no-data", "anywhere");
    let mut image = layout.image("amd64", &[&lower(), &links.finish(), &upper()]);
    // With a history, as builders write it.
    let mut manifest = read(layout.path(), &image);
    let mut config = read(layout.path(), &manifest["config"]);
    config["history"] = json!([
        {"created_by": "lower"}, {"created_by": "env", "empty_layer": true},
        {"created_by": "links"}, {"created_by": "upper"},
    ]);
    manifest["config"] = layout.put(support::layout::CONFIG, config.to_string().as_bytes());
    let platform = image["platform"].clone();
    image = layout.put(MANIFEST, manifest.to_string().as_bytes());
    image["platform"] = platform.clone();
    layout.index(&[image]);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let format = nydus(ChunkCompression::Zstd, ChunkDigest::Sha256);
    let converted = convert(layout.path(), &to, format, 2).unwrap();
    assert_eq!((converted.images, converted.layers), (1, 3));
    assert_eq!(index(&to)["manifests"][0]["platform"], platform);
    let (manifest, _) = open(&to);
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3, "what has no data has no blob");
    for blob in &layers[..2] {
        assert_eq!(
            blob["mediaType"],
            "application/vnd.oci.image.layer.nydus.blob.v1"
        );
        let annotations = json!({"containerd.io/snapshot/nydus-blob": "true"});
        assert_eq!(blob["annotations"], annotations);
    }
    assert_eq!(
        layers[2]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    let annotations = json!({
        "containerd.io/snapshot/nydus-bootstrap": "true",
        "containerd.io/snapshot/nydus-fs-version": "6",
    });
    assert_eq!(layers[2]["annotations"], annotations);
    assert_eq!(manifest["annotations"]["kept"], "yes");
    let config = read(&to, &manifest["config"]);
    let history = config["history"].as_array().unwrap();
    let layers = history.iter().map(|entry| entry["empty_layer"] != true);
    assert_eq!(layers.collect::<Vec<_>>(), [true, false, false, true, true]);
    assert_eq!(checked(layout.path(), &to).findings, [""; 0]);
}

#[test]
fn platforms_share_what_is_the_same_from_below() {
    let layout = Layout::new();
    let (lower, upper) = (lower(), upper());
    let amd64 = layout.image("amd64", &[&lower, &upper]);
    let arm64 = layout.image("arm64", &[&lower]);
    // On nothing, the same layer is another one: it cannot leave out what it would find below.
    let alone = layout.image("riscv64", &[&upper]);
    layout.index(&[amd64, arm64, alone]);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let format = nydus(ChunkCompression::Zstd, ChunkDigest::Sha256);
    let converted = convert(layout.path(), &to, format, 2).unwrap();
    assert_eq!((converted.images, converted.layers), (3, 3));
    let found = checked(layout.path(), &to);
    assert_eq!((found.images, found.findings.len()), (3, 0), "{found:?}");
    let manifests = index(&to);
    let manifest = |number: usize| read(&to, &manifests["manifests"][number]);
    assert_eq!(manifest(0)["layers"][0], manifest(1)["layers"][0]);
    assert_ne!(manifest(0)["layers"][1], manifest(2)["layers"][0]);
}

#[test]
fn it_is_converted_no_further_and_can_be_compared() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let (to, again) = (place.path().join("new"), place.path().join("again"));
    let format = nydus(ChunkCompression::Zstd, ChunkDigest::Sha256);
    convert(layout.path(), &to, format, 2).unwrap();
    let converted = convert(&to, &again, format, 2).unwrap();
    assert_eq!((converted.images, converted.notes.len()), (0, 1));
    assert!(converted.notes[0].contains("nydus image"));
    assert_eq!(index(&again)["manifests"], index(&to)["manifests"]);
    assert_eq!(checked(&to, &again).findings, [""; 0]);
    // Against another form of the same image, and against another image.
    let stargz = place.path().join("stargz");
    convert(layout.path(), &stargz, Format::Estargz, 2).unwrap();
    assert_eq!(checked(&to, &stargz).findings, [""; 0]);
    let other = Layout::new();
    other.index(&[other.image("amd64", &[&lower()])]);
    let found = checked(other.path(), &to).findings;
    for what in [
        "\"etc/gone\" is missing",
        "\"un\" was not there",
        "\"etc/replaced\" differs: data",
        "\"opaque\" differs: mode",
    ] {
        assert!(
            found.iter().any(|line| line.contains(what)),
            "{what}: {found:?}"
        );
    }
}

#[test]
fn damaged_chunks_are_found() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let format = nydus(ChunkCompression::None, ChunkDigest::Blake3);
    convert(layout.path(), &to, format, 2).unwrap();
    let (manifest, image) = open(&to);
    let hex = &manifest["layers"][0]["digest"].as_str().unwrap()["sha256:".len()..];
    let path = to.join("blobs/sha256").join(hex);
    let mut bytes = fs::read(&path).unwrap();
    let chunk = image
        .chunks
        .iter()
        .find(|chunk| chunk.length == CHUNK_BYTES);
    bytes[chunk.unwrap().blob_offset as usize + 7] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let found = checked(layout.path(), &to).findings;
    for what in ["has the digest", "the chunk at", "differs: data"] {
        assert!(
            found.iter().any(|line| line.contains(what)),
            "{what}: {found:?}"
        );
    }
}

#[test]
fn what_cannot_be_in_it_is_refused() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let format = Format::Nydus(Nydus::default());
    for chunk_bytes in [32 << 10, 100_000, 2 << 20] {
        let options = Options {
            chunk_bytes,
            ..Options::new(format)
        };
        let refused = support::layout::convert(layout.path(), &to, &options);
        assert!(matches!(refused, Err(Error::Option(_))), "{refused:?}");
    }
    let foreign = Layout::new();
    let image = foreign.image("amd64", &[&lower()]);
    let mut manifest = read(foreign.path(), &image);
    manifest["layers"][0]["mediaType"] = json!("application/vnd.foreign");
    foreign.index(&[foreign.put(MANIFEST, manifest.to_string().as_bytes())]);
    let refused = convert(foreign.path(), &to, format, 1).unwrap_err();
    assert!(
        refused.to_string().contains("application/vnd.foreign"),
        "{refused}"
    );
    assert!(!to.exists(), "nothing is left");
}
