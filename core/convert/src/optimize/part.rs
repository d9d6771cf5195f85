//! A layer of an image, and where in it what is.

use std::collections::HashSet;
use std::fs::File;

use pontoon_layer::{Kind, Landmark, NodeId};

use crate::contents::Lazy;

use crate::nydus;
use crate::options::{CHUNK_BYTES_MIN, Dialect, Format};
use crate::place::Descriptor;

/// A layer of an image, and what is known of it.
pub(super) struct Part {
    pub(super) descriptor: Descriptor,
    /// What is in it, if it can be read lazily, and the file with all of it.
    pub(super) lazy: Option<(Box<Lazy>, File)>,
    /// The files that come first, in their order.
    pub(super) first: Vec<Vec<u8>>,
}

impl Part {
    /// Whether nothing is to come first in it, and it says so to all who would know.
    pub(super) fn is_as_wanted(&self, lazy: &Lazy) -> bool {
        let says_so = match lazy.layer.landmark {
            Landmark::NoPrefetch => true,
            // Who reads these alone knows of no landmarks.
            Landmark::None => lazy.format == Format::ZstdChunked(Dialect::Podman),
            Landmark::Prefetch { .. } => false,
        };
        self.first.is_empty() && says_so
    }

    /// Whether it has a regular file with data at `path`.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        let tree = self.lazy.as_ref().map(|(lazy, _)| &lazy.layer.tree);
        let found = tree.and_then(|tree| Some(tree.node(tree.find(path)?)));
        found.is_some_and(|node| matches!(node.kind, Kind::File { .. }) && node.size > 0)
    }

    /// Whether nothing of the layers below is seen at `path`.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        let Some((lazy, _)) = &self.lazy else {
            return false;
        };
        let tree = &lazy.layer.tree;
        let (mut at, mut opaque) = (NodeId::ROOT, false);
        for name in path.split(|byte| *byte == b'/') {
            match tree.lookup(at, name) {
                None => return opaque,
                Some(id) if !tree.node(id).is_directory() => return true,
                Some(id) => {
                    opaque |= nydus::is_opaque(tree, id);
                    at = id;
                }
            }
        }
        true
    }
}

impl Lazy {
    /// How large the chunks of files are that have several.
    pub(super) fn chunk_bytes(&self) -> u32 {
        let format = self.format;
        let tree = &self.layer.tree;
        let starts: HashSet<u64> = (tree.ids())
            .filter_map(|id| match tree.node(id).kind {
                Kind::File { data_offset } => Some(data_offset),
                _ => None,
            })
            .collect();
        let pairs = self.layer.chunks.chunks().windows(2);
        let mut whole = pairs.filter_map(|pair| match pair {
            [one, next] if !starts.contains(&next.data_offset) => Some(one.length),
            _ => None,
        });
        let bytes = whole.next().unwrap_or(format.default_chunk_bytes());
        bytes.clamp(CHUNK_BYTES_MIN, format.chunk_bytes_max())
    }

    /// All names of those of the files at `paths` that have several.
    pub(super) fn links(&self, paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let tree = &self.layer.tree;
        let several = paths.iter().filter_map(|path| tree.find(path));
        let several: HashSet<usize> = several
            .filter(|id| tree.node(*id).links > 1)
            .map(NodeId::index)
            .collect();
        let mut names = Vec::new();
        if !several.is_empty() {
            tree.walk(|path, id| {
                if several.contains(&id.index()) {
                    names.push(path.to_vec());
                }
                true
            });
        }
        names
    }
}
