//! An ordinary layer on its way: into a nameless file, from which it is unpacked at the same time.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use pontoon_layer::{Digest, Hasher};
use pontoon_source::{Blob, Urgency};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};

use crate::reason::Refusal;

/// Bytes of one request.
const PIECE_BYTES: u64 = 4 << 20;

/// Requests of one layer at the same time.
const PIECES: usize = 4;

/// Bytes that are hashed at once.
const STEP_BYTES: usize = 256 << 10;

/// The unit in which temporary space is budgeted.
pub(crate) const SPACE_UNIT: u64 = 1 << 20;

/// Temporary space for all downloads.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    free: Arc<Semaphore>,
    units: u32,
}

impl Space {
    pub(crate) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / SPACE_UNIT).unwrap_or(u32::MAX >> 3);
        let units = units.clamp(1, u32::MAX >> 3);
        Space {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(SPACE_UNIT))
            .unwrap_or(u32::MAX)
            .min(self.units)
    }

    /// Space for `bytes` if it is free now.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if bytes > u64::from(self.units) * SPACE_UNIT {
            return None;
        }
        let units = self.units_of(bytes);
        Arc::clone(&self.free).try_acquire_many_owned(units).ok()
    }

    /// Space for `bytes` when it is free; all of it for what is larger.
    pub(crate) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = self.units_of(bytes);
        Arc::clone(&self.free).acquire_many_owned(units).await.ok()
    }
}

/// A layer that is being downloaded, until it is dropped.
pub(crate) struct Download {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").finish_non_exhaustive()
    }
}

struct Shared {
    blob: Arc<dyn Blob>,
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// So many bytes are in the file, from its beginning on.
    here: u64,
    end: Option<Result<(), Refusal>>,
}

impl Download {
    /// Begins to download `blob` into a file in `directory`. `space` is given back with the last reader.
    pub(crate) fn start(
        runtime: &Handle,
        directory: &Path,
        blob: Arc<dyn Blob>,
        space: Option<OwnedSemaphorePermit>,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            blob,
            file: tempfile::tempfile_in(directory)?,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let task = runtime.spawn(async move {
            let _space = space;
            let end = writer.fill(&writer.blob).await;
            writer.lock().end = Some(end);
            writer.changed.notify_all();
        });
        let task = task.abort_handle();
        Ok(Arc::new(Download { shared, task }))
    }

    /// The layer from its beginning. A read that has to wait fails at `deadline`.
    pub(crate) fn reader(self: &Arc<Self>, deadline: Option<Instant>) -> Reader {
        Reader {
            download: Arc::clone(self),
            at: 0,
            deadline,
        }
    }

    /// Whether all of it has come and is something else than `digest`. Waits for it until `deadline`.
    pub(crate) fn is_damaged(
        self: &Arc<Self>,
        digest: &Digest,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        let mut hasher = Hasher::new(digest.algorithm());
        let mut reader = self.reader(deadline);
        let mut step = vec![0; STEP_BYTES];
        loop {
            match reader.read(&mut step)? {
                0 => return Ok(hasher.finish() != *digest),
                read => hasher.update(&step[..read]),
            }
        }
    }

    /// The same from somebody else, because what has come is damaged; `None` if there is nobody else.
    pub(crate) fn elsewhere(
        &self,
        runtime: &Handle,
        directory: &Path,
    ) -> io::Result<Option<Arc<Self>>> {
        let blob = Arc::clone(&self.shared.blob);
        if !blob.report_damage(0..blob.size()) {
            return Ok(None);
        }
        // What it stands in for is of no use any more, and leaves it its space.
        Download::start(runtime, directory, blob, None).map(Some)
    }

    /// Why it came to nothing, if it did.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        match &self.shared.lock().end {
            Some(Err(refusal)) => Some(refusal.clone()),
            _ => None,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn fill(&self, blob: &Arc<dyn Blob>) -> Result<(), Refusal> {
        match self.fill_by_pieces(blob).await {
            // It can still be had as a whole.
            Err(Failure::Source(pontoon_source::Error::RangeUnsupported { .. })) => {}
            other => return other.map_err(Refusal::from),
        }
        let here = self.lock().here;
        let mut stream = blob.stream(here..blob.size(), Urgency::Background);
        while let Some(bytes) = stream.next().await? {
            self.append(&bytes)
                .map_err(|error| Refusal::store(&error))?;
        }
        Ok(())
    }

    /// Several requests at a time, written in their order.
    async fn fill_by_pieces(&self, blob: &Arc<dyn Blob>) -> Result<(), Failure> {
        let mut pieces: VecDeque<Piece> = VecDeque::new();
        let mut next = 0;
        loop {
            while next < blob.size() && pieces.len() < PIECES {
                let range = next..blob.size().min(next + PIECE_BYTES);
                next = range.end;
                let blob = Arc::clone(blob);
                pieces.push_back(Piece(tokio::spawn(async move {
                    blob.read(range, Urgency::Background).await
                })));
            }
            let Some(mut piece) = pieces.pop_front() else {
                return Ok(());
            };
            let bytes = (&mut piece.0).await.map_err(|_| Failure::Ended)?;
            let bytes = bytes.map_err(Failure::Source)?;
            self.append(&bytes).map_err(Failure::Disk)?;
        }
    }

    /// Into the page cache: shorter than it would take to have another thread do it.
    fn append(&self, bytes: &Bytes) -> io::Result<()> {
        let here = self.lock().here;
        self.file.write_all_at(bytes, here)?;
        self.lock().here = here + bytes.len() as u64;
        self.changed.notify_all();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is given up when it is dropped.
struct Piece(JoinHandle<pontoon_source::Result<Bytes>>);

impl Drop for Piece {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Failure {
    Source(pontoon_source::Error),
    Disk(io::Error),
    Ended,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Source(error) => error.into(),
            Failure::Disk(error) => Refusal::store(&error),
            Failure::Ended => Refusal::for_now(crate::reason::BUG),
        }
    }
}

/// Reads a layer while it is downloaded.
#[derive(Debug)]
pub(crate) struct Reader {
    download: Arc<Download>,
    at: u64,
    deadline: Option<Instant>,
}

impl Reader {
    /// How many bytes there are to read now: none at the end.
    fn wait(&self) -> io::Result<u64> {
        let shared = &self.download.shared;
        let mut state = shared.lock();
        loop {
            if state.here > self.at {
                return Ok(state.here - self.at);
            }
            match &state.end {
                Some(Ok(())) => return Ok(0),
                Some(Err(refusal)) => {
                    let detail = refusal.detail.as_deref().unwrap_or(refusal.reason);
                    return Err(io::Error::other(detail.to_owned()));
                }
                None => {}
            }
            let waited = match self.deadline {
                None => shared.changed.wait(state),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let waited = shared.changed.wait_timeout(state, left);
                    waited
                        .map(|(state, _)| state)
                        .map_err(|error| PoisonError::new(error.into_inner().0))
                }
            };
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = usize::try_from(self.wait()?).unwrap_or(usize::MAX);
        let length = buffer.len().min(here);
        let read = self
            .download
            .shared
            .file
            .read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
