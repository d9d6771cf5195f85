//! Who is not asked any more, and for how long.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Name, Settings};

/// A node that is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban<P> {
    /// Which one.
    pub peer: P,
    /// For how long.
    pub time: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    until: Instant,
    /// How often it was banned.
    times: u32,
}

/// The nodes that are banned. Each ban of a node is twice as long as the one before. When many are banned in a short time
/// something else is wrong than a node, and nobody is asked for a while.
#[derive(Debug)]
pub struct Bans<P> {
    settings: Settings,
    records: HashMap<P, Record>,
    /// When the last ones were banned.
    recent: VecDeque<Instant>,
    off_until: Option<Instant>,
    total: u64,
}

impl<P: Name> Bans<P> {
    /// None yet.
    pub fn new(settings: &Settings) -> Bans<P> {
        Bans {
            settings: settings.clone(),
            records: HashMap::new(),
            recent: VecDeque::new(),
            off_until: None,
            total: 0,
        }
    }

    /// Bans `peer`. A ban under way is not made longer: what it is for was under way too.
    pub fn ban(&mut self, now: Instant, peer: P) -> Ban<P> {
        if !self.is_banned(now, peer) {
            self.count(now);
        }
        self.ban_shortly(now, peer, 1)
    }

    /// Bans `peer` for what may have been an accident: for a `part` of the time, and that does not turn others off.
    pub fn ban_shortly(&mut self, now: Instant, peer: P, part: u32) -> Ban<P> {
        if let Some(record) = self.records.get(&peer)
            && record.until > now
        {
            let time = record.until - now;
            return Ban { peer, time };
        }
        self.make_room(now);
        let first = self.settings.ban_first;
        let record = self.records.entry(peer).or_insert(Record {
            until: now,
            times: 0,
        });
        // Good for so long as the longest ban: what it did before is forgotten.
        if now.saturating_duration_since(record.until) >= self.settings.ban_most {
            record.times = 0;
        }
        let time = first
            .saturating_mul(1 << record.times.min(20))
            .min(self.settings.ban_most)
            / part.max(1);
        *record = Record {
            until: now + time,
            times: record.times.saturating_add(1),
        };
        self.total += 1;
        Ban { peer, time }
    }

    fn count(&mut self, now: Instant) {
        self.recent.push_back(now);
        let minute = Duration::from_secs(60);
        while let Some(first) = self.recent.front()
            && now.saturating_duration_since(*first) > minute
        {
            self.recent.pop_front();
        }
        if self.recent.len() > self.settings.bans_a_minute {
            self.off_until = Some(now + self.settings.off);
            self.recent.clear();
        }
    }

    /// What is over and forgotten goes, and if that is not enough what ends first.
    fn make_room(&mut self, now: Instant) {
        if self.records.len() < self.settings.bans_kept {
            return;
        }
        let kept = self.settings.ban_most;
        self.records
            .retain(|_, record| now.saturating_duration_since(record.until) < kept);
        if self.records.len() >= self.settings.bans_kept {
            let first = self.records.iter().min_by_key(|(_, record)| record.until);
            if let Some(peer) = first.map(|(peer, _)| *peer) {
                self.records.remove(&peer);
            }
        }
    }

    /// Whether `peer` is banned.
    pub fn is_banned(&self, now: Instant, peer: P) -> bool {
        let record = self.records.get(&peer);
        record.is_some_and(|record| record.until > now)
    }

    /// Until when nobody is asked, if that is so.
    pub fn off_until(&self, now: Instant) -> Option<Instant> {
        self.off_until.filter(|until| *until > now)
    }

    /// How many bans there were.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Who is banned, and for how much longer.
    pub fn current(&self, now: Instant) -> Vec<Ban<P>> {
        let bans = self.records.iter().filter(|(_, record)| record.until > now);
        let mut bans: Vec<Ban<P>> = bans
            .map(|(peer, record)| Ban {
                peer: *peer,
                time: record.until - now,
            })
            .collect();
        bans.sort_by_key(|ban| ban.peer);
        bans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn bans_get_longer_up_to_a_day() {
        let mut bans = Bans::new(&Settings::default());
        let mut now = Instant::now();
        let mut times = Vec::new();
        for _ in 0..10 {
            let ban = bans.ban(now, 1);
            assert!(bans.is_banned(now, 1));
            // Once more while it is banned changes nothing.
            assert_eq!(bans.ban(now, 1), ban);
            now += ban.time;
            assert!(!bans.is_banned(now, 1));
            times.push(ban.time.as_secs() / 60);
        }
        assert_eq!(times, [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
        assert_eq!(bans.total(), 10);
        // A good day is a new beginning.
        now += 24 * 60 * MINUTE;
        assert_eq!(bans.ban(now, 1).time, 10 * MINUTE);
    }

    #[test]
    fn many_bans_in_a_minute_turn_all_off() {
        let mut bans = Bans::new(&Settings::default());
        let mut now = Instant::now();
        for peer in 0..3 {
            bans.ban(now, peer);
        }
        assert_eq!(bans.off_until(now), None);
        // The fourth in a minute is one too many, and after a minute it is not.
        let mut later = Bans::new(&Settings::default());
        (0..3).for_each(|peer| {
            later.ban(now, peer);
        });
        later.ban(now + 2 * MINUTE, 3);
        assert_eq!(later.off_until(now + 2 * MINUTE), None);
        bans.ban(now, 3);
        let until = bans.off_until(now).unwrap();
        assert!(until > now);
        now = until;
        assert_eq!(bans.off_until(now), None);
        let banned: Vec<i32> = bans.current(now).into_iter().map(|ban| ban.peer).collect();
        assert_eq!(banned, [0, 1, 2, 3]);
        assert_eq!(bans.current(now + 10 * MINUTE), []);
    }

    #[test]
    fn there_is_room_for_so_many_only() {
        let settings = Settings {
            bans_kept: 10,
            ..Settings::default()
        };
        let mut bans = Bans::new(&settings);
        let now = Instant::now();
        for peer in 0..100 {
            bans.ban(now + Duration::from_secs(peer), peer);
        }
        assert_eq!(bans.records.len(), 10);
        assert!(bans.is_banned(now + Duration::from_secs(99), 99));
    }
}
