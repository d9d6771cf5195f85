//! What containerd has.

use std::ops::Range;

use pontoon_containerd::{ContentStore, Error};
use pontoon_layer::Digest;
use tokio_stream::StreamExt;

use crate::store::{BoxFuture, Bytestream, Info, Store, Unavailable};

/// The labels in which containerd notes where a blob came from, `HOST` to `REPOSITORY,REPOSITORY` (containerd,
/// `core/remotes/docker/handler.go`). The host has no port.
const SOURCE: &str = "containerd.io/distribution.source.";

/// containerd's content store, in one namespace.
#[derive(Debug, Clone)]
pub struct Containerd(ContentStore);

impl Containerd {
    /// That one.
    pub fn new(store: ContentStore) -> Self {
        Containerd(store)
    }
}

impl Store for Containerd {
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Info>, Unavailable>> {
        Box::pin(async move {
            let found = self.0.info(digest).await.map_err(unavailable)?;
            Ok(found.map(|info| Info {
                size: info.size,
                registries: info
                    .labels
                    .keys()
                    .filter_map(|label| label.strip_prefix(SOURCE))
                    .map(str::to_owned)
                    .collect(),
            }))
        })
    }

    fn read<'a>(
        &'a self,
        digest: &'a Digest,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytestream, Unavailable>> {
        Box::pin(async move {
            let length = range.end.saturating_sub(range.start);
            let read = self.0.read(digest, range.start, length).await;
            let pieces = read.map_err(unavailable)?;
            let pieces = pieces.map(|piece| piece.map_err(unavailable));
            Ok(Box::pin(pieces) as Bytestream)
        })
    }
}

/// The client gets one line; the log gets all of it.
fn unavailable(error: Error) -> Unavailable {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "the mirror cannot read from containerd"
    );
    Unavailable("containerd does not give it; its log and Pontoon's say why".to_owned())
}
