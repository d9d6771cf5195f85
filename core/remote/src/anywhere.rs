//! Where the bytes of a layer are: in the repository of any image that it was pulled with.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_layer::Digest;
use pontoon_lazyfs::Connect;
use pontoon_source::{Blob, BoxFuture, Reference, Registry};

/// The images that a layer was pulled with. When the registry of one refuses, the next one is asked, before a reader is
/// told: one whose repository is gone must not fail the containers of another.
#[derive(Debug)]
pub(crate) struct Anywhere {
    registry: Registry,
    digest: Digest,
    size: u64,
    images: Mutex<Vec<String>>,
    turn: AtomicUsize,
}

impl Anywhere {
    pub(crate) fn new(registry: Registry, digest: Digest, size: u64) -> Self {
        Anywhere {
            registry,
            digest,
            size,
            images: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The layer is in `image` too.
    pub(crate) fn add(&self, image: &str) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if !images.iter().any(|known| known == image) {
            images.push(image.to_owned());
        }
    }

    /// Whether it was pulled from the repository of `reference` before.
    pub(crate) fn is_in(&self, reference: &Reference) -> bool {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |image: &Reference| {
            image.host() == reference.host() && image.repository() == reference.repository()
        };
        images
            .iter()
            .any(|image| Reference::parse(image).is_ok_and(|image| same(&image)))
    }

    /// The image that is asked now.
    pub(crate) fn image(&self) -> String {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.load(Ordering::Relaxed).saturating_sub(1);
        let count = images.len().max(1);
        images.get(turn % count).cloned().unwrap_or_default()
    }
}

impl Connect for Anywhere {
    fn connect(&self) -> BoxFuture<'_, pontoon_source::Result<Arc<dyn Blob>>> {
        Box::pin(async move {
            self.turn.fetch_add(1, Ordering::Relaxed);
            let reference = Reference::parse(&self.image())?;
            Ok(self
                .registry
                .blob(&reference, self.digest.clone(), self.size))
        })
    }

    fn ways(&self) -> usize {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.len()
    }
}
