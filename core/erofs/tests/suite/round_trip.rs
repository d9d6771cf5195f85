//! What was written is read.

use std::ops::ControlFlow;

use pontoon_erofs::{Image, ReadError};
use pontoon_layer::{Entry, EntryKind, Kind, NodeId, Time};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::compare::image_is;
use crate::sample::{Draft, Sample, entry, everything, xattr};

#[test]
fn everything_is_read_as_it_was_written() {
    let sample = everything();
    let bytes = sample.image();
    let image = Image::open(&bytes).unwrap();
    image_is(&image, &sample.tree);
    assert_eq!(image.data_bytes(), sample.data_size.next_multiple_of(4096));
    assert_eq!(
        everything().image(),
        bytes,
        "of the same tree the same bytes"
    );
}

#[test]
fn an_empty_tree_is_an_empty_directory() {
    let sample = Draft::new().done();
    let bytes = sample.image();
    image_is(&Image::open(&bytes).unwrap(), &sample.tree);
    assert_eq!(bytes.len(), 4096);
}

#[test]
fn a_directory_may_have_100_000_entries() {
    let mut draft = Draft::new();
    for number in 0..100_000 {
        let target = EntryKind::Symlink(b"target");
        draft.add(
            format!("dir/{number}-{}", "n".repeat(number % 50)),
            entry(target),
        );
    }
    let sample = draft.done();
    let bytes = sample.image();
    let image = Image::open(&bytes).unwrap();
    let dir = image.lookup(image.root(), b"dir").unwrap().unwrap();
    let mut count = 0;
    let mut cookie = 0;
    // In pieces, as the kernel asks.
    loop {
        let mut piece = 0;
        image
            .read_dir(dir, cookie, |entry| {
                (piece, cookie) = (piece + 1, entry.next_cookie);
                if piece < 777 {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .unwrap();
        count += piece;
        if piece == 0 {
            break;
        }
    }
    assert_eq!(count, 100_002);
    let id = sample.tree.find(b"dir").unwrap();
    for (name, child) in sample.tree.children(id).step_by(97) {
        let nid = image.lookup(dir, name).unwrap().unwrap();
        assert_eq!(
            Kind::Symlink(image.read_link(nid).unwrap()),
            sample.tree.node(child).kind
        );
    }
    assert_eq!(image.lookup(dir, b"100000").unwrap(), None);
}

#[test]
fn directories_may_be_deep() {
    let mut draft = Draft::new();
    let path = "d/".repeat(1000);
    draft.add(&path, entry(EntryKind::Directory));
    let sample = draft.done();
    let bytes = sample.image();
    image_is(&Image::open(&bytes).unwrap(), &sample.tree);
}

#[test]
fn what_belongs_to_other_types_is_refused() {
    let sample = everything();
    let bytes = sample.image();
    let image = Image::open(&bytes).unwrap();
    let root = image.root();
    let dev = image.lookup(root, b"dev").unwrap().unwrap();
    let null = image.lookup(dev, b"null").unwrap().unwrap();
    assert_eq!(image.read_link(null), Err(ReadError::NotASymlink(null)));
    assert_eq!(image.read_link(root), Err(ReadError::NotASymlink(root)));
    assert_eq!(
        image.lookup(null, b"x"),
        Err(ReadError::NotADirectory(null))
    );
    let listed = image.read_dir(null, 0, |_| ControlFlow::Continue(()));
    assert_eq!(listed, Err(ReadError::NotADirectory(null)));
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Add {
        kind: u8,
        size: u64,
        text: String,
        mode: u16,
        ids: (u32, u32),
        time: (i64, u32),
        xattrs: Vec<(String, Vec<u8>)>,
    },
    Link(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![8 => "[a-c]", 2 => "[!-~]{1,3}", 1 => "n{1,255}"];
    vec(name, 1..5).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let name = "(user|trusted|security|system|other)\\.[a-d]{0,2}";
    let xattrs = vec((name, vec(any::<u8>(), 0..9)), 0..4);
    let ids = (any::<u32>(), any::<u32>());
    let time = (any::<i64>(), 0u32..1_000_000_000);
    let add = (
        0u8..7,
        0u64..20_000,
        "[a-z/]{1,200}",
        0u16..0o10000,
        ids,
        time,
        xattrs,
    );
    let add = add.prop_map(|(kind, size, text, mode, ids, time, xattrs)| Step::Add {
        kind,
        size,
        text,
        mode,
        ids,
        time,
        xattrs,
    });
    prop_oneof![9 => add, 1 => path().prop_map(Step::Link)]
}

/// Paths and what is to be there.
pub(crate) fn steps() -> impl Strategy<Value = Vec<(String, Step)>> {
    vec((path(), step()), 0..60)
}

/// A tree of whatever of the steps makes sense; without hard links if one of them leads nowhere.
pub(crate) fn tree(steps: &[(String, Step)]) -> Sample {
    let with_links = draft(steps, true).try_done();
    with_links.unwrap_or_else(|| draft(steps, false).done())
}

fn draft(steps: &[(String, Step)], links: bool) -> Draft {
    let mut draft = Draft::new();
    for (path, step) in steps {
        match step {
            Step::Add {
                kind,
                size,
                text,
                mode,
                ids,
                time,
                xattrs,
            } => {
                let (major, minor) = (ids.0 % 4096, ids.1 % (1 << 20));
                let kind = match kind {
                    0 => EntryKind::Directory,
                    1 => EntryKind::Symlink(text.as_bytes()),
                    2 => EntryKind::CharDevice { major, minor },
                    3 => EntryKind::BlockDevice { major, minor },
                    4 => EntryKind::Fifo,
                    5 => EntryKind::Socket,
                    _ => EntryKind::File { data_offset: 0 },
                };
                let attributes = Entry {
                    mode: *mode,
                    uid: ids.0,
                    gid: ids.1,
                    mtime: Time {
                        seconds: time.0,
                        nanoseconds: time.1,
                    },
                    xattrs: xattrs
                        .iter()
                        .map(|(name, value)| xattr(name, value))
                        .collect(),
                    ..entry(kind)
                };
                draft.try_add(path, *size, attributes);
            }
            Step::Link(target) if links => draft.try_link(path, target),
            Step::Link(_) => {}
        }
    }
    draft
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("PONTOON_FULL").is_some() { 3000 } else { 300 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_tree_is_read_as_it_was_written(steps in steps()) {
        let sample = tree(&steps);
        let bytes = sample.image();
        image_is(&Image::open(&bytes).unwrap(), &sample.tree);
        prop_assert_eq!(sample.tree.node(NodeId::ROOT).kind, Kind::Directory);
    }
}
