//! A new image that goes to a registry or to containerd while it is made.
//!
//! Its new layers go through temporary files: their digests and sizes, with which an upload begins, are known at the end of a
//! conversion, and an upload that breaks off begins anew. What is taken over as it is goes through no file. Manifests
//! follow when all blobs are there, the one that the name stands for last.

use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pontoon_convert::{Descriptor, Error, Result, Source, Target, document_bytes};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::hydrate;
use crate::progress::Progress;
use crate::watched::Stop;

mod taker;

pub(super) use taker::Taker;

/// Blobs on their way at the same time: as many as containerd has (`max_concurrent_uploaded_layers`).
const AT_ONCE: usize = 3;

/// Blobs that are finished and not there yet: what waits on the disk.
const WAITING: usize = 6;

/// What went wrong at its end.
type Wrong = Box<dyn StdError + Send + Sync>;

/// An image on its way.
pub(crate) struct Push {
    taker: Arc<Taker>,
    runtime: Handle,
    progress: Arc<Progress>,
    stop: Arc<Stop>,
    waiting: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
    uploads: Mutex<JoinSet<Result<(), Wrong>>>,
    /// In the order in which they may be stored.
    documents: Mutex<Vec<(Descriptor, Vec<u8>)>>,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("taker", &self.taker)
            .finish_non_exhaustive()
    }
}

/// What is in a blob.
pub(super) enum Content {
    /// It was made here.
    File(NamedTempFile),
    /// It is small, and was made here.
    Bytes(Bytes),
    /// It is taken over.
    Source(Arc<dyn Source>),
}

impl Content {
    /// Its bytes from `offset` on. Nothing is read, and nobody asked, before the first one is.
    pub(super) fn open(&self, blob: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Content::File(file) => {
                let mut file = File::open(file.path())?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file))
            }
            Content::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.slice(start.min(bytes.len())..);
                Ok(Box::new(io::Cursor::new(rest)))
            }
            Content::Source(source) => Ok(Box::new(Later {
                source: Arc::clone(source),
                blob: blob.clone(),
                pass_over: offset,
                reader: None,
            })),
        }
    }
}

/// A blob of a source, which is asked for it when it is read.
struct Later {
    source: Arc<dyn Source>,
    blob: Descriptor,
    pass_over: u64,
    reader: Option<Box<dyn Read + Send>>,
}

impl Read for Later {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => {
                let mut reader = self.source.read(&self.blob).map_err(io::Error::other)?;
                io::copy(&mut (&mut reader).take(self.pass_over), &mut io::sink())?;
                none.insert(reader)
            }
        };
        reader.read(buffer)
    }
}

/// Tells the progress how much more of a blob was sent.
pub(super) struct Sending {
    progress: Arc<Progress>,
    last: AtomicU64,
}

impl Sending {
    pub(super) fn reach(&self, sent: u64) {
        let last = self.last.swap(sent, Ordering::Relaxed);
        self.progress.sent(last, sent);
    }
}

impl Push {
    pub(super) fn new(taker: Taker, progress: Arc<Progress>, stop: Arc<Stop>) -> Push {
        Push {
            taker: Arc::new(taker),
            runtime: Handle::current(),
            progress,
            stop,
            waiting: Arc::new(Semaphore::new(WAITING)),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            uploads: Mutex::default(),
            documents: Mutex::default(),
        }
    }

    /// Ends it, whether it has become an image or not: gives up what is under way, and nothing is kept for its sake.
    pub(crate) async fn end(&self) -> Result<(), Failure> {
        lock(&self.uploads).abort_all();
        self.taker.end().await.map_err(hydrate::failure)
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Wrong>>) -> Result<T> {
        match self.runtime.block_on(self.stop.race(work)) {
            Ok(done) => done.map_err(Error::Place),
            Err(_) => Err(Error::Cancelled),
        }
    }

    /// Waits until there is room for one more blob.
    fn room(&self) -> Result<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.waiting).acquire_owned();
        self.wait(async { room.await.map_err(Wrong::from) })
    }

    /// Sends a blob, while the conversion goes on.
    fn send(&self, blob: &Descriptor, content: Content) -> Result<()> {
        self.check()?;
        let room = self.room()?;
        let (taker, blob) = (Arc::clone(&self.taker), blob.clone());
        let content = Arc::new(content);
        let at_once = Arc::clone(&self.at_once);
        let sending = Sending {
            progress: Arc::clone(&self.progress),
            last: AtomicU64::new(0),
        };
        let upload = async move {
            let _room = room;
            let _place = at_once.acquire_owned().await?;
            taker.blob(&blob, &content, &sending).await
        };
        lock(&self.uploads).spawn_on(upload, &self.runtime);
        Ok(())
    }

    /// Fails if something that was sent has failed: whatever else is made is of no use then.
    fn check(&self) -> Result<()> {
        let mut uploads = lock(&self.uploads);
        while let Some(ended) = uploads.try_join_next() {
            ended.map_err(Wrong::from).flatten().map_err(Error::Place)?;
        }
        Ok(())
    }

    /// Waits until all that was sent is there.
    fn arrive(&self) -> Result<()> {
        let mut uploads = std::mem::take(&mut *lock(&self.uploads));
        self.wait(async {
            while let Some(ended) = uploads.join_next().await {
                ended.map_err(Wrong::from).flatten()?;
            }
            Ok(())
        })
    }
}

impl Target for Push {
    fn begin(&self) -> Result<NamedTempFile> {
        NamedTempFile::new().map_err(|source| Error::File {
            operation: "cannot make a file in",
            path: std::env::temp_dir(),
            source,
        })
    }

    fn keep(&self, file: NamedTempFile, blob: &Descriptor) -> Result<()> {
        self.send(blob, Content::File(file))
    }

    fn put(&self, document: &Descriptor, bytes: &[u8]) -> Result<()> {
        if document.is_document() {
            lock(&self.documents).push((document.clone(), bytes.to_vec()));
            return self.check();
        }
        self.send(document, Content::Bytes(Bytes::copy_from_slice(bytes)))
    }

    fn copy(&self, source: &Arc<dyn Source>, blob: &Descriptor) -> Result<()> {
        if blob.is_document() {
            let bytes = document_bytes(&**source, blob)?;
            return self.put(blob, &bytes);
        }
        self.send(blob, Content::Source(Arc::clone(source)))
    }

    fn finish(&self, index: &Value) -> Result<()> {
        let entries = index.get("manifests").and_then(Value::as_array);
        let [entry] = entries.map_or(&[][..], Vec::as_slice) else {
            let reason = "a name stands for one image, and there are several".to_owned();
            return Err(Error::Option(reason));
        };
        let top = Descriptor::parse(entry, "the new image")?;
        self.arrive()?;
        let documents = std::mem::take(&mut *lock(&self.documents));
        for (document, bytes) in &documents {
            let is_top = document.digest == top.digest;
            self.wait(self.taker.document(document, bytes, is_top))?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
