//! Clients of containerd's own services: its content store, its images, its leases.
//!
//! - [`Client`]: the connection, for one namespace, with or without a lease.
//! - [`ContentStore`]: whether a blob is there, its bytes, and new blobs, which containerd verifies.
//! - [`Images`]: what a name stands for.
//! - [`Leases`]: keep what is being written from garbage collection.
//!
//! What keeps a blob in the long run are labels of what refers to it (`containerd.io/gc.ref.content.l.N` of the
//! manifest), which containerd's pull has set for layers that it never fetched too; see
//! [`ContentStore::set_labels`] for where they are missing.

mod client;
mod content;
mod descriptor;
mod error;
mod images;
mod ingest;
mod leases;

pub use client::Client;
pub use content::{ContentStore, Info};
pub use descriptor::Descriptor;
pub use error::{Error, Result};
pub use images::{Image, Images};
pub use ingest::Ingested;
pub use leases::{Lease, Leases};
