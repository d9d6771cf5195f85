//! The trees of all layers, one on the other, as overlayfs shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_layer::{Kind, NodeId, Time, Tree};

/// Name and value, sorted by name.
type Xattrs = Arc<[(Vec<u8>, Vec<u8>)]>;

/// The files of an image. Node 0 is the root directory; not every node has a name still.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    pub(crate) nodes: Vec<Node>,
}

/// A file of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Xattrs,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Names, and which nodes they name.
    Directory(BTreeMap<Box<[u8]>, usize>),
    File {
        size: u64,
        /// Which data, if there is any: what the layer's tree said, and what was added for the layer.
        data: u64,
    },
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

pub(crate) const ROOT: usize = 0;

impl Default for Merged {
    fn default() -> Merged {
        Merged::new()
    }
}

impl Merged {
    /// Nothing but a root directory, as a snapshotter makes it: what layers say of theirs, containerd ignores.
    pub(crate) fn new() -> Merged {
        Merged {
            nodes: vec![Node {
                what: What::Directory(BTreeMap::new()),
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: Time::default(),
                xattrs: Arc::new([]),
            }],
        }
    }

    /// Lays a layer on it. `data` is added to where its tree says that the data of a file is.
    pub(crate) fn apply(&mut self, tree: &Tree, data: u64) {
        // What has several names stays one file.
        let mut added = vec![None; tree.len()];
        let mut open = vec![(NodeId::ROOT, ROOT)];
        while let Some((upper, lower)) = open.pop() {
            for (name, id) in tree.children(upper) {
                let node = tree.node(id);
                let Some(names) = self.names(lower) else {
                    continue;
                };
                if let Kind::CharDevice { major: 0, minor: 0 } = node.kind {
                    names.remove(name);
                    continue;
                }
                let below = names.get(name).copied();
                let below = below.filter(|_| node.is_directory() && !is_opaque(tree, id));
                let below = below.filter(|below| self.is_directory(*below));
                let number = match (below, added[id.index()]) {
                    (Some(below), _) => {
                        if !node.implied {
                            self.adopt(below, tree, id);
                        }
                        below
                    }
                    (None, Some(number)) => number,
                    (None, None) => self.push(tree, id, data),
                };
                added[id.index()] = Some(number);
                if let Some(names) = self.names(lower) {
                    names.insert(name.into(), number);
                }
                if node.is_directory() {
                    open.push((id, number));
                }
            }
        }
    }

    /// What is in a directory; of anything else nothing.
    pub(crate) fn children(&self, number: usize) -> impl Iterator<Item = (&[u8], usize)> {
        let names = match self.nodes.get(number).map(|node| &node.what) {
            Some(What::Directory(names)) => Some(names),
            _ => None,
        };
        let names = names.into_iter().flatten();
        names.map(|(name, number)| (&**name, *number))
    }

    pub(crate) fn is_directory(&self, number: usize) -> bool {
        let node = self.nodes.get(number);
        matches!(node.map(|node| &node.what), Some(What::Directory(_)))
    }

    fn names(&mut self, number: usize) -> Option<&mut BTreeMap<Box<[u8]>, usize>> {
        match &mut self.nodes.get_mut(number)?.what {
            What::Directory(names) => Some(names),
            _ => None,
        }
    }

    fn push(&mut self, tree: &Tree, id: NodeId, data: u64) -> usize {
        let node = tree.node(id);
        self.nodes.push(Node {
            what: match node.kind {
                Kind::Directory => What::Directory(BTreeMap::new()),
                Kind::File { data_offset } => What::File {
                    size: node.size,
                    data: data_offset + data,
                },
                Kind::Symlink(target) => What::Symlink(target.into()),
                Kind::CharDevice { major, minor } => What::CharDevice(major, minor),
                Kind::BlockDevice { major, minor } => What::BlockDevice(major, minor),
                Kind::Fifo => What::Fifo,
                Kind::Socket => What::Socket,
            },
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            xattrs: xattrs(tree, id),
        });
        self.nodes.len() - 1
    }

    /// Gives a directory the attributes that a layer says it has.
    fn adopt(&mut self, number: usize, tree: &Tree, id: NodeId) {
        let node = tree.node(id);
        let xattrs = xattrs(tree, id);
        let directory = &mut self.nodes[number];
        directory.mode = node.mode;
        directory.uid = node.uid;
        directory.gid = node.gid;
        directory.mtime = node.mtime;
        directory.xattrs = xattrs;
    }
}

pub(crate) fn is_opaque(tree: &Tree, id: NodeId) -> bool {
    let opaque = tree.opaque_xattr().name().as_bytes();
    (tree.node(id).xattrs().iter()).any(|(name, _)| name == opaque)
}

/// The attributes, without the one that is overlayfs': all layers are one.
fn xattrs(tree: &Tree, id: NodeId) -> Xattrs {
    let opaque = tree.opaque_xattr().name().as_bytes();
    let all = tree.node(id).xattrs().iter();
    all.filter(|(name, _)| name != opaque).cloned().collect()
}
