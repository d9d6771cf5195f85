//! Overlays on layers.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use pontoon_layer::EntryKind;
use pontoon_linux::{Mounter, SystemMounter};
use pontoon_snapshot::Mount;

use crate::fixture::{Maker, entry, noise};
use crate::mounted::Mounted;

struct Overlay(PathBuf);

impl Overlay {
    fn mount(mounted: &Mounted, lower: &[&Path], owner: u32, extra: &[&str]) -> Self {
        let base = mounted.directory.path().join("overlay");
        let directory = |name: &str| {
            let path = base.join(name);
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
            path
        };
        let (upper, work) = (directory("upper"), directory("work"));
        let merged = directory("merged");
        let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let mut options = vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        options.extend(extra.iter().map(|option| (*option).to_owned()));
        let mount = Mount {
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        };
        SystemMounter.mount(&mount, &merged).unwrap();
        Overlay(merged)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        SystemMounter.unmount(&self.0).unwrap();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn below() -> Maker {
    let mut maker = Maker::new();
    maker.file("dir/below", 0o644, b"below", 100);
    maker.file("dir/both", 0o644, b"below", 100);
    maker.file("dir/removed", 0o644, b"below", 100);
    maker.file("hidden/below", 0o644, b"below", 100);
    maker.file("large", 0o644, &noise(1, 1_000_000), 100_000);
    maker
}

fn above() -> Maker {
    let mut maker = Maker::new();
    let nothing = EntryKind::File { data_offset: 0 };
    maker.file("dir/both", 0o644, b"above", 100);
    maker.add("dir/.wh.removed", entry(nothing, 0));
    maker.add("hidden", entry(EntryKind::Directory, 0o755));
    maker.add("hidden/.wh..wh..opq", entry(nothing, 0));
    maker.file("hidden/above", 0o644, b"above", 100);
    maker
}

#[test]
fn whiteouts_and_opaque_directories_hide() {
    let mounted = Mounted::empty();
    let (below, above) = (mounted.add(1, below()), mounted.add(2, above()));
    let overlay = Overlay::mount(&mounted, &[&above.path, &below.path], 0, &[]);
    let merged = &overlay.0;
    assert_eq!(names(merged), ["dir", "hidden", "large"]);
    assert_eq!(names(&merged.join("dir")), ["below", "both"]);
    assert_eq!(names(&merged.join("hidden")), ["above"]);
    assert_eq!(fs::read(merged.join("dir/both")).unwrap(), b"above");
    assert!(fs::read(merged.join("large")).unwrap() == below.files["large"]);
    // Both layers tell their state, in one directory.
    assert_eq!(names(&merged.join(".stargz-snapshotter")).len(), 2);
    fs::write(merged.join("dir/below"), "written").unwrap();
    assert_eq!(fs::read(merged.join("dir/below")).unwrap(), b"written");
    assert_eq!(fs::read(below.path.join("dir/below")).unwrap(), b"below");
    fs::remove_file(merged.join("large")).unwrap();
    assert_eq!(names(merged), ["dir", "hidden"]);
}

#[test]
fn ids_are_mapped() {
    const MAPPED: u32 = 100_000;
    let mounted = Mounted::empty();
    let added = mounted.add(1, below());
    let map = format!("map=0:{MAPPED}:65536");
    let (uids, gids) = (format!("uid{map}"), format!("gid{map}"));
    let overlay = Overlay::mount(&mounted, &[&added.path], MAPPED, &[&uids, &gids]);
    let seen = overlay.0.join("dir/below").metadata().unwrap();
    assert_eq!((seen.uid(), seen.gid()), (MAPPED, MAPPED));
    assert_eq!(fs::read(overlay.0.join("dir/below")).unwrap(), b"below");
}
