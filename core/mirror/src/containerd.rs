//! What containerd has.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use pontoon_containerd::{ContentStore, Error};
use pontoon_layer::Digest;
use tokio_stream::StreamExt;

use crate::store::{BoxFuture, Bytestream, Info, Store, Unavailable};

/// The labels in which containerd notes where a blob came from, `HOST` to `REPOSITORY,REPOSITORY` (containerd,
/// `core/remotes/docker/handler.go`). The host has no port.
const SOURCE: &str = "containerd.io/distribution.source.";

/// What is read at a time, in bytes, and kept in memory until the client has taken it. All reads share one connection, and one
/// that is left half-read would hold up the others.
const SEGMENT_BYTES: u64 = 512 << 10;

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
            let (store, digest) = (self.0.clone(), digest.clone());
            // What fails before the first byte is an answer, not a broken connection.
            let first = segment(&store, &digest, &range).await?;
            let next = range.start + first.len() as u64..range.end;
            let rest = stream::try_unfold(next, move |left| {
                let (store, digest) = (store.clone(), digest.clone());
                async move {
                    if left.is_empty() {
                        return Ok(None);
                    }
                    let piece = segment(&store, &digest, &left).await?;
                    let next = left.start + piece.len() as u64..left.end;
                    Ok(Some((piece, next)))
                }
            });
            let whole = tokio_stream::once(Ok(first)).chain(rest);
            Ok(Box::pin(whole) as Bytestream)
        })
    }
}

/// The first bytes of `range`: a segment, or what there is.
async fn segment(
    store: &ContentStore,
    digest: &Digest,
    range: &Range<u64>,
) -> Result<Bytes, Unavailable> {
    let length = SEGMENT_BYTES.min(range.end.saturating_sub(range.start));
    let read = store.read(digest, range.start, length).await;
    let mut pieces = std::pin::pin!(read.map_err(unavailable)?);
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(unavailable)?;
        if whole.is_empty() && piece.len() as u64 == length {
            return Ok(piece);
        }
        whole.extend_from_slice(&piece);
        if whole.len() as u64 > length {
            break;
        }
    }
    match whole.len() as u64 == length {
        true => Ok(whole.freeze()),
        false => Err(other(digest, length, whole.len())),
    }
}

fn other(digest: &Digest, length: u64, came: usize) -> Unavailable {
    tracing::warn!(
        %digest,
        length,
        came,
        "containerd gave another part of a blob than was asked for; its disk may be damaged"
    );
    Unavailable("containerd gave another part of it than was asked for".to_owned())
}

/// The client gets one line; the log gets all of it.
fn unavailable(error: Error) -> Unavailable {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "the mirror cannot read from containerd"
    );
    Unavailable("containerd does not give it; its log and Pontoon's say why".to_owned())
}
