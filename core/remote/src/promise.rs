//! A value that one task makes and many wait for.

use std::future::Future;
use std::sync::mpsc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::reason::{self, Refusal};

/// A value that is there once somebody has made it. Clones stand for the same one.
#[derive(Debug, Clone)]
pub(crate) struct Promise<T>(watch::Receiver<Option<Result<T, Refusal>>>);

impl<T: Clone + Send + Sync + 'static> Promise<T> {
    /// The value that `work` will have made. It is done on `runtime` whether anybody waits or not.
    pub(crate) fn of(
        runtime: &Handle,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = watch::channel(None);
        let work = runtime.spawn(work);
        runtime.spawn(async move {
            // A panic has been logged; whoever waits shall not wait for ever.
            let made = work
                .await
                .unwrap_or_else(|_| Err(Refusal::new(reason::BUG)));
            sender.send_replace(Some(made));
        });
        Promise(receiver)
    }

    /// The value, if it is there.
    pub(crate) fn get(&self) -> Option<Result<T, Refusal>> {
        self.0.borrow().clone()
    }

    /// The value, as soon as it is there.
    pub(crate) async fn wait(&self) -> Result<T, Refusal> {
        let mut receiver = self.0.clone();
        let made = receiver.wait_for(Option::is_some).await;
        let made = made.ok().and_then(|made| made.clone());
        // The sender is only gone without a value when the runtime ends.
        made.unwrap_or_else(|| Err(Refusal::for_now(reason::BUG)))
    }

    /// The value, if it is there at `deadline`; without one, whenever it is. For threads that may block.
    pub(crate) fn wait_until(
        &self,
        runtime: &Handle,
        deadline: Option<Instant>,
    ) -> Option<Result<T, Refusal>> {
        if let Some(made) = self.get() {
            return Some(made);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let promise = self.clone();
        runtime.spawn(async move {
            // Whoever waited may be gone.
            let _ = sender.send(promise.wait().await);
        });
        match deadline {
            None => receiver.recv().ok(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                receiver.recv_timeout(left).ok()
            }
        }
    }
}
