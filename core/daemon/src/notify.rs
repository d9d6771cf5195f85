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

/// The daemon was told to stop.
pub(crate) fn stopping() {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing requests"),
    ]);
}

/// Tells a watchdog, if there is one, twice in its period that the engine answers. Never returns.
pub(crate) async fn keep_watchdog_calm(health: Arc<Health>) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match health.check().await {
            Ok(()) => send(&[NotifyState::Watchdog]),
            Err(reason) => tracing::error!(reason, "the watchdog is not told that all is well"),
        }
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = %Chain(&error), "the service manager was not notified");
    }
}
