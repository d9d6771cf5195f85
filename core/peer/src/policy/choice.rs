//! Which of those who have a chunk is asked for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Dice, Name, Tier};

/// What a request costs beside its bytes, in bytes that would have come meanwhile: so that small requests do not make a node
/// look slow.
const REQUEST_BYTES: f64 = 128.0 * 1024.0;

/// Of a node that was never asked, in milliseconds a MiB: it shall be tried.
const UNKNOWN: f64 = 4.0;

/// How much the newest request counts.
const NEWEST: f64 = 0.2;

/// After so long half of what is known of a node's speed is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// A node that owes so much is not asked for more while another one, farther away, owes less. In bytes.
const BUSY_BYTES: u64 = 8 << 20;

#[derive(Debug, Clone, Copy)]
struct Speed {
    outstanding_bytes: u64,
    asks: usize,
    /// Milliseconds for a MiB.
    pace: f64,
    at: Option<Instant>,
}

impl Default for Speed {
    fn default() -> Speed {
        Speed {
            outstanding_bytes: 0,
            asks: 0,
            pace: UNKNOWN,
            at: None,
        }
    }
}

impl Speed {
    fn pace(&self, now: Instant) -> f64 {
        let age = self
            .at
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let kept = (-age.as_secs_f64() / FORGOTTEN.as_secs_f64()).exp2();
        // A node that is known to be fast is not slow because it was not asked.
        let unknown = UNKNOWN.min(self.pace);
        unknown + (self.pace - unknown) * kept
    }

    /// How long `bytes` more would take, in milliseconds.
    fn cost(&self, now: Instant, bytes: u64) -> f64 {
        let bytes = (self.outstanding_bytes + bytes) as f64;
        let requests = (self.asks + 1) as f64 * REQUEST_BYTES;
        (bytes + requests) / f64::from(1 << 20) * self.pace(now)
    }
}

/// How fast other nodes answer, and what they still owe.
#[derive(Debug, Default)]
pub struct Speeds<P> {
    speeds: HashMap<P, Speed>,
}

impl<P: Name> Speeds<P> {
    /// Nothing known of anybody.
    pub fn new() -> Speeds<P> {
        Speeds {
            speeds: HashMap::new(),
        }
    }

    /// Whom of `candidates` to ask for `bytes`: of two that are drawn among the nearest, the one that would be faster (the
    /// power of two choices: always the fastest would be everybody's).
    pub fn choose(
        &self,
        now: Instant,
        dice: &mut Dice,
        candidates: &[(P, Tier)],
        bytes: u64,
    ) -> Option<P> {
        let is_busy = |peer: &P| self.outstanding_bytes(*peer) >= BUSY_BYTES;
        let free = candidates.iter().filter(|(peer, _)| !is_busy(peer));
        let nearest = free.map(|(_, tier)| *tier).min();
        let among: Vec<P> = candidates
            .iter()
            .filter(|(peer, tier)| nearest.is_none_or(|near| *tier == near && !is_busy(peer)))
            .map(|(peer, _)| *peer)
            .collect();
        let first = *among.get(dice.below(among.len()))?;
        let others: Vec<P> = among.into_iter().filter(|peer| *peer != first).collect();
        let Some(second) = others.get(dice.below(others.len())) else {
            return Some(first);
        };
        let cost = |peer| self.speed(peer).cost(now, bytes);
        Some(match cost(*second) < cost(first) {
            true => *second,
            false => first,
        })
    }

    fn speed(&self, peer: P) -> Speed {
        self.speeds.get(&peer).copied().unwrap_or_default()
    }

    /// What `peer` was asked for and has not given, in bytes.
    pub fn outstanding_bytes(&self, peer: P) -> u64 {
        self.speed(peer).outstanding_bytes
    }

    /// Requests to `peer` that are under way.
    pub fn asks(&self, peer: P) -> usize {
        self.speed(peer).asks
    }

    /// How long a MiB takes from `peer`, if that is known.
    pub fn pace(&self, now: Instant, peer: P) -> Option<Duration> {
        let speed = self.speeds.get(&peer).filter(|speed| speed.at.is_some())?;
        Duration::try_from_secs_f64(speed.pace(now) / 1000.0).ok()
    }

    /// `peer` was asked for `bytes`.
    pub fn began(&mut self, peer: P, bytes: u64) {
        let speed = self.speeds.entry(peer).or_default();
        speed.outstanding_bytes += bytes;
        speed.asks += 1;
    }

    /// `peer` gave `bytes` of what it was asked for.
    pub fn came(&mut self, peer: P, bytes: u64) {
        if let Some(speed) = self.speeds.get_mut(&peer) {
            speed.outstanding_bytes = speed.outstanding_bytes.saturating_sub(bytes);
        }
    }

    /// A request to `peer` is over, of which `rest` bytes did not come.
    pub fn ended(&mut self, peer: P, rest: u64) {
        self.came(peer, rest);
        if let Some(speed) = self.speeds.get_mut(&peer) {
            speed.asks = speed.asks.saturating_sub(1);
        }
    }

    /// `bytes` took `peer` so long, request and all.
    pub fn took(&mut self, now: Instant, peer: P, bytes: u64, time: Duration) {
        let speed = self.speeds.entry(peer).or_default();
        let size = (bytes as f64 + REQUEST_BYTES) / f64::from(1 << 20);
        let pace = time.as_secs_f64() * 1000.0 / size;
        speed.pace = match speed.at {
            Some(_) => speed.pace(now) * (1.0 - NEWEST) + pace * NEWEST,
            None => pace,
        };
        speed.at = Some(now);
    }

    /// `peer` is gone.
    pub fn forget(&mut self, peer: P) {
        self.speeds.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_slow_one_of_two_is_left_out() {
        let (now, mut dice) = (Instant::now(), Dice::new(1));
        let mut speeds = Speeds::new();
        speeds.took(now, 'a', MIB, ms(2));
        speeds.took(now, 'b', MIB, ms(200));
        let both = [('a', Tier::Other), ('b', Tier::Other)];
        for _ in 0..100 {
            assert_eq!(speeds.choose(now, &mut dice, &both, MIB), Some('a'));
        }
        // Until the fast one owes much.
        (0..7).for_each(|_| speeds.began('a', MIB));
        speeds.took(now, 'b', MIB, ms(3));
        speeds.forget('b');
        assert_eq!(speeds.choose(now, &mut dice, &both, MIB), Some('b'));
        assert_eq!(speeds.outstanding_bytes('a'), 7 * MIB);
        (0..7).for_each(|_| speeds.ended('a', MIB));
        assert_eq!((speeds.outstanding_bytes('a'), speeds.asks('a')), (0, 0));
    }

    #[test]
    fn the_nearest_goes_before_unless_it_has_enough_to_do() {
        let (now, mut dice) = (Instant::now(), Dice::new(1));
        let mut speeds = Speeds::new();
        let all = [('f', Tier::Other), ('z', Tier::Zone), ('h', Tier::Host)];
        assert_eq!(speeds.choose(now, &mut dice, &all, MIB), Some('h'));
        speeds.began('h', BUSY_BYTES);
        assert_eq!(speeds.choose(now, &mut dice, &all, MIB), Some('z'));
        speeds.began('z', BUSY_BYTES);
        speeds.began('f', BUSY_BYTES);
        // All are busy: anybody.
        assert!(speeds.choose(now, &mut dice, &all, MIB).is_some());
        assert_eq!(speeds.choose(now, &mut dice, &[], MIB), None);
    }

    #[test]
    fn what_was_slow_is_tried_again_some_time() {
        let now = Instant::now();
        let mut speeds = Speeds::new();
        speeds.took(now, 's', MIB, ms(1000));
        let was = speeds.pace(now, 's').unwrap();
        let later = speeds.pace(now + Duration::from_secs(300), 's').unwrap();
        assert!(was > ms(800) && later < ms(10), "{was:?} {later:?}");
        speeds.took(now, 'q', MIB, Duration::from_micros(500));
        let fast = speeds.pace(now + Duration::from_secs(300), 'q').unwrap();
        assert!(fast < ms(1));
    }

    #[test]
    fn load_is_spread() {
        let (now, mut dice) = (Instant::now(), Dice::new(3));
        let mut speeds = Speeds::new();
        let all: Vec<(u32, Tier)> = (0..16).map(|peer| (peer, Tier::Other)).collect();
        for _ in 0..160 {
            let peer = speeds.choose(now, &mut dice, &all, MIB / 4).unwrap();
            speeds.began(peer, MIB / 4);
        }
        let most = (0..16).map(|peer| speeds.asks(peer)).max().unwrap();
        // Ten each; drawn blindly the fullest would have nearly twice that.
        assert!(most <= 14, "{most}");
    }
}
