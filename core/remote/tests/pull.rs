//! Lazy images: pulled, read, shared, brought back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use pontoon_remote::LayerState;
use pontoon_snapshot::{Class, Key, LABEL_GID_MAPPING, LABEL_UID_MAPPING, Labels};

use crate::image::{Image, Layer};
use crate::registry::Registry;
use crate::site::{Site, eventually};

pub(crate) fn base() -> Layer {
    Layer::lazy(&[
        ("etc/", 0o755, b""),
        ("etc/name", 0o644, b"base"),
        ("tmp/", 0o1777, b""),
        ("gone", 0o644, b"gone"),
    ])
}

pub(crate) fn top() -> Layer {
    Layer::lazy(&[
        ("tmp/file", 0o600, &[7; 10_000]),
        ("etc/more", 0o644, b"more"),
        (".wh.gone", 0o644, b""),
    ])
}

#[test]
fn a_lazy_image_is_read_as_it_is_asked_for() {
    let registry = Registry::start();
    let site = Site::new();
    let (base, top) = (base(), top());
    let image = Image::new(&[&base, &top]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    assert_eq!(names.len(), 2);
    assert_eq!(registry.count("/manifests/"), 1);
    // One request for each table of contents, and none for anything else.
    assert_eq!(registry.count("/blobs/"), 2);
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("etc/name")).unwrap(), b"base");
        assert_eq!(fs::read(root.join("tmp/file")).unwrap(), [7; 10_000]);
        assert!(!root.join("gone").exists());
        // Directories that the upper layer does not list are those of the lower one.
        assert_eq!(
            root.join("tmp").metadata().unwrap().permissions().mode() & 0o7777,
            0o1777
        );
        assert_eq!(root.join("tmp").metadata().unwrap().mtime(), 1_577_836_800);
    });
    assert_eq!(registry.count("/blobs/"), 4);
    let usage = site.snapshots().usage(&names[1]).unwrap();
    // The root, /tmp, /etc: a block each; 10,000 bytes: three; "more": one.
    assert_eq!((usage.size_bytes, usage.inodes), (7 * 4096, 6));
    assert_eq!(site.fate(&base.digest()), (LayerState::Lazy, None));
    let report = site.remote().report();
    assert!(
        report.layers.iter().all(|layer| layer.progress.is_some()),
        "{report:?}"
    );
    assert_eq!(site.remote().totals().lazy_layers, 2);
}

#[test]
fn a_restart_needs_no_registry() {
    let registry = Registry::start();
    let mut site = Site::new();
    let image = Image::new(&[&base(), &top()]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| {
        fs::read(root.join("tmp/file")).unwrap();
    });
    drop(registry);
    site.reopen();
    // What was read is there; nothing was asked.
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("tmp/file")).unwrap(), [7; 10_000]);
        assert!(root.join("etc/name").exists());
    });
    assert_eq!(site.remote().totals().traffic.requests, 0);
    site.remove(&names);
    assert!(site.names("trees").is_empty());
}

#[test]
fn other_namespaces_and_images_share_what_they_may_read() {
    let registry = Registry::start();
    let site = Site::new();
    let (base, top) = (base(), top());
    let one = Image::new(&[&base, &top]);
    let two = Image::new(&[&base]);
    let first = registry.push(&one, "one");
    let second = registry.push(&two, "two");
    let names = site.pull("default", &one, &first);
    let again = site.pull("other", &one, &first);
    let shared = site.pull("default", &two, &second);
    // The same layer at the same place is one snapshot, for which nobody is asked; in another namespace it is another one of the same tree.
    assert_eq!(shared[0], names[0]);
    assert_ne!(again[0], names[0]);
    assert_eq!(registry.count("/blobs/"), 2);
    assert_eq!(site.names("trees").len(), 2);
    site.remove(&names);
    assert_eq!(site.names("trees").len(), 2);
    site.inside(&again[1], |root| {
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
    });
}

#[test]
fn what_is_here_is_used_only_by_who_may_read_it() {
    let registry = Registry::start();
    let site = Site::new();
    let image = Image::new(&[&base()]);
    let mine = registry.push(&image, "mine");
    let names = site.pull("default", &image, &mine);
    site.inside(&names[0], |root| {
        fs::read(root.join("etc/name")).unwrap();
    });
    let blobs = registry.count("/blobs/");
    // Who may read the layer proves it by its table of contents, and needs nothing else.
    let ours = registry.push(&image, "ours");
    let names = site.pull("other", &image, &ours);
    assert_eq!(registry.count("/ours/blobs/"), 1);
    site.inside(&names[0], |root| {
        fs::read(root.join("etc/name")).unwrap();
    });
    assert_eq!(registry.count("/blobs/"), blobs + 1);
    // From then on the manifest is enough.
    site.pull("third", &image, &ours);
    assert_eq!(registry.count("/blobs/"), blobs + 1);
    // That a manifest names it is not enough, nor that it is known where else it is.
    let theirs = registry.push(&image, "theirs");
    for closed in ["theirs/blobs", "theirs"] {
        let site = Site::new();
        registry.close(closed);
        site.pull("default", &image, &mine);
        site.prepare("other", &image, &theirs, 0, None).declined();
        let reasons = site.engine().declined();
        let reason = reasons.keys().next().unwrap();
        assert_eq!(reason, "the registry wants other credentials");
        site.prepare("other", &image, &mine, 0, None).exists();
    }
}

/// An image whose repository is gone, or whose credentials are over, fails no container of another one.
#[test]
fn what_one_repository_no_longer_gives_is_fetched_from_another() {
    let registry = Registry::start();
    let mut site = Site::new();
    let content = vec![7; 10_000];
    let large: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    let layer = Layer::lazy(&[("file", 0o644, &content), ("large", 0o644, &large)]);
    let image = Image::new(&[&layer]);
    let (one, two) = (registry.push(&image, "one"), registry.push(&image, "two"));
    site.pull("default", &image, &one);
    let names = site.pull("other", &image, &two);
    registry.close("one");
    site.reopen();
    registry.forget();
    site.inside(&names[0], |root| {
        assert_eq!(fs::read(root.join("file")).unwrap(), content);
    });
    assert!(registry.count("/one/blobs/") > 0 && registry.count("/two/blobs/") > 0);
}

#[test]
fn the_rest_comes_in_the_background() {
    let registry = Registry::start();
    let site = Site::with(|config| config.fetching.background.enabled = true);
    let base = base();
    let image = Image::new(&[&base]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.inside(&names[0], |root| assert!(root.join("etc/name").exists()));
    eventually("everything is here", || {
        let report = site.remote().report();
        report.layers[0].progress.as_ref().unwrap().percent >= 100.0
    });
}

#[test]
fn ids_are_mapped_where_the_kernel_can() {
    let registry = Registry::start();
    let site = Site::new();
    let image = Image::new(&[&base()]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let maps = [LABEL_UID_MAPPING, LABEL_GID_MAPPING];
    let labels = maps.map(|label| (label.to_owned(), "0:100000:65536".to_owned()));
    let key = Key::new("default/7/mapped").unwrap();
    let labels = Labels::new(labels).unwrap();
    match site.snapshots().prepare(&key, Some(&names[0]), labels) {
        Ok(mounts) => {
            let target = tempfile::tempdir().unwrap();
            let mounted = crate::site::Mounted::new(&mounts, target.path());
            let file = target.path().join("etc/name");
            assert_eq!(file.metadata().unwrap().uid(), 100_000);
            drop(mounted);
        }
        Err(error) => {
            assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
            assert!(error.to_string().contains("6.12"), "{error}");
        }
    }
}

#[test]
fn a_large_table_of_contents_is_parsed_when_its_layer_is_asked_for() {
    let registry = Registry::start();
    let site = Site::with(|config| config.lazy.deadline = Duration::from_secs(60));
    // More than 8 MiB of JSON.
    let name = "x".repeat(90);
    let names: Vec<String> = (0..65_000)
        .map(|number| format!("{number}{name}"))
        .collect();
    let files: Vec<(&str, u32, &[u8])> = names
        .iter()
        .map(|name| (&**name, 0o644, &b""[..]))
        .collect();
    let image = Image::new(&[&base(), &Layer::lazy(&files)]);
    let reference = registry.push(&image, "a");
    let snapshots = site.pull("default", &image, &reference);
    site.inside(&snapshots[1], |root| {
        assert!(root.join(&names[0]).exists());
        assert!(root.join(&names[64_999]).exists());
    });
}
