//! Real containerd, registry, Docker and images for tests, demos and benchmarks.
