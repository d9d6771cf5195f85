//! containerd's content store.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pontoon_layer::{Digest, Verified};
use pontoon_proto::content::{self as v1, content_client::ContentClient};
use prost_types::FieldMask;
use tokio_stream::{Stream, StreamExt};
use tonic::Code;

use crate::client::{Client, Scoped};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::ingest::{self, Ingested};

/// The largest message, in bytes, as in containerd.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How long a transfer may stand still, and how long the commit of a blob may take: it is an fsync.
pub(crate) const STALL: Duration = Duration::from_secs(300);

/// containerd's content service.
#[derive(Debug, Clone)]
pub struct ContentStore {
    pub(crate) client: Client,
}

/// What containerd knows of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// In bytes.
    pub size: u64,
    /// Its labels. `containerd.io/gc.ref.content...` name blobs that it keeps.
    pub labels: BTreeMap<String, String>,
}

impl ContentStore {
    pub(crate) fn new(client: Client) -> Self {
        ContentStore { client }
    }

    /// What is known of the blob `digest`; `None` if it is not there, in this namespace.
    pub async fn info(&self, digest: &Digest) -> Result<Option<Info>> {
        let request = v1::InfoRequest {
            digest: digest.to_string(),
        };
        let object = format!("blob {digest}");
        let mut service = self.service();
        let answer = self
            .client
            .call("looking for", &object, service.info(request));
        let info = match answer.await {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?.info,
        };
        let operation = format!("looking for {object}");
        let info = info.ok_or_else(|| Error::nonsense(&operation, "there is no info in it"))?;
        let size = u64::try_from(info.size)
            .map_err(|_| Error::nonsense(&operation, format!("the size is {}", info.size)))?;
        Ok(Some(Info {
            size,
            labels: info.labels,
        }))
    }

    /// Whether the blob `digest` is there, as a whole, in this namespace.
    pub async fn has(&self, digest: &Digest) -> Result<bool> {
        Ok(self.info(digest).await?.is_some())
    }

    /// Sets `labels` of the blob `digest`; others stay as they are. An empty value removes a label.
    pub async fn set_labels(
        &self,
        digest: &Digest,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        if labels.is_empty() {
            // Without a path, containerd would replace all labels: what they refer to would be collected.
            return Ok(());
        }
        let request = v1::UpdateRequest {
            info: Some(v1::Info {
                digest: digest.to_string(),
                labels: labels.clone(),
                ..v1::Info::default()
            }),
            update_mask: Some(FieldMask {
                paths: labels.keys().map(|key| format!("labels.{key}")).collect(),
            }),
        };
        let object = format!("blob {digest}");
        let mut service = self.service();
        self.client
            .call("labelling", &object, service.update(request))
            .await?;
        Ok(())
    }

    /// The bytes of the blob `digest` from `offset` on, at most `length`. Not verified: containerd did that when they
    /// were written, and says nothing of the disk since.
    pub async fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let operation = format!("reading blob {digest}");
        let signed = |number| {
            i64::try_from(number)
                .map_err(|_| Error::nonsense(&operation, format!("{number} is no offset")))
        };
        let request = v1::ReadContentRequest {
            digest: digest.to_string(),
            offset: signed(offset)?,
            size: signed(length)?,
        };
        let object = format!("blob {digest}");
        let mut service = self.service();
        let pieces = self
            .client
            .call("reading", &object, service.read(request))
            .await?;
        // containerd counts from where it was asked to begin (`contentserver.go`, `readResponseWriter`).
        let mut next = 0;
        let pieces = pieces.timeout(STALL).map(move |piece| match piece {
            Err(_) => Err(Error::Unavailable {
                operation: operation.clone(),
                reason: format!("it stood still for {STALL:?}"),
            }),
            Ok(Err(status)) => Err(Error::status(&operation, &status)),
            Ok(Ok(piece)) if u64::try_from(piece.offset) != Ok(next) => {
                let reason = format!("{} follows {next}", piece.offset);
                Err(Error::nonsense(&operation, reason))
            }
            Ok(Ok(piece)) => {
                next += piece.data.len() as u64;
                Ok(piece.data)
            }
        });
        Ok(pieces)
    }

    /// The whole blob of a small `descriptor` (a manifest, a configuration), verified.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there, [`Error::Damaged`] if it is not what the descriptor says,
    /// [`Error::Invalid`] if it says more than `bytes_max`.
    pub async fn blob(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Verified<Bytes>> {
        let Descriptor { digest, size, .. } = descriptor;
        let damaged = |reason: String| Error::Damaged {
            what: format!("blob {digest}"),
            reason,
        };
        if *size > bytes_max {
            return Err(Error::Invalid {
                what: format!("blob {digest}"),
                reason: format!("it has {size} bytes, and {bytes_max} is the limit for its kind"),
            });
        }
        let mut whole = BytesMut::new();
        let mut pieces = std::pin::pin!(self.read(digest, 0, 0).await?);
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if (whole.len() + piece.len()) as u64 > *size {
                return Err(damaged(format!("it has more than {size} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
        if whole.len() as u64 != *size {
            let there = whole.len();
            return Err(damaged(format!("it has {there} bytes instead of {size}")));
        }
        Verified::check(whole.freeze(), digest).map_err(|mismatch| Error::mismatch(&mismatch))
    }

    /// Writes the blob that `descriptor` describes, with `labels`, which one that is there gets too. `open` gives its bytes from an offset on; it is
    /// called with 0 unless some of the blob is there from an earlier attempt, ours or a pull's.
    ///
    /// containerd computes the digest and commits nothing else. What nothing refers to is collected soon, so use a
    /// client with a lease. Dropping the future stops writing; what was written is kept for the next attempt as long as
    /// the lease is.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes are not what the descriptor says, [`Error::Source`] with `open`'s error,
    /// [`Error::Busy`] if somebody else is writing it and has not ended within half a minute.
    pub async fn ingest<S, E>(
        &self,
        descriptor: &Descriptor,
        labels: &BTreeMap<String, String>,
        open: impl Fn(u64) -> S,
    ) -> Result<Ingested>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let ingested = ingest::ingest(self, descriptor, labels, open).await?;
        if ingested == Ingested::Present {
            self.set_labels(&descriptor.digest, labels).await?;
        }
        Ok(ingested)
    }

    /// Forgets what was written of a reference.
    pub(crate) async fn abort(&self, reference: &str) -> Result<()> {
        let request = v1::AbortRequest {
            r#ref: reference.to_owned(),
        };
        let object = format!("what is written of {reference}");
        let mut service = self.service();
        let aborted: Result<()> = self
            .client
            .call("forgetting", &object, service.abort(request))
            .await;
        match aborted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    pub(crate) fn service(&self) -> ContentClient<Scoped> {
        let (channel, scope) = self.client.channel();
        ContentClient::with_interceptor(channel, scope)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// How long to wait for `what`, a step of `operation`.
pub(crate) async fn in_time<T>(operation: &str, what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(STALL, what)
        .await
        .map_err(|_| Error::Unavailable {
            operation: operation.to_owned(),
            reason: format!("it stood still for {STALL:?}"),
        })
}

/// Whether containerd says that the bytes are not those of the digest or size it was told (`FailedPrecondition`,
/// `plugins/content/local/writer.go`).
pub(crate) fn is_mismatch(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused {
            code: Code::FailedPrecondition,
            ..
        }
    )
}
