//! The overlayfs proxy snapshotter for containerd.

fn main() {}
