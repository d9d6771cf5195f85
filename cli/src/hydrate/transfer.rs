//! From the registry into containerd's content store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_containerd::{ContentStore, Descriptor, Error, Ingested};
use pontoon_source::{Reference, Registry, Urgency};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::plan::{SOURCE, host_in_label};
use crate::progress::Progress;

/// Blobs at the same time: as many as containerd pulls (`max_concurrent_downloads`).
const AT_ONCE: usize = 3;

/// Pieces of one blob that are here and not yet taken by containerd.
const PIECES: usize = 4;

/// What all transfers share.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Of a client with a lease.
    pub(super) store: ContentStore,
    pub(super) registry: Registry,
    /// Where the blobs are, the most likely place first.
    pub(super) sources: Vec<Reference>,
    pub(super) progress: Progress,
}

/// What came of all of them.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Blobs that were written, and the bytes that were asked for.
    pub(super) written: u64,
    pub(super) bytes: u64,
    pub(super) errors: Vec<Error>,
}

impl Transfer {
    /// Brings all of `blobs`; one that fails does not keep the others from coming.
    pub(super) async fn all(self: &Arc<Self>, blobs: &[Descriptor]) -> Outcome {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for (index, blob) in blobs.iter().cloned().enumerate() {
            let (this, places) = (Arc::clone(self), Arc::clone(&places));
            running.spawn(async move {
                // Nobody closes it.
                let _place = places.acquire().await;
                this.one(index, &blob).await
            });
        }
        let mut outcome = Outcome::default();
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(Ok(Ingested::Present)) => {}
                Ok(Ok(Ingested::Written { bytes })) => {
                    outcome.written += 1;
                    outcome.bytes += bytes;
                }
                Ok(Err(error)) => outcome.errors.push(error),
                Err(ended) => {
                    if let Ok(panic) = ended.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
        outcome
    }

    /// Brings one blob, from the first place that has it. If none does, the first error is the one that counts.
    async fn one(self: &Arc<Self>, index: usize, blob: &Descriptor) -> Result<Ingested, Error> {
        let mut failed = None;
        for source in &self.sources {
            // It makes a later push to the same registry a matter of mounting.
            let label = format!("{SOURCE}{}", host_in_label(source));
            let labels = BTreeMap::from([(label, source.repository().to_owned())]);
            let open = |offset| self.stream(index, blob, source, offset);
            match self.store.ingest(blob, &labels, open).await {
                Err(error @ Error::Source { .. }) => failed = failed.or(Some(error)),
                ended => {
                    if ended.is_ok() {
                        self.progress.reach(index, blob.size);
                    }
                    return ended;
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::Invalid {
            what: format!("blob {}", blob.digest),
            reason: "nothing says in which registry it is; name the image there with --from"
                .to_owned(),
        }))
    }

    /// The bytes of `blob` from `offset` on.
    fn stream(
        self: &Arc<Self>,
        index: usize,
        blob: &Descriptor,
        source: &Reference,
        mut offset: u64,
    ) -> ReceiverStream<Result<Bytes, pontoon_source::Error>> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let remote = self.registry.blob(source, blob.digest.clone(), blob.size);
        let (this, end) = (Arc::clone(self), blob.size);
        tokio::spawn(async move {
            this.progress.reach(index, offset);
            if offset >= end {
                return;
            }
            let mut pieces = remote.stream(offset..end, Urgency::Background);
            while let Some(piece) = pieces.next().await.transpose() {
                let (length, is_last) = match &piece {
                    Ok(piece) => (piece.len() as u64, false),
                    Err(_) => (0, true),
                };
                // containerd does not want any more.
                if sender.send(piece).await.is_err() || is_last {
                    return;
                }
                offset += length;
                this.progress.reach(index, offset);
            }
        });
        ReceiverStream::new(receiver)
    }
}
