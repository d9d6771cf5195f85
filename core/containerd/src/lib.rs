//! Clients of containerd's own services.
