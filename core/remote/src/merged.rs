//! The tree that a container sees, as far as its lazy layers make it: names looked up through all of them, as overlayfs
//! does.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pontoon_lazyfs::LazyLayer;
use pontoon_lazyfs::tree::{FileType, Inode, Nid};

/// Symbolic links that are followed, and names that are looked up, for one path.
const LINKS_MAX: usize = 40;
const NAMES_MAX: usize = 512;

/// The longest path, in bytes: Linux' own limit.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// Names that are looked up in one layer, of all paths. An image that wants more keeps a thread busy, and its start is
/// not told of.
const LOOKUPS_MAX: usize = 1 << 18;

/// Entries of a directory that are looked through for files beside one.
const ENTRIES_MAX: usize = 4096;

/// What overlayfs marks directories with that hide what is below.
const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// Layers, the topmost first.
#[derive(Debug)]
pub(crate) struct Merged {
    layers: Vec<Arc<LazyLayer>>,
    /// How many of [`LOOKUPS_MAX`] are left.
    lookups: AtomicUsize,
}

/// A file.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) layer: Arc<LazyLayer>,
    pub(crate) inode: Inode,
    /// The directory that it is in, without symbolic links.
    pub(crate) directory: Vec<u8>,
}

/// A directory: where it is in each layer that has it, the topmost first.
#[derive(Debug, Clone)]
struct Directory(Vec<(usize, Nid)>);

/// What a name stands for.
enum Entry {
    Directory(Directory),
    Other(usize, Inode),
}

impl Merged {
    pub(crate) fn new(layers: Vec<Arc<LazyLayer>>) -> Self {
        Merged {
            layers,
            lookups: AtomicUsize::new(LOOKUPS_MAX),
        }
    }

    /// The file at `path`, with symbolic links followed; relative paths begin in `from`.
    pub(crate) fn find(&self, from: &[u8], path: &[u8]) -> Option<Found> {
        let is_too_much = self.lookups.load(Ordering::Relaxed) == 0;
        if is_too_much || from.len().saturating_add(path.len()) > PATH_BYTES_MAX {
            return None;
        }
        let mut names: VecDeque<Vec<u8>> = split(path).collect();
        if !path.starts_with(b"/") {
            split(from).rev().for_each(|name| names.push_front(name));
        }
        let root = || self.layers.iter().map(|layer| layer.tree().root());
        let root = Directory(root().enumerate().collect());
        let mut above: Vec<(Vec<u8>, Directory)> = Vec::new();
        let (mut links, mut count) = (0, 0);
        while let Some(name) = names.pop_front() {
            count += 1;
            if count > NAMES_MAX {
                return None;
            }
            if name == b".." {
                above.pop();
                continue;
            }
            let here = above.last().map_or(&root, |(_, directory)| directory);
            match self.entry(here, &name)? {
                Entry::Directory(directory) => above.push((name, directory)),
                Entry::Other(layer, inode) if inode.file_type == FileType::Symlink => {
                    links += 1;
                    let target = self.layers.get(layer)?.tree().read_link(inode.nid).ok()?;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        above.clear();
                    }
                    let target: Vec<_> = split(target).collect();
                    target
                        .into_iter()
                        .rev()
                        .for_each(|name| names.push_front(name));
                }
                Entry::Other(layer, inode) if names.is_empty() => {
                    let above: Vec<&[u8]> = above.iter().map(|(name, _)| &**name).collect();
                    return (inode.file_type == FileType::File).then_some(Found {
                        layer: Arc::clone(self.layers.get(layer)?),
                        inode,
                        directory: [b"/", &*above.join(&b'/')].concat(),
                    });
                }
                Entry::Other(..) => return None,
            }
        }
        None
    }

    fn entry(&self, directory: &Directory, name: &[u8]) -> Option<Entry> {
        let mut found = Vec::new();
        for (layer, nid) in &directory.0 {
            self.count_lookup()?;
            let tree = self.layers.get(*layer)?.tree();
            let Some(nid) = tree.lookup(*nid, name).ok()? else {
                continue;
            };
            let inode = tree.inode(nid).ok()?;
            if inode.file_type != FileType::Directory {
                // A whiteout is a device that does not exist.
                let is_whiteout = inode.file_type == FileType::CharDevice && inode.rdev == 0;
                match found.is_empty() && !is_whiteout {
                    true => return Some(Entry::Other(*layer, inode)),
                    false => break,
                }
            }
            found.push((*layer, nid));
            let is_opaque = |name| matches!(tree.xattr(nid, name), Ok(Some(b"y")));
            if OPAQUE.into_iter().any(is_opaque) {
                break;
            }
        }
        (!found.is_empty()).then_some(Entry::Directory(Directory(found)))
    }

    /// `None` if there were too many before.
    fn count_lookup(&self) -> Option<()> {
        let less = |left: usize| left.checked_sub(1);
        let counted = self
            .lookups
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        counted.ok().map(drop)
    }

    /// The files beside `found` in its own layer, in the order of their names.
    pub(crate) fn beside(&self, found: &Found) -> Vec<Inode> {
        let tree = found.layer.tree();
        let walk = |nid: Option<Nid>, name: Vec<u8>| tree.lookup(nid?, &name).ok()?;
        let Some(directory) = split(&found.directory).fold(Some(tree.root()), walk) else {
            return Vec::new();
        };
        let (mut nids, mut entries) = (Vec::new(), 0);
        let read = tree.read_dir(directory, 0, |entry| {
            entries += 1;
            if entry.file_type == FileType::File && entry.nid != found.inode.nid {
                nids.push(entry.nid);
            }
            match nids.len() < NAMES_MAX && entries < ENTRIES_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        if read.is_err() {
            return Vec::new();
        }
        nids.into_iter()
            .filter_map(|nid| tree.inode(nid).ok())
            .collect()
    }
}

/// The names of a path. `.` is none.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    let names = path.split(|byte| *byte == b'/');
    names
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
}
