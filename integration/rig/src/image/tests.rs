//! What the fixtures and their conversions are.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::*;

fn json(layout: &Layout, digest: &str) -> Value {
    serde_json::from_slice(&layout.blob(digest).unwrap()).unwrap()
}

fn layers(layout: &Layout) -> Vec<Value> {
    let manifest = json(layout, &layout.manifest_digest().unwrap());
    manifest["layers"].as_array().unwrap().clone()
}

/// The end of a blob, by which readers know the format.
fn tail(layout: &Layout, layer: &Value, length: usize) -> Vec<u8> {
    let blob = layout.blob(layer["digest"].as_str().unwrap()).unwrap();
    blob[blob.len() - length..].to_vec()
}

fn ends_with_magic(layout: &Layout, layer: &Value, footer: usize, magic: &[u8]) -> bool {
    let tail = tail(layout, layer, footer);
    tail.windows(magic.len()).any(|window| window == magic)
}

#[test]
fn the_fixture_is_the_same_every_time() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let made = dirs
        .each_ref()
        .map(|dir| lazy_fixture_in(dir.path()).unwrap());
    let digests = made
        .each_ref()
        .map(|layout| layout.manifest_digest().unwrap());
    assert_eq!(digests[0], digests[1]);
    let kept = lazy_fixture().unwrap();
    assert_eq!(kept.manifest_digest().unwrap(), digests[0]);
}

#[test]
fn every_conversion_is_what_its_name_says() {
    let fixture = lazy_fixture().unwrap();
    let original = layers(&fixture);
    let mut digests = BTreeSet::new();
    for conversion in Conversion::ALL {
        let converted = convert(&fixture, conversion).unwrap();
        let image = &converted.image;
        let all = layers(image);
        assert_eq!(all.len(), original.len(), "{conversion:?}");
        for layer in &all {
            let (footer, magic): (usize, &[u8]) = match conversion {
                Conversion::Estargz
                | Conversion::EstargzSmallChunks
                | Conversion::EstargzMinChunk => (51, b"STARGZ\x01"),
                Conversion::Stargz => (47, b"STARGZ\x01"),
                Conversion::ExternalToc | Conversion::ExternalTocLossless => {
                    (46, b"STARGZEXTERNALTOC")
                }
                Conversion::ZstdChunked | Conversion::ZstdChunkedMinChunk => (40, b"GnUlInUx"),
                Conversion::PodmanZstdChunked => (64, b"GNUlInUx"),
                other => unreachable!("{other:?} is another one's work"),
            };
            assert!(
                ends_with_magic(image, layer, footer, magic),
                "{conversion:?} {layer}"
            );
            let annotation = match conversion {
                Conversion::PodmanZstdChunked => {
                    "io.github.containers.zstd-chunked.manifest-checksum"
                }
                _ => "containerd.io/snapshot/stargz/toc.digest",
            };
            assert!(
                layer["annotations"][annotation].is_string(),
                "{conversion:?} {layer}"
            );
        }
        assert_eq!(
            converted.tables.is_some(),
            matches!(
                conversion,
                Conversion::ExternalToc | Conversion::ExternalTocLossless
            )
        );
        if let Some(tables) = &converted.tables {
            for table in layers(tables) {
                let whose = &table["annotations"]["containerd.io/snapshot/stargz/layer.digest"];
                assert!(all.iter().any(|layer| layer["digest"] == *whose), "{table}");
            }
        }
        assert!(
            digests.insert(image.manifest_digest().unwrap()),
            "{conversion:?}"
        );
    }
    let lossless = convert(&fixture, Conversion::ExternalTocLossless).unwrap();
    assert_eq!(
        lossless.image.chain_ids().unwrap(),
        fixture.chain_ids().unwrap()
    );
}

#[test]
fn prefetched_files_come_before_a_landmark() {
    let fixture = lazy_fixture().unwrap();
    let paths = ["bin/busybox", "sizes/4097", "odd/names/-dash"];
    let converted = convert_with_prefetch(&fixture, &paths).unwrap();
    let plain = convert(&fixture, Conversion::Estargz).unwrap();
    let (one, other) = (layers(&converted.image), layers(&plain.image));
    assert_ne!(one[1]["digest"], other[1]["digest"]);
    // Layers with none of the files are the same.
    assert_eq!(one[3]["digest"], other[3]["digest"]);
}

/// One program, to see that it works; [`Program::ALL`] belongs to other tests.
#[test]
fn a_real_program_becomes_an_image() {
    if std::env::var_os("PONTOON_FULL").is_none_or(|value| value == "0") {
        return;
    }
    let numpy = program(Program::Numpy).unwrap();
    let layers = layers(&numpy);
    assert_eq!(layers.len(), 4);
    for layer in layers {
        let path = layer["digest"].as_str().unwrap().replacen(':', "/", 1);
        let blob = numpy.dir().join("blobs").join(path);
        assert!(fs::metadata(blob).unwrap().len() > 100, "{layer}");
    }
}
