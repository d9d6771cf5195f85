//! Images of layers that are made here: ordinary ones and eStargz.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use pontoon_layer::Digest;
use serde_json::{Value, json};

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: String,
    /// What the manifest says of it, as for instance the digest of its table of contents.
    pub(crate) annotations: Vec<(String, String)>,
}

const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

pub(crate) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
}

/// A file of a layer: its path, its mode and its content; a directory if its path ends with a slash.
pub(crate) type File<'a> = (&'a str, u32, &'a [u8]);

impl Layer {
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }

    /// As every builder makes it.
    pub(crate) fn ordinary(files: &[File<'_>]) -> Self {
        let mut archive = Vec::new();
        for (path, mode, content) in files {
            archive.extend(header(path, *mode, content.len()));
            archive.extend(padded(content));
        }
        archive.extend([0; 1024]);
        Layer {
            blob: gzip(&archive),
            diff_id: Digest::of(&archive),
            media_type: LAYER_TYPE.to_owned(),
            annotations: Vec::new(),
        }
    }

    /// eStargz: a gzip member for each file's content, and a table of contents (stargz-snapshotter's
    /// docs/estargz.md).
    pub(crate) fn lazy(files: &[File<'_>]) -> Self {
        let (mut blob, mut archive, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut pending = Vec::new();
        for (path, mode, content) in files {
            pending.extend(header(path, *mode, content.len()));
            let mut entry = json!({"name": path, "mode": mode, "modtime": "2020-01-01T00:00:00Z", "type": "dir"});
            if !path.ends_with('/') {
                entry["type"] = "reg".into();
                entry["size"] = content.len().into();
            }
            if !content.is_empty() {
                blob.extend(gzip(&pending));
                archive.append(&mut pending);
                let digest = Value::from(Digest::of(content).to_string());
                entry["offset"] = blob.len().into();
                entry["digest"] = digest.clone();
                entry["chunkDigest"] = digest;
                pending = padded(content);
            }
            entries.push(entry);
        }
        blob.extend(gzip(&pending));
        archive.append(&mut pending);
        let toc = json!({"version": 1, "entries": entries})
            .to_string()
            .into_bytes();
        let toc_offset = blob.len();
        let mut last = header("stargz.index.json", 0o444, toc.len());
        last.extend(padded(&toc));
        last.extend([0; 1024]);
        blob.extend(gzip(&last));
        blob.extend(footer(toc_offset));
        archive.extend(last);
        Layer {
            blob,
            diff_id: Digest::of(&archive),
            media_type: LAYER_TYPE.to_owned(),
            annotations: vec![(TOC_DIGEST.to_owned(), Digest::of(&toc).to_string())],
        }
    }

    /// Has the manifest name this table of contents.
    pub(crate) fn set_toc(&mut self, toc: &Digest) {
        self.annotations = vec![(TOC_DIGEST.to_owned(), toc.to_string())];
    }
}

impl Image {
    pub(crate) fn new(layers: &[&Layer]) -> Self {
        Image {
            layers: layers.iter().map(|layer| (*layer).clone()).collect(),
        }
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let ids: Vec<String> = self
            .layers
            .iter()
            .map(|layer| layer.diff_id.to_string())
            .collect();
        let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}});
        config.to_string().into_bytes()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let config = self.config();
        let layers: Vec<Value> = self.layers.iter().map(descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config).to_string(),
                "size": config.len(),
            },
            "layers": layers,
        });
        manifest.to_string().into_bytes()
    }

    /// What containerd calls the layer `index` on those below it.
    pub(crate) fn chain_id(&self, index: usize) -> String {
        let ids = self.layers[..=index]
            .iter()
            .map(|layer| layer.diff_id.to_string());
        let chain =
            ids.reduce(|below, id| Digest::of(format!("{below} {id}").as_bytes()).to_string());
        chain.unwrap()
    }
}

fn descriptor(layer: &Layer) -> Value {
    let mut descriptor = json!({
        "mediaType": layer.media_type,
        "digest": layer.digest().to_string(),
        "size": layer.blob.len(),
    });
    for (name, value) in &layer.annotations {
        descriptor["annotations"][name] = value.as_str().into();
    }
    descriptor
}

fn header(path: &str, mode: u32, size: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_mode(mode);
    header.set_mtime(1_577_836_800);
    header.set_size(size as u64);
    header.set_entry_type(match path.ends_with('/') {
        true => tar::EntryType::Directory,
        false => tar::EntryType::Regular,
    });
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(512), 0);
    padded
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn footer(toc_offset: usize) -> Vec<u8> {
    let mut footer = vec![
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0,
    ];
    footer.extend(format!("{toc_offset:016x}STARGZ").into_bytes());
    footer.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(footer.len(), 51);
    footer
}
