//! The tree of a layer: what is named how, and with which attributes.

mod build;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

pub use build::{Entry, EntryKind, TreeBuilder};

/// Which extended attribute says that a directory hides what is below it: overlayfs reads `user.overlay.opaque` where
/// it is mounted with `userxattr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpaqueXattr {
    /// `trusted.overlay.opaque`.
    Trusted,
    /// `user.overlay.opaque`.
    User,
}

impl OpaqueXattr {
    /// Its name; its value is `y`.
    pub fn name(self) -> &'static str {
        match self {
            OpaqueXattr::Trusted => "trusted.overlay.opaque",
            OpaqueXattr::User => "user.overlay.opaque",
        }
    }
}

/// A file of whatever kind in a [`Tree`]; what other file systems call an inode. Only good for the tree it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// Its number: from 0 to [`Tree::len`], without gaps.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    fn new(index: usize) -> Option<NodeId> {
        u32::try_from(index).ok().map(NodeId)
    }
}

/// A moment, since 1970 in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory; see [`Tree::children`].
    Directory,
    /// A regular file, whose data begins at this offset of the layer's data file: a multiple of
    /// [`crate::BLOCK_BYTES`]. 0 for an empty file.
    File {
        /// Bytes from the beginning of the data file.
        data_offset: u64,
    },
    /// A symbolic link, and where it points.
    Symlink(&'a [u8]),
    /// A character device. 0:0 is overlayfs' whiteout.
    CharDevice {
        /// Major number, at most 4095.
        major: u32,
        /// Minor number, at most 1048575.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number, at most 4095.
        major: u32,
        /// Minor number, at most 1048575.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket. No table of contents can hold one.
    Socket,
}

/// Attributes of a file that an unlisted directory takes from below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions and the set-user-ID, set-group-ID and sticky bits: `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified.
    pub mtime: Time,
    /// Extended attributes, in any order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One file of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Permissions and the set-user-ID, set-group-ID and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified.
    pub mtime: Time,
    /// Bytes of a regular file, of the target of a symbolic link, else 0.
    pub size: u64,
    /// How many names it has; for a directory 2 and one for each directory in it.
    pub links: u32,
    /// Whether the layer did not list this directory: it is there because something in it is, and takes its attributes
    /// from the layers below. See [`Tree::adopt`].
    pub implied: bool,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// The extended attributes of a file: names and values, sorted by name.
pub type Xattrs<'a> = &'a [(Vec<u8>, Vec<u8>)];

impl<'a> Node<'a> {
    /// Its extended attributes, sorted by name. None of them is overlayfs' own, but for the opaque one that stands for
    /// the layer's `.wh..wh..opq`.
    pub fn xattrs(&self) -> Xattrs<'a> {
        self.xattrs
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }
}

/// The tree of a layer. Node 0 is the root directory. Every node has at least one name; names are unique in their
/// directory and neither empty, `.` nor `..`, and have no `/` and no NUL.
///
/// It is compact: about a hundred bytes and its name for a file.
#[derive(Clone)]
pub struct Tree {
    nodes: Vec<Inode>,
    /// The names of all directories, a directory's own side by side and sorted.
    names: Vec<Name>,
    /// The bytes of names.
    text: Vec<u8>,
    targets: Vec<Box<[u8]>>,
    /// Sets of extended attributes; the first one is empty.
    xattrs: Vec<XattrSet>,
    opaque: OpaqueXattr,
}

type XattrSet = Box<[(Vec<u8>, Vec<u8>)]>;

#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    length: u8,
    node: u32,
}

/// What a tree keeps for a file.
#[derive(Debug, Clone, Copy)]
struct Inode {
    what: What,
    size: u64,
    mtime: Time,
    uid: u32,
    gid: u32,
    links: u32,
    xattrs: u32,
    mode: u16,
    implied: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// Which of the names are in it. While a tree is built: the newest of them, as a list.
    Directory {
        first: u32,
        count: u32,
    },
    File {
        data_offset: u64,
    },
    Symlink {
        target: u32,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// The names in a directory and what they name, sorted by the bytes of the names.
#[derive(Debug, Clone)]
pub struct Children<'a> {
    text: &'a [u8],
    names: std::slice::Iter<'a, Name>,
}

impl<'a> Iterator for Children<'a> {
    type Item = (&'a [u8], NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.names.next()?;
        Some((bytes_of(self.text, name), NodeId(name.node)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.names.size_hint()
    }
}

impl ExactSizeIterator for Children<'_> {}

fn bytes_of<'a>(text: &'a [u8], name: &Name) -> &'a [u8] {
    let start = name.start as usize;
    text.get(start..start + usize::from(name.length))
        .unwrap_or_default()
}

impl Tree {
    /// How many files of all kinds it has, directories included.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the root directory is always there"
    )]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All its files, the root first.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = NodeId> + use<> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a node's index is a u32 when it is made"
        )]
        (0..self.nodes.len()).map(|index| NodeId(index as u32))
    }

    /// One file.
    ///
    /// # Panics
    /// If `id` is of another, larger tree.
    pub fn node(&self, id: NodeId) -> Node<'_> {
        let inode = &self.nodes[id.index()];
        Node {
            kind: match inode.what {
                What::Directory { .. } => Kind::Directory,
                What::File { data_offset } => Kind::File { data_offset },
                What::Symlink { target } => Kind::Symlink(&self.targets[target as usize]),
                What::CharDevice { major, minor } => Kind::CharDevice { major, minor },
                What::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
                What::Fifo => Kind::Fifo,
                What::Socket => Kind::Socket,
            },
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            size: inode.size,
            links: inode.links,
            implied: inode.implied,
            xattrs: &self.xattrs[inode.xattrs as usize],
        }
    }

    /// What is in the directory `id`; nothing if it is none.
    pub fn children(&self, id: NodeId) -> Children<'_> {
        let range = self.range(id);
        Children {
            text: &self.text,
            names: self.names.get(range).unwrap_or_default().iter(),
        }
    }

    fn range(&self, id: NodeId) -> Range<usize> {
        match self.nodes.get(id.index()).map(|inode| inode.what) {
            Some(What::Directory { first, count }) => {
                first as usize..first as usize + count as usize
            }
            _ => 0..0,
        }
    }

    /// What is called `name` in the directory `id`.
    pub fn lookup(&self, id: NodeId, name: &[u8]) -> Option<NodeId> {
        let names = self.names.get(self.range(id))?;
        let found = names.binary_search_by(|probe| bytes_of(&self.text, probe).cmp(name));
        found.ok().map(|index| NodeId(names[index].node))
    }

    /// What `path` names, relative to the root, without following symbolic links.
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        let mut names = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty());
        names.try_fold(NodeId::ROOT, |id, name| self.lookup(id, name))
    }

    /// Every name in the tree: its path relative to the root (empty for the root) and what it names. A directory
    /// comes before what is in it; a file with several names comes several times. `visit` says whether to go into a
    /// directory.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], NodeId) -> bool) {
        let mut path = Vec::new();
        if !visit(&path, NodeId::ROOT) {
            return;
        }
        let mut open = vec![(0, self.children(NodeId::ROOT))];
        while let Some((length, children)) = open.last_mut() {
            path.truncate(*length);
            let Some((name, id)) = children.next() else {
                open.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let directory = matches!(self.nodes[id.index()].what, What::Directory { .. });
            if visit(&path, id) && directory {
                open.push((path.len(), self.children(id)));
            }
        }
    }

    /// The directories that the layer does not list, with their paths relative to the root (empty for the root
    /// itself), parents before what is in them. See [`Tree::adopt`].
    pub fn implied(&self) -> Vec<(Vec<u8>, NodeId)> {
        let mut implied = Vec::new();
        self.walk(|path, id| {
            let inode = &self.nodes[id.index()];
            if inode.implied {
                implied.push((path.to_vec(), id));
            }
            true
        });
        implied
    }

    /// Gives a directory that the layer does not list the attributes that it has in the layers below, as if the layer
    /// had been unpacked on them. Its opaque attribute stays; those of overlayfs in `attributes` are left out.
    pub fn adopt(&mut self, id: NodeId, attributes: Attributes) {
        let Some(inode) = self.nodes.get(id.index()).copied() else {
            return;
        };
        let opaque = self.xattrs[inode.xattrs as usize]
            .iter()
            .filter(|(name, _)| build::is_reserved(name));
        let taken = attributes
            .xattrs
            .into_iter()
            .filter(|(name, _)| !build::is_reserved(name));
        let set = opaque.cloned().chain(taken).collect();
        let Some(xattrs) = build::intern(&mut self.xattrs, set) else {
            return;
        };
        self.nodes[id.index()] = Inode {
            mode: attributes.mode & 0o7777,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            xattrs,
            implied: false,
            ..inode
        };
    }

    /// The name of the attribute by which its directories are opaque.
    pub fn opaque_xattr(&self) -> OpaqueXattr {
        self.opaque
    }

    /// Says where the data of the regular file `id` is.
    pub(crate) fn place(&mut self, id: NodeId, data_offset: u64) {
        if let Some(inode) = self.nodes.get_mut(id.index())
            && let What::File { data_offset: place } = &mut inode.what
        {
            *place = data_offset;
        }
    }
}
