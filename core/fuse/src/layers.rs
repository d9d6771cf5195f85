//! Which layers there are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use pontoon_lazyfs::LazyLayer;

/// The numbers that layers may have.
///
/// A number stands for one layer and one tree for ever: the kernel may know names and pages by it for long after
/// the layer is gone. So numbers are not used again, also not after a restart.
pub const LAYER_NUMBERS: RangeInclusive<u32> = 1..=(1 << 24) - 1;

/// The layers that are served. Asked on every request, from several threads, so it must answer at once.
pub trait Layers: Send + Sync + fmt::Debug {
    /// The layer with this number.
    fn get(&self, number: u32) -> Option<Arc<LazyLayer>>;

    /// The numbers of all layers, ascending.
    fn list(&self) -> Vec<u32>;
}

/// Layers in memory.
#[derive(Debug, Default)]
pub struct LayerTable(RwLock<BTreeMap<u32, Arc<LazyLayer>>>);

impl LayerTable {
    /// Adds a layer, and answers the one that had the number before. Tell [`crate::Server::changed`].
    pub fn insert(&self, number: u32, layer: Arc<LazyLayer>) -> Option<Arc<LazyLayer>> {
        let mut layers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        layers.insert(number, layer)
    }

    /// Removes a layer, and answers it. Tell [`crate::Server::changed`].
    pub fn remove(&self, number: u32) -> Option<Arc<LazyLayer>> {
        let mut layers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        layers.remove(&number)
    }
}

impl Layers for LayerTable {
    fn get(&self, number: u32) -> Option<Arc<LazyLayer>> {
        let layers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        layers.get(&number).cloned()
    }

    fn list(&self) -> Vec<u32> {
        let layers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        layers.keys().copied().collect()
    }
}
