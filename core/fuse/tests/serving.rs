//! The life of a server.

use std::fs;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use pontoon_fuse::{Error, LayerTable};
use pontoon_linux::{is_disconnected, mount_fuse, open_fuse_device};

use crate::fixture::{Maker, runtime, wait_until};
use crate::mounted::{Mounted, is_mounted, start};

fn one_file(content: &[u8]) -> Maker {
    let mut maker = Maker::new();
    maker.file("file", 0o644, content, 1000);
    maker
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn layers_come_and_go() {
    let mounted = Mounted::empty();
    let root = mounted.mountpoint();
    assert_eq!(names(&root), [""; 0]);
    assert!(!root.join("5").exists());
    let five = mounted.add(5, one_file(b"five"));
    mounted.add(16_777_215, one_file(b"last"));
    assert_eq!(names(&root), ["5", "16777215"]);
    assert_eq!(fs::read(five.path.join("file")).unwrap(), b"five");
    assert_eq!(fs::read(root.join("16777215/file")).unwrap(), b"last");
    assert!(!root.join("05").exists());
    let open = fs::File::open(five.path.join("file")).unwrap();
    mounted.layers.remove(5);
    mounted.server.changed(5);
    assert_eq!(names(&root), ["16777215"]);
    assert!(!five.path.exists());
    drop(open);
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mounted = Mounted::empty();
    let root = mounted.mountpoint();
    assert!(is_mounted(&root));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _mounted = mounted;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(!is_mounted(&root));
}

/// The kernel opens directories by itself once a server has said that it need not hear of that, dead or alive.
#[test]
fn the_mount_of_a_server_that_died_at_work_is_taken_off() {
    let mounted = Mounted::empty();
    let directory = tempfile::tempdir().unwrap();
    // It stays when the server has taken off its own.
    rustix::mount::mount_bind(mounted.mountpoint(), directory.path()).unwrap();
    assert_eq!(names(directory.path()), [""; 0]);
    assert!(!is_disconnected(directory.path()));
    drop(mounted);
    assert!(is_disconnected(directory.path()));
    let (layers, runtime) = (Arc::new(LayerTable::default()), runtime());
    let server = start(directory.path(), &layers, &runtime).unwrap();
    assert_eq!(names(directory.path()), [""; 0]);
    drop(server);
    assert!(!is_mounted(directory.path()));
}

#[test]
fn a_server_knows_when_its_mount_was_taken_off_behind_its_back() {
    let directory = tempfile::tempdir().unwrap();
    let (layers, runtime) = (Arc::new(LayerTable::default()), runtime());
    let server = start(directory.path(), &layers, &runtime).unwrap();
    assert!(server.is_serving());
    assert!(pontoon_linux::abort(directory.path()).unwrap());
    wait_until("nobody serves", || !server.is_serving());
    let another = start(directory.path(), &layers, &runtime).unwrap();
    // It leaves alone what is not its own.
    drop(server);
    assert!(another.is_serving());
    assert_eq!(names(directory.path()), [""; 0]);
    drop(another);
    assert!(!is_mounted(directory.path()));
}

#[test]
fn the_mount_of_a_dead_server_is_taken_off() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let device = open_fuse_device().unwrap();
        mount_fuse(device.as_fd(), directory.path()).unwrap();
        // As if the server had died.
        drop(device);
        assert!(is_disconnected(directory.path()));
    }
    let (layers, runtime) = (Arc::new(LayerTable::default()), runtime());
    let server = start(directory.path(), &layers, &runtime).unwrap();
    assert_eq!(names(directory.path()), [""; 0]);
    // A live one is left alone.
    let refused = start(directory.path(), &layers, &runtime).unwrap_err();
    assert!(matches!(refused, Error::Occupied { .. }), "{refused}");
    assert_eq!(names(directory.path()), [""; 0]);
    drop(server);
    assert!(!is_mounted(directory.path()));
}
