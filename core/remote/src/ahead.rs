//! What is fetched before anybody asks for it: begun as soon as a layer's table of contents is here, long before a
//! container starts.

use std::io;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use pontoon_cache::Key;
use pontoon_lazyfs::LazyLayer;
use serde::Serialize;

use crate::Remote;
use crate::image::{Image, Part};
use crate::merged::Merged;
use crate::profile::Profile;
use crate::record::Record;
use crate::stock::Opened;
use crate::told::Teller;

/// A learned order that is kept.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileReport {
    /// What it is called: a digest of the layers that it is of.
    pub name: String,
    /// The image that was started.
    pub image: String,
    /// How many lazy layers it is of.
    pub layers: usize,
    /// How many chunks were read.
    pub chunks: u64,
    /// When it was written, in seconds since 1970.
    pub written: u64,
}

impl Remote {
    /// Opens a layer that was just pulled, so that what its start needs is on its way.
    pub(crate) fn prefetch(&self, image: &Arc<Image>, record: &Record, bytes: Option<u64>) {
        match self.shared.stock.open_layer(record) {
            Ok(opened) => {
                if opened.is_new {
                    self.shared.front.appeared(opened.item.record.number);
                }
                if let Some(profile) = &image.profile {
                    opened.item.follow(&opened.layer, profile);
                }
                opened.item.prefetch_first(&opened.layer, bytes);
                opened.item.prefetch_everything(&opened.layer);
                let is_top = image.layers.last().and_then(Part::key);
                if is_top.as_ref() == Some(opened.item.key()) && image.is_told_of(&self.shared) {
                    self.tell(image);
                }
            }
            // Mounting it says so to somebody who can do something about it.
            Err(error) => {
                tracing::warn!(
                    layer = record.blob(),
                    error = &error as &dyn std::error::Error,
                    "a layer cannot be opened"
                );
            }
        }
    }

    /// All layers of `image` are here: what it tells of its start is looked at.
    fn tell(&self, image: &Arc<Image>) {
        let shared = Arc::clone(&self.shared);
        let configured = image.configuration(&shared);
        let image = Arc::clone(image);
        let work = async move {
            let Ok(configured) = configured.wait().await else {
                return;
            };
            // The topmost first.
            let keys: Vec<Key> = image.layers.iter().rev().filter_map(Part::key).collect();
            // Not longer than they are mounted.
            drop(image);
            let layers = shared.stock.opened(&keys);
            let start = configured.start.clone();
            Teller::new(Merged::new(layers), start).tell().await;
        };
        self.shared.runtime.spawn(work);
    }

    /// Somebody mounts these layers, the topmost first: likely a container starts. What it reads is recorded, and what
    /// is missing of what it will read is fetched.
    pub(crate) fn started(&self, opened: &[Opened]) {
        let Some(top) = opened.first() else {
            return;
        };
        let layers: Vec<Arc<LazyLayer>> = opened
            .iter()
            .rev()
            .map(|opened| Arc::clone(&opened.layer))
            .collect();
        let profiles = &self.shared.profiles;
        if layers.iter().any(|layer| !layer.cached().is_complete()) {
            let keys: Vec<Key> = layers
                .iter()
                .map(|layer| layer.cached().key().clone())
                .collect();
            let profile = profiles.find(&keys);
            for Opened { item, layer, .. } in opened {
                if let Some(profile) = &profile {
                    item.follow(layer, profile);
                }
                item.prefetch_first(layer, None);
                item.prefetch_everything(layer);
            }
        }
        profiles.begin(&top.item.image(), &layers);
    }

    /// The learned orders that are kept, those that were written last first.
    pub fn profiles(&self) -> io::Result<Vec<ProfileReport>> {
        let kept = self.shared.profiles.all()?;
        let report = kept.into_iter().map(|kept| ProfileReport {
            image: kept.profile.image.clone(),
            layers: kept.profile.layers(),
            chunks: kept.profile.chunks(),
            written: kept
                .written
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            name: kept.name,
        });
        Ok(report.collect())
    }

    /// The learned order called `name`, in the form in which it is handed on.
    pub fn export_profile(&self, name: &str) -> io::Result<Option<String>> {
        let kept = self.shared.profiles.all()?;
        let found = kept.into_iter().find(|kept| kept.name == name);
        Ok(found.and_then(|kept| String::from_utf8(kept.profile.encode()).ok()))
    }

    /// Takes a learned order from elsewhere, in place of what is here for the same layers. Answers its name.
    /// [`io::ErrorKind::InvalidData`] if it cannot be used.
    pub fn import_profile(&self, bytes: &[u8]) -> io::Result<String> {
        let profile = Profile::decode(bytes)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        self.shared.profiles.add(&profile)
    }
}
