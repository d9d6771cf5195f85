//! Which nodes ask the registry for which part of a layer.
//!
//! When many nodes start the same image at once, none of them has anything, and all want the same. So that the registry does
//! not give everything to each of them, every node finds out by itself, without asking anybody, which two should fetch an
//! extent of the layer's data: those whose prints, mixed with the extent's, are largest (rendezvous hashing). Nodes that know of the same others come
//! to the same result; those that know of few fetch a little too much.

use std::cmp::Reverse;

use super::dice::mix;

/// How it is with a node and an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It is the one to fetch it.
    First,
    /// It fetches it if the first does not.
    Second,
    /// It gets it from these.
    None,
}

/// How much the node with the print `node` is called to fetch extent number `extent` of the layer with the print `layer`.
fn weight(layer: u64, extent: u64, node: u64) -> (u64, u64) {
    let place = mix(layer ^ mix(extent.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    // The print decides between equals, so that no two nodes are ever equal.
    (mix(node ^ place), node)
}

/// What the node with the print `me` is for extent number `extent` of the layer with the print `layer`, if `others` have it too.
pub fn rank(layer: u64, extent: u64, me: u64, others: impl Iterator<Item = u64>) -> Rank {
    let mine = weight(layer, extent, me);
    let before = others.filter(|other| weight(layer, extent, *other) > mine);
    match before.take(2).count() {
        0 => Rank::First,
        1 => Rank::Second,
        _ => Rank::None,
    }
}

/// Those two of `nodes` that are called to fetch an extent, the first one first.
pub(crate) fn called<P: Copy>(
    layer: u64,
    extent: u64,
    nodes: impl Iterator<Item = (P, u64)>,
) -> Vec<P> {
    let mut called: Vec<(Reverse<(u64, u64)>, P)> = Vec::with_capacity(3);
    for (node, print) in nodes {
        let weight = Reverse(weight(layer, extent, print));
        let at = called.partition_point(|(other, _)| *other <= weight);
        if at < 2 {
            called.insert(at, (weight, node));
            called.truncate(2);
        }
    }
    called.into_iter().map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_extent_has_one_first_and_one_second(
            nodes in prop::collection::btree_set(any::<u64>(), 2..40),
            layer: u64,
            extent in 0_u64..10_000,
        ) {
            let ranks = |rank_wanted| {
                let holds = |me: &&u64| {
                    let others = nodes.iter().filter(|node| node != me).copied();
                    rank(layer, extent, **me, others) == rank_wanted
                };
                nodes.iter().filter(holds).copied().collect::<Vec<u64>>()
            };
            let (first, second) = (ranks(Rank::First), ranks(Rank::Second));
            prop_assert_eq!((first.len(), second.len()), (1, 1));
            let called = called(layer, extent, nodes.iter().map(|node| (*node, *node)));
            prop_assert_eq!(called, vec![first[0], second[0]]);
        }

        #[test]
        fn who_goes_changes_nothing_for_what_it_was_not_called_for(
            nodes in prop::collection::btree_set(any::<u64>(), 4..20),
            layer: u64,
        ) {
            let gone = *nodes.first().unwrap();
            for extent in 0..50 {
                let all = called(layer, extent, nodes.iter().map(|node| (*node, *node)));
                let rest = nodes.iter().filter(|node| **node != gone);
                let rest = called(layer, extent, rest.map(|node| (*node, *node)));
                prop_assert!(all.contains(&gone) || all == rest);
            }
        }
    }

    #[test]
    fn everybody_is_called_for_a_part() {
        let nodes: Vec<u64> = (0..10).map(mix).collect();
        let mut counts = [0; 10];
        for extent in 0..1000 {
            for node in called(
                7,
                extent,
                nodes.iter().enumerate().map(|(at, node)| (at, *node)),
            ) {
                counts[node] += 1;
            }
        }
        // 200 each, give or take.
        assert!(
            counts.iter().all(|count| (140..260).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn what_is_chosen_never_changes() {
        // Nodes of different versions have to agree.
        assert_eq!(weight(1, 2, 3).0, weight(1, 2, 3).0);
        assert_eq!(
            called(1, 2, [10, 20, 30, 40].map(|node| (node, node)).into_iter()).len(),
            2
        );
        assert_eq!(super::super::print(b"a layer"), 0xe28d_98ac_666a_fd34);
    }
}
