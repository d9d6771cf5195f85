//! Images in nydus' form, as `nydus-image` made their parts (crate layer, `tests/rafs/make.sh`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use pontoon_layer::{Digest, Limits, Member, OpaqueXattr, rafs};
use pontoon_remote::LayerState;
use pontoon_snapshot::{Class, Error, Labels, Usage};
use serde_json::{Value, json};

use crate::image::{Image, LAYER_TYPE, Layer};
use crate::registry::Registry;
use crate::site::{Site, eventually, labels};

const DATA_TYPE: &str = "application/vnd.oci.image.layer.nydus.blob.v1";

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layer/tests/rafs");
    fs::read(folder.join(name)).unwrap()
}

fn unzipped(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = fixture(name);
    GzDecoder::new(&*packed).read_to_end(&mut bytes).unwrap();
    bytes
}

fn boot(name: &str) -> Vec<u8> {
    unzipped(&format!("{name}.boot.gz"))
}

fn annotated(layer: Layer, annotations: &[(&str, &str)]) -> Layer {
    let annotations = annotations.iter().map(|(name, value)| {
        let name = format!("containerd.io/snapshot/nydus-{name}");
        (name, value.to_string())
    });
    Layer {
        annotations: annotations.collect(),
        ..layer
    }
}

fn data(name: &str) -> Layer {
    let blob = fixture(&format!("{name}.blob"));
    let layer = Layer {
        diff_id: Digest::of(&blob),
        blob,
        media_type: DATA_TYPE.to_owned(),
        annotations: Vec::new(),
    };
    annotated(layer, &[("blob", "true")])
}

fn bootstrap(boot: &[u8]) -> Layer {
    let layer = Layer::ordinary(&[("image/", 0o755, b""), ("image/image.boot", 0o444, boot)]);
    annotated(layer, &[("bootstrap", "true"), ("fs-version", "6")])
}

/// As nydusify makes it: data layers, then one bootstrap of all.
fn image(blobs: &[&str], name: &str) -> Image {
    let mut layers: Vec<Layer> = blobs.iter().map(|blob| data(blob)).collect();
    layers.push(bootstrap(&boot(name)));
    Image { layers }
}

/// A daemon that takes these images.
fn site() -> Site {
    Site::with(|config| config.nydus = true)
}

/// Every name below `top`, in the order of the bytes of its path, as `make.sh` lists it.
fn described(top: &Path) -> Vec<Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes();
        found.insert(name.to_vec(), describe(&path, name));
    }
    found.into_values().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn describe(path: &Path, name: &[u8]) -> Value {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let mut entry = json!({
        "path": hex(name),
        "mode": metadata.mode(),
        "uid": metadata.uid(),
        "gid": metadata.gid(),
        "mtime": [metadata.mtime(), metadata.mtime_nsec()],
    });
    if kind.is_file() || kind.is_symlink() {
        entry["size"] = metadata.len().into();
    }
    if !kind.is_dir() {
        entry["links"] = metadata.nlink().into();
    }
    if kind.is_file() {
        let content = fs::read(path).unwrap();
        entry["sha256"] = Digest::of(&content).hex().into();
    }
    if kind.is_symlink() {
        let target = path.read_link().unwrap().into_os_string().into_vec();
        entry["target"] = hex(&target).into();
    }
    if kind.is_block_device() || kind.is_char_device() {
        let device = metadata.rdev();
        entry["device"] = json!([rustix::fs::major(device), rustix::fs::minor(device)]);
    }
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    for name in names[..length].split(|byte| *byte == 0) {
        if !name.is_empty() {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            entry["xattrs"][name] = hex(&value[..length]).into();
        }
    }
    entry
}

fn expected(name: &str) -> Vec<Value> {
    let lines = unzipped(&format!("{name}.jsonl.gz"));
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn assert_same(what: &str, found: &[Value], expected: &[Value]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let mut found = found.clone();
        // Writers give the root a time of their own.
        if expected["path"] == "" {
            found["mtime"] = expected["mtime"].clone();
        }
        assert_eq!(&found, expected, "{what}");
    }
}

/// What the builder takes of the tar that one of the images is made of: no pipe, and whole seconds.
fn of_a_tar(mut list: Vec<Value>) -> Vec<Value> {
    list.retain(|entry| entry["path"] != hex(b"fifo"));
    for entry in &mut list {
        entry["mtime"][1] = 0.into();
    }
    list
}

#[test]
fn images_of_every_kind_are_what_they_were_made_of() {
    for (name, blobs, tree) in [
        ("none", vec!["none"], "tree"),
        ("lz4", vec!["lz4"], "tree"),
        ("zstd", vec!["zstd"], "tree"),
        ("sha", vec!["sha"], "tree"),
        ("tar", vec!["tar"], "tree"),
        ("next", vec!["zstd", "next"], "next"),
        ("merged", vec!["lower", "upper"], "merged"),
    ] {
        let registry = Registry::start();
        let mut site = site();
        let image = image(&blobs, name);
        let reference = registry.push(&image, "a");
        let names = site.pull("default", &image, &reference);
        // The manifest, the bootstrap, and whether somebody has what is not called as a layer is.
        assert_eq!(registry.count("/manifests/"), 1, "{name}");
        let digest = image.layers.last().unwrap().digest().to_string();
        assert_eq!(registry.count(&digest), 1, "{name}");
        let top = names.last().unwrap();
        let found = site.inside(top, described);
        let expected = match name {
            "tar" => of_a_tar(expected(tree)),
            _ => expected(tree),
        };
        assert_same(name, &found, &expected);
        // Nobody remembers the pull any more.
        site.reopen();
        site.remove(&names);
        assert!(site.names("trees").is_empty(), "{name}");
        assert_eq!(site.remote().report().cache_bytes, 0, "{name}");
    }
}

#[test]
fn data_layers_take_nothing_and_show_nothing() {
    let registry = Registry::start();
    let site = site();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    for name in &names[..2] {
        assert_eq!(site.snapshots().usage(name).unwrap(), Usage::default());
        site.inside(name, |root| {
            assert_eq!(fs::read_dir(root).unwrap().count(), 0);
        });
    }
    let usage = site.snapshots().usage(&names[2]).unwrap();
    // The root, three directories less two that are files, and three files of two blocks at most.
    assert!(
        usage.inodes == 6 && usage.size_bytes > 5 * 4096,
        "{usage:?}"
    );
    // One layer is told of, which is all of the image.
    assert_eq!(site.remote().totals().lazy_layers, 1);
    assert_eq!(
        site.fate(&image.layers[2].digest()),
        (LayerState::Lazy, None)
    );
}

#[test]
fn what_was_read_needs_no_registry_after_a_restart() {
    let registry = Registry::start();
    let mut site = site();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let before = site.inside(&names[2], described);
    drop(registry);
    site.reopen();
    assert_eq!(site.inside(&names[2], described), before);
    assert_eq!(site.remote().totals().traffic.requests, 0);
}

#[test]
fn bytes_are_fetched_after_a_restart_by_the_record_alone() {
    let registry = Registry::start();
    let mut site = site();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.reopen();
    let found = site.inside(&names[2], described);
    assert_same("merged", &found, &expected("merged"));
    assert_eq!(registry.count("/manifests/"), 1);
}

#[test]
fn layers_on_a_bootstrap_are_as_on_any_other_layer() {
    let registry = Registry::start();
    let site = site();
    let mut image = image(&["lower", "upper"], "merged");
    image.layers.push(Layer::ordinary(&[
        ("keep/more", 0o644, b"more"),
        (".wh.replaced", 0o644, b""),
    ]));
    image.layers.push(crate::pull::top());
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.inside(&names[4], |root| {
        assert_eq!(fs::read(root.join("keep/more")).unwrap(), b"more");
        assert_eq!(fs::read(root.join("opaque/seen")).unwrap(), b"seen");
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
        assert!(!root.join("replaced").exists());
        // Directories that a layer does not list are those of the bootstrap's tree.
        let mode = root.join("keep").metadata().unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
    });
}

#[test]
fn a_chunk_dictionary_is_found_in_the_repository() {
    let registry = Registry::start();
    let site = site();
    // Its blob is called by the digest of a part of it; where it is pushed it is called by that of all of it.
    let dictionary = fixture("zstd.blob");
    let id = blob_id(&boot("zstd"), 0);
    let boot = replaced(&boot("next"), &id, &Digest::of(&dictionary).hex());
    let image = Image {
        layers: vec![data("next"), bootstrap(&boot)],
    };
    let reference = registry.push(&image, "a");
    let refused = site.try_prepare("default", &image, &reference, 0, None);
    let below = refused.unwrap().exists();
    let error = site.try_prepare("default", &image, &reference, 1, Some(&below));
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
    assert!(
        error
            .to_string()
            .contains("data of the nydus image is missing"),
        "{error}"
    );

    let again = crate::nydus::site();
    registry.push(
        &Image {
            layers: vec![data("zstd")],
        },
        "a",
    );
    let reference = registry.push(&image, "a");
    let names = again.pull("default", &image, &reference);
    let found = again.inside(&names[1], described);
    assert_same("next", &found, &expected("next"));
}

/// The name of blob `index` in a bootstrap.
fn blob_id(boot: &[u8], index: usize) -> String {
    let table = 1024 + 128 + 8;
    let offset = u64::from_le_bytes(boot[table..table + 8].try_into().unwrap());
    let start = usize::try_from(offset).unwrap() + index * 256;
    String::from_utf8(boot[start..start + 64].to_vec()).unwrap()
}

fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut bytes = bytes.to_vec();
    let places = bytes.windows(old.len()).enumerate();
    let places = places.filter(|(_, window)| *window == old.as_bytes());
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place..place + new.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}

/// What Prepare says to an image whose bootstrap layer is `layer`.
fn refusal(layer: Layer) -> Error {
    let registry = Registry::start();
    let site = site();
    let digest = layer.digest();
    let image = Image {
        layers: vec![data("lower"), layer],
    };
    let reference = registry.push(&image, "a");
    let below = site.try_prepare("default", &image, &reference, 0, None);
    let below = below.unwrap().exists();
    for _ in 0..2 {
        let error = site.try_prepare("default", &image, &reference, 1, Some(&below));
        error.unwrap_err();
    }
    let error = site.try_prepare("default", &image, &reference, 1, Some(&below));
    assert_eq!(site.fate(&digest).0, LayerState::Refused);
    assert_eq!(
        site.remote()
            .totals()
            .decisions
            .refused
            .values()
            .sum::<u64>(),
        3
    );
    // Nothing is left but the data layer's own directory.
    site.snapshots().cleanup().unwrap();
    let snapshots = fs::read_dir(site.root().join("snapshots")).unwrap();
    assert_eq!(snapshots.count(), 1);
    assert!(site.names("trees").is_empty());
    error.unwrap_err()
}

#[test]
fn what_is_not_read_is_refused_with_its_reason() {
    let mut encrypted = boot("merged");
    // A bit of the flags in RAFS' own superblock.
    encrypted[1024 + 128 + 3] |= 0x02;
    let renamed = Layer::ordinary(&[("image/other", 0o444, b"")]);
    let bomb = Layer::ordinary(&[("image/image.boot", 0o444, &[0; 9 << 20])]);
    for (layer, said) in [
        (bootstrap(&boot("five")), "a RAFS v5 bootstrap"),
        (bootstrap(&encrypted), "an encrypted RAFS image"),
        (
            annotated(
                bootstrap(&boot("merged")),
                &[("bootstrap", "true"), ("fs-version", "5")],
            ),
            "a RAFS v5 image",
        ),
        (
            Layer {
                media_type: format!("{LAYER_TYPE}+encrypted"),
                ..bootstrap(&boot("merged"))
            },
            "an encrypted nydus image",
        ),
        (
            annotated(renamed, &[("bootstrap", "true")]),
            "no file image/image.boot",
        ),
        (
            annotated(bomb, &[("bootstrap", "true")]),
            "the bootstrap of the nydus image cannot be used",
        ),
        // It needs a blob that is not there.
        (
            bootstrap(&boot("merged")),
            "data of the nydus image is missing",
        ),
        // Or the indexes of gzip layers.
        (
            bootstrap(&boot("both")),
            "data of the nydus image is missing",
        ),
    ] {
        let error = refusal(layer);
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}

#[test]
fn an_image_without_its_bootstrap_is_refused() {
    let registry = Registry::start();
    let site = site();
    let image = Image {
        layers: vec![data("lower")],
    };
    let reference = registry.push(&image, "a");
    let error = site.try_prepare("default", &image, &reference, 0, None);
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.to_string().contains("names no bootstrap"), "{error}");
}

#[test]
fn another_plugin_says_which_one_it_takes() {
    let registry = Registry::start();
    let site = Site::new();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let error = site.try_prepare("default", &image, &reference, 0, None);
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(
        error.to_string().contains("install pontoon-nydus"),
        "{error}"
    );
}

#[test]
fn an_image_of_which_nothing_is_told_is_not_left_to_containerd() {
    let site = site();
    let image = image(&["lower"], "lower");
    let pairs = labels(&image, "a", 0);
    let pairs = pairs.iter().filter(|(name, _)| !name.contains("cri."));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let error = site.try_prepare_with("default", 0, None, Labels::new(pairs).unwrap());
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.to_string().contains("labels do not say"), "{error}");
}

#[test]
fn a_registry_that_does_not_answer_makes_the_pull_fail_until_it_does() {
    for part in ["/manifests/", "bootstrap"] {
        let registry = Registry::start();
        let site = Site::with(|config| {
            config.nydus = true;
            config.lazy.deadline = Duration::from_millis(50);
        });
        let image = image(&["lower", "upper"], "merged");
        let reference = registry.push(&image, "a");
        let held = match part {
            "bootstrap" => image.layers[2].digest().to_string(),
            part => part.to_owned(),
        };
        registry.hold(&held);
        let mut below = None;
        let mut failed = false;
        for index in 0..3 {
            match site.try_prepare("default", &image, &reference, index, below.as_ref()) {
                Ok(prepared) => below = Some(prepared.exists()),
                Err(error) => {
                    assert_eq!(error.class(), Class::Unavailable, "{error}");
                    assert!(error.to_string().contains("in time"), "{error}");
                    failed = true;
                    break;
                }
            }
        }
        assert!(failed, "{part}");
        registry.release();
        eventually("the image is there", || {
            let mut below = None;
            (0..3).all(|index| {
                let asked = site.try_prepare("default", &image, &reference, index, below.as_ref());
                asked.is_ok_and(|prepared| {
                    below = Some(prepared.exists());
                    true
                })
            })
        });
    }
}

#[test]
fn a_damaged_bootstrap_layer_is_not_believed() {
    let registry = Registry::start();
    let site = site();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let names = (0..2).fold(Vec::new(), |mut names, index| {
        let prepared = site.prepare("default", &image, &reference, index, names.last());
        names.push(prepared.exists());
        names
    });
    // Not fetched yet in another process.
    let other = crate::nydus::site();
    registry.damage(&image.layers[2].digest().to_string(), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let mut below = None;
    for index in 0..2 {
        let prepared = other.prepare("default", &image, &reference, index, below.as_ref());
        below = Some(prepared.exists());
    }
    other
        .try_prepare("default", &image, &reference, 2, below.as_ref())
        .unwrap_err();
    drop(names);
}

#[test]
fn a_bootstrap_packed_with_zstd_or_not_at_all_is_read() {
    let plain = Layer::ordinary(&[("./image/image.boot", 0o444, &boot("merged"))]);
    let mut archive = Vec::new();
    GzDecoder::new(&*plain.blob)
        .read_to_end(&mut archive)
        .unwrap();
    let mut members = Vec::new();
    // Two gzip members, as pigz writes them.
    for half in archive.chunks(archive.len() / 2 + 1) {
        let mut encoder = GzEncoder::new(&mut members, Compression::fast());
        std::io::Write::write_all(&mut encoder, half).unwrap();
        encoder.finish().unwrap();
    }
    for blob in [archive, members] {
        let registry = Registry::start();
        let site = site();
        let layer = Layer {
            blob,
            ..plain.clone()
        };
        let layer = annotated(layer, &[("bootstrap", "true")]);
        let image = Image {
            layers: vec![data("lower"), data("upper"), layer],
        };
        let reference = registry.push(&image, "a");
        let names = site.pull("default", &image, &reference);
        let found: Vec<PathBuf> = site.inside(&names[2], |root| {
            let entries = fs::read_dir(root).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        });
        assert_eq!(found.len(), 3);
    }
}

/// The index of an ordinary gzip layer, as a layer.
fn index(name: &str, of: &Layer) -> Layer {
    let blob = fixture(&format!("{name}.index"));
    let layer = Layer {
        diff_id: Digest::of(&blob),
        blob,
        media_type: DATA_TYPE.to_owned(),
        annotations: Vec::new(),
    };
    let of = of.digest().to_string();
    annotated(layer, &[("blob", "true"), ("ref", &of)])
}

/// The index of blob `number` as it is beside a bootstrap, and its path there.
fn beside(boot: &[u8], number: usize, index: &Layer) -> (String, Vec<u8>) {
    let long = |at: usize| {
        let value = u64::from_le_bytes(boot[at..at + 8].try_into().unwrap());
        usize::try_from(value).unwrap()
    };
    let record = long(1024 + 128 + 8) + 256 * number;
    let (offset, length) = (long(record + 112), long(record + 120));
    let packed = &index.blob[offset..offset + length];
    let mut file = Vec::new();
    Member::new(pontoon_layer::Compression::Zstd, packed)
        .read_to_end(&mut file)
        .unwrap();
    file.resize(file.len().next_multiple_of(4096), 0);
    file.extend(&index.blob[offset + length..][..4096]);
    (format!("image/{}.blob.meta", index.digest().hex()), file)
}

/// As `nydusify convert --oci-ref` makes it of two layers, which stay as they are: these, and the image, with the indexes
/// in the bootstrap layer too if they shall be.
fn over_gzip(is_beside: bool) -> (Image, Image) {
    let ordinary = ["under", "over"].map(|name| Layer {
        blob: fixture(&format!("{name}.tar.gz")),
        diff_id: Digest::of(name.as_bytes()),
        media_type: LAYER_TYPE.to_owned(),
        annotations: Vec::new(),
    });
    let [under, over] = &ordinary;
    let mut layers = vec![index("under", under), index("over", over)];
    let boot = boot("both");
    let files: Vec<_> = (0..2)
        .map(|number| beside(&boot, number, &layers[number]))
        .collect();
    let mut entries = vec![
        ("image/", 0o755, &b""[..]),
        ("image/image.boot", 0o444, &boot),
    ];
    if is_beside {
        let files = files.iter();
        entries.extend(files.map(|(path, file)| (path.as_str(), 0o444, &file[..])));
    }
    let bootstrap = Layer::ordinary(&entries);
    layers.push(annotated(
        bootstrap,
        &[("bootstrap", "true"), ("fs-version", "6")],
    ));
    let original = Image {
        layers: ordinary.into(),
    };
    (original, Image { layers })
}

#[test]
fn an_image_over_ordinary_gzip_layers_is_what_these_are() {
    for is_beside in [false, true] {
        let registry = Registry::start();
        let mut site = site();
        let (original, image) = over_gzip(is_beside);
        registry.push(&original, "a");
        let reference = registry.push(&image, "a");
        let names = site.pull("default", &image, &reference);
        let found = site.inside(&names[2], described);
        assert_same("both", &found, &expected("both"));
        for layer in &original.layers {
            assert!(registry.count(&layer.digest().to_string()) >= 2);
        }
        // Where the indexes are in the bootstrap layer too, nobody asks for their own.
        for layer in &image.layers[..2] {
            let count = registry.count(&layer.digest().to_string());
            assert_eq!(count, usize::from(!is_beside));
        }
        assert_eq!(site.remote().totals().lazy_layers, 1);
        drop(registry);
        site.reopen();
        assert_eq!(site.inside(&names[2], described), found);
        site.remove(&names);
        assert!(site.names("trees").is_empty());
        assert_eq!(site.remote().report().cache_bytes, 0);
    }
}

#[test]
fn an_image_whose_gzip_layers_are_gone_is_refused() {
    let registry = Registry::start();
    let site = site();
    let (original, image) = over_gzip(true);
    registry.push(
        &Image {
            layers: original.layers[..1].to_vec(),
        },
        "a",
    );
    let reference = registry.push(&image, "a");
    let below = site.try_prepare("default", &image, &reference, 0, None);
    let below = below.unwrap().exists();
    let below = site.try_prepare("default", &image, &reference, 1, Some(&below));
    let below = below.unwrap().exists();
    let error = site.try_prepare("default", &image, &reference, 2, Some(&below));
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("data of the nydus image is missing"),
        "{text}"
    );
}

#[test]
fn a_damaged_index_of_a_gzip_layer_is_refused() {
    let registry = Registry::start();
    let site = site();
    let (original, image) = over_gzip(false);
    registry.push(&original, "a");
    let reference = registry.push(&image, "a");
    let digest = image.layers[0].digest().to_string();
    registry.damage(&digest, |blob| blob[700] ^= 1);
    let below = site.try_prepare("default", &image, &reference, 0, None);
    let below = below.unwrap().exists();
    let below = site.try_prepare("default", &image, &reference, 1, Some(&below));
    let below = below.unwrap().exists();
    let error = site.try_prepare("default", &image, &reference, 2, Some(&below));
    error.unwrap_err();
    assert!(site.names("trees").is_empty());
}

/// The bootstrap `name` with a prefetch table of `nids`.
fn naming(name: &str, nids: &[u32]) -> Vec<u8> {
    let mut boot = boot(name);
    boot.resize(boot.len().next_multiple_of(4096), 0);
    let offset = boot.len() as u64;
    for nid in nids {
        boot.extend_from_slice(&nid.to_le_bytes());
    }
    boot.resize(boot.len().next_multiple_of(4096), 0);
    let extended = 1024 + 128;
    boot[extended + 40..extended + 48].copy_from_slice(&offset.to_le_bytes());
    boot[extended + 48..extended + 52].copy_from_slice(&(4 * nids.len() as u32).to_le_bytes());
    boot
}

#[test]
fn an_image_that_names_all_of_itself_as_needed_first_names_nothing() {
    let registry = Registry::start();
    let site = site();
    let root = boot("zstd");
    let root = u16::from_le_bytes([root[1024 + 14], root[1024 + 15]]);
    let image = Image {
        layers: vec![data("zstd"), bootstrap(&naming("zstd", &[root.into()]))],
    };
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let blob = image.layers[0].digest().to_string();
    // It would come at once.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(registry.starts(&blob), [0; 0]);
    let found = site.inside(&names[1], described);
    assert_same("zstd", &found, &expected("tree"));
}

/// As `pontoon optimize` does it.
#[test]
fn an_image_that_names_its_files_one_by_one_has_them_fetched_first() {
    let registry = Registry::start();
    let site = site();
    let bytes = boot("zstd");
    let opened = rafs::Bootstrap::open(&bytes, &Limits::default()).unwrap();
    let tree = opened.image(&[], OpaqueXattr::Trusted).unwrap().tree;
    let (mut names, mut nids) = (opened.names(), Vec::new());
    tree.walk(|path, _| {
        let nid = names.file(path).unwrap();
        nids.extend(nid.map(|nid| u32::try_from(nid).unwrap()));
        true
    });
    let image = Image {
        layers: vec![data("zstd"), bootstrap(&naming("zstd", &nids))],
    };
    let reference = registry.push(&image, "a");
    site.pull("default", &image, &reference);
    let blob = image.layers[0].digest().to_string();
    eventually("the files of the table", || {
        !registry.starts(&blob).is_empty()
    });
}

/// A bootstrap without its list of chunks, whose blobs say where these are: nydus reads it (`rafs/src/metadata/direct_v6.rs`,
/// where the flag `INLINED_CHUNK_DIGEST` stands), and nydusd 2.2 was seen to; `nydus-image` always writes the list too.
fn untold(name: &str) -> Vec<u8> {
    let mut boot = boot(name);
    let table = 1024 + 128 + 24;
    let long = |boot: &[u8], at: usize| {
        usize::try_from(u64::from_le_bytes(boot[at..at + 8].try_into().unwrap())).unwrap()
    };
    let (offset, length) = (long(&boot, table), long(&boot, table + 8));
    assert!(length > 0);
    boot[offset..offset + length].fill(0);
    boot[table..table + 16].fill(0);
    boot
}

/// An image of the blob `name` whose bootstrap lists no chunks.
fn of_untold(name: &str) -> Image {
    Image {
        layers: vec![data(name), bootstrap(&untold(name))],
    }
}

#[test]
fn chunks_that_only_a_blob_lists_are_found_in_it() {
    for name in ["zstd", "sha"] {
        let registry = Registry::start();
        let mut site = site();
        let image = of_untold(name);
        let reference = registry.push(&image, "a");
        let names = site.pull("default", &image, &reference);
        // Its table of contents, places and digests; no chunk yet.
        let blob = image.layers[0].digest().to_string();
        assert_eq!(registry.starts(&blob).len(), 3, "{name}");
        let found = site.inside(&names[1], described);
        assert_same(name, &found, &expected("tree"));
        drop(registry);
        site.reopen();
        assert_eq!(site.inside(&names[1], described), found);
    }
}

#[test]
fn blobs_that_do_not_say_what_the_bootstrap_does_not_are_refused() {
    // This one has no table of contents; what the others say of theirs is compared with the digest in the bootstrap.
    let end = |blob: &mut Vec<u8>| *blob.last_mut().unwrap() ^= 1;
    // The part with the places of chunks is behind the chunks.
    let part = |blob: &mut Vec<u8>| {
        let middle = blob.len() * 3 / 4;
        blob[middle..].fill(0xff);
    };
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage, &str); 3] = [
        ("lz4", |_| {}, "the layer has data without digests"),
        ("zstd", end, "cannot be used"),
        ("zstd", part, "cannot be used"),
    ];
    for (name, damage, said) in cases {
        let registry = Registry::start();
        let site = site();
        let image = of_untold(name);
        let reference = registry.push(&image, "a");
        registry.damage(&image.layers[0].digest().to_string(), damage);
        let below = site.try_prepare("default", &image, &reference, 0, None);
        let below = below.unwrap().exists();
        let error = site.try_prepare("default", &image, &reference, 1, Some(&below));
        let error = error.unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition, "{name}: {error}");
        assert!(error.to_string().contains(said), "{name}: {error}");
        assert!(site.names("trees").is_empty());
    }
}

#[test]
fn what_a_crash_left_of_an_image_that_no_record_refers_to_is_deleted() {
    let registry = Registry::start();
    let mut site = site();
    let ordinary = Image::new(&[&crate::pull::base()]);
    site.pull("default", &ordinary, &registry.push(&ordinary, "a"));
    // The metadata from before the image was recorded: the daemon died between its offer and its record.
    site.close();
    let metadata = site.root().join("metadata.redb");
    let before = fs::read(&metadata).unwrap();
    site.reopen();
    let trees = site.names("trees").len();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "b");
    let left = site.pull("default", &image, &reference);
    assert_eq!(site.names("trees").len(), trees + 1);
    site.close();
    fs::write(&metadata, before).unwrap();
    site.reopen();
    assert_eq!(site.names("trees").len(), trees);
    site.snapshots().stat(&left[2]).unwrap_err();
    let names = site.pull("default", &image, &reference);
    let found = site.inside(&names[2], described);
    assert_same("merged", &found, &expected("merged"));
}

#[test]
fn a_bit_that_a_power_cut_has_flipped_is_fetched_again() {
    let registry = Registry::start();
    let mut site = site();
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let content = site.inside(&names[2], |root| {
        described(root);
        fs::read(root.join("keep/file")).unwrap()
    });
    site.close();
    let cache = site.root().join(pontoon_remote::CACHE);
    // Nobody has noted that the cache was closed.
    fs::remove_file(cache.join("trust")).unwrap();
    let layers = fs::read_dir(cache.join("sha256")).unwrap();
    let layers: Vec<PathBuf> = layers.map(|layer| layer.unwrap().path()).collect();
    assert_eq!(layers.len(), 1, "{layers:?}");
    let path = layers[0].join("data");
    let mut bytes = fs::read(&path).unwrap();
    let mut parts = bytes.windows(1000);
    let at = parts.position(|part| *part == content[..1000]).unwrap();
    bytes[at] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    registry.forget();
    site.reopen();
    let found = site.inside(&names[2], described);
    assert_same("merged", &found, &expected("merged"));
    // Of the one blob it is in.
    let asked = [0, 1].map(|layer| registry.count(&image.layers[layer].digest().to_string()));
    assert!(asked[0] > 0 && asked[1] == 0, "{asked:?}");
    assert_eq!(site.remote().totals().cache.damaged_chunks, 1);
}

#[test]
fn what_was_refused_is_tried_anew_however_often_it_is_asked_for() {
    let registry = Registry::start();
    let site = Site::with(|config| {
        config.nydus = true;
        config.lazy.image_lifetime = Duration::from_secs(1);
    });
    let image = image(&["lower", "upper"], "merged");
    let reference = registry.push(&image, "a");
    let bootstrap = image.layers[2].digest().to_string();
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    registry.damage(&bootstrap, flip);
    let mut below = None;
    for index in 0..2 {
        let prepared = site.prepare("default", &image, &reference, index, below.as_ref());
        below = Some(prepared.exists());
    }
    let again = || site.try_prepare("default", &image, &reference, 2, below.as_ref());
    let error = again().unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
    // Somebody has mended it. Whoever asks more often than the image is remembered gets it all the same.
    registry.damage(&bootstrap, flip);
    eventually("the image is there", || {
        again().is_ok_and(|prepared| {
            prepared.exists();
            true
        })
    });
}

#[test]
fn an_image_that_has_lost_its_annotations_is_read_all_the_same() {
    let registry = Registry::start();
    let mut image = image(&["lower", "upper"], "merged");
    image
        .layers
        .push(Layer::ordinary(&[("more", 0o644, b"more")]));
    for layer in &mut image.layers {
        layer.annotations.clear();
    }
    let reference = registry.push(&image, "a");
    let site = site();
    let names = site.pull("default", &image, &reference);
    let found = site.inside(&names[2], described);
    assert_same("merged", &found, &expected("merged"));
    site.inside(&names[3], |root| {
        assert_eq!(fs::read(root.join("more")).unwrap(), b"more");
        assert_eq!(fs::read(root.join("opaque/seen")).unwrap(), b"seen");
    });

    // Nobody is told to unpack the bootstrap, however late the manifest is.
    let mut late = crate::nydus::site();
    let mut below = None;
    for index in 0..2 {
        let prepared = late.prepare("default", &image, &reference, index, below.as_ref());
        below = Some(prepared.exists());
    }
    late.change(|config| config.lazy.deadline = Duration::from_millis(50));
    registry.hold("/manifests/");
    let error = late.try_prepare("default", &image, &reference, 2, below.as_ref());
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    registry.release();
}
