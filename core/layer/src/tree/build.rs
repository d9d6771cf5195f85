//! Makes a [`Tree`], entry by entry, as an unpacker would make a directory.

mod finish;
mod place;

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{Inode, NodeId, OpaqueXattr, Time, What, XattrSet};
use crate::error::FormatError;
use crate::limits::Limits;

/// What an entry is; as [`super::Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the variants of Kind")]
pub enum EntryKind<'a> {
    Directory,
    File { data_offset: u64 },
    Symlink(&'a [u8]),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

/// A file to add to a tree.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: EntryKind<'a>,
    /// Permissions and the set-user-ID, set-group-ID and sticky bits; others are ignored.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified.
    pub mtime: Time,
    /// Bytes of a regular file; ignored for others.
    pub size: u64,
    /// Extended attributes, in any order. Those of overlayfs are left out: no layer may say what overlayfs does.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Makes a [`super::Tree`] out of entries in the order of their archive:
///
/// - paths are taken from the root, and never lead out of it; a symbolic link of this layer among the parents is
///   followed inside it;
/// - the last entry of a name wins, but a directory stays when it is listed again;
/// - parents that are not listed are made, and marked as [`super::Node::implied`];
/// - a hard link may come before its target; it never names a directory;
/// - `.wh.x` becomes a whiteout `x`, unless `x` is listed too: a directory `x` is opaque then, in either order;
/// - `.wh..wh..opq` makes its directory opaque;
/// - what is said of the root directory is left out, as containerd leaves it out: its attributes are not the layer's.
#[derive(Debug)]
pub struct TreeBuilder {
    limits: Limits,
    opaque: OpaqueXattr,
    nodes: Vec<Inode>,
    slots: Vec<Slot>,
    /// Finds the slot of a name in a directory.
    index: HashTable<u32>,
    hasher: RandomState,
    text: Vec<u8>,
    targets: Vec<Box<[u8]>>,
    xattrs: Vec<XattrSet>,
    /// Finds the number of a set of extended attributes.
    known_xattrs: HashTable<u32>,
    opaque_directories: Vec<NodeId>,
    pending: Vec<PendingLink>,
    /// Names gone through so far: a layer may not cost more than so many.
    steps: u64,
    /// Bytes of what strangers wrote and the tree keeps.
    kept: u64,
    /// The parent of the last entry as it was written, and which directory it was.
    recent: Option<(Vec<u8>, NodeId)>,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Slot {
    parent: u32,
    /// The slot before it in the same directory, or [`NONE`].
    next: u32,
    start: u32,
    length: u8,
    /// What it names; [`NONE`] while it is a hard link to something that has not come yet.
    node: u32,
}

/// A hard link whose target had not come when it came.
#[derive(Debug)]
struct PendingLink {
    slot: u32,
    path: Vec<u8>,
    target: Vec<u8>,
}

const NONE: u32 = u32::MAX;

/// Lookups allowed for each entry that is allowed.
const STEPS_PER_ENTRY: u64 = 64;

impl TreeBuilder {
    /// A tree of nothing but an implied root directory.
    pub fn new(opaque: OpaqueXattr, limits: &Limits) -> TreeBuilder {
        TreeBuilder {
            limits: limits.clone(),
            opaque,
            nodes: vec![IMPLIED],
            slots: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            text: Vec::new(),
            targets: Vec::new(),
            xattrs: vec![XattrSet::default()],
            known_xattrs: HashTable::new(),
            opaque_directories: Vec::new(),
            pending: Vec::new(),
            steps: 0,
            kept: 0,
            recent: None,
        }
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        let start = slot.start as usize;
        self.text
            .get(start..start + usize::from(slot.length))
            .unwrap_or_default()
    }

    /// Pays for one more name of a path, whatever it is.
    fn step(&mut self) -> Result<(), FormatError> {
        self.steps += 1;
        FormatError::check_limit(
            "the number of names to look up for the layer's paths",
            self.steps,
            STEPS_PER_ENTRY * u64::from(self.limits.entries_max),
        )
    }

    /// Pays for `bytes` more that are kept.
    fn keep(&mut self, bytes: usize) -> Result<(), FormatError> {
        self.kept = self.kept.saturating_add(bytes as u64);
        FormatError::check_limit(
            "the bytes of all names, link targets and extended attributes",
            self.kept,
            self.limits.text_bytes_max,
        )
    }

    /// The slot of `name` in `parent`, whether or not anything is in it yet.
    fn slot(&mut self, parent: NodeId, name: &[u8]) -> Result<Option<u32>, FormatError> {
        self.step()?;
        let found = self.index.find(self.hash(parent.0, name), |slot| {
            let slot = &self.slots[*slot as usize];
            slot.parent == parent.0 && self.name(slot) == name
        });
        Ok(found.copied())
    }

    /// What `name` in `parent` names.
    fn child(&mut self, parent: NodeId, name: &[u8]) -> Result<Option<NodeId>, FormatError> {
        let slot = self.slot(parent, name)?;
        let node = slot.map(|slot| self.slots[slot as usize].node);
        Ok(node.filter(|node| *node != NONE).map(NodeId))
    }

    /// Lets `name` in `parent` name `node` from now on.
    fn set(&mut self, parent: NodeId, name: &[u8], node: u32) -> Result<u32, FormatError> {
        if let Some(slot) = self.slot(parent, name)? {
            self.slots[slot as usize].node = node;
            return Ok(slot);
        }
        let too_large = || FormatError::TooLarge {
            what: "the length of all names".to_owned(),
            size: u64::MAX,
            limit: u64::from(u32::MAX),
        };
        let start = u32::try_from(self.text.len()).map_err(|_| too_large())?;
        let length = u8::try_from(name.len()).map_err(|_| too_large())?;
        let number = u32::try_from(self.slots.len()).map_err(|_| too_large())?;
        self.keep(name.len())?;
        self.text.extend_from_slice(name);
        let What::Directory { first, count } = &mut self.nodes[parent.index()].what else {
            return Err(FormatError::entry(
                &String::from_utf8_lossy(name),
                "is in something that is no directory",
            ));
        };
        self.slots.push(Slot {
            parent: parent.0,
            next: *first,
            start,
            length,
            node,
        });
        *first = number;
        *count = count.saturating_add(1);
        let hash = self.hash(parent.0, name);
        let (slots, text, hasher) = (&self.slots, &self.text, &self.hasher);
        self.index.insert_unique(hash, number, |slot| {
            let slot = &slots[*slot as usize];
            let start = slot.start as usize;
            let name = text.get(start..start + usize::from(slot.length));
            hasher.hash_one((slot.parent, name.unwrap_or_default()))
        });
        Ok(number)
    }

    fn push(&mut self, inode: Inode) -> Result<NodeId, FormatError> {
        FormatError::check_limit(
            "the number of files in the layer, with unlisted directories",
            self.nodes.len() as u64,
            u64::from(self.limits.entries_max),
        )?;
        let id = NodeId::new(self.nodes.len()).ok_or(FormatError::TooLarge {
            what: "the number of files in the layer".to_owned(),
            size: self.nodes.len() as u64,
            limit: u64::from(u32::MAX),
        })?;
        self.nodes.push(inode);
        Ok(id)
    }

    /// The number of a set of extended attributes.
    fn intern(&mut self, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<u32, FormatError> {
        let set = sorted(xattrs);
        if set.is_empty() {
            return Ok(0);
        }
        let hash = self.hasher.hash_one(&set);
        let same = |number: &u32| self.xattrs[*number as usize] == set;
        if let Some(number) = self.known_xattrs.find(hash, same) {
            return Ok(*number);
        }
        let bytes = set.iter().map(|(name, value)| name.len() + value.len());
        self.keep(bytes.sum())?;
        let number = u32::try_from(self.xattrs.len()).map_err(|_| FormatError::TooLarge {
            what: "the number of sets of extended attributes".to_owned(),
            size: self.xattrs.len() as u64,
            limit: u64::from(u32::MAX),
        })?;
        self.xattrs.push(set);
        let (xattrs, hasher) = (&self.xattrs, &self.hasher);
        self.known_xattrs.insert_unique(hash, number, |number| {
            hasher.hash_one(&xattrs[*number as usize])
        });
        Ok(number)
    }
}

/// A directory that is not listed.
const IMPLIED: Inode = Inode {
    what: What::Directory {
        first: NONE,
        count: 0,
    },
    size: 0,
    mtime: Time {
        seconds: 0,
        nanoseconds: 0,
    },
    uid: 0,
    gid: 0,
    links: 0,
    xattrs: 0,
    mode: 0o755,
    implied: true,
};

/// Whether an extended attribute is one by which overlayfs is told what to do, or another one that containerd does not
/// unpack either (`pkg/archive/tar_unix.go`).
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.")
}

/// Sorted by name; of attributes with the same name the last one.
fn sorted(mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> XattrSet {
    xattrs.reverse();
    xattrs.sort_by(|(one, _), (other, _)| one.cmp(other));
    xattrs.dedup_by(|(later, _), (kept, _)| later == kept);
    xattrs.into_boxed_slice()
}

/// The number of a set of extended attributes of a finished tree.
pub(super) fn intern(sets: &mut Vec<XattrSet>, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Option<u32> {
    let set = sorted(xattrs);
    if set.is_empty() {
        return Some(0);
    }
    if sets.last() != Some(&set) {
        sets.push(set);
    }
    u32::try_from(sets.len() - 1).ok()
}
