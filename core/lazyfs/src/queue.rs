//! Who is next: one order for what is fetched ahead, of all layers. Pure.

use std::collections::BTreeMap;

/// Why something is fetched ahead. The first one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// An earlier start read it.
    Learned,
    /// The image says that a start needs it.
    Told,
    /// It lies behind what somebody has just waited for.
    Near,
    /// It is a part of the image.
    Rest,
}

impl Class {
    /// Whether a start needs it, as far as anybody knows. The other classes are guesses.
    pub(crate) fn is_needed(self) -> bool {
        matches!(self, Class::Learned | Class::Told)
    }

    /// How many bytes between two members are fetched along rather than asking twice.
    pub(crate) fn gap_max(self) -> u64 {
        match self {
            // What lies between was not read. Several requests are on their way at the same time, so another one costs
            // no round trip, only what it takes to make and answer it.
            Class::Learned => 16 << 10,
            _ => u64::MAX,
        }
    }
}

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rank {
    pub(crate) class: Class,
    /// Of the same class the lowest goes first; equal ones take turns.
    pub(crate) place: u64,
}

impl Rank {
    pub(crate) fn new(class: Class, place: u64) -> Self {
        Rank { class, place }
    }
}

#[derive(Debug)]
pub(crate) struct Queue<J> {
    jobs: BTreeMap<(Rank, u64), J>,
    /// How often something was put in.
    count: u64,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Queue {
            jobs: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<J> Queue<J> {
    /// Puts `job` behind those of the same rank.
    pub(crate) fn put(&mut self, rank: Rank, job: J) {
        self.jobs.insert((rank, self.count), job);
        self.count += 1;
    }

    /// The class of who is next.
    pub(crate) fn class(&self) -> Option<Class> {
        let ((rank, _), _) = self.jobs.first_key_value()?;
        Some(rank.class)
    }

    /// Takes out who is next.
    pub(crate) fn take(&mut self) -> Option<(Rank, J)> {
        let ((rank, _), job) = self.jobs.pop_first()?;
        Some((rank, job))
    }

    /// Takes out the last of `class` that is too many if only `most` may wait.
    pub(crate) fn surplus(&mut self, class: Class, most: usize) -> Option<J> {
        let all = (Rank::new(class, 0), 0)..=(Rank::new(class, u64::MAX), u64::MAX);
        let of_class = self.jobs.range(all);
        if of_class.clone().count() <= most {
            return None;
        }
        let last = *of_class.last()?.0;
        self.jobs.remove(&last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_come_before_places_and_equals_take_turns() {
        let mut queue = Queue::default();
        for (class, place, name) in [
            (Class::Rest, 0, "rest"),
            (Class::Rest, 0, "other rest"),
            (Class::Near, 7, "old"),
            (Class::Near, 6, "new"),
            (Class::Told, 9, "told"),
            (Class::Learned, 1, "second"),
            (Class::Learned, 0, "first"),
        ] {
            queue.put(Rank::new(class, place), name);
        }
        let mut next = || queue.take().unwrap();
        for expected in ["first", "second", "told", "new", "old"] {
            assert_eq!(next().1, expected);
        }
        assert_eq!(queue.class(), Some(Class::Rest));
        let mut next = || queue.take().unwrap();
        let (rank, job) = next();
        assert_eq!(job, "rest");
        queue.put(rank, job);
        assert_eq!(queue.take().unwrap().1, "other rest");
        assert_eq!(queue.take().unwrap().1, "rest");
        assert!(queue.take().is_none());
    }

    #[test]
    fn the_last_of_a_class_is_too_many() {
        let mut queue = Queue::default();
        for place in 0..3 {
            queue.put(Rank::new(Class::Near, place), place);
        }
        queue.put(Rank::new(Class::Rest, 0), 99);
        assert_eq!(queue.surplus(Class::Near, 2), Some(2));
        assert_eq!(queue.surplus(Class::Near, 2), None);
        assert_eq!(queue.surplus(Class::Told, 0), None);
    }
}
