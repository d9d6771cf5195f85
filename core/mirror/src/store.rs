//! Who has blobs.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use pontoon_layer::Digest;
use tokio_stream::Stream;

/// A future that can be stored and sent.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Bytes that come one piece after the other.
pub type Bytestream = Pin<Box<dyn Stream<Item = Result<Bytes, Unavailable>> + Send>>;

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// In bytes.
    pub size: u64,
    /// The registries that it came from, as far as that is known.
    pub registries: Vec<String>,
}

/// Whoever should have blobs cannot be asked, or broke off. Shown to the client in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Somebody who has blobs.
pub trait Store: Send + Sync + 'static {
    /// What is known of the blob `digest`; `None` if it is not there.
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Info>, Unavailable>>;

    /// The bytes of `range`, which lies within the blob and is not empty.
    fn read<'a>(
        &'a self,
        digest: &'a Digest,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytestream, Unavailable>>;
}
