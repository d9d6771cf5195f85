//! How fast the way to a host is: what is measured of the requests that are made anyway. Pure.
//!
//! The round trip is the shortest time in which an answer began lately: requests that stood in queues, connected first
//! or were redirected took longer, and none takes less. Whoever keeps the way full sees only queues, of his own making,
//! and would make them longer and longer: so what was asked while other answers came can make it shorter only. The
//! bandwidth is the highest rate lately at which bytes came
//! while at least one answer was under way: a slow reader, or a host that thinks, makes a rate lower, and nothing makes
//! it higher for long.

use std::time::{Duration, Instant};

use crate::blob::Pace;

/// Round trips that make a generation. The shortest of the last two generations counts, so a way that became longer is
/// noticed after that many requests.
const TRIPS: usize = 32;

/// Rates that make a generation.
const RATES: usize = 16;

/// A rate of fewer bytes says nothing: most of them may have waited in the kernel.
const RATE_BYTES_MIN: u64 = 128 << 10;

/// A rate over less time says nothing: it is that of memory.
const RATE_TIME_MIN: Duration = Duration::from_millis(2);

/// A rate is taken again and again while bytes come, each time over that long, or over some round trips.
const RATE_TIME: Duration = Duration::from_millis(200);
const RATE_TRIPS: u32 = 4;

/// The best of the last two generations of what was measured.
#[derive(Debug, Clone)]
struct Best<T> {
    of: usize,
    count: usize,
    current: Option<T>,
    last: Option<T>,
}

impl<T: Copy> Best<T> {
    fn new(of: usize) -> Self {
        Best {
            of,
            count: 0,
            current: None,
            last: None,
        }
    }

    fn add(&mut self, value: T, better: impl Fn(T, T) -> T) {
        if self.count == self.of {
            (self.count, self.last, self.current) = (0, self.current, None);
        }
        self.count += 1;
        self.current = Some(self.current.map_or(value, |current| better(current, value)));
    }

    fn get(&self, better: impl Fn(T, T) -> T) -> Option<T> {
        match (self.current, self.last) {
            (Some(current), Some(last)) => Some(better(current, last)),
            (current, last) => current.or(last),
        }
    }
}

/// Bytes that came since a moment at which some came.
#[derive(Debug, Clone, Copy)]
struct Span {
    since: Instant,
    bytes: u64,
}

/// What is known of the way to one host.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    trips: Best<Duration>,
    rates: Best<u64>,
    /// Answers under way.
    open: usize,
    span: Option<Span>,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            trips: Best::new(TRIPS),
            rates: Best::new(RATES),
            open: 0,
            span: None,
        }
    }
}

impl Meter {
    /// Whether no answer is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// An answer begins, so long after its request; `alone` is whether no other one was under way at that time.
    pub(crate) fn began(&mut self, after: Duration, alone: bool) {
        let known = self.trips.get(Duration::min);
        if alone || known.is_none_or(|known| after < known) {
            self.trips.add(after, Duration::min);
        }
        self.open += 1;
    }

    /// Bytes of an answer came.
    pub(crate) fn came(&mut self, now: Instant, bytes: u64) {
        let Some(span) = &mut self.span else {
            // When these were sent nobody knows.
            self.span = Some(Span {
                since: now,
                bytes: 0,
            });
            return;
        };
        span.bytes = span.bytes.saturating_add(bytes);
        let trips = self.trips.get(Duration::min).unwrap_or_default();
        if now.saturating_duration_since(span.since) >= RATE_TIME.max(trips * RATE_TRIPS) {
            self.take_rate(now);
            self.span = Some(Span {
                since: now,
                bytes: 0,
            });
        }
    }

    /// An answer ended, whether all of it came or not.
    pub(crate) fn ended(&mut self, now: Instant) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.take_rate(now);
            self.span = None;
        }
    }

    fn take_rate(&mut self, now: Instant) {
        let Some(span) = self.span else {
            return;
        };
        let time = now.saturating_duration_since(span.since);
        if span.bytes < RATE_BYTES_MIN || time < RATE_TIME_MIN {
            return;
        }
        let rate = u128::from(span.bytes) * 1_000_000_000 / time.as_nanos().max(1);
        self.rates
            .add(u64::try_from(rate).unwrap_or(u64::MAX), u64::max);
    }

    /// What is known. `None` before enough has come.
    pub(crate) fn pace(&self) -> Option<Pace> {
        Some(Pace {
            round_trip: self.trips.get(Duration::min)?,
            bytes_per_second: self.rates.get(u64::max)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that carries one request after the other, without a network or a clock.
    struct Model {
        meter: Meter,
        now: Instant,
        bytes_per_second: u64,
        round_trip: Duration,
    }

    const PIECE: u64 = 16 << 10;

    impl Model {
        fn new(megabits: u64, milliseconds: u64) -> Self {
            Model {
                meter: Meter::default(),
                now: Instant::now(),
                bytes_per_second: megabits * 1_000_000 / 8,
                round_trip: Duration::from_millis(milliseconds),
            }
        }

        fn pass(&mut self, bytes: u64) {
            self.now += Duration::from_nanos(bytes * 1_000_000_000 / self.bytes_per_second);
        }

        /// A request that waits `queued` behind others before it is answered.
        fn request(&mut self, bytes: u64, queued: Duration) {
            self.now += self.round_trip + queued;
            self.meter.began(self.round_trip + queued, true);
            self.body(bytes);
            self.meter.ended(self.now);
        }

        fn body(&mut self, bytes: u64) {
            for piece in (0..bytes.div_ceil(PIECE)).map(|_| PIECE) {
                self.pass(piece);
                self.meter.came(self.now, piece);
            }
        }

        fn product(&self) -> u64 {
            self.meter.pace().unwrap().window_bytes(1)
        }
    }

    fn is_about(value: u64, expected: u64) -> bool {
        value >= expected / 10 * 8 && value <= expected / 10 * 13
    }

    #[test]
    fn the_product_of_a_link_is_found() {
        for (megabits, milliseconds, product) in
            [(100, 20, 250_000), (1000, 1, 125_000), (20, 200, 500_000)]
        {
            let mut model = Model::new(megabits, milliseconds);
            for _ in 0..10 {
                model.request(1 << 20, Duration::ZERO);
            }
            let found = model.product();
            assert!(is_about(found, product), "{found} and not {product}");
        }
    }

    #[test]
    fn nothing_is_said_before_enough_is_known() {
        let mut model = Model::new(100, 20);
        assert!(model.meter.pace().is_none());
        for _ in 0..100 {
            model.request(4096, Duration::ZERO);
        }
        assert!(model.meter.pace().is_none());
        model.request(512 << 10, Duration::ZERO);
        assert!(is_about(model.product(), 250_000));
    }

    #[test]
    fn queues_and_connecting_are_not_taken_for_the_way() {
        let mut model = Model::new(100, 20);
        for index in 0..20 {
            let queued = Duration::from_millis([0, 30, 200][index % 3]);
            model.request(512 << 10, queued);
        }
        assert!(is_about(model.product(), 250_000));
    }

    #[test]
    fn who_fills_the_link_does_not_take_his_own_queue_for_the_way() {
        let mut model = Model::new(100, 20);
        model.request(1 << 20, Duration::ZERO);
        model.meter.began(model.round_trip, true);
        for _ in 0..1000 {
            let alone = model.meter.is_idle();
            model.meter.began(model.round_trip * 3, alone);
            model.body(512 << 10);
            model.meter.ended(model.now);
        }
        assert!(is_about(model.product(), 250_000), "{}", model.product());
    }

    #[test]
    fn answers_side_by_side_share_one_link() {
        let mut model = Model::new(100, 20);
        for _ in 0..4 {
            model.meter.began(model.round_trip, true);
        }
        model.body(4 << 20);
        for _ in 0..4 {
            model.meter.ended(model.now);
        }
        assert!(is_about(model.product(), 250_000));
    }

    #[test]
    fn a_reader_who_pauses_makes_the_link_no_faster() {
        let mut model = Model::new(100, 20);
        // Something came before, so that a bandwidth is known.
        model.request(1 << 20, Duration::ZERO);
        for _ in 0..50 {
            model.meter.began(model.round_trip, true);
            model.body(256 << 10);
            // While he does something else the kernel takes a quarter of a megabyte, which then is here at once.
            let behind = 256 << 10;
            model.pass(behind);
            for _ in 0..behind / PIECE {
                model.meter.came(model.now, PIECE);
            }
            model.body(256 << 10);
            model.meter.ended(model.now);
        }
        let product = model.product();
        assert!((200_000..500_000).contains(&product), "{product}");
    }

    #[test]
    fn a_link_that_changes_is_found_again() {
        let mut model = Model::new(1000, 1);
        for _ in 0..40 {
            model.request(1 << 20, Duration::ZERO);
        }
        (model.bytes_per_second, model.round_trip) = (12_500_000, Duration::from_millis(20));
        for _ in 0..80 {
            model.request(1 << 20, Duration::ZERO);
        }
        assert!(is_about(model.product(), 250_000), "{}", model.product());
    }

    #[test]
    fn broken_answers_say_nothing() {
        let mut meter = Meter::default();
        let now = Instant::now();
        meter.ended(now);
        meter.came(now, u64::MAX);
        meter.came(now, u64::MAX);
        meter.came(now, u64::MAX);
        meter.ended(now);
        meter.began(Duration::ZERO, true);
        meter.ended(now);
        assert!(meter.pace().is_none());
    }
}
