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

    /// Whether requests are accepted and the engine answers; if not, why.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        if self.serving.load(Ordering::Relaxed) {
            self.check().await
        } else {
            Err("not serving: the daemon is starting or stopping".to_owned())
        }
    }

    /// Whether the engine answers; if not, why.
    pub(crate) async fn check(&self) -> Result<(), String> {
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
mod tests {
    use pontoon_snapshot::{Error, Keyspaces, Result, Snapshotter, SnapshotterName};

    use super::*;
    use crate::plugin::Census;

    struct Failing;

    impl Keyspaces for Failing {
        fn open(&self, _: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
            unreachable!("nothing is asked of it")
        }
    }

    impl Engine for Failing {
        fn probe(&self) -> Result<()> {
            Err(Error::io(
                "read metadata",
                std::io::Error::other("disk gone"),
            ))
        }

        fn census(&self) -> Result<Census> {
            Ok(Census::default())
        }

        fn close(&self) {}
    }

    #[tokio::test]
    async fn an_engine_that_fails_is_neither_ready_nor_healthy() {
        let health = Health::new(Arc::new(Failing));
        let starting = health.ready().await.unwrap_err();
        assert!(starting.starts_with("not serving"), "{starting}");
        health.set_serving(true);
        for reason in [health.ready().await, health.check().await] {
            assert_eq!(
                reason.unwrap_err(),
                "the engine fails: read metadata failed: disk gone"
            );
        }
    }
}
