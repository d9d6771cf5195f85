//! The last steps of making a tree: links that waited, what nothing names any more, sorting.

use std::collections::{BTreeSet, HashMap};
use std::mem;

use hashbrown::HashTable;

use super::super::{Name, Tree};
use super::{NONE, NodeId, TreeBuilder, What};
use crate::error::FormatError;

impl TreeBuilder {
    /// The tree. Fails if a hard link leads nowhere.
    pub fn finish(self) -> Result<Tree, FormatError> {
        self.finish_with_numbers().map(|(tree, _)| tree)
    }

    /// The tree, and for each node that was added which one it is now: none if nothing names it any more.
    pub(crate) fn finish_with_numbers(
        mut self,
    ) -> Result<(Tree, Vec<Option<NodeId>>), FormatError> {
        self.settle()?;
        self.index = HashTable::new();
        self.known_xattrs = HashTable::new();
        self.mark_opaque()?;
        let numbers = self.count();
        let names = self.sort(&numbers);
        let mut number = numbers.iter();
        self.nodes
            .retain(|_| number.next().is_some_and(Option::is_some));
        self.nodes.shrink_to_fit();
        let tree = Tree {
            nodes: self.nodes,
            names,
            text: self.text,
            targets: self.targets,
            xattrs: self.xattrs,
            opaque: self.opaque,
        };
        check_implied(&tree, self.limits.text_bytes_max)?;
        Ok((tree, numbers))
    }

    /// Gives every hard link that came before its target what it names.
    fn settle(&mut self) -> Result<(), FormatError> {
        let pending = mem::take(&mut self.pending);
        let newest: HashMap<u32, usize> = (pending.iter().enumerate())
            .map(|(number, link)| (link.slot, number))
            .collect();
        let mut on_the_way = vec![false; pending.len()];
        for first in newest.values() {
            let mut way = Vec::new();
            let mut here = *first;
            let node = loop {
                let link = &pending[here];
                let node = self.slots[link.slot as usize].node;
                if node != NONE {
                    break node;
                }
                let refuse = |reason| {
                    let target = String::from_utf8_lossy(&link.target);
                    let reason = format!("is a hard link to {target:?}, which {reason}");
                    FormatError::entry(&String::from_utf8_lossy(&link.path), reason)
                };
                if mem::replace(&mut on_the_way[here], true) {
                    return Err(refuse("leads back to it"));
                }
                way.push(link.slot);
                let Some(target) = self.target(&link.path, &link.target)? else {
                    return Err(refuse("is not in the layer"));
                };
                let node = self.slots[target as usize].node;
                if node != NONE {
                    if matches!(self.nodes[node as usize].what, What::Directory { .. }) {
                        return Err(refuse("is a directory"));
                    }
                    break node;
                }
                here = *newest
                    .get(&target)
                    .ok_or_else(|| refuse("is not in the layer"))?;
            };
            for slot in way {
                self.slots[slot as usize].node = node;
            }
        }
        Ok(())
    }

    fn mark_opaque(&mut self) -> Result<(), FormatError> {
        let directories: BTreeSet<NodeId> = mem::take(&mut self.opaque_directories)
            .into_iter()
            .collect();
        for id in directories {
            let set = self.nodes[id.index()].xattrs;
            let mut xattrs = self.xattrs[set as usize].to_vec();
            xattrs.push((self.opaque.name().into(), b"y".to_vec()));
            self.nodes[id.index()].xattrs = self.intern(xattrs)?;
        }
        Ok(())
    }

    /// Counts links, and gives what can be reached its final numbers, in the same order.
    fn count(&mut self) -> Vec<Option<NodeId>> {
        let mut open = vec![NodeId::ROOT];
        self.nodes[0].links = 2;
        while let Some(directory) = open.pop() {
            let mut slot = match self.nodes[directory.index()].what {
                What::Directory { first, .. } => first,
                _ => NONE,
            };
            while slot != NONE {
                let Slots { next, node } = self.at(slot);
                slot = next;
                let inode = &mut self.nodes[node as usize];
                if let What::Directory { .. } = inode.what {
                    inode.links = 2;
                    open.push(NodeId(node));
                    self.nodes[directory.index()].links += 1;
                } else {
                    inode.links += 1;
                }
            }
        }
        let mut count = 0;
        let number = |inode: &super::Inode| {
            (inode.links > 0).then(|| {
                count += 1;
                NodeId(count - 1)
            })
        };
        self.nodes.iter().map(number).collect()
    }

    fn at(&self, slot: u32) -> Slots {
        let slot = &self.slots[slot as usize];
        Slots {
            next: slot.next,
            node: slot.node,
        }
    }

    /// Lays the names of each directory side by side, sorted.
    fn sort(&mut self, numbers: &[Option<NodeId>]) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::with_capacity(self.slots.len());
        for (old, number) in numbers.iter().enumerate() {
            let (What::Directory { first, .. }, Some(_)) = (self.nodes[old].what, number) else {
                continue;
            };
            let start = names.len();
            let mut next = first;
            while next != NONE {
                let slot = &self.slots[next as usize];
                next = slot.next;
                if let Some(node) = numbers[slot.node as usize] {
                    names.push(Name {
                        start: slot.start,
                        length: slot.length,
                        node: node.0,
                    });
                }
            }
            let text = &self.text;
            names[start..].sort_unstable_by(|one, other| {
                super::super::bytes_of(text, one).cmp(super::super::bytes_of(text, other))
            });
            #[expect(
                clippy::cast_possible_truncation,
                reason = "no more names than slots, whose numbers are u32"
            )]
            let what = What::Directory {
                first: start as u32,
                count: (names.len() - start) as u32,
            };
            self.nodes[old].what = what;
        }
        self.slots = Vec::new();
        names
    }
}

/// Whoever looks for unlisted directories in the layers below needs all their paths: short names in a deep directory
/// make long ones.
fn check_implied(tree: &Tree, limit: u64) -> Result<(), FormatError> {
    let mut bytes: u64 = 0;
    tree.walk(|path, id| {
        if tree.node(id).implied {
            bytes = bytes.saturating_add(path.len() as u64);
        }
        bytes <= limit
    });
    FormatError::check_limit(
        "the bytes of the paths of all directories that the layer does not list",
        bytes,
        limit,
    )
}

/// What is needed of a slot while nodes are changed.
struct Slots {
    next: u32,
    node: u32,
}
