//! When a request has taken so long that somebody else is asked too.

use std::time::{Duration, Instant};

use super::{Bucket, Settings};

/// Times are counted in steps that grow by a fifth, from a tenth of a millisecond to more than ten seconds.
const STEPS: usize = 64;
const FIRST: f64 = 0.1;
const GROWTH: f64 = 1.2;

/// Half of the counts are forgotten when there are so many.
const COUNTED: u64 = 1024;

/// Requests are alike that have about as many bytes: to 64 KiB, 256 KiB, 1 MiB, and more.
const SIZES: [u64; 3] = [64 << 10, 256 << 10, 1 << 20];

/// How many hedges may follow each other without any request between.
const BURST_ASKS: f64 = 8.0;
const BURST_BYTES: f64 = 8.0 * 1024.0 * 1024.0;

/// How long answers took lately.
#[derive(Debug, Clone)]
struct Histogram {
    counts: [u64; STEPS],
    total: u64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let ms = time.as_secs_f64() * 1000.0;
        let step = ((ms / FIRST).max(1.0).ln() / GROWTH.ln()).ceil();
        // Not negative, and what is longer than the last step counts for it.
        let step = (step as usize).min(STEPS - 1);
        self.counts[step] += 1;
        self.total += 1;
        if self.total >= COUNTED {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// So long took at most `part` of the answers, rounded up.
    fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.total as f64 * part).ceil();
        let mut seen = 0;
        for (step, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                let ms = FIRST * GROWTH.powi(i32::try_from(step).unwrap_or(i32::MAX));
                return Duration::from_secs_f64(ms / 1000.0);
            }
        }
        Duration::MAX
    }
}

/// Decides when to ask twice, and how often that may be.
#[derive(Debug)]
pub struct Hedge {
    settings: Settings,
    sizes: [Histogram; SIZES.len() + 1],
    asks: Bucket,
    bytes: Bucket,
    allowed: u64,
    denied: u64,
}

impl Hedge {
    /// With nothing seen yet.
    pub fn new(settings: &Settings) -> Hedge {
        let empty = Histogram {
            counts: [0; STEPS],
            total: 0,
        };
        Hedge {
            settings: settings.clone(),
            sizes: [empty.clone(), empty.clone(), empty.clone(), empty],
            asks: Bucket::new(0.0, BURST_ASKS),
            bytes: Bucket::new(0.0, BURST_BYTES),
            allowed: 0,
            denied: 0,
        }
    }

    /// An answer of `bytes` took so long.
    pub fn observe(&mut self, bytes: u64, time: Duration) {
        let size = size(bytes);
        self.sizes[size].add(time);
    }

    /// A request for `bytes` is made.
    pub fn asked(&mut self, bytes: u64) {
        self.asks.give(self.settings.hedge_requests);
        self.bytes.give(self.settings.hedge_bytes * bytes as f64);
    }

    /// How long a request for `bytes` goes on before a second node is asked.
    pub fn peer_after(&self, bytes: u64) -> Duration {
        self.after(bytes, 0.90, self.settings.hedge_peer)
    }

    /// How long it goes on before the registry is asked.
    pub fn registry_after(&self, bytes: u64) -> Duration {
        self.after(bytes, 0.99, self.settings.hedge_registry)
    }

    fn after(&self, bytes: u64, part: f64, (least, most): (Duration, Duration)) -> Duration {
        let histogram = &self.sizes[size(bytes)];
        match histogram.total < self.settings.hedge_samples {
            true => most,
            false => histogram.quantile(part).clamp(least, most),
        }
    }

    /// Whether `bytes` may be asked for twice. If so that is counted.
    pub fn allow(&mut self, now: Instant, bytes: u64) -> bool {
        // One large request may take more than there is of bytes: then the next ones wait for it.
        let is_allowed = self.asks.take_whole(now, 1.0);
        let is_allowed = is_allowed && {
            let is_there = self.bytes.take(now, bytes as f64).is_ok();
            if !is_there {
                self.asks.give(1.0);
            }
            is_there
        };
        match is_allowed {
            true => self.allowed += 1,
            false => self.denied += 1,
        }
        is_allowed
    }

    /// How often asking twice was allowed, and how often it was not.
    pub fn counts(&self) -> (u64, u64) {
        (self.allowed, self.denied)
    }
}

fn size(bytes: u64) -> usize {
    SIZES.partition_point(|size| *size < bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_waits_as_long_as_most_answers_take() {
        let mut hedge = Hedge::new(&Settings::default());
        let bytes = 64 << 10;
        assert_eq!(
            (hedge.peer_after(bytes), hedge.registry_after(bytes)),
            (ms(50), ms(300))
        );
        for _ in 0..95 {
            hedge.observe(bytes, ms(8));
        }
        (0..5).for_each(|_| hedge.observe(bytes, ms(200)));
        let after = hedge.peer_after(bytes);
        assert!(after >= ms(8) && after < ms(10), "{after:?}");
        let registry = hedge.registry_after(bytes);
        assert!(registry >= ms(200) && registry < ms(240), "{registry:?}");
        // Others are not known.
        assert_eq!(hedge.peer_after(1 << 20), ms(50));
    }

    #[test]
    fn it_is_bounded_at_both_ends() {
        let mut hedge = Hedge::new(&Settings::default());
        (0..100).for_each(|_| hedge.observe(1, Duration::from_micros(70)));
        assert_eq!(
            (hedge.peer_after(1), hedge.registry_after(1)),
            (ms(3), ms(100))
        );
        (0..2000).for_each(|_| hedge.observe(1, Duration::from_secs(100)));
        assert_eq!(
            (hedge.peer_after(1), hedge.registry_after(1)),
            (ms(50), ms(300))
        );
    }

    #[test]
    fn what_was_is_forgotten() {
        let mut hedge = Hedge::new(&Settings::default());
        (0..1000).for_each(|_| hedge.observe(1, ms(45)));
        (0..20_000).for_each(|_| hedge.observe(1, ms(5)));
        assert!(hedge.peer_after(1) < ms(7));
    }

    proptest! {
        #[test]
        fn no_more_than_the_budget_is_asked_twice(sizes in prop::collection::vec(1_u64..4 << 20, 1..400)) {
            let mut hedge = Hedge::new(&Settings::default());
            let now = Instant::now();
            let (mut bytes, mut hedged, mut largest) = (0, 0, 0);
            for size in &sizes {
                hedge.asked(*size);
                bytes += size;
                largest = largest.max(*size);
                if hedge.allow(now, *size) {
                    hedged += size;
                }
            }
            let (allowed, denied) = hedge.counts();
            prop_assert_eq!(allowed + denied, sizes.len() as u64);
            prop_assert!(allowed as f64 <= BURST_ASKS + 0.05 * sizes.len() as f64 + 1e-6);
            prop_assert!(hedged as f64 <= BURST_BYTES + 0.1 * bytes as f64 + largest as f64);
        }
    }
}
