//! What an image has in common with another one of its repository is not fetched again.

use std::fs;

use crate::image::{Image, Layer};
use crate::registry::Registry;
use crate::site::{Site, eventually};

const FILES: usize = 24;

fn content(version: u8, number: usize) -> Vec<u8> {
    // Bytes that do not compress, so that something is saved.
    let mut state = (number as u64 + 1) * 1000 + u64::from(version);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..5000 + number * 100).map(|_| next()).collect()
}

/// The files that version 2 has changed.
const NEW: [usize; 3] = [2, 9, 23];

fn layer(version: u8) -> Layer {
    let names: Vec<String> = (0..FILES).map(|number| format!("{number}")).collect();
    let contents: Vec<Vec<u8>> = (0..FILES)
        .map(|number| match NEW.contains(&number) {
            true => content(version, number),
            false => content(1, number),
        })
        .collect();
    let mut files: Vec<_> = names
        .iter()
        .zip(&contents)
        .map(|(name, content)| (name.as_str(), 0o644, &content[..]))
        .collect();
    if version == 2 {
        files.reverse();
    }
    Layer::lazy(&files)
}

fn read_all(site: &Site, snapshot: &pontoon_snapshot::Key, version: u8) {
    site.inside(snapshot, |root| {
        for number in 0..FILES {
            let version = if NEW.contains(&number) { version } else { 1 };
            let read = fs::read(root.join(format!("{number}"))).unwrap();
            assert!(read == content(version, number), "{number}");
        }
    });
}

/// How many layers were made ready to be looked into.
fn indexes(site: &Site) -> usize {
    let layers = fs::read_dir(site.root().join("lazy/blobs/sha256")).unwrap();
    let indexes = layers.filter(|layer| layer.as_ref().unwrap().path().join("digests").exists());
    indexes.count()
}

/// Waits until both layers are: who reads does not wait for that for long, which a busy machine may need.
fn wait_for_indexes(site: &Site) {
    eventually("both can be looked into", || indexes(site) == 2);
}

fn exact() -> Site {
    Site::with(|config| {
        config.fetching.along_bytes = 0;
        config.fetching.gap_bytes_max = 0;
        config.fetching.window_bytes = 0..=0;
    })
}

#[test]
fn the_next_version_of_an_image_fetches_what_is_new() {
    let registry = Registry::start();
    let mut site = exact();
    let (first, second) = (layer(1), layer(2));
    let image = Image::new(&[&first]);
    let names = site.pull("default", &image, &registry.push(&image, "app"));
    read_all(&site, &names[0], 1);
    assert_eq!(site.remote().totals().fetched.taken_chunks, 0);
    // Also after a restart, when version 1 is not open.
    site.reopen();
    let next = Image::new(&[&second]);
    let names = site.pull("default", &next, &registry.push(&next, "app"));
    wait_for_indexes(&site);
    registry.forget();
    read_all(&site, &names[0], 2);
    let blob = second.digest().to_string();
    assert_eq!(
        registry.count(&blob),
        NEW.len(),
        "{:?}",
        registry.starts(&blob)
    );
    let fetched = site.remote().totals().fetched;
    assert_eq!(fetched.taken_chunks, (FILES - NEW.len()) as u64);
    let same = (0..FILES).filter(|number| !NEW.contains(number));
    let bytes: usize = same.map(|number| content(1, number).len()).sum();
    assert_eq!(fetched.taken_bytes, bytes as u64);
}

#[test]
fn another_repository_gives_nothing() {
    let registry = Registry::start();
    let site = exact();
    let (first, second) = (layer(1), layer(2));
    let image = Image::new(&[&first]);
    let names = site.pull("default", &image, &registry.push(&image, "app"));
    read_all(&site, &names[0], 1);
    let next = Image::new(&[&second]);
    let names = site.pull("default", &next, &registry.push(&next, "other"));
    registry.forget();
    read_all(&site, &names[0], 2);
    let blob = second.digest().to_string();
    assert_eq!(registry.count(&blob), FILES);
    assert_eq!(site.remote().totals().fetched.taken_chunks, 0);
    assert_eq!(indexes(&site), 0);
}

#[test]
fn what_was_removed_gives_nothing_and_is_gone() {
    let registry = Registry::start();
    let mut site = exact();
    let (first, second) = (layer(1), layer(2));
    let image = Image::new(&[&first]);
    let old = site.pull("default", &image, &registry.push(&image, "app"));
    read_all(&site, &old[0], 1);
    let next = Image::new(&[&second]);
    let names = site.pull("default", &next, &registry.push(&next, "app"));
    wait_for_indexes(&site);
    // Whoever has just pulled it still holds it.
    site.reopen();
    site.inside(&names[0], |root| {
        assert_eq!(fs::read(root.join("0")).unwrap(), content(1, 0));
    });
    let taken = site.remote().totals().fetched.taken_chunks;
    assert_eq!(taken, 1);
    // Version 2 has it open to take more from it.
    site.remove(&old);
    assert_eq!(site.names("blobs/sha256").len(), 1);
    read_all(&site, &names[0], 2);
    assert_eq!(site.remote().totals().fetched.taken_chunks, taken);
}
