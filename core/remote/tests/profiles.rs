//! What a start reads is learned, and fetched first the next time.

use std::fs;
use std::io::ErrorKind;

use pontoon_remote::FrontEnd;

use crate::image::{Image, Layer};
use crate::registry::Registry;
use crate::site::{Site, eventually};

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Two layers with eight files each, of which some are read.
fn image() -> Image {
    let layer = |name: &str| {
        let files: Vec<(String, Vec<u8>)> = (0..8)
            .map(|index| {
                let seed = index + 100 * name.len() as u64;
                (format!("{name}{index}"), noise(seed, 100_000))
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, content)| (name.as_str(), 0o644, content.as_slice()))
            .collect();
        Layer::lazy(&files)
    };
    Image::new(&[&layer("low"), &layer("top")])
}

/// A site that is asked for just what is read: beneath EROFS the kernel reads ahead from one file into the next.
fn exact() -> Site {
    Site::with(|config| config.lazy.front_end = FrontEnd::Fuse)
}

/// The same, where one request after the other is made ahead, each for what is wanted only.
fn eager() -> Site {
    Site::with(|config| {
        config.lazy.front_end = FrontEnd::Fuse;
        config.fetching.background.enabled = true;
        config.fetching.background.requests = 1;
        config.fetching.gap_bytes_max = 0;
        config.fetching.along_bytes = 0;
        config.fetching.window_bytes = 0..=0;
    })
}

/// Which file each request for a part of the layer, but for that of its end, begins with.
fn files(registry: &Registry, layer: &Layer) -> Vec<usize> {
    let starts = registry.starts(&layer.digest().to_string());
    let size = layer.blob.len() / 8;
    let in_payload = starts.into_iter().skip(1);
    in_payload.map(|start| (start + size / 2) / size).collect()
}

/// What is read of an image, in order.
const READ: [&str; 4] = ["top6", "low5", "low3", "top1"];

/// Pulls, starts and learns; answers the profile.
fn learn(registry: &Registry, image: &Image, reference: &str) -> String {
    let mut site = exact();
    let names = site.pull("default", image, reference);
    site.inside(&names[1], |root| {
        for name in READ {
            fs::read(root.join(name)).unwrap();
        }
    });
    site.reopen();
    let profiles = site.remote().profiles().unwrap();
    let [profile] = &*profiles else {
        panic!("not one profile: {profiles:?}");
    };
    assert_eq!((profile.layers, profile.chunks), (2, 4));
    assert_eq!(profile.image, reference);
    assert_eq!(registry.count("/manifests/"), 1);
    let exported = site.remote().export_profile(&profile.name).unwrap();
    exported.unwrap()
}

#[test]
fn what_a_start_has_read_comes_first_at_the_next_one_elsewhere() {
    let registry = Registry::start();
    let image = image();
    let reference = registry.push(&image, "a");
    let profile = learn(&registry, &image, &reference);
    registry.forget();
    let site = eager();
    site.remote().import_profile(profile.as_bytes()).unwrap();
    let names = site.pull("default", &image, &reference);
    eventually("all of it is here", || {
        let report = site.remote().report();
        let layers = report.layers.iter();
        layers
            .filter_map(|layer| layer.progress.as_ref())
            .all(|of| of.percent == 100.0)
    });
    for (layer, first) in image.layers.iter().zip([[3, 5], [1, 6]]) {
        let asked = files(&registry, layer);
        assert_eq!(asked[..2], first, "{asked:?}");
        let mut once = asked.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(
            once.len(),
            asked.len(),
            "something was asked for twice: {asked:?}"
        );
    }
    let requests = registry.count("/blobs/");
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("low0")).unwrap(), noise(300, 100_000));
    });
    assert_eq!(registry.count("/blobs/"), requests);
}

#[test]
fn another_image_with_the_same_layers_may_go_while_a_start_is_recorded() {
    let registry = Registry::start();
    let image = image();
    let reference = registry.push(&image, "a");
    let mut site = exact();
    let names = site.pull("default", &image, &reference);
    let others = site.pull("other", &image, &reference);
    site.inside(&names[1], |root| {
        let read = |name: &str| drop(fs::read(root.join(name)).unwrap());
        read(READ[0]);
        site.remove(&others);
        READ[1..].iter().for_each(|name| read(name));
    });
    site.reopen();
    let profiles = site.remote().profiles().unwrap();
    let chunks: Vec<u64> = profiles.iter().map(|profile| profile.chunks).collect();
    assert_eq!(chunks, [READ.len() as u64]);
}

#[test]
fn advice_that_is_none_does_no_harm() {
    let registry = Registry::start();
    let image = image();
    let reference = registry.push(&image, "a");
    let profile = learn(&registry, &image, &reference);
    let site = eager();
    for hostile in ["", "{}", &profile.replace("\"version\":1", "\"version\":7")] {
        let error = site
            .remote()
            .import_profile(hostile.as_bytes())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
    let order = profile.find("\"order\"").unwrap();
    let hostile = format!(
        "{}\"order\":[[0,4000000000,200000],[9,0,3],[1,7,9]]}}",
        &profile[..order]
    );
    site.remote().import_profile(hostile.as_bytes()).unwrap();
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| {
        for (name, seed) in [("low7", 307), ("top7", 307), ("top0", 300)] {
            assert!(
                fs::read(root.join(name)).unwrap() == noise(seed, 100_000),
                "{name}"
            );
        }
    });
}

#[test]
fn a_damaged_profile_is_learned_again() {
    let registry = Registry::start();
    let image = image();
    let reference = registry.push(&image, "a");
    let mut site = exact();
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| fs::read(root.join("low0")).unwrap());
    // The layer goes: what was seen until then is kept.
    site.remove(&names);
    let files = site.names("profiles");
    assert_eq!(files.len(), 1);
    let path = site.root().join("lazy/profiles").join(&files[0]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o077, 0);
    fs::write(&path, "[").unwrap();
    assert_eq!(site.remote().profiles().unwrap().len(), 0);
    site.reopen();
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| fs::read(root.join("top1")).unwrap());
    site.reopen();
    let profiles = site.remote().profiles().unwrap();
    assert_eq!((profiles.len(), profiles[0].chunks), (1, 1));
}

#[test]
fn it_is_learned_whoever_serves_the_trees() {
    let registry = Registry::start();
    let image = image();
    let reference = registry.push(&image, "a");
    let mut site = Site::new();
    let names = site.pull("default", &image, &reference);
    site.inside(&names[1], |root| {
        for name in READ {
            fs::read(root.join(name)).unwrap();
        }
    });
    site.reopen();
    let profiles = site.remote().profiles().unwrap();
    let profile = site.remote().export_profile(&profiles[0].name).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&profile.unwrap()).unwrap();
    let runs: Vec<(u32, u32, u32)> = serde_json::from_value(profile["order"].clone()).unwrap();
    let learned = runs
        .iter()
        .flat_map(|(layer, first, count)| (*first..first + count).map(|chunk| (*layer, chunk)));
    let learned: Vec<(u32, u32)> = learned.collect();
    // The kernel may have read on into the next file, and not back into those before.
    let read = [(1, 6), (0, 5), (0, 3), (1, 1)];
    let of_read: Vec<_> = learned
        .iter()
        .filter(|chunk| read.contains(chunk))
        .collect();
    assert_eq!(of_read, read.iter().collect::<Vec<_>>(), "{learned:?}");
    for unread in [(0, 0), (0, 1), (1, 0), (1, 4)] {
        assert!(!learned.contains(&unread), "{learned:?}");
    }
}
