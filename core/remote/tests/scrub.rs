//! Bits that the disk has flipped while the machine was down.

use std::fs;
use std::path::{Path, PathBuf};

use pontoon_remote::{CACHE, FrontEnd};

use crate::image::{Image, Layer};
use crate::registry::Registry;
use crate::site::{Site, eventually};

fn noise(from: u32, length: u32) -> Vec<u8> {
    (from..from + length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 1)
        .collect()
}

/// The data of the only layer in the cache.
fn data(site: &Site) -> PathBuf {
    let layers = fs::read_dir(site.root().join(CACHE).join("sha256")).unwrap();
    let layers: Vec<PathBuf> = layers.map(|layer| layer.unwrap().path()).collect();
    assert_eq!(layers.len(), 1);
    layers[0].join("data")
}

fn trust(site: &Site) -> String {
    fs::read_to_string(site.root().join(CACHE).join("trust")).unwrap()
}

/// Of a power cut: nobody has noted that the cache was closed.
fn forget_the_end(site: &Site) {
    fs::remove_file(site.root().join(CACHE).join("trust")).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bit_that_a_power_cut_has_flipped_is_never_read_and_its_chunk_fetched_again() {
    for front_end in [FrontEnd::Fuse, FrontEnd::Auto] {
        let registry = Registry::start();
        let mut site = Site::with(|config| config.lazy.front_end = front_end);
        let (damaged, good) = (noise(0, 50_000), noise(7_000_000, 70_000));
        let layer = Layer::lazy(&[("damaged", 0o644, &damaged), ("good", 0o644, &good)]);
        let image = Image::new(&[&layer]);
        let reference = registry.push(&image, "a");
        let names = site.pull("default", &image, &reference);
        let read = |site: &Site, name: &str| {
            site.inside(&names[0], |root| fs::read(root.join(name)).unwrap())
        };
        assert!(read(&site, "damaged") == damaged && read(&site, "good") == good);
        site.close();
        assert!(trust(&site).contains("state closed"), "{}", trust(&site));
        forget_the_end(&site);
        let bytes = fs::read(data(&site)).unwrap();
        let at = bytes
            .windows(1000)
            .position(|part| *part == damaged[20_000..21_000]);
        flip(&data(&site), at.unwrap());

        registry.forget();
        site.reopen();
        // Whole, but for that: what is right is not asked for again.
        assert!(read(&site, "good") == good, "{front_end:?}: wrong bytes");
        let blob = layer.digest().to_string();
        assert_eq!(registry.count(&blob), 0, "{front_end:?}");
        assert!(
            read(&site, "damaged") == damaged,
            "{front_end:?}: wrong bytes"
        );
        assert!(registry.count(&blob) > 0, "{front_end:?}");
        assert_eq!(site.remote().totals().cache.damaged_chunks, 1);
        eventually("the layer is checked", || !trust(&site).contains("doubt "));

        // Now it is as it was, for good.
        site.close();
        registry.forget();
        site.reopen();
        assert!(
            read(&site, "damaged") == damaged,
            "{front_end:?}: wrong bytes"
        );
        assert_eq!(registry.count(&blob), 0, "{front_end:?}");
        assert_eq!(site.remote().totals().cache.damaged_chunks, 0);
    }
}

#[test]
fn a_cut_off_data_file_is_fetched_again_where_it_ends() {
    let registry = Registry::start();
    let mut site = Site::new();
    let content = noise(0, 100_000);
    let image = Image::new(&[&Layer::lazy(&[("file", 0o644, &content)])]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let read = |site: &Site| site.inside(&names[0], |root| fs::read(root.join("file")).unwrap());
    assert!(read(&site) == content);
    site.close();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(data(&site))
        .unwrap();
    file.set_len(30_000).unwrap();
    drop(file);
    registry.forget();
    site.reopen();
    assert!(read(&site) == content, "wrong bytes");
    assert!(registry.count("blobs") > 0);
}
