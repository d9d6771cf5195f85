//! What the service manager is told, by sd_notify(3). Without one all of this does nothing.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::health::Health;
use crate::status::Chain;

/// The daemon serves.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon was told to stop, and needs up to `time`; a service manager that would kill it before waits as long.
pub(crate) fn stopping(time: Duration) {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing requests"),
        NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)),
    ]);
}

/// Tells a watchdog, if there is one, four times in its period that the engine answers. Never returns.
pub(crate) async fn keep_watchdog_calm(health: Arc<Health>) {
    match sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) {
        Some(period) => beat(&health, period, || send(&[NotifyState::Watchdog])).await,
        None => std::future::pending().await,
    }
}

/// A probe that takes long is waited for, not given up: whatever time is left then, its answer counts.
async fn beat(health: &Health, period: Duration, told: impl Fn()) {
    let mut ticks = tokio::time::interval((period / 4).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        health.answered().await;
        told();
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = %Chain(&error), "the service manager was not notified");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use pontoon_snapshot::Result;
    use tokio::sync::mpsc::{self, UnboundedReceiver};

    use super::*;
    use crate::health::tests::{Probed, disk_gone};

    /// How long anything may take that takes milliseconds on an idle machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn beats<F>(period: Duration, probe: F) -> UnboundedReceiver<Instant>
    where
        F: Fn() -> Result<()> + Send + Sync + 'static,
    {
        let (told, beats) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let health = Health::new(Arc::new(Probed(probe)));
            let told = || told.send(Instant::now()).expect("the test listens");
            beat(&health, period, told).await;
        });
        beats
    }

    async fn next(beats: &mut UnboundedReceiver<Instant>) -> Instant {
        let next = tokio::time::timeout(PATIENCE, beats.recv()).await;
        next.expect("the watchdog is not told").unwrap()
    }

    #[tokio::test]
    async fn an_engine_that_answers_with_an_error_is_alive() {
        let mut beats = beats(Duration::from_millis(40), disk_gone);
        for _ in 0..3 {
            next(&mut beats).await;
        }
    }

    #[tokio::test]
    async fn an_engine_that_does_not_answer_is_not_alive_and_is_as_soon_as_it_does() {
        let (answer, asked) = std::sync::mpsc::channel();
        let asked = Mutex::new(asked);
        // So long that a second try would come too late for the test.
        let mut beats = beats(4 * PATIENCE, move || {
            let asked = asked.lock().unwrap();
            asked.recv_timeout(2 * PATIENCE).unwrap();
            Ok(())
        });
        let early = tokio::time::timeout(Duration::from_millis(50), beats.recv());
        assert!(early.await.is_err(), "nothing has answered yet");
        let answered = Instant::now();
        answer.send(()).unwrap();
        assert!(next(&mut beats).await >= answered);
    }
}
