use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{FormatError, Limits};

fn entry(kind: EntryKind<'_>) -> Entry<'_> {
    Entry {
        kind,
        mode: 0o640,
        uid: 1,
        gid: 2,
        mtime: Time {
            seconds: 3,
            nanoseconds: 4,
        },
        size: 5,
        xattrs: Vec::new(),
    }
}

const FILE: EntryKind<'_> = EntryKind::File { data_offset: 0 };

fn builder() -> TreeBuilder {
    TreeBuilder::new(OpaqueXattr::Trusted, &Limits::default())
}

fn tree(entries: &[(&str, EntryKind<'_>)]) -> Result<Tree, FormatError> {
    let mut builder = builder();
    for (path, kind) in entries {
        builder.add(path.as_bytes(), entry(*kind))?;
    }
    builder.finish()
}

/// All paths, with a mark for what they are.
fn listed(tree: &Tree) -> Vec<String> {
    let mut listed = Vec::new();
    tree.walk(|path, id| {
        let path = String::from_utf8_lossy(path);
        let node = tree.node(id);
        listed.push(match node.kind {
            Kind::Directory if node.implied => format!("{path}/?"),
            Kind::Directory => format!("{path}/"),
            Kind::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
            Kind::CharDevice { major: 0, minor: 0 } => format!("{path} removed"),
            _ => path.into_owned(),
        });
        true
    });
    listed
}

#[test]
fn a_tree_has_what_was_added() {
    let mut builder = builder();
    builder.add(b"./", entry(EntryKind::Directory)).unwrap();
    builder.add(b"dir/", entry(EntryKind::Directory)).unwrap();
    let file = Entry {
        mode: 0o17_4755,
        xattrs: vec![
            (b"user.b".to_vec(), b"2".to_vec()),
            (b"user.a".to_vec(), b"1".to_vec()),
            (b"user.b".to_vec(), b"3".to_vec()),
        ],
        ..entry(FILE)
    };
    builder.add(b"/dir/file", file).unwrap();
    builder.link(b"link", b"./dir/file").unwrap();
    builder
        .add(b"dir/sym", entry(EntryKind::Symlink(b"../x")))
        .unwrap();
    let device = EntryKind::BlockDevice { major: 8, minor: 1 };
    builder.add(b"dir/block", entry(device)).unwrap();
    builder.add(b"dir/fifo", entry(EntryKind::Fifo)).unwrap();
    let tree = builder.finish().unwrap();
    assert_eq!(
        listed(&tree),
        [
            "/?",
            "dir/",
            "dir/block",
            "dir/fifo",
            "dir/file",
            "dir/sym -> ../x",
            "link"
        ]
    );
    assert_eq!(tree.len(), 6);
    let file = tree.find(b"dir/file").unwrap();
    assert_eq!(tree.find(b"link"), Some(file));
    let node = tree.node(file);
    assert_eq!((node.mode, node.links, node.size), (0o4755, 2, 5));
    assert_eq!(
        (
            node.uid,
            node.gid,
            node.mtime.seconds,
            node.mtime.nanoseconds
        ),
        (1, 2, 3, 4)
    );
    let xattrs = [
        (b"user.a".to_vec(), b"1".to_vec()),
        (b"user.b".to_vec(), b"3".to_vec()),
    ];
    assert_eq!(node.xattrs(), xattrs);
    assert_eq!(tree.node(NodeId::ROOT).links, 3);
    assert_eq!(tree.node(tree.find(b"dir").unwrap()).links, 2);
    assert_eq!(tree.node(tree.find(b"dir/sym").unwrap()).size, 4);
    assert_eq!(
        tree.node(tree.find(b"dir/block").unwrap()).kind,
        Kind::BlockDevice { major: 8, minor: 1 }
    );
    assert_eq!(tree.children(NodeId::ROOT).len(), 2);
    assert_eq!(tree.children(file).len(), 0);
    assert_eq!(tree.find(b"dir/none"), None);
    assert_eq!(tree.find(b"link/none"), None);
}

#[test]
fn no_path_leads_out() {
    let tree = tree(&[
        ("../../etc/passwd", FILE),
        ("a/../../../b", FILE),
        ("/c/./d//e/", FILE),
        ("..", EntryKind::Directory),
    ]);
    assert_eq!(
        listed(&tree.unwrap()),
        ["/?", "b", "c/?", "c/d/?", "c/d/e", "etc/?", "etc/passwd"]
    );
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let symlink = EntryKind::Symlink(b"x");
    for (entries, expected) in [
        (&[("a", FILE), ("a", symlink)][..], &["/?", "a -> x"][..]),
        (&[("a", FILE), ("a", EntryKind::Directory)], &["/?", "a/"]),
        (
            &[("a/b", FILE), ("a", EntryKind::Directory)],
            &["/?", "a/", "a/b"],
        ),
        (&[("a/b", FILE), ("a", FILE)], &["/?", "a"]),
        (
            &[
                ("a/b", FILE),
                ("a", FILE),
                ("a", EntryKind::Directory),
                ("a/c", FILE),
            ],
            &["/?", "a/", "a/c"],
        ),
        (
            &[
                ("a", EntryKind::Directory),
                ("a/b/c", FILE),
                ("a/b", symlink),
            ],
            &["/?", "a/", "a/b -> x"],
        ),
    ] {
        let tree = tree(entries).unwrap();
        assert_eq!(listed(&tree), expected);
        let mut names = 0;
        tree.walk(|_, _| {
            names += 1;
            true
        });
        assert_eq!(tree.len(), names, "nothing is left over");
    }
}

#[test]
fn a_replaced_file_keeps_its_other_names() {
    let mut builder = builder();
    builder.add(b"d/a", entry(FILE)).unwrap();
    builder.link(b"b", b"d/a").unwrap();
    builder.add(b"d", entry(EntryKind::Fifo)).unwrap();
    builder.link(b"c", b"b").unwrap();
    builder.add(b"b", entry(EntryKind::Fifo)).unwrap();
    let tree = builder.finish().unwrap();
    assert_eq!(listed(&tree), ["/?", "b", "c", "d"]);
    let file = tree.node(tree.find(b"c").unwrap());
    assert_eq!((file.links, file.size), (1, 5));
}

#[test]
fn a_hard_link_may_come_before_its_target() {
    let mut builder = builder();
    builder.link(b"d/c", b"d/b").unwrap();
    builder.link(b"d/b", b"/a").unwrap();
    builder.link(b"gone", b"nowhere").unwrap();
    builder.add(b"gone", entry(EntryKind::Fifo)).unwrap();
    builder.link(b"twice", b"nowhere").unwrap();
    builder.link(b"twice", b"a").unwrap();
    builder.add(b"a", entry(EntryKind::Symlink(b"x"))).unwrap();
    let tree = builder.finish().unwrap();
    assert_eq!(tree.node(tree.find(b"a").unwrap()).links, 4);
    for name in ["d/c", "d/b", "twice"] {
        assert_eq!(tree.find(name.as_bytes()), tree.find(b"a"));
    }
}

#[test]
fn a_hard_link_that_leads_nowhere_is_refused() {
    for links in [
        &[("a", "a")][..],
        &[("a", "b"), ("b", "a")],
        &[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")],
        &[("a", "none")],
        &[("a", "none/none")],
        &[("a", "dir")],
        &[("dir/../b", "a"), ("a", "dir")],
        &[("a", "")],
        &[("", "file")],
        &[("a", "file/x")],
        &[("file/x", "file")],
        &[("a", "loop/x")],
    ] {
        let mut builder = builder();
        builder.add(b"dir/", entry(EntryKind::Directory)).unwrap();
        builder.add(b"file", entry(FILE)).unwrap();
        builder
            .add(b"loop", entry(EntryKind::Symlink(b"loop")))
            .unwrap();
        let linked = links
            .iter()
            .try_for_each(|(path, target)| builder.link(path.as_bytes(), target.as_bytes()));
        let made = linked.and_then(|()| builder.finish());
        assert!(matches!(made, Err(FormatError::Entry { .. })), "{links:?}");
    }
}

#[test]
fn long_chains_of_links_are_followed() {
    let mut builder = builder();
    for number in 0..20_000 {
        let (path, target) = (format!("{number}"), format!("{}", number + 1));
        builder.link(path.as_bytes(), target.as_bytes()).unwrap();
    }
    builder.add(b"20000", entry(FILE)).unwrap();
    let tree = builder.finish().unwrap();
    assert_eq!(tree.node(tree.find(b"0").unwrap()).links, 20_001);
}

#[test]
fn symbolic_links_among_the_parents_are_followed_inside_the_layer() {
    let tree = tree(&[
        ("lib", EntryKind::Symlink(b"usr/lib")),
        ("lib/a", FILE),
        ("usr/lib64", EntryKind::Symlink(b"/../../lib/./x//y")),
        ("usr/lib64/b", FILE),
        ("up", EntryKind::Symlink(b"../../..")),
        ("up/c", FILE),
    ]);
    assert_eq!(
        listed(&tree.unwrap()),
        [
            "/?",
            "c",
            "lib -> usr/lib",
            "up -> ../../..",
            "usr/?",
            "usr/lib/?",
            "usr/lib/a",
            "usr/lib/x/?",
            "usr/lib/x/y/?",
            "usr/lib/x/y/b",
            "usr/lib64 -> /../../lib/./x//y",
        ]
    );
}

#[test]
fn what_cannot_be_unpacked_is_refused() {
    let long = "x".repeat(256);
    for entries in [
        &[("a", FILE), ("a/b", FILE)][..],
        &[("a", EntryKind::Symlink(b"a")), ("a/b", FILE)],
        &[
            ("a", EntryKind::Symlink(b"b")),
            ("b", EntryKind::Symlink(b"./a")),
            ("a/c", FILE),
        ],
        &[("a", EntryKind::Symlink(long.as_bytes())), ("a/c", FILE)],
        &[("", FILE)],
        &[("..", EntryKind::Fifo)],
        &[("a", EntryKind::Symlink(b""))],
        &[("a", EntryKind::Symlink(b"a\0"))],
        &[(
            "a",
            EntryKind::CharDevice {
                major: 0x1000,
                minor: 0,
            },
        )],
        &[(
            "a",
            EntryKind::BlockDevice {
                major: 0,
                minor: 0x10_0000,
            },
        )],
        &[(".wh.", FILE)],
        &[(".wh..", FILE)],
        &[("a/.wh...", FILE)],
        &[(&long, FILE)],
        &[("a\0", FILE)],
    ] {
        assert!(
            matches!(tree(entries), Err(FormatError::Entry { .. })),
            "{entries:?}"
        );
    }
}

#[test]
fn whiteouts_are_those_of_overlayfs() {
    let mut builder = TreeBuilder::new(OpaqueXattr::User, &Limits::default());
    builder.add(b"a/.wh.gone", entry(FILE)).unwrap();
    builder.add(b"a/.wh..wh..opq", entry(FILE)).unwrap();
    builder.add(b".wh.b", entry(FILE)).unwrap();
    builder.add(b"b", entry(FILE)).unwrap();
    builder.add(b"c", entry(FILE)).unwrap();
    builder.add(b".wh.c", entry(FILE)).unwrap();
    builder.link(b".wh.d", b"c").unwrap();
    builder.add(b".wh..wh.plnk", entry(FILE)).unwrap();
    builder.add(b".wh..wh.aufs", entry(FILE)).unwrap();
    builder.add(b".wh..wh.plnk/1.2", entry(FILE)).unwrap();
    builder.link(b".wh..wh.orph/l", b"c").unwrap();
    let cheat = Entry {
        xattrs: vec![
            (b"trusted.overlay.redirect".to_vec(), b"/".to_vec()),
            (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
            (b"trusted.other".to_vec(), b"z".to_vec()),
            (b"user.other".to_vec(), b"z".to_vec()),
        ],
        ..entry(EntryKind::Directory)
    };
    builder.add(b"e", cheat).unwrap();
    let tree = builder.finish().unwrap();
    assert_eq!(
        listed(&tree),
        ["/?", "a/?", "a/gone removed", "b", "c", "d removed", "e/"]
    );
    let gone = tree.node(tree.find(b"a/gone").unwrap());
    assert_eq!((gone.mode, gone.links), (0, 1));
    let opaque = [(b"user.overlay.opaque".to_vec(), b"y".to_vec())];
    assert_eq!(tree.node(tree.find(b"a").unwrap()).xattrs(), opaque);
    let other = [(b"user.other".to_vec(), b"z".to_vec())];
    assert_eq!(tree.node(tree.find(b"e").unwrap()).xattrs(), other);
    assert_eq!(tree.opaque_xattr(), OpaqueXattr::User);
}

#[test]
fn a_whiteout_of_a_directory_of_the_same_layer_hides_what_is_below_it() {
    let mut builder = builder();
    builder.add(b".wh.new", entry(FILE)).unwrap();
    builder.add(b"new", entry(EntryKind::Directory)).unwrap();
    builder.add(b"new/f", entry(FILE)).unwrap();
    builder.add(b"old", entry(EntryKind::Directory)).unwrap();
    builder.add(b"old/f", entry(FILE)).unwrap();
    builder.add(b".wh.old", entry(FILE)).unwrap();
    builder.add(b"plain", entry(EntryKind::Directory)).unwrap();
    let tree = builder.finish().unwrap();
    assert_eq!(
        listed(&tree),
        ["/?", "new/", "new/f", "old/", "old/f", "plain/"]
    );
    let opaque = [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    for (path, xattrs) in [("new", &opaque[..]), ("old", &opaque), ("plain", &[])] {
        let node = tree.node(tree.find(path.as_bytes()).unwrap());
        assert_eq!(node.xattrs(), xattrs, "{path}");
    }
}

#[test]
fn a_replaced_symbolic_link_leads_nowhere_any_more() {
    for (replacement, wanted) in [
        (EntryKind::Directory, "l/g"),
        (EntryKind::Symlink(b"b"), "b/g"),
    ] {
        let mut builder = builder();
        builder.add(b"a", entry(EntryKind::Directory)).unwrap();
        builder.add(b"b", entry(EntryKind::Directory)).unwrap();
        builder.add(b"l", entry(EntryKind::Symlink(b"a"))).unwrap();
        builder.add(b"l/f", entry(FILE)).unwrap();
        builder.add(b"l", entry(replacement)).unwrap();
        builder.add(b"l/g", entry(FILE)).unwrap();
        let tree = builder.finish().unwrap();
        assert!(tree.find(b"a/f").is_some() && tree.find(b"a/g").is_none());
        assert!(tree.find(wanted.as_bytes()).is_some(), "{wanted}");
    }
}

#[test]
fn some_attributes_are_not_the_layers_to_say() {
    let mut builder = builder();
    let cheat = Entry {
        mode: 0o700,
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
        ..entry(EntryKind::Directory)
    };
    builder.add(b"./", cheat).unwrap();
    builder.add(b"l", entry(EntryKind::Symlink(b"a"))).unwrap();
    let tree = builder.finish().unwrap();
    let root = tree.node(NodeId::ROOT);
    assert_eq!((root.mode, root.uid, root.implied), (0o755, 0, true));
    assert!(root.xattrs().is_empty());
    assert_eq!(tree.node(tree.find(b"l").unwrap()).mode, 0o777);
}

#[test]
fn unlisted_directories_take_what_is_below() {
    let mut builder = builder();
    builder.add(b"tmp/a/f", entry(FILE)).unwrap();
    builder.add(b"tmp/.wh..wh..opq", entry(FILE)).unwrap();
    builder.add(b"usr/bin/f", entry(FILE)).unwrap();
    builder.add(b"usr", entry(EntryKind::Directory)).unwrap();
    let mut tree = builder.finish().unwrap();
    let implied = tree.implied();
    let paths: Vec<&[u8]> = implied.iter().map(|(path, _)| path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"tmp", b"tmp/a", b"usr/bin"]);
    assert_eq!(tree.node(NodeId::ROOT).mode, 0o755);
    let below = Attributes {
        mode: 0o4_1777,
        uid: 7,
        gid: 8,
        mtime: Time {
            seconds: -1,
            nanoseconds: 9,
        },
        xattrs: vec![
            (b"user.z".to_vec(), b"1".to_vec()),
            (b"trusted.overlay.origin".to_vec(), b"2".to_vec()),
            (b"security.x".to_vec(), b"3".to_vec()),
        ],
    };
    tree.adopt(implied[1].1, below.clone());
    let tmp = tree.node(implied[1].1);
    assert_eq!(
        (tmp.mode, tmp.uid, tmp.gid, tmp.mtime),
        (0o1777, 7, 8, below.mtime)
    );
    let names: Vec<&[u8]> = tmp
        .xattrs()
        .iter()
        .map(|(name, _)| name.as_slice())
        .collect();
    assert_eq!(
        names,
        [&b"security.x"[..], b"trusted.overlay.opaque", b"user.z"]
    );
    assert_eq!(tree.implied().len(), 3);
    assert_eq!(tree.find(b"tmp/a"), Some(implied[2].1));
}

#[test]
fn a_layer_costs_no_more_than_it_may() {
    let limits = Limits {
        entries_max: 100,
        depth_max: 20,
        ..Limits::default()
    };
    let builder = || TreeBuilder::new(OpaqueXattr::Trusted, &limits);
    let is_too_large = |result: Result<(), FormatError>| {
        assert!(
            matches!(result, Err(FormatError::TooLarge { .. })),
            "{result:?}"
        );
    };
    let mut deep = builder();
    deep.add("d/".repeat(20).as_bytes(), entry(EntryKind::Directory))
        .unwrap();
    is_too_large(deep.add("d/".repeat(21).as_bytes(), entry(FILE)).map(drop));
    let mut wide = builder();
    let added = (0..10).try_for_each(|number| {
        let path = format!("{number}{}", "/d".repeat(19));
        wide.add(path.as_bytes(), entry(FILE)).map(drop)
    });
    is_too_large(added);
    let mut twisted = builder();
    let target = b"./".repeat(2000);
    let long = [&target[..], b"d/".repeat(19).as_slice()].concat();
    twisted
        .add("d/".repeat(19).as_bytes(), entry(EntryKind::Directory))
        .unwrap();
    for number in 0..40 {
        let mut target = format!("{}/", number + 1).into_bytes();
        if number == 39 {
            target = long.clone();
        }
        twisted
            .add(
                format!("{number}").as_bytes(),
                entry(EntryKind::Symlink(&target)),
            )
            .unwrap();
    }
    let added = (0..2000).try_for_each(|_| twisted.link(b"l", b"0/x"));
    is_too_large(added);
    // Names that mean nothing cost something, too.
    let mut idle = builder();
    let target = [&b"/".repeat(4000)[..], b"d"].concat();
    idle.add(b"d", entry(EntryKind::Directory)).unwrap();
    idle.add(b"s", entry(EntryKind::Symlink(&target))).unwrap();
    is_too_large(
        idle.link(b"l", b"s/x")
            .and_then(|()| idle.link(b"l", b"s/y")),
    );
}

#[test]
fn what_a_layer_makes_us_keep_is_bounded() {
    let limits = Limits {
        text_bytes_max: 10_000,
        ..Limits::default()
    };
    let builder = || TreeBuilder::new(OpaqueXattr::Trusted, &limits);
    let is_too_large = |result: Result<(), FormatError>| {
        assert!(
            matches!(result, Err(FormatError::TooLarge { .. })),
            "{result:?}"
        );
    };
    let attributed = |value: u8| Entry {
        xattrs: vec![(b"user.a".to_vec(), vec![value; 1000])],
        ..entry(FILE)
    };
    // The same ones are kept once.
    let mut same = builder();
    let added = (0..100).try_for_each(|_| same.add(b"f", attributed(1)).map(drop));
    added.unwrap();
    let mut different = builder();
    is_too_large((0..10).try_for_each(|value| different.add(b"f", attributed(value)).map(drop)));
    let mut linked = builder();
    let target = [b't'; 1000];
    is_too_large((0..11).try_for_each(|_| {
        let link = entry(EntryKind::Symlink(&target));
        linked.add(b"l", link).map(drop)
    }));
    // Short names in a deep directory make long paths for whoever looks them up.
    let mut deep = builder();
    let far = "d".repeat(200);
    deep.add(far.as_bytes(), entry(EntryKind::Directory))
        .unwrap();
    deep.add(b"s", entry(EntryKind::Symlink(far.as_bytes())))
        .unwrap();
    for number in 0..60 {
        let path = format!("s/{number}/f");
        deep.add(path.as_bytes(), entry(FILE)).unwrap();
    }
    is_too_large(deep.finish().map(drop));
}

/// A file system of the simplest kind, to compare with.
#[derive(Default)]
struct Model {
    /// Files have a number, directories none.
    names: BTreeMap<String, Option<usize>>,
}

impl Model {
    fn parents(path: &str) -> impl Iterator<Item = &str> {
        path.match_indices('/').map(move |(at, _)| &path[..at])
    }

    /// Whether `path` can be added at all; its parents are made.
    fn enter(&mut self, path: &str) -> bool {
        if Model::parents(path).any(|parent| matches!(self.names.get(parent), Some(Some(_)))) {
            return false;
        }
        for parent in Model::parents(path) {
            self.names.insert(parent.to_owned(), None);
        }
        true
    }

    fn put(&mut self, path: &str, what: Option<usize>) {
        if what.is_some() {
            let below = format!("{path}/");
            self.names.retain(|name, _| !name.starts_with(&below));
        }
        self.names.insert(path.to_owned(), what);
    }
}

fn operation() -> impl Strategy<Value = (String, u8, String)> {
    ("[abc](/[abc]){0,3}", 0_u8..3, "[abc](/[abc]){0,3}")
}

proptest! {
    #[test]
    fn a_tree_is_what_unpacking_in_order_gives(
        operations in prop::collection::vec(operation(), 0..30),
    ) {
        let mut model = Model::default();
        let mut builder = builder();
        for (number, (path, kind, target)) in operations.iter().enumerate() {
            let known = match model.names.get(target) {
                Some(Some(file)) => Some(*file),
                _ => None,
            };
            if *kind == 2 && known.is_none() {
                continue;
            }
            let entered = model.enter(path);
            let added = match kind {
                0 => builder.add(path.as_bytes(), entry(EntryKind::Directory)).map(drop),
                1 => {
                    let data_offset = number as u64;
                    let file = entry(EntryKind::File { data_offset });
                    builder.add(path.as_bytes(), file).map(drop)
                }
                _ => builder.link(path.as_bytes(), target.as_bytes()),
            };
            prop_assert_eq!(added.is_ok(), entered);
            if !entered {
                return Ok(());
            }
            match kind {
                0 if matches!(model.names.get(path), Some(None)) => {}
                0 => model.put(path, None),
                1 => model.put(path, Some(number)),
                _ => model.put(path, known),
            }
        }
        let tree = builder.finish().unwrap();
        let mut names = BTreeMap::new();
        tree.walk(|path, id| {
            let file = match tree.node(id).kind {
                Kind::File { data_offset } => Some(data_offset as usize),
                _ => None,
            };
            names.insert(String::from_utf8(path.to_vec()).unwrap(), file);
            true
        });
        names.remove("");
        for (path, file) in &model.names {
            let Some(file) = file else { continue };
            let links = model.names.values().filter(|other| **other == Some(*file)).count();
            let node = tree.node(tree.find(path.as_bytes()).unwrap());
            prop_assert_eq!(node.links as usize, links);
        }
        prop_assert_eq!(names, model.names);
    }

    #[test]
    fn no_path_makes_it_panic(
        entries in prop::collection::vec((r"(/|\.|\.\.|a|b|\.wh\.|\x00){0,8}", 0_u8..6, r"(/|\.\.|a|b){0,8}"), 0..30),
    ) {
        let mut builder = builder();
        for (path, kind, target) in &entries {
            let kind = match kind {
                0 => EntryKind::Directory,
                1 => FILE,
                2 => EntryKind::Symlink(target.as_bytes()),
                3 => EntryKind::Fifo,
                _ => {
                    let _ = builder.link(path.as_bytes(), target.as_bytes());
                    continue;
                }
            };
            let _ = builder.add(path.as_bytes(), entry(kind));
        }
        if let Ok(tree) = builder.finish() {
            let mut seen = vec![0; tree.len()];
            tree.walk(|path, id| {
                assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"." | b"..")));
                seen[id.index()] += 1;
                true
            });
            prop_assert!(seen.iter().all(|seen| *seen > 0));
        }
    }
}
