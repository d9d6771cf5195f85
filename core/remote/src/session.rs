//! Images that are being pulled: one session for each, from its first layer on until nobody asks any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::labels::{self, Wanted};
use crate::promise::Promise;
use crate::reason::{self, Refusal};
use crate::remote::Shared;

/// A failure is believed for so long: the other layers of an image are not made to wait for it again.
const FAILURE_LIFETIME: Duration = Duration::from_secs(10);

/// After so long the registry is asked again whether the image may be read, however often it is pulled.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// How long a Prepare waits for a manifest that was late for another one already.
const LATE_PATIENCE: Duration = Duration::from_millis(250);

/// One image that is being pulled.
#[derive(Debug)]
pub(crate) struct Session {
    image: Promise<Arc<Image>>,
    begun: Instant,
    used: Mutex<Instant>,
    /// Somebody has waited for it in vain.
    late: AtomicBool,
    /// When a layer was refused that nobody else can bring.
    refused: OnceLock<Instant>,
}

impl Session {
    fn begin(shared: &Arc<Shared>, wanted: &Wanted) -> Arc<Self> {
        let first = wanted.layer.clone();
        let labels::Image {
            reference,
            manifest,
        } = wanted.image.clone();
        let worker = Arc::clone(shared);
        let image = Promise::of(&shared.runtime, async move {
            let registry = &worker.registry;
            let digest = match manifest {
                Some(digest) => digest,
                None => registry.resolve(&reference).await?,
            };
            let manifest = registry.manifest(&reference, &digest).await?;
            // It looks at disks.
            let begun = tokio::task::spawn_blocking(move || {
                Image::begin(&worker, reference, manifest, &first)
            });
            begun.await.map_err(|_| Refusal::new(reason::BUG))
        });
        let now = Instant::now();
        Arc::new(Session {
            image,
            begun: now,
            used: Mutex::new(now),
            late: AtomicBool::new(false),
            refused: OnceLock::new(),
        })
    }

    /// The image, if its manifest is here before `deadline`.
    pub(crate) fn image(
        &self,
        shared: &Shared,
        deadline: Option<Instant>,
    ) -> Result<Arc<Image>, Refusal> {
        let late = self.late.load(Ordering::Relaxed);
        let deadline = deadline.map(|deadline| match late {
            true => deadline.min(Instant::now() + LATE_PATIENCE),
            false => deadline,
        });
        let image = self.image.wait_until(&shared.runtime, deadline);
        image.unwrap_or_else(|| {
            self.late.store(true, Ordering::Relaxed);
            Err(Refusal::for_now(reason::SLOW_MANIFEST))
        })
    }

    fn is_over(&self, now: Instant, lifetime: Duration) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let lifetime = match self.image.get() {
            Some(Err(_)) => FAILURE_LIFETIME.min(lifetime),
            _ => lifetime,
        };
        now >= used + lifetime || now >= self.begun + LIFETIME_MAX
    }

    /// Whether it has failed so long ago that the registry may have been mended: whoever tries again and again would keep it
    /// alive.
    fn is_old_failure(&self, now: Instant, lifetime: Duration) -> bool {
        let failed = match self.image.get() {
            Some(Err(_)) => Some(self.begun),
            _ => self.refused.get().copied(),
        };
        failed.is_some_and(|failed| now >= failed + FAILURE_LIFETIME.min(lifetime))
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<labels::Image, Arc<Session>>>);

impl Sessions {
    /// The session of the image of `wanted`; begun if there is none.
    pub(crate) fn of(&self, shared: &Arc<Shared>, wanted: &Wanted) -> Arc<Session> {
        let image = &wanted.image;
        let now = Instant::now();
        let lifetime = shared.config.lazy.image_lifetime;
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(image)
            && !session.is_over(now, lifetime)
            && !session.is_old_failure(now, lifetime)
        {
            *session.used.lock().unwrap_or_else(PoisonError::into_inner) = now;
            return Arc::clone(session);
        }
        let session = Session::begin(shared, wanted);
        let replaced = sessions.insert(image.clone(), Arc::clone(&session));
        drop(sessions);
        drop(replaced);
        session
    }

    /// A layer of an image was refused for good, and nobody else can bring it: the pull has failed. Another one is tried anew
    /// before long.
    pub(crate) fn refused(&self, image: &labels::Image) {
        self.lock_and(|sessions| {
            if let Some(session) = sessions.get(image) {
                session.refused.get_or_init(Instant::now);
            }
        });
    }

    /// Another session is begun when the image is asked for again: its tag has moved.
    pub(crate) fn forget(&self, image: &labels::Image) {
        let forgotten = self.lock_and(|sessions| sessions.remove(image));
        drop(forgotten);
    }

    /// Drops those that nobody has asked for in `lifetime`. May delete what nobody refers to.
    pub(crate) fn drop_idle(&self, lifetime: Duration) {
        let now = Instant::now();
        let over: Vec<_> = self.lock_and(|sessions| {
            let over = sessions.extract_if(|_, session| session.is_over(now, lifetime));
            over.collect()
        });
        drop(over);
    }

    /// Drops all.
    pub(crate) fn clear(&self) {
        let all = self.lock_and(std::mem::take);
        drop(all);
    }

    /// What is taken out is dropped without the lock.
    fn lock_and<T>(&self, work: impl FnOnce(&mut HashMap<labels::Image, Arc<Session>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
