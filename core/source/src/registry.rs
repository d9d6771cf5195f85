//! The registry client: one for all images and layers of a daemon.

mod auth;
mod blob;
mod body;
mod book;
mod challenge;
mod dfdaemon;
mod endpoint;
mod exchange;
pub(crate) mod failure;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod meter;
mod part;
mod push;
mod pusher;
mod token;
mod tour;
mod transfer;
mod upload;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pontoon_layer::{Digest, Verified};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};

use crate::blob::{Blob, ByteStream, Urgency};
use crate::config::Config;
use crate::credential::Credentials;
use crate::error::{Error, Result};
use crate::manifest::{self, Descriptor, Document, MANIFEST_BYTES_MAX, Manifest};
use crate::reference::Reference;

pub use push::Pushed;
pub use upload::{Open, Sent, Upload};

pub(crate) use body::whole;
pub(crate) use book::build;
pub(crate) use endpoint::Client;

use blob::RegistryBlob;
use book::Book;
use endpoint::Endpoint;
use exchange::Ask;
use tour::{Need, Tour};

/// An index may list indexes, whose entries are manifests.
const INDEX_DEPTH_MAX: usize = 2;

/// A client of all registries. Clones share everything: connections, tokens, what is known of hosts.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// What all requests need.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) counters: Counters,
    book: Book,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) token_requests: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) blob_bytes: AtomicU64,
    pub(crate) dragonfly_bytes: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// A request failed, or what came of it was not what was asked for.
    pub(crate) fn failed(&self, error: &Error) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(error.kind()).or_default() += 1;
    }
}

/// What a [`Registry`] did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// HTTP requests sent, those for tokens included.
    pub requests: u64,
    /// Requests for tokens among them.
    pub token_requests: u64,
    /// Tries that followed one that failed, at the same host or another.
    pub retries: u64,
    /// Transfers that broke off or stalled and were resumed at the missing byte.
    pub resumed: u64,
    /// Bytes of blobs received, those that were passed over included.
    pub blob_bytes: u64,
    /// Bytes of blobs among them that a dfdaemon gave.
    pub dragonfly_bytes: u64,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("credentials", &self.shared.credentials)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// A client with `config` that asks `credentials` when a registry wants some. Its futures run on tokio.
    pub fn new(config: Config, credentials: Arc<dyn Credentials>) -> Self {
        let book = Book::new(&config);
        Registry {
            shared: Arc::new(Shared {
                config,
                credentials,
                counters: Counters::default(),
                book,
            }),
        }
    }

    /// The digest that the tag of `reference` has now; that of `reference` itself if it names one. Asks one host
    /// after the other that may resolve.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest> {
        if let Some(digest) = reference.digest() {
            return Ok(digest.clone());
        }
        let tag = reference.tag().unwrap_or("latest");
        let object = format!("the tag {reference}");
        let mut tour = Tour::new(&self.shared, reference, Need::Resolve, &object)?;
        loop {
            let (place, endpoint) = tour.next().await?;
            match self.resolve_at(&endpoint, reference, tag, &object).await {
                Ok(digest) => return Ok(digest),
                Err(error) => tour.failed(place, error),
            }
        }
    }

    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        tag: &str,
        object: &str,
    ) -> Result<Digest> {
        // HEAD is not counted against the pull limits that public registries have.
        for method in [Method::HEAD, Method::GET] {
            let ask = Ask {
                reference,
                object,
                is_head: method == Method::HEAD,
                is_verified: false,
                path: format!("manifests/{tag}"),
                headers: accept(),
            };
            let answer = endpoint
                .ask(&self.shared, &ask)
                .await?
                .successful(object)
                .await?;
            let named = answer.response.headers().get("docker-content-digest");
            let named = named.and_then(|value| value.to_str().ok()?.parse().ok());
            match (named, ask.is_head) {
                (Some(digest), true) => return Ok(digest),
                (None, true) => {}
                // What was read is what counts, not what is said of it.
                (_, false) => {
                    let body = answer
                        .whole(&self.shared, object, MANIFEST_BYTES_MAX)
                        .await?;
                    return Ok(Digest::of(&body));
                }
            }
        }
        Err(failure::malformed(
            &endpoint.settings.host,
            object,
            "it names no digest",
        ))
    }

    /// The manifest `digest` of the repository of `reference`, verified. If it is an index, the manifest in it for
    /// our platform.
    pub async fn manifest(&self, reference: &Reference, digest: &Digest) -> Result<Manifest> {
        let mut digest = digest.clone();
        for _ in 0..=INDEX_DEPTH_MAX {
            let object = format!(
                "manifest {digest} of {}/{}",
                reference.host(),
                reference.repository()
            );
            let bytes = self.document(reference, &digest, &object).await?;
            let parsed = manifest::parse(&object, &digest, &bytes, &self.shared.config.platform)?;
            match parsed {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(chosen) => digest = chosen,
            }
        }
        Err(Error::Unsupported {
            object: reference.to_string(),
            reason: "its indexes are nested too deeply".to_owned(),
        })
    }

    /// The bytes of the manifest or the index `digest` of the repository of `reference`, verified. Nothing is read out of
    /// them.
    pub async fn manifest_bytes(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Verified<Bytes>> {
        let object = format!(
            "manifest {digest} of {}/{}",
            reference.host(),
            reference.repository()
        );
        self.document(reference, digest, &object).await
    }

    async fn document(
        &self,
        reference: &Reference,
        digest: &Digest,
        object: &str,
    ) -> Result<Verified<Bytes>> {
        let mut tour = Tour::new(&self.shared, reference, Need::Manifest, object)?;
        let ask = Ask {
            reference,
            object,
            is_head: false,
            is_verified: true,
            path: format!("manifests/{digest}"),
            headers: accept(),
        };
        loop {
            let (place, endpoint) = tour.next().await?;
            let got = async {
                let answer = endpoint
                    .ask(&self.shared, &ask)
                    .await?
                    .successful(object)
                    .await?;
                let host = answer.host.clone();
                let body = answer
                    .whole(&self.shared, object, MANIFEST_BYTES_MAX)
                    .await?;
                Verified::check(body, digest).map_err(|error| {
                    failure::mismatch(&host, object, &error.expected, &error.actual)
                })
            };
            match got.await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => tour.failed(place, error),
            }
        }
    }

    /// A small blob, such as an image's configuration, whole and verified. `TooLarge` if its descriptor says more
    /// than `bytes_max`.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        bytes_max: u64,
    ) -> Result<Verified<Bytes>> {
        let blob = self.registry_blob(reference, descriptor.digest.clone(), descriptor.size);
        if descriptor.size > bytes_max {
            return Err(Error::TooLarge {
                object: blob.object.clone(),
                limit: bytes_max,
                unit: "bytes",
            });
        }
        loop {
            let bytes = blob.read(0..descriptor.size, Urgency::Demand).await?;
            let damage = match Verified::check(bytes, &descriptor.digest) {
                Ok(verified) => return Ok(verified),
                Err(damage) => damage,
            };
            let host = blob.last_host();
            if !blob.distrust(&(0..descriptor.size)) {
                return Err(failure::mismatch(
                    &host,
                    &blob.object,
                    &damage.expected,
                    &damage.actual,
                ));
            }
        }
    }

    /// How large the blob `digest` in the repository of `reference` is, in bytes, for whoever has no descriptor of it.
    /// `NotFound` if it is not there.
    pub async fn blob_size(&self, reference: &Reference, digest: &Digest) -> Result<u64> {
        let blob = self.registry_blob(reference, digest.clone(), 0);
        blob.find_size().await
    }

    /// The blob `digest` of `size` bytes in the repository of `reference`. Nothing is asked yet. What is learned on
    /// the way (redirects, who has it) is kept as long as the blob is: keep it for as long as the layer is mounted.
    pub fn blob(&self, reference: &Reference, digest: Digest, size: u64) -> Arc<dyn Blob> {
        Arc::new(self.registry_blob(reference, digest, size))
    }

    /// A whole blob as it comes: `blob(..).stream(0..size, Background)`.
    pub fn download(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
    ) -> Box<dyn ByteStream> {
        self.registry_blob(reference, digest, size)
            .stream(0..size, Urgency::Background)
    }

    fn registry_blob(&self, reference: &Reference, digest: Digest, size: u64) -> RegistryBlob {
        RegistryBlob::new(&self.shared, reference, digest, size)
    }

    /// How many requests failed so far, each time, by [`Error::kind`]: also those that were made again and then went well.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        let failures = self.shared.counters.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was done so far.
    pub fn traffic(&self) -> Traffic {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            requests: read(&counters.requests),
            token_requests: read(&counters.token_requests),
            retries: read(&counters.retries),
            resumed: read(&counters.resumed),
            blob_bytes: read(&counters.blob_bytes),
            dragonfly_bytes: read(&counters.dragonfly_bytes),
        }
    }
}

fn accept() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(manifest::ACCEPT))])
}
