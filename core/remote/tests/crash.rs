//! What a crash leaves between an offer and its record.

use std::fs;

use pontoon_remote::LayerState;
use pontoon_snapshot::{Class, Key, Labels};

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

#[test]
fn a_damaged_tree_costs_its_own_layer_alone_until_it_is_pulled_again() {
    let registry = Registry::start();
    let mut site = Site::new();
    let (damaged, good) = (Image::new(&[&base()]), Image::new(&[&top()]));
    let reference = registry.push(&damaged, "damaged");
    let names = site.pull("default", &damaged, &reference);
    let tree = site.names("trees").remove(0);
    let other = registry.push(&good, "good");
    let others = site.pull("default", &good, &other);
    site.close();
    let path = site.root().join("lazy/trees").join(tree);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).rposition(|name| name == b"gone").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    site.reopen();
    let view = Key::new("default/1/view").unwrap();
    let viewed = site
        .snapshots()
        .view(&view, Some(&names[0]), Labels::default());
    let error = viewed.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.to_string().contains("pull it again"), "{error}");
    site.inside(&others[0], |root| {
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
    });
    // Whoever pulls the layer, for whatever snapshot, has the tree made again for all.
    site.pull("other", &damaged, &reference);
    site.inside(&names[0], |root| {
        assert_eq!(fs::read(root.join("gone")).unwrap(), b"gone");
    });
}
