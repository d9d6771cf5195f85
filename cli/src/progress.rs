//! How far it is, for who watches.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::text;

/// How often a terminal is told, and a log.
const TERMINAL: Duration = Duration::from_millis(500);
const LOG: Duration = Duration::from_secs(10);

/// Bytes that are here, of several blobs.
#[derive(Debug)]
pub(crate) struct Progress {
    total: u64,
    /// Of each blob.
    here: Vec<AtomicU64>,
    /// Bytes of new blobs that are somewhere else now.
    sent: AtomicU64,
}

impl Progress {
    /// Nothing of blobs of so many bytes.
    pub(crate) fn new(sizes: impl Iterator<Item = u64> + Clone) -> Self {
        Progress {
            total: sizes.clone().fold(0, u64::saturating_add),
            here: sizes.map(|_| AtomicU64::new(0)).collect(),
            sent: AtomicU64::new(0),
        }
    }

    /// The blob `index` is here up to `offset`.
    pub(crate) fn reach(&self, index: usize, offset: u64) {
        if let Some(here) = self.here.get(index) {
            // Read once more, it is here all the same.
            here.fetch_max(offset, Ordering::Relaxed);
        }
    }

    /// Of a new blob, `now` bytes were sent, and `before` were before.
    pub(crate) fn sent(&self, before: u64, now: u64) {
        // Whoever begins anew has sent less than before.
        self.sent
            .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Tells on standard error, until this is dropped.
    pub(crate) async fn tell(&self) {
        let is_terminal = stderr().is_terminal();
        let interval = if is_terminal { TERMINAL } else { LOG };
        loop {
            tokio::time::sleep(interval).await;
            let line = self.line();
            // Whoever does not read it misses nothing.
            let _ = match is_terminal {
                true => write!(stderr(), "\r{line}\x1b[K"),
                false => writeln!(stderr(), "{line}"),
            };
        }
    }

    /// Leaves the line of a terminal.
    pub(crate) fn end(&self) {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    fn line(&self) -> String {
        let here = self.here.iter().map(|here| here.load(Ordering::Relaxed));
        let here = here.fold(0, u64::saturating_add).min(self.total);
        let percent = u128::from(here) * 100 / u128::from(self.total.max(1));
        let (here, total) = (text::bytes(here), text::bytes(self.total));
        let line = format!("{here} of {total} ({percent} %)");
        match self.sent.load(Ordering::Relaxed) {
            0 => line,
            sent => format!("{line}, {} sent", text::bytes(sent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_is_here_and_what_was_sent() {
        let progress = Progress::new([3_000_000, 1_000_000].into_iter());
        progress.reach(1, 1_000_000);
        assert_eq!(progress.line(), "1.0 MB of 4.0 MB (25 %)");
        // Read again, it is not less.
        progress.reach(1, 5);
        progress.reach(0, 1_000_000);
        progress.reach(7, 9);
        // An upload that begins anew.
        for (before, now) in [(0, 900_000), (900_000, 100_000), (100_000, 700_000)] {
            progress.sent(before, now);
        }
        assert_eq!(progress.line(), "2.0 MB of 4.0 MB (50 %), 700.0 kB sent");
    }
}
