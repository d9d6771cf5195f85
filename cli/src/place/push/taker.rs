//! Who takes a new image.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_containerd::{Client, ContentStore, Ingested, Lease};
use pontoon_convert::Descriptor;
use pontoon_layer::Digest;
use pontoon_source::{Reference, Registry, Upload};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{Content, Sending, Wrong};
use crate::failure::Failure;
use crate::hydrate::{self, document::Document};

/// How long what has come is kept if we die.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// Bytes that are read at a time for containerd, and how many such pieces wait.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 4;

/// Who takes a new image.
pub(in crate::place) enum Taker {
    /// A registry.
    Registry {
        registry: Registry,
        reference: Reference,
        /// The repository of the same registry that the image is made of.
        from: Option<String>,
    },
    /// containerd.
    Containerd(Box<Containerd>),
}

/// containerd, for an image that it does not have yet.
pub(in crate::place) struct Containerd {
    client: Client,
    /// As containerd keeps it.
    name: String,
    /// Keeps what nothing refers to yet.
    lease: Mutex<Option<Lease>>,
    store: ContentStore,
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Taker::Registry { reference, .. } => write!(f, "Registry({reference})"),
            Taker::Containerd(containerd) => write!(f, "Containerd({})", containerd.name),
        }
    }
}

impl Taker {
    /// containerd, for the image that is to be called `name`.
    pub(in crate::place) async fn containerd(
        client: &Client,
        name: &str,
    ) -> Result<Taker, Failure> {
        let lease = client.leases().create("convert", LEASE).await;
        let lease = lease.map_err(hydrate::failure)?;
        let whole = Reference::parse(name).map(|reference| reference.to_string());
        Ok(Taker::Containerd(Box::new(Containerd {
            client: client.clone(),
            name: whole.unwrap_or_else(|_| name.to_owned()),
            store: lease.client().content(),
            lease: Mutex::new(Some(lease)),
        })))
    }

    /// Nothing is kept any more that no image refers to.
    pub(super) async fn end(&self) -> pontoon_containerd::Result<()> {
        let Taker::Containerd(containerd) = self else {
            return Ok(());
        };
        match containerd.lease.lock().await.take() {
            Some(lease) => lease.delete().await,
            None => Ok(()),
        }
    }

    /// Takes a blob.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        content: &Arc<Content>,
        sending: &Sending,
    ) -> Result<(), Wrong> {
        match self {
            Taker::Registry {
                registry,
                reference,
                from,
            } => {
                let is_old = matches!(**content, Content::Source(_));
                let upload = Upload {
                    digest: &blob.digest,
                    size: blob.size,
                    from: from.as_deref().filter(|_| is_old),
                    open: &|| content.open(blob, 0),
                    sent: &|sent| sending.reach(sent),
                };
                registry.push_blob(reference, &upload).await?;
            }
            Taker::Containerd(containerd) => {
                let open = |offset| stream(content, blob, offset);
                containerd.ingest(blob, &BTreeMap::new(), open).await?;
                sending.reach(blob.size);
            }
        }
        Ok(())
    }

    /// Takes a manifest or an index; if it `is_top`, what the name stands for.
    pub(super) async fn document(
        &self,
        document: &Descriptor,
        bytes: &[u8],
        is_top: bool,
    ) -> Result<(), Wrong> {
        match self {
            Taker::Registry {
                registry,
                reference,
                ..
            } => {
                let digest = document.digest.to_string();
                let tag = reference.tag().filter(|_| is_top);
                let name = tag.unwrap_or(&digest);
                let media_type = &document.media_type;
                registry
                    .push_manifest(reference, name, media_type, bytes)
                    .await?;
            }
            Taker::Containerd(containerd) => {
                containerd.document(document, bytes).await?;
                if is_top {
                    let images = containerd.client.images();
                    images.put(&containerd.name, &described(document)).await?;
                }
            }
        }
        Ok(())
    }
}

impl Containerd {
    async fn document(&self, document: &Descriptor, bytes: &[u8]) -> Result<(), Wrong> {
        // What lists nothing keeps nothing.
        let listed = Document::parse(bytes).ok();
        let labels = listed.map(|listed| listed.missing_labels(&BTreeMap::new()));
        let piece = Bytes::copy_from_slice(bytes);
        let open = |offset| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let piece = piece.slice(offset.min(piece.len())..);
            tokio_stream::once(io::Result::Ok(piece))
        };
        self.ingest(document, &labels.unwrap_or_default(), open)
            .await
    }

    async fn ingest<S: tokio_stream::Stream<Item = io::Result<Bytes>>>(
        &self,
        blob: &Descriptor,
        labels: &BTreeMap<String, String>,
        open: impl Fn(u64) -> S,
    ) -> Result<(), Wrong> {
        let ingested = self.store.ingest(&described(blob), labels, open).await?;
        if ingested == Ingested::Present
            && let Some(lease) = &*self.lease.lock().await
        {
            lease.add_content(&blob.digest).await?;
        }
        Ok(())
    }
}

fn described(blob: &Descriptor) -> pontoon_containerd::Descriptor {
    pontoon_containerd::Descriptor {
        media_type: blob.media_type.clone(),
        digest: Digest::clone(&blob.digest),
        size: blob.size,
        annotations: BTreeMap::new(),
    }
}

/// The bytes of a blob from `offset` on, read on a thread of their own.
fn stream(
    content: &Arc<Content>,
    blob: &Descriptor,
    offset: u64,
) -> ReceiverStream<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let (content, blob) = (Arc::clone(content), blob.clone());
    tokio::task::spawn_blocking(move || {
        let mut reader = match content.open(&blob, offset) {
            Ok(reader) => reader,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match reader.read(&mut piece) {
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let is_last = read.is_err();
            let read = read.map(|count| {
                piece.truncate(count);
                Bytes::from(piece)
            });
            // containerd may not want more.
            if sender.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
