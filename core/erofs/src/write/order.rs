//! The order of the inodes.

use pontoon_layer::{NodeId, Tree};

/// Numbers the nodes of a tree: a directory's contents side by side, in the order of their names.
#[derive(Debug)]
pub(super) struct Order {
    ids: Vec<NodeId>,
    /// The directory that a directory is in, by number; of a node that is none, one of those it is in.
    parents: Vec<usize>,
    /// The number of each node.
    numbers: Vec<usize>,
}

/// The number of a node that has none yet.
const NONE: usize = usize::MAX;

impl Order {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut order = Order {
            ids: Vec::with_capacity(tree.len()),
            parents: Vec::with_capacity(tree.len()),
            numbers: vec![NONE; tree.len()],
        };
        order.give(NodeId::ROOT, 0);
        let mut open = vec![NodeId::ROOT];
        while let Some(id) = open.pop() {
            let number = order.number(id);
            let directories = open.len();
            for (_, child) in tree.children(id) {
                if order.numbers[child.index()] != NONE {
                    continue;
                }
                order.give(child, number);
                if tree.node(child).is_directory() {
                    open.push(child);
                }
            }
            // The first one is the next.
            open[directories..].reverse();
        }
        order
    }

    fn give(&mut self, id: NodeId, parent: usize) {
        self.numbers[id.index()] = self.ids.len();
        self.ids.push(id);
        self.parents.push(parent);
    }

    /// The nodes in their order, the root first.
    pub(super) fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    pub(super) fn number(&self, id: NodeId) -> usize {
        self.numbers[id.index()]
    }

    /// The number of the directory that the directory `number` is in; the root is in itself.
    pub(super) fn parent(&self, number: usize) -> usize {
        self.parents[number]
    }
}
