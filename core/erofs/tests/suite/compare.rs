//! What a tree says, against what somebody else says.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use pontoon_erofs::{FileType, Image, Nid};
use pontoon_layer::{Kind, Node, NodeId, Tree};

/// The extended attributes that an image keeps of a node's.
pub(crate) fn kept(node: &Node<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut namespaces = vec![&b"trusted."[..], b"security.", b"system.posix_acl_"];
    if matches!(node.kind, Kind::Directory | Kind::File { .. }) {
        namespaces.push(b"user.");
    }
    let kept = |name: &[u8]| {
        let mut suffixes = namespaces
            .iter()
            .filter_map(|prefix| name.strip_prefix(*prefix));
        suffixes.any(|suffix| !suffix.is_empty())
    };
    let all = node.xattrs().iter();
    all.filter(|(name, _)| kept(name)).cloned().collect()
}

pub(crate) fn rdev(kind: Kind<'_>) -> (u32, u32) {
    match kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
        _ => (0, 0),
    }
}

/// Compares everything in a tree with what the reader finds. The nid of each node.
pub(crate) fn image_is<B: AsRef<[u8]>>(image: &Image<B>, tree: &Tree) -> HashMap<NodeId, Nid> {
    assert_eq!(image.inodes(), tree.len() as u64);
    image.verify().unwrap();
    let mut nids = HashMap::new();
    let mut paths = vec![(NodeId::ROOT, image.root(), image.root())];
    while let Some((id, nid, parent)) = paths.pop() {
        node_is(image, nid, tree, id);
        assert_eq!(
            *nids.entry(id).or_insert(nid),
            nid,
            "a hard link is another inode"
        );
        if tree.node(id).is_directory() {
            let found = directory_is(image, nid, parent, tree, id);
            paths.extend(found.into_iter().map(|(id, child)| (id, child, nid)));
        }
    }
    assert_eq!(nids.len(), tree.len());
    nids
}

fn node_is<B: AsRef<[u8]>>(image: &Image<B>, nid: Nid, tree: &Tree, id: NodeId) {
    let (inode, node) = (image.inode(nid).unwrap(), tree.node(id));
    assert_eq!(inode.nid, nid);
    assert!(nid.get() < 1 << 40);
    assert_eq!(inode.file_type, FileType::from(node.kind));
    assert_eq!(
        (inode.mode, inode.uid, inode.gid),
        (node.mode, node.uid, node.gid)
    );
    assert_eq!((inode.mtime, inode.links), (node.mtime, node.links));
    assert_eq!((inode.major(), inode.minor()), rdev(node.kind));
    match node.kind {
        Kind::Symlink(target) => {
            assert_eq!(image.read_link(nid).unwrap(), target);
            assert_eq!(inode.size, target.len() as u64);
        }
        Kind::File { data_offset } => {
            assert_eq!((inode.size, inode.data_offset), (node.size, data_offset));
        }
        Kind::Directory => assert!(inode.size > 0),
        _ => assert_eq!(inode.size, 0),
    }
    let xattrs = image.xattrs(nid).unwrap().map(Result::unwrap);
    let xattrs: BTreeMap<Vec<u8>, Vec<u8>> =
        xattrs.map(|one| (one.name(), one.value.to_vec())).collect();
    assert_eq!(xattrs, kept(&node));
    for (name, value) in &xattrs {
        assert_eq!(image.xattr(nid, name).unwrap(), Some(&**value));
        assert_eq!(image.xattr(nid, &[&**name, b"x"].concat()).unwrap(), None);
    }
    assert_eq!(image.xattr(nid, b"user.").unwrap(), None);
}

/// Everything in a directory, which may be listed from anywhere.
fn directory_is<B: AsRef<[u8]>>(
    image: &Image<B>,
    nid: Nid,
    parent: Nid,
    tree: &Tree,
    id: NodeId,
) -> Vec<(NodeId, Nid)> {
    let mut listed = BTreeMap::new();
    let mut cookies = vec![0];
    let mut order = Vec::new();
    image
        .read_dir(nid, 0, |entry| {
            assert!(entry.next_cookie > *cookies.last().unwrap());
            cookies.push(entry.next_cookie);
            order.push(entry.name.to_vec());
            assert_eq!(
                listed.insert(entry.name.to_vec(), (entry.nid, entry.file_type)),
                None
            );
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(order.is_sorted());
    for (cookie, name) in cookies.iter().zip(order.iter().map(Some).chain([None])) {
        let mut next = None;
        image
            .read_dir(nid, *cookie, |entry| {
                next = Some(entry.name.to_vec());
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(next.as_ref(), name);
    }
    assert_eq!(listed.remove(&b"."[..]), Some((nid, FileType::Directory)));
    assert_eq!(
        listed.remove(&b".."[..]),
        Some((parent, FileType::Directory))
    );
    assert_eq!(image.lookup(nid, b"..").unwrap(), Some(parent));
    let mut found = Vec::new();
    for (name, child) in tree.children(id) {
        let (listed, file_type) = listed.remove(name).unwrap();
        assert_eq!(file_type, FileType::from(tree.node(child).kind));
        assert_eq!(image.lookup(nid, name).unwrap(), Some(listed));
        for other in [
            &[name, b"\x01"].concat(),
            &name[1..],
            &[name, b"\xff"].concat(),
            &b"\x01"[..],
        ] {
            if tree.lookup(id, other).is_none() && !matches!(other, b"." | b"..") {
                assert_eq!(image.lookup(nid, other).unwrap(), None);
            }
        }
        found.push((child, listed));
    }
    assert!(listed.is_empty());
    found
}
