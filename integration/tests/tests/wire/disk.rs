//! Disks that are full, or cannot be written.

use std::fs;
use std::io::Write;
use std::path::Path;

use pontoon_rig::sandbox::Sandbox;
use rustix::mount::{MountFlags, mount, mount_remount};
use tonic::{Code, Status};

use crate::daemon::{Daemon, refused};

/// A daemon whose root is a small filesystem of its own; the sandbox unmounts it.
fn on_small_disk(options: &str) -> Daemon {
    let sandbox = Sandbox::new().unwrap();
    let root = sandbox.subdir("plugin").unwrap();
    let options = std::ffi::CString::new(options).unwrap();
    mount(
        "pontoon-test",
        &root,
        "tmpfs",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .unwrap();
    Daemon::start_in(sandbox)
}

/// Writes until there is no byte left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

/// Prepares until that fails; answers how many there are then, and the failure.
fn prepare_until_full(daemon: &Daemon) -> (usize, Status) {
    for number in 0..20_000 {
        if let Err(status) = daemon.prepare(&format!("more-{number}"), "kept") {
            return (number, status);
        }
    }
    panic!("the disk does not get full");
}

#[test]
fn a_full_disk_is_reported_and_forgotten_when_there_is_space() {
    let mut daemon = on_small_disk("size=8m,mode=0700");
    let ballast = daemon.plugin.root().join("ballast");
    fill(&ballast);
    for _ in 0..2 {
        let (made, status) = prepare_until_full(&daemon);
        let told = refused::<()>(Err(status), Code::ResourceExhausted);
        assert!(told.contains("space"), "{told}");
        // What was there is there, what was answered is there, the failed one is not.
        daemon.assert_kept();
        let found = daemon.list(&["name~=^more-"]).unwrap();
        assert_eq!(found.len(), made);
        let last = format!("more-{made}");
        assert!(found.iter().all(|info| info.name != last));

        fs::remove_file(&ballast).unwrap();
        daemon.prepare(&last, "kept").unwrap();
        for number in 0..=made {
            daemon.remove(&format!("more-{number}")).unwrap();
        }
        daemon.assert_nothing_lost();
        fill(&ballast);
    }
}

#[test]
fn a_disk_without_inodes_is_reported_too() {
    let mut daemon = on_small_disk("size=32m,nr_inodes=100,mode=0700");
    let (made, status) = prepare_until_full(&daemon);
    refused::<()>(Err(status), Code::ResourceExhausted);
    assert!(made < 100);
    daemon.assert_kept();
    for number in 0..made {
        daemon.remove(&format!("more-{number}")).unwrap();
    }
    daemon.cleanup().unwrap();
    daemon.prepare("more-0", "kept").unwrap();
    daemon.remove("more-0").unwrap();
    daemon.assert_nothing_lost();
}

#[test]
fn a_full_disk_does_not_keep_the_daemon_from_starting() {
    let mut daemon = on_small_disk("size=8m,mode=0700");
    let ballast = daemon.plugin.root().join("ballast");
    fill(&ballast);
    daemon.plugin.kill().unwrap();
    match daemon.plugin.resume() {
        Ok(()) => daemon.assert_kept(),
        // Or it says what is missing, and starts when it is there.
        Err(error) => {
            assert!(error.to_string().contains("space"), "{error}");
            fs::remove_file(&ballast).unwrap();
            daemon.plugin.resume().unwrap();
        }
    }
    let _ = fs::remove_file(&ballast);
    daemon.assert_nothing_lost();
}

#[test]
fn a_read_only_root_is_reported_and_left_alone() {
    let mut daemon = on_small_disk("size=8m,mode=0700");
    let root = daemon.plugin.root().to_owned();
    daemon.plugin.terminate().unwrap();
    mount_remount(&root, MountFlags::RDONLY, "").unwrap();
    let told = daemon.plugin.resume().unwrap_err().to_string();
    assert!(told.to_lowercase().contains("read-only"), "{told}");
    assert!(told.contains(&root.display().to_string()), "{told}");
    mount_remount(&root, MountFlags::empty(), "").unwrap();
    daemon.plugin.resume().unwrap();
    daemon.assert_nothing_lost();
}
