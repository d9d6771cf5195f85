//! Who is served next.

use std::collections::{HashMap, VecDeque};

use super::{Class, Name};

/// So many bytes of what is waited for are served before as many of what is not: eight to one.
const DEMAND_SHARE: u64 = 8;

/// What a node may take in one turn, in bytes.
const QUANTUM: u64 = 256 << 10;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served<P, T> {
    /// For whom.
    pub peer: P,
    /// How urgent it is.
    pub class: Class,
    /// What it costs, in bytes.
    pub cost: u64,
    /// What it is.
    pub item: T,
}

/// A queue in which nodes take turns. In each class everybody gets as many bytes as everybody else, whatever the sizes of
/// what they ask for and however much one of them asks for (deficit round robin); between the classes, demand gets eight
/// times as much.
#[derive(Debug)]
pub struct Fair<P, T> {
    demand: Turns<P, T>,
    prefetch: Turns<P, T>,
    /// What demand has got and prefetch has not, weighed.
    owed_to_prefetch: i64,
}

#[derive(Debug)]
struct Turns<P, T> {
    /// Those who wait for something, in the order of their turns.
    order: VecDeque<P>,
    waiting: HashMap<P, Waiting<T>>,
    len: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<(u64, T)>,
    /// What is left of its turn.
    credit: u64,
}

impl<P: Name, T> Default for Fair<P, T> {
    fn default() -> Self {
        Fair::new()
    }
}

impl<P: Name, T> Fair<P, T> {
    /// Nobody waits.
    pub fn new() -> Fair<P, T> {
        Fair {
            demand: Turns::new(),
            prefetch: Turns::new(),
            owed_to_prefetch: 0,
        }
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.demand.len + self.prefetch.len
    }

    /// What all that waits costs, in bytes.
    pub fn cost(&self) -> u64 {
        self.demand.cost() + self.prefetch.cost()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many things wait for `peer`.
    pub fn waiting(&self, peer: P) -> usize {
        self.demand.waiting(peer) + self.prefetch.waiting(peer)
    }

    /// Lets `item` wait, which costs `cost` bytes.
    pub fn push(&mut self, peer: P, class: Class, cost: u64, item: T) {
        match class {
            Class::Demand => self.demand.push(peer, cost, item),
            Class::Prefetch => self.prefetch.push(peer, cost, item),
        }
    }

    /// What is served next, among those whom `may` allows to be served.
    pub fn pop(&mut self, mut may: impl FnMut(P) -> bool) -> Option<Served<P, T>> {
        let share = i64::try_from(DEMAND_SHARE).unwrap_or(i64::MAX);
        let is_prefetchs_turn = self.owed_to_prefetch > 0;
        let classes = match is_prefetchs_turn {
            true => [Class::Prefetch, Class::Demand],
            false => [Class::Demand, Class::Prefetch],
        };
        for class in classes {
            let turns = match class {
                Class::Demand => &mut self.demand,
                Class::Prefetch => &mut self.prefetch,
            };
            let Some((peer, cost, item)) = turns.pop(&mut may) else {
                continue;
            };
            let bytes = i64::try_from(cost).unwrap_or(i64::MAX / 16);
            // Nobody saves up what it did not need.
            self.owed_to_prefetch = match class {
                Class::Demand if self.prefetch.len == 0 => 0,
                Class::Demand => self.owed_to_prefetch.saturating_add(bytes),
                Class::Prefetch if self.demand.len == 0 => 0,
                Class::Prefetch => self.owed_to_prefetch.saturating_sub(bytes * share),
            };
            return Some(Served {
                peer,
                class,
                cost,
                item,
            });
        }
        None
    }

    /// Drops what nobody waits for any more.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.demand.retain(&mut keep);
        self.prefetch.retain(&mut keep);
    }
}

impl<P: Name, T> Turns<P, T> {
    fn new() -> Turns<P, T> {
        Turns {
            order: VecDeque::new(),
            waiting: HashMap::new(),
            len: 0,
        }
    }

    fn cost(&self) -> u64 {
        let items = self.waiting.values().flat_map(|waiting| &waiting.items);
        items.map(|(cost, _)| cost).sum()
    }

    fn waiting(&self, peer: P) -> usize {
        self.waiting
            .get(&peer)
            .map_or(0, |waiting| waiting.items.len())
    }

    fn push(&mut self, peer: P, cost: u64, item: T) {
        let order = &mut self.order;
        let waiting = self.waiting.entry(peer).or_insert_with(|| {
            order.push_back(peer);
            Waiting {
                items: VecDeque::new(),
                credit: QUANTUM,
            }
        });
        waiting.items.push_back((cost, item));
        self.len += 1;
    }

    fn pop(&mut self, may: &mut impl FnMut(P) -> bool) -> Option<(P, u64, T)> {
        if !self.order.iter().any(|peer| may(*peer)) {
            return None;
        }
        // Everybody's credit grows by the turn, so somebody's is enough at last.
        loop {
            let peer = self.order.pop_front()?;
            let Some(waiting) = self.waiting.get_mut(&peer) else {
                continue;
            };
            let cost = waiting.items.front().map_or(0, |(cost, _)| *cost);
            if !may(peer) {
                self.order.push_back(peer);
                continue;
            }
            if cost > waiting.credit {
                waiting.credit += QUANTUM;
                self.order.push_back(peer);
                continue;
            }
            waiting.credit -= cost;
            let first = waiting.items.pop_front();
            match waiting.items.is_empty() {
                true => drop(self.waiting.remove(&peer)),
                // It is still its turn.
                false => self.order.push_front(peer),
            }
            let (cost, item) = first?;
            self.len -= 1;
            return Some((peer, cost, item));
        }
    }

    fn retain(&mut self, keep: &mut impl FnMut(&T) -> bool) {
        for waiting in self.waiting.values_mut() {
            waiting.items.retain(|(_, item)| keep(item));
        }
        self.waiting.retain(|_, waiting| !waiting.items.is_empty());
        let waiting = &self.waiting;
        self.order.retain(|peer| waiting.contains_key(peer));
        self.len = waiting.values().map(|waiting| waiting.items.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn who_asks_for_much_does_not_get_more() {
        let mut fair = Fair::new();
        (0..1000).for_each(|at| fair.push('g', Class::Demand, MIB, at));
        (0..100).for_each(|at| fair.push('s', Class::Demand, MIB / 4, at));
        let mut bytes = BTreeMap::new();
        // As long as both wait.
        while fair.waiting('s') > 0 {
            let served = fair.pop(|_| true).unwrap();
            *bytes.entry(served.peer).or_insert(0) += served.cost;
        }
        let (greedy, small) = (bytes[&'g'], bytes[&'s']);
        assert_eq!(small, 25 * MIB);
        assert!((22 * MIB..=28 * MIB).contains(&greedy), "{greedy}");
    }

    #[test]
    fn demand_gets_eight_times_as_much() {
        let mut fair = Fair::new();
        for at in 0..900 {
            fair.push(at % 7, Class::Demand, MIB, ());
            fair.push(at % 5, Class::Prefetch, MIB, ());
        }
        let served: Vec<Class> = (0..900)
            .map(|_| fair.pop(|_| true).unwrap().class)
            .collect();
        let demand = served
            .iter()
            .filter(|class| **class == Class::Demand)
            .count();
        assert!((795..=805).contains(&demand), "{demand}");
        // None of it starves: each of nine in a row has one.
        assert!(served.chunks(10).all(|ten| ten.contains(&Class::Prefetch)));
    }

    #[test]
    fn who_may_not_be_served_waits_and_holds_nobody_up() {
        let mut fair = Fair::new();
        fair.push(1, Class::Demand, 10, 'a');
        fair.push(2, Class::Demand, 10, 'b');
        assert_eq!(
            fair.pop(|peer| peer != 1).map(|served| served.item),
            Some('b')
        );
        assert_eq!(fair.pop(|peer| peer != 1), None);
        assert_eq!(fair.len(), 1);
        fair.push(1, Class::Prefetch, 7, 'c');
        assert_eq!(fair.cost(), 17);
        fair.retain(|item| *item != 'a');
        assert_eq!(fair.cost(), 7);
        assert_eq!(fair.pop(|_| true).map(|served| served.item), Some('c'));
        assert!(fair.is_empty());
    }

    proptest! {
        #[test]
        fn everything_is_served_once_and_in_the_order_of_its_peer(
            pushes in prop::collection::vec((0_u8..6, any::<bool>(), 1_u64..5 * MIB), 0..200),
            pops in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut fair = Fair::new();
            let (mut served, mut pops) = (Vec::new(), pops.into_iter());
            for (at, (peer, is_demand, cost)) in pushes.iter().enumerate() {
                let class = if *is_demand { Class::Demand } else { Class::Prefetch };
                fair.push(*peer, class, *cost, at);
                if pops.next().unwrap_or(false) {
                    served.extend(fair.pop(|_| true));
                }
            }
            while let Some(one) = fair.pop(|_| true) {
                served.push(one);
            }
            prop_assert!(fair.is_empty());
            prop_assert_eq!(served.len(), pushes.len());
            let mut last = BTreeMap::new();
            for one in served {
                let (peer, is_demand, cost) = pushes[one.item];
                prop_assert_eq!((one.peer, one.cost), (peer, cost));
                prop_assert_eq!(one.class == Class::Demand, is_demand);
                let before = last.insert((peer, is_demand), one.item);
                prop_assert!(before.is_none_or(|before| before < one.item));
            }
        }
    }
}
