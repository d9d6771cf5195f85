//! How much may be taken at a time.

use std::time::{Duration, Instant};

/// A bucket into which tokens drip, and which overflows. Whoever takes more than there is leaves a debt, so nothing is too
/// large to be taken: the next one waits the longer.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Tokens a second.
    rate: f64,
    size: f64,
    level: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// A full one that holds `size` tokens, into which `rate` of them come a second.
    pub fn new(rate: f64, size: f64) -> Bucket {
        Bucket {
            rate,
            size,
            level: size,
            at: None,
        }
    }

    /// Takes `tokens`, if nobody before has taken more than there was. How long that is still so, if it is.
    pub fn take(&mut self, now: Instant, tokens: f64) -> Result<(), Duration> {
        self.drip(now);
        if self.level > 0.0 {
            self.level -= tokens;
            return Ok(());
        }
        Err(self.wait())
    }

    /// Takes `tokens` if so many are there.
    pub fn take_whole(&mut self, now: Instant, tokens: f64) -> bool {
        self.drip(now);
        let is_there = self.level >= tokens;
        if is_there {
            self.level -= tokens;
        }
        is_there
    }

    /// Puts `tokens` into it.
    pub fn give(&mut self, tokens: f64) {
        self.level = (self.level + tokens).min(self.size);
    }

    fn drip(&mut self, now: Instant) {
        let before = self.at.replace(self.at.map_or(now, |at| at.max(now)));
        let passed = before.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.give(passed.as_secs_f64() * self.rate);
    }

    /// Until the level is above zero, and a little more.
    fn wait(&self) -> Duration {
        let seconds = (-self.level / self.rate).clamp(0.0, 3600.0);
        // Not a number if nothing ever comes.
        let seconds = if seconds.is_nan() { 3600.0 } else { seconds };
        Duration::from_secs_f64(seconds) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_debt_is_waited_for() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100.0, 50.0);
        assert_eq!(bucket.take(now, 150.0), Ok(()));
        let wait = bucket.take(now, 1.0).unwrap_err();
        assert!(wait > Duration::from_millis(999) && wait < Duration::from_millis(1100));
        assert_eq!(bucket.take(now + wait, 1.0), Ok(()));
        assert!(!bucket.take_whole(now + wait, 10.0));
        assert!(bucket.take_whole(now + wait + Duration::from_secs(1), 50.0));
    }

    #[test]
    fn nothing_comes_into_one_without_a_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(0.0, 1.0);
        assert_eq!(bucket.take(now, 1.0), Ok(()));
        assert!(bucket.take(now + Duration::from_secs(9), 1.0).is_err());
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_comes(steps in prop::collection::vec((0_u64..200, 1_u32..5000), 1..200)) {
            let (rate, size, most) = (1000.0, 500.0, 5000.0);
            let mut bucket = Bucket::new(rate, size);
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0.0);
            for (pause, tokens) in steps {
                now += Duration::from_millis(pause);
                match bucket.take(now, f64::from(tokens)) {
                    Ok(()) => taken += f64::from(tokens),
                    Err(wait) => {
                        let later = now + wait;
                        prop_assert!(bucket.clone().take(later, 1.0).is_ok(), "not after the wait");
                    }
                }
                let came = size + rate * (now - start).as_secs_f64();
                prop_assert!(taken <= came + most);
            }
        }
    }
}
