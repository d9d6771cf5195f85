//! An image that is read from a registry or from containerd, as it comes: nothing of it is kept but its documents.

use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use pontoon_containerd::{ContentStore, Image};
use pontoon_convert::{DOCUMENT_BYTES_MAX, Descriptor, Error, Result, Source};
use pontoon_layer::Digest;
use pontoon_source::{Reference, Registry};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use crate::watched::Stop;

/// Layers that come before somebody reads them, and how much of each: what waits in memory.
const AHEAD: usize = 2;
const PIECES: usize = 16;
const PIECE_BYTES: usize = 256 << 10;

/// Who has it.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A registry.
    Registry {
        registry: Registry,
        reference: Reference,
    },
    /// containerd.
    Containerd { store: ContentStore, image: Image },
}

/// What went wrong at its end.
type Wrong = Box<dyn StdError + Send + Sync>;

/// An image somewhere else.
pub(super) struct Pull {
    origin: Origin,
    runtime: Handle,
    stop: Arc<Stop>,
    /// Manifests, indexes and configurations, which are read several times.
    documents: Mutex<HashMap<Digest, Bytes>>,
    coming: Mutex<Coming>,
}

/// Layers that are expected, and those that come already.
#[derive(Default)]
struct Coming {
    order: Vec<Descriptor>,
    begun: HashSet<Digest>,
    open: HashMap<Digest, Pieces>,
}

impl fmt::Debug for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Pull {
    pub(super) fn new(origin: Origin, runtime: Handle, stop: Arc<Stop>) -> Pull {
        Pull {
            origin,
            runtime,
            stop,
            documents: Mutex::default(),
            coming: Mutex::default(),
        }
    }

    /// Waits for something, unless nobody wants it any more.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Wrong>>) -> Result<T> {
        let done = self.runtime.block_on(self.stop.race(work));
        match done {
            Ok(done) => done.map_err(Error::Place),
            Err(_) => Err(Error::Cancelled),
        }
    }

    /// Has a blob come.
    fn begin(&self, blob: &Descriptor) -> Pieces {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (origin, stop, blob) = (self.origin.clone(), Arc::clone(&self.stop), blob.clone());
        self.runtime.spawn(async move {
            let wrong = match stop.race(origin.bring(&blob, &sender)).await {
                Ok(Ok(())) => return,
                Ok(Err(wrong)) => wrong,
                Err(stopped) => stopped.into(),
            };
            // Whoever does not read it any more does not want to know.
            let _ = sender.send(Err(io::Error::other(wrong))).await;
        });
        Pieces {
            pieces,
            current: Bytes::new(),
        }
    }

    /// A layer, which may be on its way already; and those that will be read after it are from now on.
    fn layer(&self, blob: &Descriptor) -> Pieces {
        let mut coming = lock(&self.coming);
        let open = coming.open.remove(&blob.digest);
        let open = open.unwrap_or_else(|| self.begin(blob));
        coming.begun.insert(blob.digest.clone());
        let place = coming
            .order
            .iter()
            .position(|one| one.digest == blob.digest);
        let Some(place) = place else {
            return open;
        };
        let next = coming.order[place + 1..].iter().take(AHEAD);
        for next in next.cloned().collect::<Vec<_>>() {
            if coming.begun.insert(next.digest.clone()) {
                let pieces = self.begin(&next);
                coming.open.insert(next.digest, pieces);
            }
        }
        open
    }

    /// Something small, which is kept.
    fn document(&self, blob: &Descriptor) -> Result<Bytes> {
        if let Some(bytes) = lock(&self.documents).get(&blob.digest) {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::new();
        let mut pieces = self.begin(blob).take(DOCUMENT_BYTES_MAX + 1);
        let read = pieces.read_to_end(&mut bytes);
        read.map_err(|error| match error.into_inner() {
            Some(wrong) => Error::Place(wrong),
            None => Error::Cancelled,
        })?;
        let bytes = Bytes::from(bytes);
        let digest = blob.digest.clone();
        lock(&self.documents).insert(digest, bytes.clone());
        Ok(bytes)
    }
}

impl Source for Pull {
    fn index(&self) -> Result<Value> {
        let (bytes, entry) = self.wait(self.origin.target())?;
        if let Some(bytes) = bytes {
            lock(&self.documents).insert(entry.digest.clone(), bytes);
        }
        let entry = json!({
            "mediaType": entry.media_type,
            "digest": entry.digest.to_string(),
            "size": entry.size,
        });
        Ok(json!({"schemaVersion": 2, "manifests": [entry]}))
    }

    fn read(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let is_small = blob.is_document() || blob.media_type.contains(".config.");
        let is_small = is_small || blob.media_type.contains("container.image.");
        if is_small && blob.size <= DOCUMENT_BYTES_MAX {
            return Ok(Box::new(Cursor::new(self.document(blob)?)));
        }
        Ok(Box::new(self.layer(blob)))
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        self.wait(self.origin.has(blob))
    }

    fn is_partial(&self) -> bool {
        matches!(self.origin, Origin::Containerd { .. })
    }

    fn expect(&self, layers: &[Descriptor]) {
        lock(&self.coming).order = layers.to_vec();
    }
}

impl Origin {
    /// The manifest or index of the image; its bytes, if they are known already.
    async fn target(&self) -> Result<(Option<Bytes>, Descriptor), Wrong> {
        let (registry, reference) = match self {
            Origin::Registry {
                registry,
                reference,
            } => (registry, reference),
            Origin::Containerd { image, .. } => {
                let entry = Descriptor {
                    media_type: image.target.media_type.clone(),
                    digest: image.target.digest.clone(),
                    size: image.target.size,
                };
                return Ok((None, entry));
            }
        };
        let digest = registry.resolve(reference).await?;
        let bytes = registry.manifest_bytes(reference, &digest).await?;
        let bytes = bytes.into_inner();
        let entry = Descriptor {
            media_type: media_type(&bytes).to_owned(),
            digest,
            size: bytes.len() as u64,
        };
        Ok((Some(bytes), entry))
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool, Wrong> {
        match self {
            // No registry has an index without what it lists.
            Origin::Registry { .. } if blob.is_document() => Ok(true),
            Origin::Registry {
                registry,
                reference,
            } => match registry.blob_size(reference, &blob.digest).await {
                Ok(_) => Ok(true),
                Err(pontoon_source::Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            },
            Origin::Containerd { store, .. } => Ok(store.has(&blob.digest).await?),
        }
    }

    /// Sends the bytes of a blob.
    async fn bring(&self, blob: &Descriptor, sender: &Sender) -> Result<(), Wrong> {
        let mut buffer = Buffer {
            bytes: BytesMut::new(),
            sender,
        };
        match self {
            Origin::Registry {
                registry,
                reference,
            } if blob.is_document() => {
                let bytes = registry.manifest_bytes(reference, &blob.digest).await?;
                buffer.add(&bytes).await;
            }
            Origin::Registry {
                registry,
                reference,
            } => {
                let mut pieces = registry.download(reference, blob.digest.clone(), blob.size);
                while let Some(piece) = pieces.next().await? {
                    if !buffer.add(&piece).await {
                        return Ok(());
                    }
                }
            }
            Origin::Containerd { store, image } => {
                let absent = |error: pontoon_containerd::Error| -> Wrong {
                    if !error.is_not_found() {
                        return error.into();
                    }
                    let (digest, name) = (&blob.digest, &image.name);
                    let text = format!(
                        "containerd does not have {digest} of {name}: it was pulled lazily, or for another platform; `pontoon hydrate {name}` fetches what is missing, and --platform leaves out others"
                    );
                    text.into()
                };
                let pieces = store.read(&blob.digest, 0, 0).await.map_err(absent)?;
                let mut pieces = std::pin::pin!(pieces);
                while let Some(piece) = pieces.next().await {
                    if !buffer.add(&piece.map_err(absent)?).await {
                        return Ok(());
                    }
                }
            }
        }
        buffer.flush().await;
        Ok(())
    }
}

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// Makes larger pieces of small ones, so that few of them are much.
struct Buffer<'a> {
    bytes: BytesMut,
    sender: &'a Sender,
}

impl Buffer<'_> {
    /// False if nobody wants more.
    async fn add(&mut self, mut piece: &[u8]) -> bool {
        while !piece.is_empty() {
            let room = PIECE_BYTES - self.bytes.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.bytes.extend_from_slice(now);
            piece = later;
            if self.bytes.len() == PIECE_BYTES && !self.flush().await {
                return false;
            }
        }
        true
    }

    async fn flush(&mut self) -> bool {
        let bytes = self.bytes.split().freeze();
        self.sender.send(Ok(bytes)).await.is_ok()
    }
}

/// A blob as it comes.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.current = piece?,
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// What a document is that a registry has given for a tag. Some manifests do not say.
fn media_type(bytes: &[u8]) -> &'static str {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const KNOWN: [&str; 4] = [
        INDEX,
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = value.get("mediaType").and_then(Value::as_str);
    match KNOWN.iter().find(|known| Some(**known) == said) {
        Some(known) => known,
        None if value.get("manifests").is_some() => INDEX,
        None => KNOWN[2],
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
