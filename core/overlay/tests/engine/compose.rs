//! What is mounted: layers on layers, whiteouts, many layers, extracts, mapped ids.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use pontoon_overlay::Options;
use pontoon_snapshot::{
    Class, Error, LABEL_GID_MAPPING, LABEL_MAX_SIZE, LABEL_SNAPSHOT_REF, LABEL_UID_MAPPING, Labels,
};

use crate::site::{Mounted, Site, extract, key, labels, option};

#[test]
fn layers_lie_on_each_other() {
    let site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("kept"), "1").unwrap();
        fs::write(root.join("changed"), "1").unwrap();
        fs::write(root.join("deleted"), "1").unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/hidden"), "1").unwrap();
    });
    site.layer("top", Some("base"), |root| {
        fs::write(root.join("changed"), "2").unwrap();
        fs::remove_file(root.join("deleted")).unwrap();
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
    });
    let snapshots = site.snapshots();
    let view = snapshots
        .view(&key("view"), Some(&key("top")), Labels::default())
        .unwrap();
    site.inside(&view, |root| {
        assert_eq!(fs::read(root.join("kept")).unwrap(), b"1");
        assert_eq!(fs::read(root.join("changed")).unwrap(), b"2");
        assert!(!root.join("deleted").exists());
        assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 0);
        let error = fs::write(root.join("new"), "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    });
    assert_eq!(snapshots.mounts(&key("view")).unwrap(), view);
    assert!(matches!(
        snapshots.mounts(&key("top")),
        Err(Error::NotMountable { .. })
    ));
}

#[test]
fn a_view_of_nothing_and_of_one_layer_is_a_read_only_bind_mount() {
    let site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("file"), "").unwrap();
    });
    for (view, parent, entries) in [("empty", None, 0), ("one", Some(key("base")), 1)] {
        let mounts = site
            .snapshots()
            .view(&key(view), parent.as_ref(), Labels::default())
            .unwrap();
        assert_eq!(mounts[0].fs_type, "bind");
        assert_eq!(mounts[0].options, ["ro", "rbind"]);
        site.inside(&mounts, |root| {
            assert_eq!(fs::read_dir(root).unwrap().count(), entries);
            assert!(fs::write(root.join("new"), "").is_err());
        });
    }
}

#[test]
fn a_hundred_and_thirty_layers_are_one_mount() {
    let site = Site::new();
    for layer in 0..130 {
        let parent = (layer > 0).then(|| format!("layer-{}", layer - 1));
        let active = key("active");
        let snapshots = site.snapshots();
        let parent = parent.as_deref().map(key);
        let mounts = snapshots
            .prepare(&active, parent.as_ref(), Labels::default())
            .unwrap();
        // As containerd's applier does: straight into the upper directory.
        let upper = option(&mounts, "upperdir").unwrap_or(&mounts[0].source);
        fs::write(Path::new(upper).join(format!("from-{layer}")), "").unwrap();
        snapshots
            .commit(
                &key(&format!("layer-{layer}")),
                &active,
                None,
                Labels::default(),
            )
            .unwrap();
    }
    let mounts = site
        .snapshots()
        .prepare(
            &key("container"),
            Some(&key("layer-129")),
            Labels::default(),
        )
        .unwrap();
    let lower = option(&mounts, "lowerdir").unwrap();
    assert_eq!(lower.split(':').count(), 130);
    site.inside(&mounts, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 130);
        fs::remove_file(root.join("from-0")).unwrap();
        assert!(!root.join("from-0").exists());
    });
}

#[test]
fn an_extract_without_a_parent_keeps_its_whiteouts_until_it_is_rebased() {
    let site = Site::new();
    let snapshots = site.snapshots();
    site.layer("base", None, |root| {
        fs::write(root.join("old"), "").unwrap();
        fs::write(root.join("kept"), "").unwrap();
    });
    let mounts = snapshots
        .prepare(&key("x"), None, extract("sha256:2"))
        .unwrap();
    assert_eq!(mounts[0].fs_type, "overlay");
    let empty = fs::canonicalize(site.root()).unwrap().join("empty");
    assert_eq!(option(&mounts, "lowerdir"), empty.to_str());
    assert_eq!(snapshots.mounts(&key("x")).unwrap(), mounts);
    // As containerd's applier does for one overlay mount.
    let upper = Path::new(option(&mounts, "upperdir").unwrap());
    let made = Command::new("mknod")
        .arg(upper.join("old"))
        .args(["c", "0", "0"])
        .status();
    assert!(made.unwrap().success());
    site.inside(&mounts, |root| assert!(!root.join("old").exists()));
    snapshots
        .commit(
            &key("top"),
            &key("x"),
            Some(&key("base")),
            extract("sha256:2"),
        )
        .unwrap();
    let rebased = snapshots.stat(&key("top")).unwrap();
    assert_eq!(rebased.parent, Some(key("base")));
    let view = snapshots
        .view(&key("v"), Some(&key("top")), Labels::default())
        .unwrap();
    site.inside(&view, |root| {
        assert!(root.join("kept").exists());
        assert!(!root.join("old").exists());
    });
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let site = Site::new();
    let old = rustix::process::umask(rustix::fs::Mode::from(0o077));
    let made = site.snapshots().prepare(&key("a"), None, Labels::default());
    rustix::process::umask(old);
    let upper = made.unwrap().remove(0).source;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let upper = Path::new(&upper);
    assert_eq!(mode(upper), 0o755);
    assert_eq!(mode(&upper.with_file_name("work")), 0o711);
    assert_eq!(mode(upper.parent().unwrap()), 0o700);
    assert_eq!(mode(&site.root()), 0o700);
    assert_eq!(mode(&site.root().join("snapshots")), 0o700);
    assert_eq!(mode(&site.root().join("empty")), 0o755);
}

#[test]
fn a_child_is_owned_as_its_parent() {
    let site = Site::new();
    site.layer("base", None, |root| chown(root, Some(7), Some(8)).unwrap());
    for labels in [Labels::default(), extract("sha256:1")] {
        let active = key(&format!("child-{}", labels.is_empty()));
        let mounts = site
            .snapshots()
            .prepare(&active, Some(&key("base")), labels)
            .unwrap();
        let upper = fs::metadata(option(&mounts, "upperdir").unwrap()).unwrap();
        assert_eq!((upper.uid(), upper.gid()), (7, 8));
    }
}

const MAPPING: [(&str, &str); 2] = [
    (LABEL_UID_MAPPING, "0:100000:65536"),
    (LABEL_GID_MAPPING, "0:200000:65536"),
];

#[test]
fn ids_are_mapped_through_the_mounts_that_the_labels_ask_for() {
    let site = Site::new();
    let snapshots = site.snapshots();
    site.engine().features().id_maps.as_ref().unwrap();
    for layer in ["one", "two"] {
        let parent = (layer == "two").then_some("one");
        site.layer(layer, parent, |root| {
            fs::write(root.join(layer), "").unwrap();
            chown(root.join(layer), Some(7), Some(8)).unwrap();
        });
    }
    let owner = |path: &Path| {
        let file = fs::symlink_metadata(path).unwrap();
        (file.uid(), file.gid())
    };
    let none = snapshots
        .prepare(&key("none"), None, labels(&MAPPING))
        .unwrap();
    assert_eq!(
        none[0].options[..2],
        ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]
    );
    assert_eq!(owner(Path::new(&none[0].source)), (100_000, 200_000));

    let mounts = snapshots
        .prepare(&key("active"), Some(&key("two")), labels(&MAPPING))
        .unwrap();
    assert_eq!(snapshots.mounts(&key("active")).unwrap(), mounts);
    site.inside(&mounts, |root| {
        assert_eq!(owner(root), (100_000, 200_000));
        assert_eq!(owner(&root.join("one")), (100_007, 200_008));
        assert_eq!(owner(&root.join("two")), (100_007, 200_008));
    });
    for (view, parent) in [("of-one", "one"), ("of-two", "two")] {
        let mounts = snapshots
            .view(&key(view), Some(&key(parent)), labels(&MAPPING))
            .unwrap();
        site.inside(&mounts, |root| {
            assert_eq!(owner(&root.join("one")), (100_007, 200_008));
        });
    }
}

#[test]
fn bad_labels_are_refused_and_nothing_is_made() {
    let site = Site::new();
    let refused = |pairs: &[(&str, &str)]| {
        let answer = site.snapshots().prepare(&key("a"), None, labels(pairs));
        answer.unwrap_err()
    };
    let limit = refused(&[(LABEL_MAX_SIZE, "1024")]);
    assert!(matches!(limit, Error::Refused { .. }), "{limit}");
    for bad in ["1:1:1", "0:0", "0:0:1;1:1:1", "-1:0:1", "0:0:4294967296"] {
        let error = refused(&[MAPPING[0], (LABEL_GID_MAPPING, bad)]);
        assert_eq!(error.class(), Class::Invalid, "{bad}: {error}");
    }
    assert_eq!(refused(&MAPPING[..1]).class(), Class::Invalid);
    assert_eq!(site.directories(), [""; 0]);
}

#[test]
fn mount_options_are_those_of_overlays_only() {
    let options = Options {
        mount_options: vec!["volatile".to_owned(), "index=on".to_owned()],
        ..Options::default()
    };
    let site = Site::with_options(options);
    site.layer("base", None, |_| {});
    let snapshots = site.snapshots();
    let bind = snapshots
        .prepare(&key("b"), None, Labels::default())
        .unwrap();
    assert_eq!(bind[0].options, ["rw", "rbind"]);
    let overlay = snapshots
        .prepare(&key("o"), Some(&key("base")), Labels::default())
        .unwrap();
    assert_eq!(overlay[0].options[3..], ["volatile", "index=on"]);
    let target = site.path("target");
    let _mounted = Mounted::new(&overlay, &target);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.contains(target.to_str().unwrap()));
    assert!(line.unwrap().contains("volatile"), "{line:?}");
}

#[test]
fn the_upper_directory_is_a_label_if_configured() {
    let options = Options {
        upperdir_label: true,
        ..Options::default()
    };
    let site = Site::with_options(options);
    let snapshots = site.snapshots();
    let mounts = snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    let upper = Some(mounts[0].source.as_str());
    let label = "containerd.io/snapshot/overlay.upperdir";
    let stat = snapshots.stat(&key("a")).unwrap();
    assert_eq!(stat.labels.get(label), upper);
    let change = pontoon_snapshot::LabelChange::Replace(labels(&[("k", "v")]));
    let updated = snapshots.update(&key("a"), change).unwrap();
    assert_eq!(updated.labels.get(label), upper);
    assert_eq!(updated.labels.get("k"), Some("v"));
    let mut walked = Vec::new();
    let filter = pontoon_snapshot::Filter::default();
    snapshots
        .walk(&filter, &mut |info| {
            walked.push(info);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(walked, [updated]);
    let plain = Site::new();
    plain
        .snapshots()
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    assert!(plain.snapshots().stat(&key("a")).unwrap().labels.is_empty());
}

#[test]
fn whiteouts_are_what_overlayfs_makes() {
    let site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("old"), "").unwrap()
    });
    let mounts = site
        .snapshots()
        .prepare(
            &key("a"),
            Some(&key("base")),
            labels(&[(LABEL_SNAPSHOT_REF, "x")]),
        )
        .unwrap();
    site.inside(&mounts, |root| fs::remove_file(root.join("old")).unwrap());
    let upper = Path::new(option(&mounts, "upperdir").unwrap());
    let whiteout = fs::symlink_metadata(upper.join("old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}
