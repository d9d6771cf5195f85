//! Layers that are ordinary gzip streams, read from their middle: a nydus image that `nydus-image` made over two of them
//! (`core/layer/tests/rafs/make.sh`).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use pontoon_layer::rafs::{Bootstrap, ChunkInfos, Image};
use pontoon_layer::{Kind, Limits, OpaqueXattr, Verified};
use pontoon_lazyfs::{Config, Read};

use crate::fixture::{FakeBlob, Fault, Made, Rig, exact};

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layer/tests/rafs");
    std::fs::read(folder.join(name)).unwrap()
}

fn image() -> Image {
    let packed = file("both.boot.gz");
    let mut boot = Vec::new();
    let mut gzip = flate2::read::GzDecoder::new(&packed[..]);
    gzip.read_to_end(&mut boot).unwrap();
    let boot = Bootstrap::open(&boot, &Limits::default()).unwrap();
    let infos = boot.blobs().iter().zip(["under.index", "over.index"]);
    let infos = infos.map(|(blob, name)| {
        let digest = &blob.index_blob.as_ref().unwrap().digest;
        let index = Verified::check(file(name), digest).unwrap();
        ChunkInfos::of_index_blob(blob, &index, &Limits::default()).unwrap()
    });
    let infos: Vec<_> = infos.collect();
    boot.image(&infos, OpaqueXattr::Trusted).unwrap()
}

/// The files, as the image itself unpacks them.
fn files(image: &Image, layers: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let mut data = vec![0; image.data_size as usize];
    for chunk in &image.chunks {
        let bytes = &layers[chunk.blob as usize][chunk.blob_offset as usize..];
        let bytes = image.unpack(chunk, &bytes[..chunk.blob_length as usize]);
        data[chunk.data_offset as usize..][..chunk.length as usize]
            .copy_from_slice(&bytes.unwrap());
    }
    let mut files = BTreeMap::new();
    image.tree.walk(|path, id| {
        let node = image.tree.node(id);
        if let Kind::File { data_offset } = node.kind {
            let bytes = data[data_offset as usize..][..node.size as usize].to_vec();
            files.insert(String::from_utf8(path.to_vec()).unwrap(), bytes);
        }
        true
    });
    files
}

fn made() -> Made {
    let image = image();
    let layers: Vec<_> = ["under.tar.gz", "over.tar.gz"].map(file).into();
    let sizes: Vec<_> = image.blobs.iter().map(|blob| blob.size).collect();
    Made {
        image: pontoon_erofs::write(&image.tree, image.data_size).unwrap(),
        table: image.table(&sizes).unwrap(),
        blob: FakeBlob::new(layers.concat()),
        files: files(&image, &layers),
        parts: layers.into_iter().map(FakeBlob::new).collect(),
    }
}

fn rig(config: Config) -> Rig {
    Rig::of(tempfile::tempdir().unwrap(), config, made())
}

#[test]
fn every_file_of_gzip_layers_is_read() {
    for config in [Config::default(), exact()] {
        let rig = rig(config);
        let files: Vec<String> = rig.files.keys().cloned().collect();
        assert!(files.len() > 20);
        // From the end: contexts are not come by in order.
        files.iter().rev().for_each(|path| rig.check(path));
        let status = rig.layer.status();
        assert_eq!(status.percent, 100.0);
        assert_eq!(status.counted.wrong_members, 0);
        rig.cache.flush().unwrap();
        let rig = rig.restart();
        files.iter().for_each(|path| rig.check(path));
    }
}

#[test]
fn contexts_that_overlap_come_in_one_request() {
    let rig = rig(exact());
    let mut all = vec![0; image().data_size as usize - 4096];
    let Read::Pending(pending) = rig.layer.read_data(0, &mut all).unwrap() else {
        panic!("it is not here");
    };
    rig.runtime.block_on(pending).unwrap();
    rig.files.keys().for_each(|path| rig.check(path));
    for part in &rig.parts {
        assert_eq!(part.count(), 1, "{:?}", part.requests());
    }
    let counted = rig.layer.status().counted;
    assert_eq!(counted.wrong_members, 0);
    // No byte came twice, though several are in two members.
    let sizes = rig.parts.iter().map(|part| {
        let (range, _) = &part.requests()[0];
        range.end - range.start
    });
    assert_eq!(counted.fetched_bytes, sizes.sum::<u64>());
    assert!(counted.inflated_members >= 5);
}

#[test]
fn a_lie_about_a_gzip_layer_is_noticed() {
    let rig = rig(exact());
    rig.parts[0].fail([Fault::Lie]);
    rig.check("usr/lib/third");
    assert_eq!(rig.layer.status().counted.wrong_members, 1);
    rig.check("usr/lib/first");
}
