//! Makes a lazy layer of a table of contents: its tree on what it lies on, on disk, with its chunk table.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use pontoon_cache::{Key, Meta};
use pontoon_layer::{Attributes, Digest, Kind, Landmark, Layer, NodeId, OpaqueXattr, Tree};

use crate::parents::Parents;
use crate::reason::{self, Refusal};
use crate::record::Facts;
use crate::stock::{Hold, Made, Stock};
use crate::toc::Parsed;

/// Changes when the same table of contents becomes another tree.
const TREE_VERSION: u32 = 2;

/// What the [`Scope`] is noted as in the cache beside a layer: its tree is found again without its table of contents.
const NOTE_SCOPE: &str = "implied";

/// What the chunks are noted as that the image itself wants first, in the form of [`crate::first::First`].
pub(crate) const NOTE_FIRST: &str = "first";

/// Blocks of the filesystem that an unpacked layer would be on.
const BLOCK: u64 = 4096;

/// Directories that a layer does not list, times the layers below: so often something is looked up at most. Builders
/// list nearly all of them; a hostile table has millions, which would keep a thread busy for minutes.
const LOOKUPS_MAX: usize = 1_000_000;

/// A symbolic link up to this long is in its inode, as on ext4.
const SHORT_LINK: usize = 60;

/// Which directories the table of contents does not list, and so what else than itself its tree depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// It lists all of them.
    Nothing,
    /// Its root, which belongs to whom the root below belongs to.
    Root,
    /// Others too, which take everything from what lies below.
    Parents,
}

impl Scope {
    fn of(implied: &[(Vec<u8>, NodeId)]) -> Self {
        match implied {
            [] => Scope::Nothing,
            [(path, _)] if path.is_empty() => Scope::Root,
            _ => Scope::Parents,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Scope::Nothing => "nothing",
            Scope::Root => "root",
            Scope::Parents => "more",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        let all = [Scope::Nothing, Scope::Root, Scope::Parents];
        all.into_iter().find(|scope| scope.word() == word)
    }

    /// The name of the tree of layer `key` on `parents`: the same name, the same bytes.
    fn tree(self, key: &Key, opaque: OpaqueXattr, parents: &Parents) -> Result<String, Refusal> {
        let below = match self {
            Scope::Nothing => String::new(),
            Scope::Root => {
                let owner = parents
                    .root_owner()
                    .map_err(|error| Refusal::store(&error))?;
                format!("{}:{}", owner.0, owner.1)
            }
            Scope::Parents => parents.identity(),
        };
        let text = format!(
            "tree {TREE_VERSION}\n{}\n{}\n{}\n{} {below}",
            key.blob,
            key.toc,
            opaque.name(),
            self.word()
        );
        Ok(Digest::of(text.as_bytes()).hex())
    }
}

/// The layer `key` on `parents`, if it was made before.
pub(crate) fn find(
    stock: &Arc<Stock>,
    key: &Key,
    opaque: OpaqueXattr,
    parents: &Parents,
) -> Option<Hold> {
    let meta = stock.notes(key)?;
    let scope = Scope::from_word(meta.notes.get(NOTE_SCOPE)?)?;
    let tree = scope.tree(key, opaque, parents).ok()?;
    stock.hold(&tree, key)
}

/// Makes it. Takes disk and processor, as long as the layer is large.
pub(crate) fn build(
    stock: &Arc<Stock>,
    key: &Key,
    blob_bytes: u64,
    parsed: Parsed,
    parents: &Parents,
) -> Result<Hold, Refusal> {
    let Parsed {
        mut layer,
        blobs,
        first,
    } = parsed;
    let implied = layer.tree.implied();
    let scope = Scope::of(&implied);
    check_lookups(&implied, parents, LOOKUPS_MAX)?;
    let name = scope.tree(key, layer.tree.opaque_xattr(), parents)?;
    let facts = facts(&layer);
    adopt(&mut layer.tree, implied, parents).map_err(|error| match error.kind() {
        ErrorKind::QuotaExceeded => Refusal::new(reason::BEYOND_LIMITS).because(&error),
        _ => Refusal::store(&error),
    })?;
    let image = pontoon_erofs::write(&layer.tree, layer.chunks.data_size())
        .map_err(|error| Refusal::new(reason::BEYOND_LIMITS).because(&error))?;
    let mut notes = BTreeMap::from([(NOTE_SCOPE.to_owned(), scope.word().to_owned())]);
    if !first.is_empty() {
        notes.insert(NOTE_FIRST.to_owned(), first.text());
    }
    let blob_bytes = match blobs.is_empty() {
        true => blob_bytes,
        false => blobs.iter().map(|blob| blob.size).sum(),
    };
    let meta = Meta { blob_bytes, notes };
    let made = Made { facts, meta, blobs };
    stock.store(key, &name, &image, &layer.chunks, made)
}

/// Refuses a layer that would have more than `lookups_max` directories looked up in the layers below.
fn check_lookups(
    implied: &[(Vec<u8>, NodeId)],
    parents: &Parents,
    lookups_max: usize,
) -> Result<(), Refusal> {
    let (directories, layers) = (implied.len(), parents.len());
    if directories.saturating_mul(layers) <= lookups_max {
        return Ok(());
    }
    Err(Refusal {
        detail: Some(format!(
            "it does not list {directories} of its directories, which would be looked up in {layers} layers: more than {lookups_max} times; have it built with all its directories"
        )),
        ..Refusal::new(reason::BEYOND_LIMITS)
    })
}

/// Gives directories that the layer does not list what an ordinary unpack would give them.
fn adopt(
    tree: &mut Tree,
    implied: Vec<(Vec<u8>, NodeId)>,
    parents: &Parents,
) -> std::io::Result<()> {
    let below = parents.below();
    for (path, id) in implied {
        if path.is_empty() {
            let (uid, gid) = parents.root_owner()?;
            let node = tree.node(id);
            let attributes = Attributes {
                mode: node.mode,
                uid,
                gid,
                mtime: node.mtime,
                xattrs: node.xattrs().to_vec(),
            };
            tree.adopt(id, attributes);
        } else if let Some(found) = below.directory(Path::new(OsStr::from_bytes(&path)))? {
            tree.adopt(id, found);
        }
    }
    Ok(())
}

fn facts(layer: &Layer) -> Facts {
    let (mut bytes, mut inodes) = (0_u64, 0_u64);
    let mut linked = BTreeSet::new();
    layer.tree.walk(|_, id| {
        let node = layer.tree.node(id);
        if node.links > 1 && !node.is_directory() && !linked.insert(id.index()) {
            return true;
        }
        inodes += 1;
        let blocks = match &node.kind {
            Kind::Directory => BLOCK,
            Kind::File { .. } => node.size.div_ceil(BLOCK).saturating_mul(BLOCK),
            Kind::Symlink(_) if node.size as usize >= SHORT_LINK => BLOCK,
            _ => 0,
        };
        bytes = bytes.saturating_add(blocks);
        true
    });
    let chunks = layer.chunks.chunks();
    Facts {
        bytes,
        inodes,
        data_bytes: chunks.iter().map(|chunk| u64::from(chunk.length)).sum(),
        landmark: match layer.landmark {
            Landmark::None => None,
            Landmark::Prefetch { blob_offset, .. } => Some(blob_offset),
            Landmark::NoPrefetch => Some(0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn directories_that_are_not_listed_are_looked_up_so_often_and_not_more() {
        let directory = tempfile::tempdir().unwrap();
        let parents = Parents::ordinary(&[directory.path(), directory.path()]);
        // The root and two more.
        let implied = fixture::layer(&["a/x", "b/y"]).tree.implied();
        check_lookups(&implied, &parents, 6).unwrap();
        let refusal = check_lookups(&implied, &parents, 5).unwrap_err();
        assert_eq!(refusal.reason, reason::BEYOND_LIMITS);
        assert!(!refusal.transient);
        let listed = fixture::layer(&["./", "a/", "a/x", "b/", "b/y"]);
        check_lookups(&listed.tree.implied(), &parents, 2).unwrap();
        check_lookups(&implied, &Parents::ordinary(&[]), 0).unwrap();
    }

    #[test]
    fn a_hostile_table_is_refused_before_anything_is_looked_up() {
        // As many layers as it takes, none of which is there: a look-up fails in another way.
        let nowhere = vec![Path::new("/nowhere"); LOOKUPS_MAX / 3 + 1];
        let stock = fixture::stock();
        let key = Key::new(Digest::of(b"blob"), Digest::of(b"toc"));
        let layer = fixture::layer(&["a/x", "b/y"]);
        let parents = Parents::ordinary(&nowhere);
        let refusal = build(&stock.stock, &key, 1, layer.into(), &parents).unwrap_err();
        assert_eq!(refusal.reason, reason::BEYOND_LIMITS);
    }
}
