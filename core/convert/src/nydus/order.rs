//! The order of the inodes.

use super::merge::{Merged, ROOT};

/// The nodes that have names, in the order of their inodes: a directory's contents side by side, in the order of their
/// names.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) numbers: Vec<usize>,
    /// The place of each node in `numbers`, if it has a name.
    places: Vec<Option<u32>>,
    /// How many names each node has; a directory 2 and one for each directory in it.
    links: Vec<u32>,
    /// The directory that each directory is in; the root is in itself.
    parents: Vec<usize>,
}

impl Order {
    pub(super) fn of(tree: &Merged) -> Order {
        let mut order = Order {
            numbers: Vec::with_capacity(tree.nodes.len()),
            places: vec![None; tree.nodes.len()],
            links: vec![0; tree.nodes.len()],
            parents: vec![ROOT; tree.nodes.len()],
        };
        order.give(ROOT);
        let mut open = vec![ROOT];
        while let Some(directory) = open.pop() {
            order.links[directory] += 2;
            let first = open.len();
            for (_, child) in tree.children(directory) {
                if tree.is_directory(child) {
                    order.links[directory] += 1;
                    order.parents[child] = directory;
                    open.push(child);
                } else {
                    order.links[child] += 1;
                }
                if order.places[child].is_none() {
                    order.give(child);
                }
            }
            // The first one is the next.
            open[first..].reverse();
        }
        order
    }

    fn give(&mut self, number: usize) {
        self.places[number] = u32::try_from(self.numbers.len()).ok();
        self.numbers.push(number);
    }

    /// The place of a node that has a name.
    pub(super) fn place(&self, number: usize) -> usize {
        self.places[number].unwrap_or_default() as usize
    }

    pub(super) fn links(&self, number: usize) -> u32 {
        self.links[number]
    }

    pub(super) fn parent(&self, number: usize) -> usize {
        self.parents[number]
    }
}
