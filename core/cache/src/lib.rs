//! Verified chunks on disk: one sparse file per layer, with quota and eviction.
