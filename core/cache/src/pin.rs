//! Layers that must stay as they are, because they are mounted.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::layer::CachedLayer;
use crate::slot::DATA;
use crate::{Error, Result};

/// Keeps a layer's data from being evicted and removed while it lives.
#[derive(Debug)]
pub struct Pin {
    layer: Arc<CachedLayer>,
}

impl CachedLayer {
    /// Keeps the layer's data where it is until the pin is dropped.
    ///
    /// [`Error::Removed`] if the layer was removed meanwhile.
    pub fn pin(&self) -> Result<Pin> {
        let layer = self.me.upgrade();
        let state = self.slot.state();
        let Some(layer) = layer.filter(|_| !state.removed) else {
            return Err(Error::Removed {
                key: Box::new(self.key().clone()),
            });
        };
        self.slot.add_pin(&state);
        drop(state);
        self.slot.touch(self.shared.disk.now());
        Ok(Pin { layer })
    }
}

impl Pin {
    /// The layer.
    pub fn layer(&self) -> &Arc<CachedLayer> {
        &self.layer
    }

    /// The file `data`, sparse, for whoever maps it or hands it to the kernel: it stays the layer's for as long as the
    /// layer is pinned. What is not ready reads as zeros, so look at [`CachedLayer::is_complete`] first.
    ///
    /// Fails if a file cannot be made after an eviction.
    pub fn file(&self) -> Result<Arc<File>> {
        let failed = |error: io::Error| Error::io("making", &self.layer.slot.path(DATA), error);
        self.layer.make_data().map_err(failed)?;
        self.layer.data().ok_or_else(|| Error::Removed {
            key: Box::new(self.layer.key().clone()),
        })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let slot = &self.layer.slot;
        slot.remove_pin();
        slot.touch(self.layer.shared.disk.now());
        self.layer.shared.look_again();
    }
}
