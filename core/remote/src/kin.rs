//! Whose chunks a layer may have: those of layers that are in a repository that it is in too.
//!
//! Whoever has an image pulled has shown its registry that he may read the repository, so nothing in it is news to him. By
//! digests alone he could have anybody's chunks: he need only push a table of contents that names them. A layer that is in
//! several repositories takes from all of them, for it is itself what all who pulled it have been given there.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use pontoon_cache::{CachedLayer, Key};
use pontoon_lazyfs::Kin;

use crate::item::Item;
use crate::stock::Stock;

/// So many layers are looked into, those first that came last. Each takes a file and its chunk table; an image has
/// some twenty.
const LAYERS_MAX: usize = 64;

/// The other layers of the repositories of one.
#[derive(Debug)]
pub(crate) struct Neighbours {
    stock: Weak<Stock>,
    item: Weak<Item>,
}

impl Neighbours {
    pub(crate) fn of(stock: &Weak<Stock>, item: &Arc<Item>) -> Self {
        Neighbours {
            stock: Weak::clone(stock),
            item: Arc::downgrade(item),
        }
    }
}

impl Kin for Neighbours {
    fn layers(&self) -> Vec<Arc<CachedLayer>> {
        let (Some(stock), Some(item)) = (self.stock.upgrade(), self.item.upgrade()) else {
            return Vec::new();
        };
        let repositories = item.where_from.repositories();
        let is_near = |other: &Arc<Item>| {
            let is_shared = !other.where_from.repositories().is_disjoint(&repositories);
            other.key != item.key && is_shared
        };
        let mut near: Vec<Arc<Item>> = stock.items().into_iter().filter(is_near).collect();
        near.sort_by_key(|other| std::cmp::Reverse(other.record.number));
        // The same layer may have several trees.
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        let keys = near.into_iter().map(|other| other.key.clone());
        let keys = keys.filter(|key| seen.insert(key.clone())).take(LAYERS_MAX);
        // One that is damaged or gone gives nothing.
        keys.filter_map(|key| stock.cache.layer(&key).ok().flatten())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use crate::fixture;
    use crate::parents::Parents;
    use crate::stock::Hold;
    use pontoon_layer::Digest;

    fn held(stock: &Arc<Stock>, name: &str, images: &[&str]) -> Hold {
        let key = Key::new(Digest::of(name.as_bytes()), Digest::of(b"toc"));
        let layer = fixture::layer(&["etc/", name]);
        let hold = build::build(stock, &key, 1, layer.into(), &Parents::ordinary(&[])).unwrap();
        images
            .iter()
            .for_each(|image| hold.item.where_from.add(image));
        hold
    }

    #[test]
    fn only_the_same_repository_of_the_same_host_is_near() {
        let fixture = fixture::stock();
        let stock = &fixture.stock;
        let layers = [
            ("own", &["here.example/team/app:1"][..]),
            ("next", &["here.example/team/app:2"]),
            (
                "both",
                &["there.example/team/app:1", "here.example/team/app:1"],
            ),
            ("other", &["here.example/team/other:1"]),
            ("host", &["there.example/team/app:1"]),
            ("port", &["here.example:5000/team/app:1"]),
            ("longer", &["here.example/team/app/more:1"]),
            ("nowhere", &[]),
            ("nonsense", &["  "]),
        ];
        let holds = layers.map(|(name, images)| held(stock, name, images));
        let near = |hold: &Hold| -> Vec<Key> {
            let neighbours = Neighbours::of(&Arc::downgrade(stock), &hold.item);
            let layers = neighbours.layers();
            layers.iter().map(|layer| layer.key().clone()).collect()
        };
        let key = |index: usize| holds[index].item.key.clone();
        // The last that came goes first.
        assert_eq!(near(&holds[0]), [key(2), key(1)]);
        assert_eq!(near(&holds[2]), [key(4), key(1), key(0)]);
        for index in [3, 5, 6, 7, 8] {
            assert!(near(&holds[index]).is_empty(), "{}", layers[index].0);
        }
        // What is forgotten gives nothing.
        let neighbours = Neighbours::of(&Arc::downgrade(stock), &holds[0].item);
        let mut holds = Vec::from(holds);
        holds.truncate(1);
        fixture::eventually(|| neighbours.layers().is_empty());
    }
}
