//! Where the bytes of a layer are: in the repository of any image that it was pulled with.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_layer::Digest;
use pontoon_lazyfs::Connect;
use pontoon_source::{Blob, BoxFuture, Descriptor, Joined, Reference, Registry};
use serde::{Deserialize, Serialize};

/// A blob with bytes of a layer: in the repository of each image that has the layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    #[serde(with = "text")]
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
}

impl Place {
    pub(crate) fn of(descriptor: &Descriptor) -> Self {
        Place {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
        }
    }
}

/// A digest as it is written everywhere.
mod text {
    use pontoon_layer::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The images that a layer was pulled with. When the registry of one refuses, the next one is asked, before a reader is
/// told: one whose repository is gone must not fail the containers of another.
#[derive(Debug)]
pub(crate) struct Anywhere {
    registry: Registry,
    /// What they are called together.
    digest: Digest,
    /// One after the other they are the layer's bytes.
    blobs: Vec<Place>,
    images: Mutex<Vec<String>>,
    turn: AtomicUsize,
}

impl Anywhere {
    pub(crate) fn new(registry: Registry, digest: Digest, blobs: Vec<Place>) -> Self {
        Anywhere {
            registry,
            digest,
            blobs,
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

    /// Hosts and repositories of its images.
    pub(crate) fn repositories(&self) -> BTreeSet<(String, String)> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let images = images
            .iter()
            .filter_map(|image| Reference::parse(image).ok());
        let places = images.map(|image| (image.host().to_owned(), image.repository().to_owned()));
        places.collect()
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
            let blobs = self.blobs.iter().map(|place| {
                self.registry
                    .blob(&reference, place.digest.clone(), place.size)
            });
            let mut blobs: Vec<Arc<dyn Blob>> = blobs.collect();
            match blobs.pop() {
                Some(only) if blobs.is_empty() => Ok(only),
                last => {
                    blobs.extend(last);
                    let joined = Joined::new(self.digest.clone(), blobs)?;
                    Ok(Arc::new(joined) as Arc<dyn Blob>)
                }
            }
        })
    }

    fn ways(&self) -> usize {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.len()
    }

    fn ends(&self) -> Vec<u64> {
        let mut end = 0_u64;
        let ends = self.blobs.iter().map(|place| {
            end = end.saturating_add(place.size);
            end
        });
        ends.collect()
    }
}
