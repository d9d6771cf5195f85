//! The containerd snapshots v1 wire contract, as Rust types.
