use std::fs;

use super::*;
use crate::mount::stat_below;

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| path.to_string()).collect()
}

#[test]
fn paths_are_shortened_to_what_they_do_not_share() {
    let check = |paths: &[&str], base: &str, lower: &[&str]| {
        assert_eq!(
            shortened(&owned(paths)),
            (PathBuf::from(base), owned(lower))
        );
    };
    check(&["/r/s/1/fs", "/r/s/12/fs"], "/r/s", &["1/fs", "12/fs"]);
    check(&["/r/s/1/fs"], "/r/s/1", &["fs"]);
    check(&["/r/s", "/r/s/1"], "/r", &["s", "s/1"]);
    check(&["/a", "/b"], "/", &["a", "b"]);
}

#[test]
fn separators_in_paths_are_escaped() {
    assert_eq!(escape(r"/a:b,c\d"), r"/a\:b\,c\\d");
}

/// The way of kernels before `lowerdir+`, on whatever kernel this is.
#[test]
fn many_long_lower_directories_fit_in_one_string() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("d".repeat(200)).join("e".repeat(200));
    let lower: Vec<String> = (0..200)
        .map(|layer| {
            let path = deep.join(layer.to_string()).join("fs");
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(format!("from-{layer}")), "").unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let options = [format!("lowerdir={}", lower.join(":")), "nodev".to_owned()];
    assert!(options[0].len() > 10 * DATA_BYTES_MAX);
    let options = MountOptions::parse(&options).unwrap();
    let overlay = with_private_mounts(|| all_in_one_string(&options)).unwrap();
    for layer in [0, 99, 199] {
        stat_below(overlay.as_fd(), &format!("from-{layer}")).unwrap();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.path().to_str().unwrap()));
}

#[test]
fn too_many_lower_directories_for_one_string_are_refused_with_what_would_help() {
    let list: Vec<String> = (0..500)
        .map(|layer| format!("/r/{layer}/long-name"))
        .collect();
    let options = [format!("lowerdir={}", list.join(":"))];
    let options = MountOptions::parse(&options).unwrap();
    let error = all_in_one_string(&options).unwrap_err();
    assert!(error.to_string().contains("needs Linux 6.8"), "{error}");
}
