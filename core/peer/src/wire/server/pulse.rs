//! When a connection is given up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// So often it is looked whether a connection is still alive.
const LOOK: Duration = Duration::from_secs(2);

/// Until when something has to happen on a connection.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds from then on.
    until: AtomicU64,
    is_idle: AtomicBool,
    /// Milliseconds that it may be without anything to do.
    idle: AtomicU64,
}

impl Pulse {
    /// Of a connection on which there is nothing to do.
    pub(super) fn new(idle: Duration) -> Pulse {
        let pulse = Pulse {
            start: Instant::now(),
            until: AtomicU64::new(0),
            is_idle: AtomicBool::new(true),
            idle: AtomicU64::new(0),
        };
        pulse.stays(idle);
        pulse.rest();
        pulse
    }

    /// From the next rest on there may be nothing to do for so long.
    pub(super) fn stays(&self, idle: Duration) {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Something is to be done within `time`.
    pub(super) fn beat(&self, time: Duration) {
        self.is_idle.store(false, Ordering::Relaxed);
        self.set(time);
    }

    /// It is done: the next request may take its time.
    pub(super) fn rest(&self) {
        self.is_idle.store(true, Ordering::Relaxed);
        self.set(Duration::from_millis(self.idle.load(Ordering::Relaxed)));
    }

    fn set(&self, time: Duration) {
        let until = u64::try_from((self.start.elapsed() + time).as_millis());
        self.until
            .store(until.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits until nothing has happened for too long. Answers whether there was nothing to do.
    pub(super) async fn stops(&self) -> bool {
        loop {
            let until = Duration::from_millis(self.until.load(Ordering::Relaxed));
            let left = until.saturating_sub(self.start.elapsed());
            if left.is_zero() {
                return self.is_idle.load(Ordering::Relaxed);
            }
            // It may be shorter meanwhile.
            sleep(left.min(LOOK)).await;
        }
    }
}
