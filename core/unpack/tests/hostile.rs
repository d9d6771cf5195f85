//! Archives and blobs that mean harm, or that came to harm.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod support;

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_layer::Digest;
use pontoon_unpack::{Error, Expected, Limits, Options, unpack};
use proptest::prelude::*;
use support::{Archive, Fresh, gzip, tree, zstd};
use tar::EntryType;

/// Unpacks into a directory beside which and above which there is something to harm.
fn contained(blob: &[u8]) -> Result<(), Error> {
    let dir = support::dir();
    let victim = dir.path().join("etc");
    let target = dir.path().join("a/b/target");
    fs::create_dir_all(&target).unwrap();
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("passwd"), "precious").unwrap();
    fs::write(dir.path().join("a/passwd"), "precious").unwrap();
    let outside = |path: &Path| {
        let mut tree = tree(path);
        tree.retain(|path, _| !path.starts_with("a/b/target"));
        tree
    };
    let before = outside(dir.path());
    let unpacked = unpack(blob, &target, &Options::new());
    assert_eq!(outside(dir.path()), before);
    unpacked.map(drop)
}

#[test]
fn nothing_leaves_the_directory() {
    let clean = [
        Archive::new().file("../../../etc/passwd", b"evil"),
        Archive::new().file("/etc/passwd", b"evil"),
        Archive::new()
            .symlink("l", "../../../etc")
            .file("l/passwd", b"evil"),
        Archive::new()
            .symlink("l", "../..")
            .symlink("l/m", "../../../..")
            .file("l/m/etc/passwd", b"evil")
            .dir("l/m/etc", 0o777),
        Archive::new()
            .symlink("passwd", "../../../etc/passwd")
            .file("passwd", b"evil"),
        Archive::new()
            .symlink("d", "../../../etc")
            .dir("d", 0o777)
            .file("d/passwd", b"evil"),
        Archive::new()
            .symlink("d", "../../../etc")
            .file("d/.wh.passwd", b"")
            .file("d/.wh..wh..opq", b""),
        Archive::new()
            .dir("x", 0o755)
            .file("x/f", b"")
            .symlink("x", "../../../etc")
            .file("x/passwd", b"evil")
            .file("x/new", b""),
    ];
    for (number, archive) in clean.into_iter().enumerate() {
        contained(&archive.finish()).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    let refused = [
        Archive::new().hard_link("l", "../../../etc/passwd"),
        Archive::new().hard_link("l", "/etc/passwd"),
        Archive::new()
            .symlink("d", "../../../etc")
            .hard_link("l", "d/passwd"),
        Archive::new().hard_link("l", "l"),
        Archive::new().hard_link("l", "/"),
        Archive::new().dir("d", 0o755).hard_link("l", "d"),
        Archive::new().file(".wh.", b""),
        Archive::new().file("a/.wh..", b""),
        Archive::new().file(".wh...", b""),
        Archive::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/f", b""),
        Archive::new().file("f", b"").file("f/g", b""),
        Archive::new()
            .symlink("f", "g")
            .file("g", b"")
            .file("f/x", b""),
    ];
    for (number, archive) in refused.into_iter().enumerate() {
        let error = contained(&archive.finish()).expect_err(&number.to_string());
        assert!(!error.is_out_of_space());
    }
}

#[test]
fn the_blob_must_be_the_expected_one() {
    let archive = Archive::new().file("f", b"data").finish();
    let blob = gzip(&archive);
    let other = Some(Digest::of(b"other"));
    let good = Expected {
        digest: Some(Digest::of(&blob)),
        size: Some(blob.len() as u64),
        diff_id: Some(Digest::of(&archive)),
    };
    let run = |expected| {
        let options = Options {
            expected,
            ..Options::new()
        };
        Fresh::of(&blob, &options).map(drop)
    };
    run(good.clone()).unwrap();
    for expected in [
        Expected {
            digest: other.clone(),
            ..good.clone()
        },
        Expected {
            diff_id: other,
            ..good.clone()
        },
        Expected {
            size: Some(blob.len() as u64 - 1),
            ..good.clone()
        },
        Expected {
            size: Some(blob.len() as u64 + 1),
            ..good.clone()
        },
        Expected {
            size: Some(0),
            ..good
        },
    ] {
        let error = run(expected).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }
}

#[test]
fn what_is_behind_the_end_belongs_to_the_digest() {
    let mut archive = Archive::new().file("f", b"data").finish();
    let plain = Digest::of(&archive);
    archive.extend_from_slice(&[7; 100_000]);
    let run = |diff_id| {
        let expected = Expected {
            diff_id: Some(diff_id),
            ..Expected::default()
        };
        let options = Options {
            expected,
            ..Options::new()
        };
        Fresh::of(&gzip(&archive), &options).map(drop)
    };
    run(Digest::of(&archive)).unwrap();
    assert!(matches!(run(plain), Err(Error::Mismatch { .. })));
}

#[test]
fn truncated_and_damaged_blobs_are_refused() {
    let data: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
    let archive = Archive::new().dir("d", 0o755).file("d/f", &data).finish();
    for blob in [gzip(&archive), zstd(&archive)] {
        for end in (1..blob.len()).step_by(blob.len() / 40) {
            Fresh::of(&blob[..end], &Options::new()).expect_err("a part is no whole");
        }
        let error = Fresh::of(&[&blob[..], b"garbage"].concat(), &Options::new()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    let mut blob = gzip(&archive);
    let place = blob.len() - 6;
    blob[place] ^= 1;
    let error = Fresh::of(&blob, &Options::new()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let error = Fresh::of(&archive[..1700], &Options::new()).unwrap_err();
    assert!(matches!(error, Error::Archive { .. }), "{error}");
    let error = Fresh::of(&[b'x'; 4096], &Options::new()).unwrap_err();
    assert!(matches!(error, Error::Archive { .. }), "{error}");
}

#[test]
fn a_source_that_fails_is_told() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable"))
        }
    }
    let dir = support::dir();
    let archive = Archive::new().file("f", &vec![1; 1_000_000]).finish();
    for blob in [vec![], gzip(&archive), archive[..700_000].to_vec()] {
        let half = blob.len() / 2;
        let error = unpack(blob[..half].chain(Failing), dir.path(), &Options::new()).unwrap_err();
        assert!(
            matches!(&error, Error::Read(error) if error.to_string() == "the cable"),
            "{error}"
        );
    }
}

#[test]
fn limits_hold() {
    let limited = |limits: Limits, archive: Archive| {
        let options = Options {
            limits,
            ..Options::new()
        };
        Fresh::of(&gzip(&archive.finish()), &options).unwrap_err()
    };
    // A bomb: a gigabyte of zeros in a megabyte.
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::copy(
        &mut header.as_bytes().chain(io::repeat(0).take(1 << 28)),
        &mut encoder,
    )
    .unwrap();
    let bomb = encoder.finish().unwrap();
    let options = Options {
        limits: Limits {
            archive_bytes_max: 1 << 20,
            ..Limits::default()
        },
        ..Options::new()
    };
    let error = Fresh::of(&bomb, &options).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");

    let few = Limits {
        inodes_max: 10,
        ..Limits::default()
    };
    let error = limited(few, Archive::new().file("1/2/3/4/5/6/7/8/9/10/11", b""));
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");

    let little = Limits {
        memory_bytes_max: 1 << 20,
        ..Limits::default()
    };
    let error = limited(
        little,
        Archive::new()
            .file(&"d".repeat(90), b"")
            .pax(&[("path", "d/".repeat(2000).as_bytes())])
            .file("f", b""),
    );
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");

    let long = "x/".repeat(2100);
    let error = limited(
        Limits::default(),
        Archive::new()
            .pax(&[("path", long.as_bytes())])
            .file("f", b""),
    );
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let huge = vec![b'x'; 2 << 20];
    let error = limited(
        Limits::default(),
        Archive::new().pax(&[("comment", &huge)]).file("f", b""),
    );
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");

    let small = Limits::default().for_blob(1000);
    assert_eq!(small.archive_bytes_max, 64 << 20);
    assert_eq!(
        Limits::default().for_blob(1 << 20).archive_bytes_max,
        1032 << 20
    );
}

#[test]
fn lying_numbers_are_refused() {
    let lie = |change: &dyn Fn(&mut tar::OldHeader)| {
        let mut header = tar::Header::new_gnu();
        header.set_path("f").unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        change(header.as_old_mut());
        header.set_cksum();
        let blob = [header.as_bytes(), &[0; 1024][..]].concat();
        Fresh::of(&blob, &Options::new()).expect_err("it lies")
    };
    lie(&|header| header.size = [0xff; 12]);
    lie(&|header| {
        header.size = [
            0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ]
    });
    lie(&|header| header.size = *b"77777777777\0");
    lie(&|header| header.size = *b"12x\0\0\0\0\0\0\0\0\0");
    lie(&|header| header.uid = [0xff; 8]);
    lie(&|header| header.gid = [0x80, 0, 0, 1, 0, 0, 0, 0]);
    for kind in [b'S', b'7', b'Z', b'V'] {
        let error = lie(&|header| header.linkflag = [kind]);
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
    let error = Archive::new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")])
        .file("f", b"")
        .unpack_with(&Options::new())
        .unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn deep_trees_are_made_and_replaced() {
    let deep = "d/".repeat(2000);
    let fresh = Archive::new()
        .pax(&[("path", format!("{deep}f").as_bytes())])
        .file("x", b"")
        .pax(&[("path", format!("{deep}g").as_bytes())])
        .file("x", b"")
        .file("d", b"a file")
        .unpack();
    assert_eq!(fresh.read("d"), b"a file");
    assert_eq!(fresh.unpacked.inodes, 1);
}

#[test]
fn it_can_be_cancelled() {
    let cancel = AtomicBool::new(false);
    let below = |_: &Path| {
        cancel.store(true, Ordering::Relaxed);
        Ok(None)
    };
    let options = Options {
        cancel: Some(&cancel),
        below: &below,
        ..Options::new()
    };
    let error = Archive::new()
        .file("a/b", b"")
        .file("c", b"")
        .unpack_with(&options)
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
}

/// A mount that goes when it is dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(options: &str) -> Tmpfs {
        let dir = support::dir();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "pontoon-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        Tmpfs(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told() {
    let full = Tmpfs::new("size=1m");
    let archive = Archive::new().file("f", &vec![1; 4 << 20]).finish();
    let error = unpack(&archive[..], full.0.path(), &Options::new()).unwrap_err();
    assert!(error.is_out_of_space(), "{error}");
    drop(full);
    let full = Tmpfs::new("nr_inodes=5");
    let mut archive = Archive::new();
    for number in 0..10 {
        archive = archive.file(&format!("f{number}"), b"");
    }
    let error = unpack(&archive.finish()[..], full.0.path(), &Options::new()).unwrap_err();
    assert!(error.is_out_of_space(), "{error}");
}

/// Names that collide, and lead in and out.
fn path() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        ".wh.a",
        ".wh..wh..opq",
        "etc",
        "passwd",
        "",
    ]);
    prop::collection::vec(component, 1..5).prop_map(|path| path.join("/"))
}

fn entries() -> impl Strategy<Value = Vec<(String, u8, String)>> {
    let kind = prop::sample::select(vec![b'0', b'0', b'1', b'2', b'2', b'5', b'5', b'6']);
    let target = (prop::sample::select(vec!["", "/", "../../../"]), path())
        .prop_map(|(start, path)| format!("{start}{path}"));
    prop::collection::vec((path(), kind, target), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("PONTOON_FULL").is_some() { 5_000 } else { 200 }))]

    #[test]
    fn no_archive_leaves_the_directory(entries in entries()) {
        let mut archive = Archive::new();
        for (path, kind, target) in entries {
            archive = archive.entry(&path, EntryType::new(kind), 0o755, &target, b"");
        }
        // Whether it makes sense or not.
        let _ = contained(&archive.finish());
    }

    #[test]
    fn no_damage_makes_it_panic(places in prop::collection::vec((0..5000_usize, any::<u8>()), 1..8)) {
        let mut blob = Archive::new()
            .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b"), ("path", b"x/y")])
            .file("x", b"data")
            .symlink("l", "x")
            .finish();
        for (place, byte) in places {
            let length = blob.len();
            blob[place % length] = byte;
        }
        let _ = contained(&blob);
        let _ = contained(&gzip(&blob));
    }
}
