//! In a user namespace: what the probes find there, and that its mounts work.

use std::fs;
use std::process::Command;

use pontoon_linux::probe;
use pontoon_snapshot::Labels;

use crate::site::{Site, key};

/// Runs itself again in a user namespace, if it is in none.
#[test]
fn options_and_capabilities_are_others_in_a_user_namespace() {
    if probe::in_user_namespace() {
        return inside();
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("namespaced::options_and_capabilities_are_others_in_a_user_namespace")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains(INSIDE), "{told}");
}

/// What only the inner run prints.
const INSIDE: &str = "this is a user namespace";

fn inside() {
    println!("{INSIDE}");
    let site = Site::new();
    let features = site.engine().features();
    assert!(features.user_namespace && features.userxattr);
    assert!(!site.engine().capabilities().contains(&"rebase"));
    site.layer("base", None, |root| {
        fs::write(root.join("file"), "").unwrap();
    });
    let mounts = site
        .snapshots()
        .prepare(&key("a"), Some(&key("base")), Labels::default())
        .unwrap();
    assert!(mounts[0].options.contains(&"userxattr".to_owned()));
    site.inside(&mounts, |root| {
        fs::remove_file(root.join("file")).unwrap();
        assert!(!root.join("file").exists());
    });
}
