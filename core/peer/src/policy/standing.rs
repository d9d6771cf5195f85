//! What a node thinks of the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Ban, Bans, Class, Dice, Failure, Hedge, Name, Settings, Speeds, Tier};

/// A node that is busy is asked again after so long at least, and at most.
const BUSY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// Bans for what may happen to a good node are so much shorter.
const LENIENCE: u32 = 10;

/// How a node has behaved lately.
#[derive(Debug, Clone, Copy, Default)]
struct Conduct {
    /// Failures in a row.
    failures: u32,
    /// Of these, such as a good node has now and then.
    strikes: u32,
    paused_until: Option<Instant>,
    /// Requests under way to it that nobody waits for.
    prefetch: usize,
}

/// How much was asked of other nodes, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Requests.
    pub asks: u64,
    /// Of these, such as asked for what another node was asked for already.
    pub hedges: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Requests that met a node that had enough to do.
    pub busy: u64,
    /// Chunks that came.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were asked for and not waited for to the end, because somebody else was faster.
    pub wasted_bytes: u64,
}

/// What this node thinks of each other one, and what it has under way to them, whatever the layer. One for a node.
#[derive(Debug)]
pub struct Standing<P> {
    pub(super) settings: Settings,
    pub(super) speeds: Speeds<P>,
    pub(super) hedge: Hedge,
    pub(super) dice: Dice,
    bans: Bans<P>,
    conducts: HashMap<P, Conduct>,
    demand_asks: usize,
    prefetch_asks: usize,
    tallies: Tallies,
}

impl<P: Name> Standing<P> {
    /// Nobody is known. `seed` is for what is left to chance.
    pub fn new(settings: Settings, seed: u64) -> Standing<P> {
        Standing {
            speeds: Speeds::new(),
            hedge: Hedge::new(&settings),
            dice: Dice::new(seed),
            bans: Bans::new(&settings),
            conducts: HashMap::new(),
            demand_asks: 0,
            prefetch_asks: 0,
            tallies: Tallies::default(),
            settings,
        }
    }

    /// The numbers that it decides by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether `peer` may be asked at all now.
    pub fn is_usable(&self, now: Instant, peer: P) -> bool {
        !self.bans.is_banned(now, peer) && self.paused_until(now, peer).is_none()
    }

    /// Whether `peer` may be asked for something of `class` now.
    pub(super) fn is_free(&self, now: Instant, peer: P, class: Class) -> bool {
        let room = self.speeds.asks(peer) < self.settings.peer_asks_max;
        let conduct = self.conducts.get(&peer);
        let prefetch = conduct.map_or(0, |conduct| conduct.prefetch);
        let is_its_share = class == Class::Demand || prefetch < self.settings.peer_prefetch_max;
        room && is_its_share && self.is_usable(now, peer)
    }

    /// How many more requests of `class` may be made, whomever they are to.
    pub(super) fn room(&self, class: Class) -> usize {
        let (most, asks) = match class {
            Class::Demand => (self.settings.demand_asks_max, self.demand_asks),
            Class::Prefetch => (self.settings.prefetch_asks_max, self.prefetch_asks),
        };
        most.saturating_sub(asks)
    }

    /// Whom of `candidates` to ask for `bytes`.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        candidates: &[(P, Tier)],
        bytes: u64,
    ) -> Option<P> {
        let Standing { speeds, dice, .. } = self;
        speeds.choose(now, dice, candidates, bytes)
    }

    /// Until when `peer` is left alone, if it is, for another reason than a ban.
    pub(super) fn paused_until(&self, now: Instant, peer: P) -> Option<Instant> {
        let conduct = self.conducts.get(&peer)?;
        conduct.paused_until.filter(|until| *until > now)
    }

    /// Until when nobody is asked, because too many were banned.
    pub fn off_until(&self, now: Instant) -> Option<Instant> {
        self.bans.off_until(now)
    }

    /// Who is banned.
    pub fn bans(&self) -> &Bans<P> {
        &self.bans
    }

    /// How fast others are.
    pub fn speeds(&self) -> &Speeds<P> {
        &self.speeds
    }

    /// How often asking twice was allowed, and how often it was not.
    pub fn hedge(&self) -> &Hedge {
        &self.hedge
    }

    /// What was done so far.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// `peer` is asked for `bytes`.
    pub(super) fn asked(&mut self, peer: P, class: Class, bytes: u64, is_hedge: bool) {
        self.speeds.began(peer, bytes);
        match is_hedge {
            true => self.tallies.hedges += 1,
            false => self.hedge.asked(bytes),
        }
        self.tallies.asks += 1;
        let conduct = self.conducts.entry(peer).or_default();
        match class {
            Class::Demand => self.demand_asks += 1,
            Class::Prefetch => {
                self.prefetch_asks += 1;
                conduct.prefetch += 1;
            }
        }
    }

    /// `peer` gave a chunk of `bytes`.
    pub(super) fn came(&mut self, peer: P, bytes: u64) {
        self.speeds.came(peer, bytes);
        self.tallies.chunks += 1;
        self.tallies.bytes += bytes;
        // Right bytes make good for what it failed at before.
        let conduct = self.conducts.entry(peer).or_default();
        (conduct.failures, conduct.strikes) = (0, 0);
    }

    /// A request to `peer` is over, and `rest` bytes of it will not come.
    pub(super) fn ended(&mut self, peer: P, class: Class, rest: u64) {
        self.speeds.ended(peer, rest);
        let conduct = self.conducts.entry(peer).or_default();
        match class {
            Class::Demand => self.demand_asks = self.demand_asks.saturating_sub(1),
            Class::Prefetch => {
                self.prefetch_asks = self.prefetch_asks.saturating_sub(1);
                conduct.prefetch = conduct.prefetch.saturating_sub(1);
            }
        }
    }

    /// A request for `bytes` took so long, all of it.
    pub(super) fn took(&mut self, now: Instant, peer: P, bytes: u64, time: Duration) {
        self.speeds.took(now, peer, bytes, time);
        self.hedge.observe(bytes, time);
    }

    /// So many bytes were asked for in vain.
    pub(super) fn wasted(&mut self, bytes: u64) {
        self.tallies.wasted_bytes += bytes;
    }

    /// `peer` failed. If that earns it a ban, it is banned.
    pub fn failed(&mut self, now: Instant, peer: P, failure: Failure) -> Option<Ban<P>> {
        let was_paused = self.paused_until(now, peer).is_some();
        let settings = &self.settings;
        let conduct = self.conducts.entry(peer).or_default();
        let mut is_strike = false;
        match failure {
            Failure::Busy(time) => {
                let time = time.clamp(BUSY.0, BUSY.1);
                conduct.paused_until = conduct.paused_until.max(Some(now + time));
                self.tallies.busy += 1;
                return None;
            }
            Failure::Refused => conduct.paused_until = Some(now + settings.refused_pause),
            Failure::Wrong => {
                self.tallies.failures += 1;
                return Some(self.bans.ban(now, peer));
            }
            Failure::Missing | Failure::Cut | Failure::Slow | Failure::Broken => {
                // What was under way when it failed first fails of the same.
                if !was_paused {
                    let doubled = 1 << conduct.failures.min(16);
                    let pause = settings.pause_first.saturating_mul(doubled);
                    conduct.paused_until = Some(now + pause.min(settings.pause_most));
                    conduct.failures += 1;
                    // That somebody cannot be reached may be anybody's fault.
                    is_strike = failure != Failure::Broken;
                }
            }
        }
        self.tallies.failures += 1;
        if is_strike {
            conduct.strikes += 1;
            if conduct.strikes >= settings.strikes {
                conduct.strikes = 0;
                return Some(self.bans.ban_shortly(now, peer, LENIENCE));
            }
        }
        None
    }

    /// `peer` is gone. What it did is remembered only if it was banned for it.
    pub fn forget(&mut self, peer: P) {
        self.speeds.forget(peer);
        self.conducts.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_good_nodes_is_forgiven() {
        let mut standing = Standing::new(Settings::default(), 1);
        let mut now = Instant::now();
        for _ in 0..100 {
            assert_eq!(standing.failed(now, 'a', Failure::Broken), None);
            assert!(!standing.is_usable(now, 'a'));
            now += Duration::from_secs(61);
            assert!(standing.is_usable(now, 'a'));
        }
        for _ in 0..100 {
            assert_eq!(
                standing.failed(now, 'b', Failure::Busy(Duration::from_millis(50))),
                None
            );
            now += Duration::from_millis(51);
            assert!(standing.is_usable(now, 'b'));
        }
        assert_eq!(standing.tallies().busy, 100);
    }

    #[test]
    fn lying_and_dawdling_again_and_again_is_a_short_ban() {
        for failure in [Failure::Missing, Failure::Cut, Failure::Slow] {
            let mut standing = Standing::new(Settings::default(), 1);
            let mut now = Instant::now();
            let mut bans = Vec::new();
            for _ in 0..5 {
                bans.extend(standing.failed(now, 'a', failure));
                // What was under way beside it does not count.
                assert_eq!(standing.failed(now, 'a', failure), None);
                now += Duration::from_secs(60);
            }
            assert_eq!(bans.len(), 1, "{failure:?}");
            assert_eq!(bans[0].time, Duration::from_secs(60));
            // One good answer in between is enough.
            for _ in 0..20 {
                assert_eq!(standing.failed(now, 'b', failure), None);
                standing.came('b', 1);
                now += Duration::from_secs(60);
            }
        }
    }

    #[test]
    fn one_wrong_answer_is_a_ban() {
        let mut standing = Standing::new(Settings::default(), 1);
        let now = Instant::now();
        let ban = standing.failed(now, 'a', Failure::Wrong).unwrap();
        assert_eq!(ban.time, Duration::from_secs(600));
        assert!(!standing.is_usable(now + Duration::from_secs(599), 'a'));
        assert!(standing.is_usable(now + Duration::from_secs(600), 'a'));
    }
}
