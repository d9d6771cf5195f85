//! The way to a layer's blob, which is looked for when it is first needed: a restart needs no registry.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_source::{Blob, BoxFuture, Error, Pace, Result};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// For how long a registry that refused a reader is not asked again: a program that reads on after an error would ask
/// as fast as the registry refuses.
const REFUSAL: Duration = Duration::from_secs(1);

/// Finds the blob of a layer.
pub trait Connect: Send + Sync + fmt::Debug {
    /// Called when bytes are needed for the first time, and again after the blob has refused.
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Blob>>>;

    /// How many different blobs it finds, one after another: so many are asked before a refusal is a reader's.
    fn ways(&self) -> usize {
        1
    }

    /// Where the blobs end that it will be joined of ([`pontoon_source::Joined::ends`]), ascending: no request goes
    /// across. Asked for once.
    fn ends(&self) -> Vec<u64> {
        Vec::new()
    }
}

/// A blob that is known already. It is not looked for again when it refuses.
#[derive(Debug, Clone)]
pub struct Connected(pub Arc<dyn Blob>);

impl Connect for Connected {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Blob>>> {
        let blob = self.0.clone();
        Box::pin(async move { Ok(blob) })
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    connect: Arc<dyn Connect>,
    ends: Vec<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blob: Arc<OnceCell<Arc<dyn Blob>>>,
    failed: Option<(Instant, Error)>,
}

impl Link {
    pub(crate) fn new(connect: Arc<dyn Connect>) -> Self {
        Link {
            ends: connect.ends(),
            connect,
            state: Mutex::default(),
        }
    }

    /// The blob; whoever comes first connects, the others wait for it, and share its error.
    pub(crate) async fn blob(&self) -> Result<Arc<dyn Blob>> {
        let arrived = Instant::now();
        self.refusal(arrived)?;
        let cell = self.state().blob.clone();
        let connect = async || {
            self.refusal(arrived)?;
            let connected = self.connect.connect().await;
            if let Err(error) = &connected {
                self.state().failed = Some((Instant::now(), error.clone()));
            }
            connected
        };
        cell.get_or_try_init(connect).await.cloned()
    }

    /// Where its parts end.
    pub(crate) fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// How fast the way to the blob is, if there is one and that was measured.
    pub(crate) fn pace(&self) -> Option<Pace> {
        let blob = self.state().blob.get().cloned();
        blob?.pace()
    }

    /// An error that came while we waited, or just now if waiting does not help.
    fn refusal(&self, arrived: Instant) -> Result<()> {
        match &self.state().failed {
            Some((at, error)) if *at > arrived => Err(error.clone()),
            Some((at, error)) if !error.is_transient() && at.elapsed() < REFUSAL => {
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }

    /// The blob refuses: it is looked for again, perhaps with other credentials or elsewhere.
    pub(crate) fn reset(&self) {
        self.state().blob = Arc::default();
    }

    /// How many blobs there are to ask.
    pub(crate) fn ways(&self) -> usize {
        self.connect.ways()
    }

    /// `blob` refuses, and there are others. Somebody else may have turned to the next one already.
    pub(crate) fn leave(&self, blob: &Arc<dyn Blob>) {
        let mut state = self.state();
        let current = state.blob.get();
        if current.is_some_and(|current| Arc::ptr_eq(current, blob)) {
            state.blob = Arc::default();
        }
    }

    /// It refused a reader, so it is not looked for again at once.
    pub(crate) fn refused(&self, error: &Error) {
        let now = Instant::now();
        // A refusal that is repeated from memory does not live the longer for it.
        if self.refusal(now).is_ok() {
            *self.state() = State {
                blob: Arc::default(),
                failed: Some((now, error.clone())),
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
