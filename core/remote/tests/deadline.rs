//! A registry that holds something back: Prepare answers all the same, and the next one finds it done.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::image::{Image, Layer};
use crate::pull::base;
use crate::registry::Registry;
use crate::site::{LIMIT, Site, eventually};

fn quick(config: &mut pontoon_remote::Config) {
    config.lazy.deadline = Duration::from_millis(150);
    config.unpack.wait = Duration::from_millis(150);
}

/// Prepares the layer `index`, which must be declined while `part` is held back, and brought soon after.
fn check(part: &str, image: &Image, index: usize, tokens: bool) {
    let registry = Registry::start();
    let site = Site::with(quick);
    let reference = registry.push(image, "a");
    if tokens {
        registry.want_tokens();
    }
    let below = (0..index).fold(None, |below, index| {
        Some(
            site.prepare("default", image, &reference, index, below.as_ref())
                .exists(),
        )
    });
    registry.hold(part);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let (site, reference, below) = (&site, &reference, below.as_ref());
        scope.spawn(move || {
            site.prepare("default", image, reference, index, below)
                .declined();
            sender.send(()).unwrap();
        });
        // Nobody else waits meanwhile.
        site.snapshots().cleanup().unwrap();
        receiver.recv_timeout(LIMIT).unwrap();
    });
    registry.release();
    eventually("the layer is brought", || {
        let prepared = site.prepare("default", image, &reference, index, below.as_ref());
        matches!(prepared, crate::site::Prepared::Exists(_))
    });
}

#[test]
fn a_token_that_does_not_come() {
    check("/token", &Image::new(&[&base()]), 0, true);
}

#[test]
fn a_manifest_that_does_not_come() {
    check("/manifests/", &Image::new(&[&base()]), 0, false);
}

#[test]
fn a_table_of_contents_that_does_not_come() {
    let layer = base();
    check(
        &layer.digest().to_string(),
        &Image::new(&[&layer]),
        0,
        false,
    );
}

#[test]
fn an_ordinary_layer_that_does_not_come() {
    let layer = Layer::ordinary(&[("file", 0o644, b"content")]);
    let image = Image::new(&[&layer, &base()]);
    check(&layer.digest().to_string(), &image, 0, false);
}
