//! Logs: to standard error, as text or as JSON, with a level that can change at any time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// The least time between two lines about the same trouble.
const SELDOM: Duration = Duration::from_secs(60);

/// Keeps trouble that lasts from filling the log.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    /// Whether to log it `now`: the first time, and once a minute.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now >= last + SELDOM);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// The level of the logs of a running daemon.
#[derive(Debug)]
pub(crate) struct Level {
    current: Mutex<LogLevel>,
    filter: reload::Handle<Targets, Registry>,
}

/// Starts logging in this process, panics included.
pub(crate) fn start(level: LogLevel, format: LogFormat) -> Level {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(place, %backtrace, "panic: {text}");
    }));
    Level {
        current: Mutex::new(level),
        filter: handle,
    }
}

impl Level {
    /// The level now.
    pub(crate) fn get(&self) -> LogLevel {
        *self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes the level.
    pub(crate) fn set(&self, level: LogLevel) {
        let mut current = self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *current == level {
            return;
        }
        // Fails only if logging has ended, and then nobody can be told.
        let _ = self.filter.reload(targets(level));
        tracing::info!(from = %*current, to = %level, "log level changed");
        *current = level;
    }
}

/// Our own logs at `level`; of the libraries below, which trace every frame, warnings at most.
fn targets(level: LogLevel) -> Targets {
    Targets::new()
        .with_default(level.0.min(LevelFilter::WARN))
        .with_target("pontoon", level.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_that_lasts_is_logged_once_a_minute() {
        let begun = Instant::now();
        let mut seldom = Seldom::default();
        let mut due = |tenths: u64| seldom.is_due(begun + Duration::from_millis(100 * tenths));
        let lines: Vec<u64> = (0..1250).filter(|tenths| due(*tenths)).collect();
        assert_eq!(lines, [0, 600, 1200]);
    }
}
