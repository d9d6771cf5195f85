//! What cannot be lazy, and why.

use std::fs;
use std::time::Duration;

use pontoon_remote::LayerState;
use pontoon_snapshot::{Key, LABEL_SNAPSHOT_REF, Labels};

use crate::image::{Image, Layer};
use crate::pull::{base, top};
use crate::registry::Registry;
use crate::site::Site;

fn ordinary() -> Layer {
    Layer::ordinary(&[("tmp/plain", 0o644, b"plain"), ("etc/plain", 0o600, b"x")])
}

fn reason(site: &Site) -> String {
    let declined = site.engine().declined();
    assert_eq!(declined.len(), 1, "{declined:?}");
    declined.into_keys().next().unwrap()
}

#[test]
fn an_ordinary_image_is_containerds() {
    let registry = Registry::start();
    let site = Site::new();
    let image = Image::new(&[&ordinary(), &ordinary()]);
    let reference = registry.push(&image, "a");
    for index in 0..2 {
        site.prepare("default", &image, &reference, index, None)
            .declined();
    }
    assert_eq!(reason(&site), "no layer of the image can be lazy");
    assert_eq!(registry.count("/v2/"), 1);
}

#[test]
fn without_labels_nobody_is_asked() {
    let site = Site::new();
    let labels = [(LABEL_SNAPSHOT_REF.to_owned(), "sha256:x".to_owned())];
    let key = Key::new("default/1/extract").unwrap();
    site.snapshots()
        .prepare(&key, None, Labels::new(labels).unwrap())
        .unwrap();
    assert_eq!(reason(&site), "the labels do not say where the layer is");
    assert_eq!(site.remote().totals().traffic.requests, 0);
}

#[test]
fn an_ordinary_layer_of_a_lazy_image_is_unpacked_here() {
    let registry = Registry::start();
    let mut site = Site::new();
    let (base, middle, top) = (base(), ordinary(), top());
    let image = Image::new(&[&base, &middle, &top]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.inside(&names[2], |root| {
        assert_eq!(fs::read(root.join("tmp/plain")).unwrap(), b"plain");
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            root.join("tmp").metadata().unwrap().permissions().mode() & 0o7777,
            0o1777
        );
    });
    let (state, why) = site.fate(&middle.digest());
    assert_eq!(state, LayerState::Unpacked);
    assert_eq!(
        why.unwrap(),
        "the manifest names no table of contents for the layer"
    );
    assert!(site.names("tmp").is_empty());
    site.reopen();
    let (state, why) = site.fate(&middle.digest());
    assert_eq!(state, LayerState::Unpacked);
    let expected = "the manifest names no table of contents for the layer";
    assert_eq!(why.as_deref(), Some(expected));
    // It is kept no longer than its snapshot.
    site.remove(&names);
    site.reopen();
    assert!(site.remote().report().layers.is_empty());
}

#[test]
fn an_ordinary_layer_that_lies_is_not_unpacked() {
    let registry = Registry::start();
    let site = Site::new();
    let mut wrong = ordinary();
    wrong.diff_id = pontoon_layer::Digest::of(b"another");
    let image = Image::new(&[&base(), &wrong]);
    let reference = registry.push(&image, "a");
    let below = site
        .prepare("default", &image, &reference, 0, None)
        .exists();
    site.prepare("default", &image, &reference, 1, Some(&below))
        .declined();
    assert_eq!(reason(&site), "the ordinary layer could not be unpacked");
}

#[test]
fn a_table_of_contents_that_lies_is_not_used() {
    let registry = Registry::start();
    let site = Site::new();
    let mut layer = base();
    layer.set_toc(&pontoon_layer::Digest::of(b"another"));
    let image = Image::new(&[&layer]);
    let reference = registry.push(&image, "a");
    site.prepare("default", &image, &reference, 0, None)
        .declined();
    let expected = "the table of contents is not the one that the manifest names";
    assert_eq!(reason(&site), expected);
    // The image has no other lazy layer, so it is ordinary from now on, for the same reason.
    site.prepare("default", &image, &reference, 0, None)
        .declined();
    let (state, why) = site.fate(&layer.digest());
    assert_eq!(
        (state, why.as_deref()),
        (LayerState::Declined, Some(expected))
    );
    assert!(site.names("trees").is_empty());
}

#[test]
fn a_lazy_layer_whose_table_is_damaged_is_unpacked_beside_a_good_one() {
    let registry = Registry::start();
    let site = Site::new();
    let good = base();
    let mut bad = top();
    bad.set_toc(&pontoon_layer::Digest::of(b"another"));
    let image = Image::new(&[&good, &bad]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    assert_eq!(site.fate(&bad.digest()).0, LayerState::Unpacked);
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
    });
}

#[test]
fn wrong_bytes_reach_nobody() {
    let registry = Registry::start();
    let site = Site::new();
    let layer = Layer::lazy(&[("large", 0o644, &[9; 100_000])]);
    let image = Image::new(&[&layer]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    registry.damage(&layer.digest().to_string(), |blob| {
        let middle = blob.len() / 4;
        blob[middle] ^= 1;
    });
    site.inside(&names[0], |root| {
        fs::read(root.join("large")).unwrap_err();
    });
    let report = site.remote().report();
    assert!(
        report.layers[0]
            .progress
            .as_ref()
            .unwrap()
            .last_error
            .is_some(),
        "{report:?}"
    );
}

#[test]
fn a_whole_image_is_unpacked_here_if_that_is_asked_for() {
    let registry = Registry::start();
    let site = Site::with(|config| {
        config.unpack.everything = true;
        config.lazy.deadline = Duration::from_millis(100);
    });
    let image = Image::new(&[&ordinary(), &ordinary()]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("tmp/plain")).unwrap(), b"plain");
    });
}

#[test]
fn a_large_ordinary_layer_is_containerds() {
    let registry = Registry::start();
    let site = Site::with(|config| config.unpack.layer_bytes_max = 10);
    let image = Image::new(&[&base(), &ordinary()]);
    let reference = registry.push(&image, "a");
    let below = site
        .prepare("default", &image, &reference, 0, None)
        .exists();
    site.prepare("default", &image, &reference, 1, Some(&below))
        .declined();
    let expected = "the ordinary layer is too large to be unpacked while containerd waits";
    assert_eq!(reason(&site), expected);
}

#[test]
fn an_ordinary_layer_that_a_mirror_damages_comes_from_elsewhere() {
    let (registry, mirror) = (Registry::start(), Registry::start());
    let (base, plain) = (base(), ordinary());
    let image = Image::new(&[&base, &plain]);
    let reference = registry.push(&image, "a");
    let host = |reference: &str| reference.split('/').next().unwrap().to_owned();
    let (origin, other) = (host(&reference), host(&mirror.push(&image, "a")));
    mirror.damage(&plain.digest().to_string(), |blob| {
        let middle = blob.len() / 2;
        blob[middle] ^= 0xff;
    });
    let hosts = tempfile::tempdir().unwrap();
    let directory = hosts.path().join(&origin);
    fs::create_dir_all(&directory).unwrap();
    let text = format!("server = \"http://{origin}\"\n[host.\"http://{other}\"]\n");
    fs::write(directory.join("hosts.toml"), text).unwrap();
    let site = Site::with(|config| {
        config.registry.hosts_directories = vec![hosts.path().to_owned()];
        config.lazy.deadline = Duration::from_secs(30);
        config.unpack.wait = Duration::from_secs(30);
    });
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("tmp/plain")).unwrap(), b"plain");
        assert_eq!(fs::read(root.join("etc/plain")).unwrap(), b"x");
    });
    assert!(mirror.count(&plain.digest().to_string()) > 0);
    assert!(registry.count(&plain.digest().to_string()) > 0);
}
