//! Extended attributes: as bodies of inodes, and as the area of those that several inodes have.

use std::collections::HashMap;

use pontoon_layer::{Kind, Tree, Xattrs};

use super::WriteError;
use super::order::Order;
use crate::disk::xattr;

/// The bodies of all inodes.
#[derive(Debug)]
pub(super) struct Bodies {
    /// One for each set of attributes.
    bodies: Vec<Vec<u8>>,
    /// Which one an inode has, by its number in [`Order`].
    sets: Vec<u32>,
    shared: Vec<u8>,
}

/// An attribute as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stored<'a> {
    index: u8,
    suffix: &'a [u8],
    value: &'a [u8],
}

/// How many inodes have an attribute, and its place in the shared area once it has one.
#[derive(Debug, Default)]
struct Use {
    inodes: usize,
    id: Option<u32>,
}

impl Bodies {
    pub(super) fn of(tree: &Tree, order: &Order) -> Result<Self, WriteError> {
        let mut sets = Vec::with_capacity(order.ids().len());
        let mut known: HashMap<(Xattrs<'_>, bool), u32> = HashMap::new();
        // The attributes of each set, and how many inodes have it.
        let mut stored: Vec<(Vec<Stored<'_>>, usize)> = Vec::new();
        for id in order.ids() {
            let node = tree.node(*id);
            let user = matches!(node.kind, Kind::Directory | Kind::File { .. });
            let next = known.len() as u32;
            let set = *known.entry((node.xattrs(), user)).or_insert(next);
            if set == next {
                let all = all_stored(node.xattrs(), user)
                    .map_err(|what| WriteError::at(tree, *id, what))?;
                stored.push((all, 0));
            }
            stored[set as usize].1 += 1;
            sets.push(set);
        }
        let mut uses: HashMap<Stored<'_>, Use> = HashMap::new();
        for (all, inodes) in &stored {
            for one in all {
                uses.entry(*one).or_default().inodes += inodes;
            }
        }
        let mut shared = Vec::new();
        let bodies = stored.iter();
        let bodies = bodies.map(|(all, _)| body(all, &mut uses, &mut shared));
        Ok(Bodies {
            bodies: bodies.collect(),
            sets,
            shared,
        })
    }

    /// What follows the inode `number`; empty if it has no attributes.
    pub(super) fn body(&self, number: usize) -> &[u8] {
        &self.bodies[self.sets[number] as usize]
    }

    /// The area of what is shared.
    pub(super) fn shared(&self) -> &[u8] {
        &self.shared
    }
}

/// The attributes of a set that Linux has handlers for, in their order; those in `user.` only if asked for.
fn all_stored(xattrs: Xattrs<'_>, user: bool) -> Result<Vec<Stored<'_>>, &'static str> {
    let mut all = Vec::new();
    let mut bytes = xattr::HEADER_BYTES;
    for (name, value) in xattrs {
        let Some((index, suffix)) = split(name) else {
            continue;
        };
        if !user && name.starts_with(b"user.") {
            continue;
        }
        let one = Stored {
            index,
            suffix,
            value,
        };
        if u8::try_from(name.len()).is_err() || name.contains(&0) {
            return Err(
                "the name of an extended attribute is longer than 255 bytes or has a NUL in it",
            );
        }
        if u16::try_from(value.len()).is_err() {
            return Err("an extended attribute has more than 65535 bytes");
        }
        bytes += one.bytes();
        all.push(one);
    }
    // As if none were shared.
    match xattr::count(bytes) {
        Some(_) => Ok(all),
        None => Err("its extended attributes have more than 256 KiB"),
    }
}

/// The number of the beginning of a name, and its rest. None for what Linux has no handler for.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    xattr::PREFIXES.iter().find_map(|(index, prefix)| {
        let suffix = name.strip_prefix(prefix.as_bytes())?;
        // Namespaces end with a dot and need a name in them, ACLs are whole names.
        (prefix.ends_with('.') != suffix.is_empty()).then_some((*index, suffix))
    })
}

impl Stored<'_> {
    fn bytes(&self) -> usize {
        let bytes = xattr::ENTRY_BYTES + self.suffix.len() + self.value.len();
        bytes.next_multiple_of(xattr::ALIGN)
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let end = into.len() + self.bytes();
        // Both lengths were checked.
        into.extend([self.suffix.len() as u8, self.index]);
        into.extend((self.value.len() as u16).to_le_bytes());
        into.extend_from_slice(self.suffix);
        into.extend_from_slice(self.value);
        into.resize(end, 0);
    }
}

/// The body of a set. What several inodes have is a place in `shared`.
fn body<'a>(
    all: &[Stored<'a>],
    uses: &mut HashMap<Stored<'a>, Use>,
    shared: &mut Vec<u8>,
) -> Vec<u8> {
    let (mut ids, mut inline) = (Vec::new(), Vec::new());
    for one in all {
        match uses.get_mut(one) {
            Some(used) if used.inodes > 1 && ids.len() < xattr::SHARED_MAX => {
                let id = *used.id.get_or_insert_with(|| {
                    let id = (shared.len() / xattr::ALIGN) as u32;
                    one.encode(shared);
                    id
                });
                ids.push(id);
            }
            _ => one.encode(&mut inline),
        }
    }
    if all.is_empty() {
        return Vec::new();
    }
    let mut body = vec![0; xattr::HEADER_BYTES];
    body[xattr::SHARED_COUNT] = ids.len() as u8;
    body.extend(ids.into_iter().flat_map(u32::to_le_bytes));
    body.append(&mut inline);
    body
}
