//! What is removed is gone from the disk.

use std::fs;

use crate::image::{Image, Layer};
use crate::registry::Registry;
use crate::site::Site;

#[test]
fn removing_an_image_frees_its_bytes() {
    let registry = Registry::start();
    let site = Site::with(|config| config.lazy.image_lifetime = std::time::Duration::ZERO);
    let content: Vec<u8> = (0..1_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let image = Image::new(&[&Layer::lazy(&[("large", 0o644, &content)])]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    site.inside(&names[0], |root| {
        assert_eq!(fs::read(root.join("large")).unwrap(), content)
    });
    assert!(site.remote().totals().cache.bytes >= 1_000_000);
    site.remove(&names);
    crate::site::eventually("the bytes are gone", || {
        site.remote().totals().cache.bytes == 0 && site.names("trees").is_empty()
    });
    // It can be pulled again.
    let names = site.pull("default", &image, &reference);
    site.inside(&names[0], |root| {
        assert_eq!(fs::read(root.join("large")).unwrap(), content)
    });
}
