//! What a holder keeps, and when it gives it up.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The most that one holder keeps. A daemon has one connection, and one more for each time that somebody has unmounted
/// it under running containers.
const ENTRIES_MAX: usize = 1024;

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A descriptor that is kept.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) descriptor: OwnedFd,
    /// What only daemons understand.
    pub(crate) state: Vec<u8>,
    /// For how long it is kept when nobody serves.
    pub(crate) patience: Duration,
    /// The number of the FUSE connection, or 0.
    pub(crate) connection: u32,
    /// What the log says when it is given up.
    pub(crate) advice: String,
}

/// Everything that is kept, and since when nobody serves it.
#[derive(Debug)]
pub(crate) struct Entries {
    by_name: BTreeMap<String, Entry>,
    unserved_since: Option<Instant>,
}

impl Entries {
    pub(crate) fn new(now: Instant) -> Self {
        Entries {
            by_name: BTreeMap::new(),
            unserved_since: Some(now),
        }
    }

    /// Keeps `entry`, in place of one with the same name. The error says why not.
    pub(crate) fn keep(&mut self, name: String, entry: Entry, now: Instant) -> Result<(), String> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if self.by_name.len() >= ENTRIES_MAX && !self.by_name.contains_key(&name) {
            return Err(format!("{ENTRIES_MAX} are kept already"));
        }
        if self.by_name.is_empty() && self.unserved_since.is_some() {
            self.unserved_since = Some(now);
        }
        self.by_name.insert(name, entry);
        Ok(())
    }

    /// Changes what is noted about the entry `name`.
    pub(crate) fn note(&mut self, name: &str, state: &[u8], connection: u32) -> Result<(), String> {
        let entry = self.by_name.get_mut(name);
        let entry = entry.ok_or_else(|| format!("nothing is kept as {name}"))?;
        entry.state = state.to_vec();
        entry.connection = connection;
        Ok(())
    }

    pub(crate) fn forget(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = (&String, &Entry)> {
        self.by_name.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether somebody serves, from now on.
    pub(crate) fn set_served(&mut self, served: bool, now: Instant) {
        match (served, self.unserved_since) {
            (true, _) => self.unserved_since = None,
            (false, None) => self.unserved_since = Some(now),
            (false, Some(_)) => {}
        }
    }

    /// When the next one is given up. `None`: never, as it is now.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let since = self.unserved_since?;
        let patience = self.by_name.values().map(|entry| entry.patience).min()?;
        since.checked_add(patience)
    }

    /// What is given up now.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<(String, Entry)> {
        let Some(since) = self.unserved_since else {
            return Vec::new();
        };
        let waited = now.saturating_duration_since(since);
        self.by_name
            .extract_if(.., |_, entry| waited >= entry.patience)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(patience: u64) -> Entry {
        Entry {
            descriptor: std::fs::File::open("/dev/null").unwrap().into(),
            state: Vec::new(),
            patience: Duration::from_secs(patience),
            connection: 0,
            advice: String::new(),
        }
    }

    #[test]
    fn each_is_given_up_after_its_own_patience_and_only_when_nobody_serves() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut entries = Entries::new(begun);
        assert_eq!(entries.deadline(), None);
        // What is kept first is waited for from then on.
        entries.keep("a".into(), entry(5), at(100)).unwrap();
        entries.keep("b".into(), entry(9), at(101)).unwrap();
        assert_eq!(entries.deadline(), Some(at(105)));
        entries.set_served(true, at(102));
        assert_eq!(entries.deadline(), None);
        assert!(entries.expired(at(1000)).is_empty());
        entries.set_served(false, at(200));
        entries.set_served(false, at(203));
        assert!(entries.expired(at(204)).is_empty());
        assert_eq!(entries.expired(at(205))[0].0, "a");
        assert_eq!(entries.deadline(), Some(at(209)));
        assert_eq!(entries.expired(at(209)).len(), 1);
        assert_eq!(entries.len(), 0);
    }

    #[test]
    fn there_are_limits() {
        let now = Instant::now();
        let mut entries = Entries::new(now);
        entries.keep(String::new(), entry(1), now).unwrap_err();
        entries.keep("x".repeat(256), entry(1), now).unwrap_err();
        entries.note("a", b"", 0).unwrap_err();
        entries.keep("a".into(), entry(1), now).unwrap();
        entries.note("a", b"state", 7).unwrap();
        assert_eq!(entries.all().next().unwrap().1.state, b"state");
    }
}
