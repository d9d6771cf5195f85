//! The layer provider for lazy layers.
