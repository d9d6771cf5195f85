//! What the log is told of failures: a program that reads on after an error fails many times a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time between two lines.
const INTERVAL: Duration = Duration::from_secs(30);

/// Failures of one kind. The first one is told at once.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    untold: u64,
}

impl Complaints {
    /// One more. If it is time for a line: how many there were since the last one, this one included.
    pub(crate) fn add(&self) -> Option<u64> {
        self.add_at(Instant::now())
    }

    fn add_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        if state.told.is_some_and(|told| now < told + INTERVAL) {
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_told_and_then_how_many_there_were() {
        let complaints = Complaints::default();
        let begin = Instant::now();
        assert_eq!(complaints.add_at(begin), Some(1));
        for second in 0..30 {
            let now = begin + Duration::from_secs(second);
            assert_eq!(complaints.add_at(now), None, "{second}");
        }
        assert_eq!(complaints.add_at(begin + INTERVAL), Some(31));
        assert_eq!(complaints.add_at(begin + INTERVAL), None);
        assert_eq!(complaints.add_at(begin + 9 * INTERVAL), Some(2));
    }
}
