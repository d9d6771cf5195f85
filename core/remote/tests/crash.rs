//! What a crash leaves between an offer and its record.

use std::fs;

use pontoon_remote::LayerState;

use crate::image::Image;
use crate::pull::{base, top};
use crate::registry::Registry;
use crate::site::Site;

#[test]
fn what_no_record_refers_to_is_deleted_at_the_next_start() {
    let registry = Registry::start();
    let mut site = Site::new();
    let image = Image::new(&[&base(), &top()]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    // The metadata from before the upper layer was recorded: the daemon died between its offer and its record.
    site.close();
    let metadata = site.root().join("metadata.redb");
    let before = fs::read(&metadata).unwrap();
    site.reopen();
    let other = Image::new(&[&top()]);
    let another = registry.push(&other, "b");
    let left = site.pull("default", &other, &another);
    assert_eq!(site.names("trees").len(), 3);
    site.close();
    fs::write(&metadata, before).unwrap();
    fs::write(site.root().join("lazy/trees/.new-x"), "half").unwrap();
    site.reopen();
    assert_eq!(site.names("trees").len(), 2);
    site.snapshots().stat(&left[0]).unwrap_err();
    // The data is still needed: the first image has the same layer on another one.
    assert_eq!(site.remote().totals().cache.layers, 2);
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
    });
    assert_eq!(site.fate(&top().digest()).0, LayerState::Lazy);
}
