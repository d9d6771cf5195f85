//! What becomes of each kind of entry.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use pontoon_layer::{Attributes, Digest, OpaqueXattr, Time};
use pontoon_unpack::{Error, Expected, Options, directories};
use support::{Archive, Fresh, gzip, tree, zstd};
use tar::EntryType;

#[test]
fn files_have_what_their_entries_say() {
    let mut header = tar::Header::new_gnu();
    header.set_path("bin/su").unwrap();
    header.set_mode(0o104_755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_234_567_890);
    header.set_size(3);
    let fresh = Archive::new()
        .dir("bin/", 0o1777)
        .header(header, b"abc")
        .pax(&[
            ("mtime", b"1500000000.123456789"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.user.a", b"1\n2"),
            ("SCHILY.xattr.security.capability", &capability()),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("bin/ping", b"")
        .unpack();
    let su = fresh.stat("bin/su");
    assert_eq!((su.mode(), su.uid(), su.gid()), (0o104_755, 7, 8));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_234_567_890, 0));
    assert_eq!(fresh.read("bin/su"), b"abc");
    let ping = fresh.stat("bin/ping");
    assert_eq!((ping.uid(), ping.gid()), (3_000_000, 0));
    assert_eq!(
        (ping.mtime(), ping.mtime_nsec()),
        (1_500_000_000, 123_456_789)
    );
    assert_eq!(fresh.xattr("bin/ping", "user.a").unwrap(), b"1\n2");
    assert_eq!(
        fresh.xattr("bin/ping", "security.capability").unwrap(),
        capability()
    );
    assert_eq!(fresh.xattr("bin/ping", "trusted.overlay.redirect"), None);
    let bin = fresh.stat("bin");
    assert_eq!((bin.mode(), bin.mtime()), (0o41_777, 1_000_000_000));
    assert_eq!(fresh.unpacked.xattrs_skipped, 1);
    assert_eq!((fresh.unpacked.inodes, fresh.unpacked.bytes), (3, 3));
}

/// cap_net_raw+ep, as `setcap` writes it.
fn capability() -> Vec<u8> {
    vec![
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]
}

#[test]
fn links_devices_and_pipes_are_made() {
    let mut device = tar::Header::new_gnu();
    device.set_path("dev/null").unwrap();
    device.set_entry_type(EntryType::Char);
    device.set_mode(0o666);
    device.set_uid(0);
    device.set_gid(5);
    device.set_mtime(99);
    device.set_size(0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    let fresh = Archive::new()
        .header(device, b"")
        .entry("dev/pipe", EntryType::Fifo, 0o640, "", b"")
        .file("a", b"data")
        .hard_link("b", "a")
        .hard_link("deep/c", "./b")
        .pax(&[
            ("mtime", b"5.5"),
            ("SCHILY.xattr.security.x", b"y"),
            ("SCHILY.xattr.user.x", b"y"),
        ])
        .symlink("link", "/nowhere")
        .hard_link("link2", "link")
        .unpack();
    let null = fresh.stat("dev/null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o7777), (0x103, 0o666));
    assert_eq!((null.gid(), null.mtime()), (5, 99));
    let pipe = fresh.stat("dev/pipe");
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o640);
    assert_eq!(fresh.stat("a").ino(), fresh.stat("deep/c").ino());
    assert_eq!(fresh.stat("a").nlink(), 3);
    assert_eq!(
        fs::read_link(fresh.path("link")).unwrap(),
        Path::new("/nowhere")
    );
    // A link to a symbolic link is one to the link itself.
    assert_eq!(fresh.stat("link").ino(), fresh.stat("link2").ino());
    assert_eq!(fresh.xattr("link", "security.x").unwrap(), b"y");
    assert_eq!(fresh.unpacked.xattrs_skipped, 1);
}

#[test]
fn a_hard_link_of_the_same_owner_leaves_capabilities() {
    let fresh = Archive::new()
        .pax(&[("SCHILY.xattr.security.capability", &capability())])
        .file("a", b"x")
        .hard_link("b", "a")
        .unpack();
    assert_eq!(
        fresh.xattr("b", "security.capability").unwrap(),
        capability()
    );
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    let whiteout = |archive: Archive, path| archive.entry(path, EntryType::Regular, 0o644, "", b"");
    let mut archive = Archive::new().dir("etc", 0o755);
    for path in [
        "etc/.wh.gone",
        "etc/.wh..wh.odd",
        "opt/.wh..wh..opq",
        ".wh.top",
    ] {
        archive = whiteout(archive, path);
    }
    let fresh = archive.file("opt/new", b"").unpack();
    assert!(fresh.is_whiteout("etc/gone"));
    assert!(fresh.is_whiteout("etc/.wh.odd"));
    assert!(fresh.is_whiteout("top"));
    assert!(fresh.is_opaque("opt"));
    assert!(!fresh.is_opaque("etc"));
    assert_eq!(fresh.stat("etc/gone").mode() & 0o7777, 0);
    assert_eq!(fresh.stat("etc").mtime(), 1_000_000_000);

    let options = Options {
        opaque: OpaqueXattr::User,
        ..Options::new()
    };
    let fresh = whiteout(Archive::new(), "opt/.wh..wh..opq")
        .pax(&[("SCHILY.xattr.user.overlay.metacopy", b"")])
        .file("f", b"")
        .unpack_with(&options)
        .unwrap();
    assert_eq!(fresh.xattr("opt", "user.overlay.opaque").unwrap(), b"y");
    assert_eq!(fresh.xattr("f", "user.overlay.metacopy"), None);
}

#[test]
fn a_whiteout_hides_only_what_is_below() {
    let fresh = Archive::new()
        .file("file", b"kept")
        .file(".wh.file", b"")
        .file(".wh.other", b"")
        .file("other", b"kept")
        .dir("dir", 0o755)
        .file("dir/f", b"kept")
        .file(".wh.dir", b"")
        .file(".wh.made", b"")
        .dir("made", 0o755)
        .file(".wh.twice", b"")
        .file(".wh.twice", b"")
        .unpack();
    assert_eq!(fresh.read("file"), b"kept");
    assert_eq!(fresh.read("other"), b"kept");
    assert_eq!(fresh.read("dir/f"), b"kept");
    assert!(fresh.is_opaque("dir") && fresh.is_opaque("made"));
    assert!(fresh.is_whiteout("twice"));
    assert_eq!(fresh.unpacked.inodes, 6);
}

#[test]
fn what_is_removed_under_one_name_and_kept_under_another_counts() {
    let fresh = Archive::new()
        .file("d/kept", b"data")
        .file("d/gone", b"")
        .hard_link("d/inside", "d/gone")
        .hard_link("kept", "d/kept")
        .file("d", b"a file")
        .unpack();
    assert_eq!(fresh.read("kept"), b"data");
    assert_eq!(fresh.unpacked.inodes, 2);
}

#[test]
fn what_aufs_notes_in_the_root_is_left_out() {
    let fresh = Archive::new()
        .file(".wh..wh.aufs", b"")
        .dir(".wh..wh.orph", 0o700)
        .dir(".wh..wh.plnk", 0o700)
        .file("f", b"")
        .unpack();
    assert_eq!(fresh.unpacked.inodes, 1);
    let links = Archive::new().file(".wh..wh.plnk/1.2", b"data");
    let refused = links.unpack_with(&Options::new()).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let fresh = Archive::new()
        .file("f", b"first")
        .hard_link("other", "f")
        .file("f", b"second")
        .dir("d", 0o700)
        .file("d/inside/deep", b"")
        .dir("d/inside", 0o700)
        .file("d", b"a file")
        .file("e", b"a file")
        .dir("e", 0o711)
        .dir("e", 0o755)
        .symlink("s", "e")
        .dir("s", 0o755)
        .dir("again", 0o700)
        .symlink("again", "elsewhere")
        .file("again/x", b"")
        .unpack();
    assert_eq!(fresh.read("f"), b"second");
    assert_eq!(fresh.read("other"), b"first");
    assert_eq!(fresh.read("d"), b"a file");
    assert_eq!(fresh.stat("e").mode(), 0o40_755);
    assert!(fresh.stat("s").is_dir());
    // The directory that was listed is another one.
    assert_eq!(fresh.stat("elsewhere").mode(), 0o40_755);
    assert_eq!(fresh.unpacked.inodes, 8);
}

#[test]
fn unlisted_directories_are_as_below() {
    let below = support::dir();
    let upper = support::dir();
    fs::create_dir_all(below.path().join("tmp/sub")).unwrap();
    fs::create_dir_all(below.path().join("hidden")).unwrap();
    fs::write(upper.path().join("hidden"), "").unwrap();
    fs::set_permissions(below.path().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(below.path().join("tmp"), Some(3), Some(4)).unwrap();
    rustix::fs::setxattr(
        below.path().join("tmp"),
        "user.k",
        b"v",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::setxattr(
        below.path().join("tmp"),
        "trusted.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    std::os::unix::fs::symlink("/tmp", below.path().join("link")).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(77, 88);
    fs::File::open(below.path().join("tmp"))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let layers = [upper.path(), below.path()];
    let look = |path: &Path| directories(&layers, path);
    let options = Options {
        below: &look,
        ..Options::new()
    };
    let fresh = Archive::new()
        .file("tmp/sub/file", b"")
        .file("hidden/file", b"")
        .file("new/file", b"")
        .file("link/file", b"")
        .unpack_with(&options)
        .unwrap();
    for name in ["tmp", "link"] {
        let tmp = fresh.stat(name);
        assert_eq!(
            (tmp.mode(), tmp.uid(), tmp.gid()),
            (0o41_777, 3, 4),
            "{name}"
        );
        assert_eq!((tmp.mtime(), tmp.mtime_nsec()), (77, 88));
        assert_eq!(fresh.xattr(name, "user.k").unwrap(), b"v");
        assert!(!fresh.is_opaque(name));
    }
    for name in ["hidden", "new"] {
        assert_eq!(fresh.stat(name).mode(), 0o40_755);
    }

    let failing = |_: &Path| Err(io::Error::other("disk"));
    let options = Options {
        below: &failing,
        ..Options::new()
    };
    let error = Archive::new().file("a/b", b"").unpack_with(&options);
    assert!(matches!(error, Err(Error::Filesystem { .. })), "{error:?}");
}

#[test]
fn what_is_listed_counts_more_than_what_is_below() {
    let below = |path: &Path| {
        assert!(
            path == Path::new("usr") || path == Path::new("usr/lib"),
            "{path:?}"
        );
        Ok(Some(Attributes {
            mode: 0o700,
            uid: 1,
            gid: 1,
            mtime: Time {
                seconds: 5,
                nanoseconds: 5,
            },
            xattrs: vec![(b"user.below".to_vec(), b"".to_vec())],
        }))
    };
    let options = Options {
        below: &below,
        ..Options::new()
    };
    let fresh = Archive::new()
        .file("usr/lib/a", b"")
        .dir("usr/lib", 0o755)
        .unpack_with(&options)
        .unwrap();
    let lib = fresh.stat("usr/lib");
    assert_eq!(
        (lib.mode(), lib.uid(), lib.mtime()),
        (0o40_755, 0, 1_000_000_000)
    );
    assert_eq!(fresh.xattr("usr/lib", "user.below"), None);
    assert_eq!(fresh.stat("usr").uid(), 1);
}

#[test]
fn links_among_directories_are_followed_inside() {
    let fresh = Archive::new()
        .dir("usr/lib", 0o711)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("up", "../../../usr")
        .symlink("dangling", "made/here")
        .file("lib/a", b"1")
        .file("abs/b", b"2")
        .file("up/lib/c", b"3")
        .file("dangling/d", b"4")
        .dir("lib/listed", 0o700)
        .dir("usr/lib/listed", 0o750)
        .hard_link("e", "abs/a")
        .unpack();
    for (name, data) in [("a", b"1"), ("b", b"2"), ("c", b"3")] {
        assert_eq!(fresh.read(&format!("usr/lib/{name}")), data);
    }
    assert_eq!(fresh.read("made/here/d"), b"4");
    assert!(fresh.stat("dangling").is_symlink());
    assert_eq!(fresh.stat("usr/lib").mode(), 0o40_711);
    assert_eq!(fresh.stat("usr/lib/listed").mode(), 0o40_750);
    assert_eq!(fresh.read("e"), b"1");
}

#[test]
fn long_names_and_times_are_read() {
    let long = "d/".repeat(90) + &"n".repeat(200);
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_data(&mut header.clone(), &long, &b"x"[..])
        .unwrap();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "link", "t/".repeat(200))
        .unwrap();
    let fresh = Fresh::of(&builder.into_inner().unwrap(), &Options::new()).unwrap();
    assert_eq!(fresh.read(&long), b"x");
    assert_eq!(
        fs::read_link(fresh.path("link")).unwrap(),
        Path::new(&"t/".repeat(200))
    );

    let fresh = Archive::new()
        .pax(&[("mtime", b"-5")])
        .file("before", b"")
        .pax(&[("mtime", b"99999999999")])
        .file("after", b"")
        .pax(&[("path", long.as_bytes()), ("size", b"3")])
        .file("short", b"abc")
        .unpack();
    assert_eq!(fresh.stat("before").mtime(), 0);
    assert_eq!(fresh.stat("after").mtime(), 0);
    assert_eq!(fresh.read(&long), b"abc");
}

#[test]
fn every_compression_gives_the_same() {
    let archive = || {
        let mut archive = Archive::new().dir("a", 0o755);
        let noise: Vec<u8> = (0..1_000_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        archive = archive
            .file("a/big", &noise)
            .file("a/zeros", &vec![0; 3_000_000]);
        archive.finish()
    };
    let plain = archive();
    let half = plain.len() / 2;
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"hello"].concat();
    let expected = Fresh::of(&plain, &Options::new()).unwrap();
    assert_eq!(expected.unpacked.digest, expected.unpacked.diff_id);
    for blob in [
        gzip(&plain),
        [gzip(&plain[..half]), gzip(b""), gzip(&plain[half..])].concat(),
        zstd(&plain),
        [
            &skippable[..],
            &zstd(&plain[..half]),
            &skippable,
            &zstd(&plain[half..]),
            &skippable,
        ]
        .concat(),
    ] {
        let options = Options {
            expected: Expected {
                digest: Some(Digest::of(&blob)),
                size: Some(blob.len() as u64),
                diff_id: Some(Digest::of(&plain)),
            },
            sync: true,
            ..Options::new()
        };
        let fresh = Fresh::of(&blob, &options).unwrap();
        assert_eq!(fresh.tree(), expected.tree());
        assert_eq!(fresh.unpacked.archive_bytes, plain.len() as u64);
        assert_eq!(fresh.unpacked.blob_bytes, blob.len() as u64);
    }
    assert!(Fresh::of(b"", &Options::new()).unwrap().tree().is_empty());
    assert!(
        Fresh::of(&gzip(b""), &Options::new())
            .unwrap()
            .tree()
            .is_empty()
    );
}

/// A tree with some of everything, made by ordinary programs.
fn sample(root: &Path, files: usize) {
    for number in 0..files {
        let dir = root.join(format!("usr/lib/d{}", number % 97));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), number.to_string()).unwrap();
    }
    let script = r#"
        set -e
        cd "$1"
        mkdir -p usr/bin usr/lib/deep/er etc var/empty
        head -c 3000000 /dev/urandom > usr/bin/big
        ln usr/bin/big usr/bin/big2
        ln -s ../lib usr/bin/lib
        ln -s /etc/passwd etc/link
        mknod etc/pipe p; mknod etc/block b 7 1; mknod etc/char c 1 3
        chmod 4755 usr/bin/big; chmod 2775 usr/lib/deep; chmod 0000 etc/pipe; chmod 1777 var
        chown 12:34 usr/lib/deep etc/link; chown 65534:100000 usr/bin
        : > "$(printf 'etc/n\303\244me with\nnewline')"
        : > "etc/$(head -c 120 /dev/zero | tr '\0' n)"
        : > "etc/$(head -c 250 /dev/zero | tr '\0' n)"
        mkdir -p "usr/$(head -c 200 /dev/zero | tr '\0' x)/y"
        : > "usr/$(head -c 200 /dev/zero | tr '\0' x)/y/z"
        touch -d '2001-02-03 04:05:06.123456789 UTC' usr/bin/big usr/lib/deep
        touch -h -d '2002-02-03 04:05:06.987654321 UTC' etc/link
        touch -d '2003-01-01 UTC' usr etc
        "#;
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(root)
        .status()
        .unwrap();
    assert!(status.success());
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(
        root.join("usr/bin/big"),
        "security.capability",
        &capability(),
        flags,
    )
    .unwrap();
    rustix::fs::setxattr(root.join("usr/lib/deep"), "user.dir", b"\0\xff", flags).unwrap();
}

#[test]
fn what_gnu_tar_packs_is_unpacked_as_it_does() {
    let files = if std::env::var_os("PONTOON_FULL").is_some() {
        100_000
    } else {
        10_000
    };
    let original = support::dir();
    sample(original.path(), files);
    let wanted = tree(original.path());
    for format in ["pax", "gnu"] {
        let xattrs: &[&str] = match format {
            "pax" => &["--xattrs", "--xattrs-include=*"],
            _ => &[],
        };
        let archive = Command::new("tar")
            .args(["--numeric-owner", "-cf", "-", "--format", format])
            .args(xattrs)
            .arg("-C")
            .arg(original.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(archive.status.success());
        let fresh = Fresh::of(&gzip(&archive.stdout), &Options::new()).unwrap();
        assert_same(&fresh.tree(), &wanted, format);
        assert_eq!(fresh.unpacked.inodes, wanted.len() as u64 - 1);
    }
}

/// GNU's format has neither nanoseconds nor extended attributes.
fn assert_same(have: &BTreeMap<PathBuf, String>, want: &BTreeMap<PathBuf, String>, format: &str) {
    for (path, text) in want {
        let have = have.get(path).map(String::as_str).unwrap_or("nothing");
        if format == "pax" {
            assert_eq!(have, text, "{path:?}");
        } else {
            let rough = |text: &str| {
                let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
                words.retain(|word| !word.contains('='));
                if let Some(time) = words.get_mut(2) {
                    time.truncate(time.find('.').unwrap_or(time.len()));
                }
                words.join(" ")
            };
            assert_eq!(rough(have), rough(text), "{path:?}");
        }
    }
    assert_eq!(have.len(), want.len());
}

#[test]
fn nothing_is_inherited_while_unpacking() {
    let fresh = Archive::new()
        .pax(&[("gid", b"77")])
        .dir("setgid", 0o2775)
        .file("setgid/file", b"")
        .dir("setgid/dir", 0o755)
        .unpack();
    assert_eq!(fresh.stat("setgid").mode(), 0o42_775);
    assert_eq!(fresh.stat("setgid").gid(), 77);
    assert_eq!(fresh.stat("setgid/file").gid(), 0);
    assert_eq!(fresh.stat("setgid/dir").mode(), 0o40_755);
}
