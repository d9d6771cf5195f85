use pontoon_layer::{Digest, Entry, EntryKind, Limits, OpaqueXattr, Time, TreeBuilder};

use super::*;

fn entry(kind: EntryKind<'_>, size: u64) -> Entry<'_> {
    Entry {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Time {
            seconds: 1,
            nanoseconds: 2,
        },
        size,
        xattrs: Vec::new(),
    }
}

fn tree(entries: Vec<(&str, Entry<'_>)>) -> Tree {
    let limits = Limits {
        xattr_bytes_max: 1 << 20,
        data_bytes_max: u64::MAX,
        path_bytes_max: 1 << 20,
        string_bytes_max: 1 << 20,
        xattrs_max: 1 << 20,
        ..Limits::default()
    };
    let mut builder = TreeBuilder::new(OpaqueXattr::Trusted, &limits);
    for (path, entry) in entries {
        builder.add(path.as_bytes(), entry).unwrap();
    }
    builder.finish().unwrap()
}

fn file(data_offset: u64, size: u64) -> Entry<'static> {
    entry(EntryKind::File { data_offset }, size)
}

fn with_xattr(name: &str, value: Vec<u8>) -> Entry<'static> {
    Entry {
        xattrs: vec![(name.as_bytes().to_vec(), value)],
        ..file(0, 0)
    }
}

fn refused(entry: Entry<'_>, data_size: u64) -> String {
    let error = write(&tree(vec![("a/b", entry)]), data_size).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/a/b: ") && text.contains("unpack"), "{text}");
    text
}

/// Images are kept across upgrades, and equal layers share one. If this fails without intent, something made the
/// images differ; with intent, old images are still read.
#[test]
fn images_stay_the_same_from_version_to_version() {
    let label = || with_xattr("security.selinux", b"label".to_vec());
    let image = write(
        &tree(vec![
            ("a/b", file(0, 5000)),
            ("a/c", file(8192, (1 << 30) + 1)),
            ("d", entry(EntryKind::Symlink(b"a/b"), 0)),
            ("e", label()),
            ("f", label()),
            ("g", with_xattr("user.g", b"value".to_vec())),
            (
                "null",
                entry(EntryKind::CharDevice { major: 1, minor: 3 }, 0),
            ),
        ]),
        2 << 30,
    )
    .unwrap();
    assert_eq!(
        Digest::of(&image).to_string(),
        "sha256:bbe02c0a1574b58d76f95f35d29ea9a550e401b099df0407d2f00c7fe954055e"
    );
}

#[test]
fn data_has_to_be_aligned_and_in_the_data_file() {
    refused(file(1, 10), 4096);
    refused(file(0, 4097), 4096);
    refused(file(8192, 1), 8192);
    refused(file(!4095, 5000), 8192);
    // Where an empty file has no data does not matter.
    write(&tree(vec![("a", file(1 << 40, 0))]), 0).unwrap();
    write(&tree(vec![("a", file(4096, 1))]), 4097).unwrap();
}

#[test]
fn data_of_16_tib_cannot_be_counted() {
    let tree = tree(vec![("a", file(0, 10))]);
    let most = (u64::from(u32::MAX) - 1) * BLOCK_BYTES;
    write(&tree, most).unwrap();
    assert_eq!(write(&tree, most + 1), Err(WriteError::TooLarge));
    assert_eq!(write(&tree, u64::MAX), Err(WriteError::TooLarge));
}

#[test]
fn a_file_may_end_with_the_last_block() {
    let most = (u64::from(u32::MAX) - 1) * BLOCK_BYTES;
    let image = write(&tree(vec![("a", file(0, most))]), most).unwrap();
    let image = crate::Image::open(&image).unwrap();
    let nid = image.lookup(image.root(), b"a").unwrap().unwrap();
    assert_eq!(image.inode(nid).unwrap().size, most);
}

#[test]
fn targets_are_limited() {
    let long = "x".repeat(4096);
    refused(entry(EntryKind::Symlink(long.as_bytes()), 0), 0);
}

#[test]
fn extended_attributes_are_limited() {
    refused(with_xattr("user.a", vec![0; 65_536]), 0);
    refused(with_xattr(&format!("user.{}", "n".repeat(251)), vec![]), 0);
    refused(with_xattr("user.a\0b", vec![]), 0);
    let many = (0..5).map(|number| (format!("user.{number}").into_bytes(), vec![0; 60_000]));
    let xattrs = many.collect();
    refused(
        Entry {
            xattrs,
            ..file(0, 0)
        },
        0,
    );
}

#[test]
fn an_inode_has_at_most_255_shared_attributes() {
    let many = || Entry {
        xattrs: (0..300)
            .map(|number| (format!("user.{number}").into_bytes(), vec![1]))
            .collect(),
        ..file(0, 0)
    };
    let image = write(&tree(vec![("a", many()), ("b", many())]), 0).unwrap();
    let image = crate::Image::open(&image).unwrap();
    for name in [b"a", b"b"] {
        let nid = image.lookup(image.root(), name).unwrap().unwrap();
        assert_eq!(
            image.xattrs(nid).unwrap().filter(Result::is_ok).count(),
            300
        );
        assert_eq!(image.xattr(nid, b"user.299").unwrap(), Some(&[1][..]));
    }
}
