//! Removes what nobody wants to keep.

use crate::cache::{Cache, Users};
use crate::{Error, Key};

/// What [`Cache::sweep`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Layers removed.
    pub removed: u64,
    /// What they took, in bytes.
    pub bytes: u64,
    /// Layers that nobody wants to keep but somebody still has.
    pub in_use: u64,
    /// Layers that could not be removed; the log says why.
    pub failed: u64,
}

impl Cache {
    /// Removes every layer that `keep` does not want and that nobody has.
    pub fn sweep(&self, keep: impl Fn(&Key) -> bool) -> Swept {
        let mut swept = Swept::default();
        for slot in self.shared.slots() {
            if keep(&slot.key) {
                continue;
            }
            let bytes = slot.usage().bytes;
            match self.shared.remove(&slot, Users::Respect) {
                Ok(true) => {
                    swept.removed += 1;
                    swept.bytes += bytes;
                }
                Ok(false) => {}
                Err(Error::InUse { .. }) => swept.in_use += 1,
                Err(error) => {
                    swept.failed += 1;
                    tracing::warn!(layer = %slot.key, error = &error as &dyn std::error::Error, "cannot remove a cached layer; the next cleanup tries again");
                }
            }
        }
        swept
    }
}
