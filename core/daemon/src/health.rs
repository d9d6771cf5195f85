//! Whether this daemon can do what it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::plugin::Engine;
use crate::status::Chain;

/// How long the engine may take to answer a probe.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// The health of a daemon.
pub(crate) struct Health {
    engine: Arc<dyn Engine>,
    serving: AtomicBool,
}

impl Health {
    /// Of a daemon that does not serve yet.
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Health {
            engine,
            serving: AtomicBool::new(false),
        }
    }

    /// Says that the daemon serves, or that it has begun to stop.
    pub(crate) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    /// Whether requests are accepted and the engine works; if not, why.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        if self.serving.load(Ordering::Relaxed) {
            self.check().await
        } else {
            Err("not serving: the daemon is starting or stopping".to_owned())
        }
    }

    /// Returns when the engine has answered, however late and even with an error: then restarting would not help.
    pub(crate) async fn answered(&self) {
        let engine = Arc::clone(&self.engine);
        let mut probe = tokio::task::spawn_blocking(move || engine.probe());
        let in_time = tokio::time::timeout(PROBE_TIME_MAX, &mut probe).await;
        let answer = match in_time {
            Ok(answer) => answer,
            Err(_elapsed) => {
                tracing::error!(
                    "the engine does not answer; the watchdog is not told that all is well"
                );
                probe.await
            }
        };
        if let Ok(Err(error)) = answer {
            tracing::warn!(error = %Chain(&error), "the engine fails");
        }
    }

    /// Whether the engine works; if not, why.
    async fn check(&self) -> Result<(), String> {
        let engine = Arc::clone(&self.engine);
        let probe = tokio::task::spawn_blocking(move || engine.probe());
        match tokio::time::timeout(PROBE_TIME_MAX, probe).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(format!("the engine fails: {}", Chain(&error))),
            Ok(Err(_panicked)) => Err("the engine's probe panicked".to_owned()),
            Err(_elapsed) => Err("the engine did not answer within 5 seconds".to_owned()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use pontoon_snapshot::{Error, Keyspaces, Result, Snapshotter, SnapshotterName};

    use super::*;
    use crate::plugin::Census;

    /// An engine whose probe is this.
    pub(crate) struct Probed<F>(pub(crate) F);

    impl<F: Send + Sync> Keyspaces for Probed<F> {
        fn open(&self, _: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
            unreachable!("nothing is asked of it")
        }
    }

    impl<F: Fn() -> Result<()> + Send + Sync> Engine for Probed<F> {
        fn probe(&self) -> Result<()> {
            (self.0)()
        }

        fn census(&self) -> Result<Census> {
            Ok(Census::default())
        }

        fn close(&self) {}
    }

    pub(crate) fn disk_gone() -> Result<()> {
        let gone = std::io::Error::other("disk gone");
        Err(Error::io("read metadata", gone))
    }

    #[tokio::test]
    async fn an_engine_that_fails_is_not_ready() {
        let health = Health::new(Arc::new(Probed(disk_gone)));
        let starting = health.ready().await.unwrap_err();
        assert!(starting.starts_with("not serving"), "{starting}");
        health.set_serving(true);
        assert_eq!(
            health.ready().await.unwrap_err(),
            "the engine fails: read metadata failed: disk gone"
        );
    }
}
