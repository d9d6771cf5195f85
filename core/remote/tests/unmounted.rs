//! An operator who takes off the mount of all lazy layers.

use std::fs;

use pontoon_snapshot::{Key, Labels};

use crate::image::Image;
use crate::pull::{base, top};
use crate::registry::Registry;
use crate::site::{Mounted, Site};

#[test]
fn layers_are_served_again_after_somebody_unmounted_them() {
    let registry = Registry::start();
    let site = Site::new();
    let image = Image::new(&[&base(), &top()]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let read = || {
        site.inside(&names[1], |root| {
            assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
        });
    };
    read();
    // Nobody uses it: that ends the server.
    unmount(&site);
    read();
    unmount(&site);
    read();
}

#[test]
fn who_runs_goes_on_when_somebody_unmounts_the_layers() {
    let registry = Registry::start();
    let site = Site::new();
    let image = Image::new(&[&base(), &top()]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let (view, target) = (
        Key::new("default/1/view").unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let snapshots = site.snapshots();
    let mounts = snapshots.view(&view, Some(&names[1]), Labels::default());
    let running = Mounted::new(&mounts.unwrap(), target.path());
    unmount(&site);
    site.inside(&names[1], |root| {
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
    });
    // What it has not read before.
    assert_eq!(
        fs::read(target.path().join("tmp/file")).unwrap(),
        [7; 10_000]
    );
    drop(running);
    snapshots.remove(&view).unwrap();
    site.remove(&names);
}

fn unmount(site: &Site) {
    let mountpoint = site.root().join("lazy/mnt");
    rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH).unwrap();
}
