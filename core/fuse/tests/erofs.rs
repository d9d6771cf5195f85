//! The kernel's EROFS with bytes of a data file. Nothing here where the kernel cannot do that.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pontoon_fuse::Config as Serving;
use pontoon_lazyfs::Config;
use pontoon_linux::{DeviceReads, detach, mount_erofs, try_erofs};

use pontoon_layer::{Entry, EntryKind};

use crate::fixture::{Maker, entry, exact, noise, wait_until};
use crate::mounted::{Added, Mounted, is_mounted};

/// A layer as EROFS over its own directory, taken off on drop.
struct Covered(PathBuf);

impl Covered {
    /// None if the kernel cannot.
    fn new(mounted: &Mounted, number: u32) -> Option<Self> {
        let tree = mounted.directory.path().join(format!("tree-{number}/tree"));
        let data = mounted.server.data_path(number);
        if let Err(error) = try_erofs(&tree, &[&data]) {
            println!("not tested: {error}");
            return None;
        }
        let target = mounted.server.path(number);
        mount_erofs(&tree, &[&data], DeviceReads::Buffered, &target).unwrap();
        Some(Covered(target))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        let _ = detach(&self.0);
    }
}

fn sizes() -> Maker {
    let mut maker = Maker::new();
    for (index, length) in [0, 1, 4095, 4096, 4097, 300_000, 5001]
        .into_iter()
        .enumerate()
    {
        maker.file(
            &format!("{length}"),
            0o644,
            &noise(index as u64, length),
            50_000,
        );
    }
    maker.zeros("zeros", 1 << 20);
    maker.file("last", 0o644, &noise(99, 777), 50_000);
    maker
}

fn one_file() -> Maker {
    let mut maker = Maker::new();
    maker.file("0", 0o644, &noise(0, 50_000), 50_000);
    maker
}

/// Every way of opening: asked for, or not.
#[test]
fn every_byte_is_right() {
    for silent_opens in [true, false] {
        let serving = Serving {
            silent_opens,
            ..Serving::default()
        };
        let mounted = Mounted::served(&serving, Config::default());
        let added = mounted.add(1, sizes());
        let data = mounted.server.data_path(1).metadata().unwrap();
        assert_eq!(data.len() % 4096, 0);
        assert_eq!(data.mode() & 0o7777, 0o400);
        let Some(covered) = Covered::new(&mounted, 1) else {
            return;
        };
        for (name, bytes) in &added.files {
            assert!(fs::read(covered.path(name)).unwrap() == *bytes, "{name}");
        }
        // Nobody asks when it is closed.
        assert!(mounted.server.operations().flush <= 1);
        // Read by itself it has zeros to its end.
        let whole = fs::read(mounted.server.data_path(1)).unwrap();
        assert_eq!(whole.len() as u64, data.len());
        let last = added.layer.cached().chunks().data_size() as usize;
        assert!(last < whole.len() && whole[last..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn names_of_data_files_are_found_and_not_listed() {
    let mounted = Mounted::empty();
    mounted.add(1, one_file());
    mounted.add(2, Maker::new());
    assert!(mounted.server.data_path(1).is_file());
    assert_eq!(mounted.server.data_path(2).metadata().unwrap().len(), 0);
    assert!(!mounted.server.data_path(3).exists());
    let listed = fs::read_dir(mounted.mountpoint()).unwrap();
    assert_eq!(listed.count(), 2);
    mounted.layers.remove(1);
    mounted.server.changed(1);
    assert!(!mounted.server.data_path(1).exists());
}

#[test]
fn an_empty_layer_is_mounted() {
    let mounted = Mounted::empty();
    mounted.add(1, Maker::new());
    if let Some(covered) = Covered::new(&mounted, 1) {
        assert_eq!(fs::read_dir(&covered.0).unwrap().count(), 0);
    }
}

/// What was asked for once is answered by the kernel alone, names and attributes from the beginning.
#[test]
fn the_kernel_asks_for_bytes_and_nothing_else() {
    let mounted = Mounted::empty();
    let added = mounted.add(1, sizes());
    let Some(covered) = Covered::new(&mounted, 1) else {
        return;
    };
    let before = mounted.server.operations();
    for _ in 0..2 {
        for entry in fs::read_dir(&covered.0).unwrap() {
            let path = entry.unwrap().path();
            path.symlink_metadata().unwrap();
            crate::mounted::xattrs(&path).unwrap();
        }
    }
    assert!(!covered.path("missing").exists());
    assert_eq!(mounted.server.operations(), before);
    let read = |covered: &Covered| {
        for name in added.files.keys() {
            fs::read(covered.path(name)).unwrap();
        }
    };
    read(&covered);
    let reads = mounted.server.operations().read;
    assert!(reads > before.read);
    read(&covered);
    assert_eq!(mounted.server.operations().read, reads);
}

fn reader(path: &Path) -> Child {
    let mut cat = Command::new("cat");
    cat.arg(path).stdout(Stdio::piped()).spawn().unwrap()
}

/// A layer of which nothing comes, on either front end.
fn held(mounted: &Mounted, number: u32, over: bool) -> Option<(Added, Option<Covered>)> {
    let added = mounted.add(number, one_file());
    let covered = match over {
        true => Some(Covered::new(mounted, number)?),
        false => None,
    };
    added.blob.hold_all();
    Some((added, covered))
}

fn waits(mounted: &Mounted, readers: u64) {
    wait_until("readers wait", || {
        mounted.server.operations().read_waited >= readers
    });
}

/// An ACL by which user 1234 may read, and others may not (acl(5), in the form of the kernel's xattr).
fn for_one_user() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 4, 1234),
        (0x04, 0, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[test]
fn acls_count() {
    let mounted = Mounted::empty();
    let mut maker = Maker::new();
    let file = Entry {
        xattrs: vec![(b"system.posix_acl_access".to_vec(), for_one_user())],
        ..entry(EntryKind::File { data_offset: 0 }, 0o640)
    };
    maker.add("for-one", file);
    mounted.add(1, maker);
    let Some(covered) = Covered::new(&mounted, 1) else {
        return;
    };
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(mounted.directory.path(), open).unwrap();
    for (user, may) in [(1234, true), (1235, false)] {
        let mut cat = Command::new("cat");
        cat.arg(covered.path("for-one")).uid(user).gid(user);
        let status = cat.stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.success(), may, "{user}");
    }
}

/// One of two that wait for the same page: it is gone at once, and the other one gets its bytes.
#[test]
fn who_waits_can_be_killed_beside_others() {
    for over in [true, false] {
        let mounted = Mounted::with(exact());
        let Some((added, _covered)) = held(&mounted, 1, over) else {
            continue;
        };
        let path = added.path.join("0");
        let mut killed = reader(&path);
        waits(&mounted, 1);
        let other = reader(&path);
        // Not for the server: for the page that is on its way.
        let stat = format!("/proc/{}/stat", other.id());
        wait_until("the other one waits", || {
            fs::read_to_string(&stat).unwrap().contains("(cat) D ")
        });
        killed.kill().unwrap();
        let mut ended = None;
        wait_until("who was killed is gone", || {
            ended = killed.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().signal(), Some(9));
        // Nothing had come meanwhile.
        assert_eq!(added.layer.status().local_bytes, 0);
        added.blob.release();
        let output = other.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == added.files["0"], "wrong bytes");
    }
}

/// Also while nobody serves: then cold bytes are errors, and those that were read are there.
#[test]
fn what_was_read_outlives_the_server() {
    let mounted = Mounted::with(exact());
    let added = mounted.add(1, {
        let mut maker = Maker::new();
        maker.file("cold", 0o644, &noise(0, 300_000), 50_000);
        maker.file("warm", 0o644, &noise(1, 300_000), 50_000);
        maker
    });
    let Some(covered) = Covered::new(&mounted, 1) else {
        return;
    };
    let (cold, warm) = (covered.path("cold"), covered.path("warm"));
    assert!(fs::read(&warm).unwrap() == added.files["warm"]);
    // As an overlay holds on to what it lies on.
    let (cold, warm) = (File::open(cold).unwrap(), File::open(warm).unwrap());
    let files = added.files.clone();
    drop((added, mounted));
    let mut bytes = vec![0; 300_000];
    warm.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == files["warm"]);
    let error = cold.read_exact_at(&mut bytes, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    // It went with the mount that it lay on.
    assert!(!is_mounted(&covered.0));
}
