//! Where bytes come from: the registry client.
//!
//! [`Registry`] is one per daemon: all layers share its connections, its tokens and what it knows about hosts and
//! mirrors. It speaks the OCI distribution specification, asks [`Credentials`] when a registry wants some, and gives
//! [`Blob`]s, of which any range can be read, several of them as if they were one ([`Joined`]). What can go wrong is an [`Error`], which knows whether it will pass.
//!
//! It also gives: [`Registry::push_blob`] and [`Registry::push_manifest`].
//!
//! Nothing here is verified but manifests and what [`Registry::fetch`] gives whole: whoever reads a range knows the
//! digests of its parts.

mod blob;
mod config;
mod credential;
mod dragonfly;
mod error;
mod hosts;
mod joined;
mod manifest;
mod reference;
mod registry;
mod tls;

pub use blob::{Blob, BoxFuture, ByteStream, Pace, READ_BYTES_MAX, Urgency};
pub use config::Config;
pub use credential::{
    Anonymous, Chain, Credential, Credentials, DockerConfig, Fixed, ImageServiceProxy, Kubernetes,
    KubernetesConfig, Remembered, Secret,
};
pub use dragonfly::{Dragonfly, DragonflyAddress, DragonflyCredentials, DragonflyMode};
pub use error::{Cause, Error, Result};
pub use joined::Joined;
pub use manifest::{Descriptor, MANIFEST_BYTES_MAX, Manifest, Platform};
pub use reference::Reference;
#[cfg(feature = "fuzzing")]
pub use registry::fuzzing;
pub use registry::{Open, Pushed, Registry, Sent, Traffic, Upload};
