//! The registry client: one for all images and layers of a daemon.

use std::sync::Arc;

use bytes::Bytes;
use pontoon_layer::{Digest, Verified};

use crate::blob::{Blob, ByteStream};
use crate::config::Config;
use crate::credential::Credentials;
use crate::error::Result;
use crate::manifest::{Descriptor, Manifest};
use crate::reference::Reference;

/// A client of all registries. Clones share everything: connections, tokens, what is known of hosts.
#[derive(Debug, Clone)]
pub struct Registry {
    _shared: Arc<Config>,
}

/// What a [`Registry`] did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// HTTP requests sent, those for tokens included.
    pub requests: u64,
    /// Requests for tokens among them.
    pub token_requests: u64,
    /// Requests that were sent again because the first failed in passing.
    pub retries: u64,
    /// Transfers that broke off or stalled and were resumed at the missing byte.
    pub resumed: u64,
    /// Bytes of blobs received.
    pub blob_bytes: u64,
}

impl Registry {
    /// A client with `config` that asks `credentials` when a registry wants some.
    pub fn new(config: Config, credentials: Arc<dyn Credentials>) -> Self {
        let _ = credentials;
        Registry {
            _shared: Arc::new(config),
        }
    }

    /// The digest that the tag of `reference` has now; that of `reference` itself if it names one. Asks one host
    /// after the other that may resolve.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest> {
        let _ = reference;
        unimplemented!()
    }

    /// The manifest `digest` of the repository of `reference`, verified. If it is an index, the manifest in it for
    /// our platform.
    pub async fn manifest(&self, reference: &Reference, digest: &Digest) -> Result<Manifest> {
        let _ = (reference, digest);
        unimplemented!()
    }

    /// A small blob, such as an image's configuration, whole and verified. `TooLarge` if its descriptor says more
    /// than `bytes_max`.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        bytes_max: u64,
    ) -> Result<Verified<Bytes>> {
        let _ = (reference, descriptor, bytes_max);
        unimplemented!()
    }

    /// The blob `digest` of `size` bytes in the repository of `reference`. Nothing is asked yet. What is learned on
    /// the way (redirects, who has it) is kept as long as the blob is: keep it for as long as the layer is mounted.
    pub fn blob(&self, reference: &Reference, digest: Digest, size: u64) -> Arc<dyn Blob> {
        let _ = (reference, digest, size);
        unimplemented!()
    }

    /// A whole blob as it comes: `blob(..).stream(0..size, Background)`.
    pub fn download(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
    ) -> Box<dyn ByteStream> {
        let _ = (reference, digest, size);
        unimplemented!()
    }

    /// What was done so far.
    pub fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}
