//! The way to a layer's blob, which is looked for when it is first needed: a restart needs no registry.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_source::{Blob, BoxFuture};
use tokio::sync::OnceCell;

/// Finds the blob of a layer.
pub trait Connect: Send + Sync + fmt::Debug {
    /// Called when bytes are needed for the first time, and again after the blob has refused.
    fn connect(&self) -> BoxFuture<'_, pontoon_source::Result<Arc<dyn Blob>>>;
}

/// A blob that is known already. It is not looked for again when it refuses.
#[derive(Debug, Clone)]
pub struct Connected(pub Arc<dyn Blob>);

impl Connect for Connected {
    fn connect(&self) -> BoxFuture<'_, pontoon_source::Result<Arc<dyn Blob>>> {
        let blob = self.0.clone();
        Box::pin(async move { Ok(blob) })
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    connect: Arc<dyn Connect>,
    blob: Mutex<Arc<OnceCell<Arc<dyn Blob>>>>,
}

impl Link {
    pub(crate) fn new(connect: Arc<dyn Connect>) -> Self {
        Link {
            connect,
            blob: Mutex::default(),
        }
    }

    /// The blob; whoever comes first connects, the others wait for it.
    pub(crate) async fn blob(&self) -> pontoon_source::Result<Arc<dyn Blob>> {
        let cell = self.cell().clone();
        let blob = cell.get_or_try_init(|| self.connect.connect()).await?;
        Ok(blob.clone())
    }

    /// The blob refuses: it is looked for again, perhaps with other credentials or elsewhere.
    pub(crate) fn reset(&self) {
        *self.cell() = Arc::default();
    }

    fn cell(&self) -> std::sync::MutexGuard<'_, Arc<OnceCell<Arc<dyn Blob>>>> {
        self.blob.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
