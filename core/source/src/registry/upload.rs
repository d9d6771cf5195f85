//! A blob on its way to a registry.

use std::fmt;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pontoon_layer::Digest;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, Url};
use tokio::sync::mpsc;

use super::auth::Rights;
use super::pusher::Pusher;
use crate::error::{Cause, Error, Result};

/// Bytes of a blob that are read at a time, and how many such pieces wait to be sent.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 4;

/// How long a registry may take to look at a blob that it has got. Some copy it once more.
const COMMIT: Duration = Duration::from_mins(5);

/// How often whoever wants to know is told how far it is.
const TOLD: Duration = Duration::from_millis(200);

/// Something to read a blob from. It is opened anew for each try, which must not block; reading may.
pub type Open<'a> = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a;

/// Told how many bytes of a blob were sent; less than before if it had to begin anew.
pub type Sent<'a> = dyn Fn(u64) + Send + Sync + 'a;

/// A blob that is to be where it is not yet.
pub struct Upload<'a> {
    /// What it is called.
    pub digest: &'a Digest,
    /// In bytes.
    pub size: u64,
    /// Another repository of the same registry that has it, perhaps.
    pub from: Option<&'a str>,
    /// What is in it.
    pub open: &'a Open<'a>,
    /// Whoever wants to know how far it is.
    pub sent: &'a Sent<'a>,
}

impl fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// Sends a blob in one piece to `url`, and answers what is answered. An upload of which nothing is taken any more is given
/// up.
pub(super) async fn put(pusher: &Pusher<'_>, url: &Url, upload: &Upload<'_>) -> Result<Response> {
    let state = Arc::new(State::default());
    let make = |client: &reqwest::Client| {
        state.count.store(0, Ordering::Relaxed);
        let body = FileBody::new((upload.open)(), upload.size, &state);
        client
            .put(url.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap(body))
    };
    let send = pusher.send(url, Rights::Push { from: None }, make, None);
    tokio::pin!(send);
    let stall = pusher.registry.shared.config.stall_timeout;
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let sent = tokio::time::timeout(stall.min(TOLD), &mut send).await;
        // Whatever became of the request: without the blob, it is of no use.
        if let Some(error) = state.take() {
            return Err(Error::Unreadable {
                object: pusher.object.to_owned(),
                source: Cause::new(error),
            });
        }
        if let Ok(response) = sent {
            return response;
        }
        let now = state.count.load(Ordering::Relaxed);
        (upload.sent)(now);
        // Who reads the blob has a patience of its own.
        if now != last || state.is_starved.load(Ordering::Relaxed) {
            (last, since) = (now, Instant::now());
        }
        let limit = match now >= upload.size {
            true => COMMIT.max(stall),
            false => stall,
        };
        if since.elapsed() > limit {
            let seconds = limit.as_secs_f32();
            return Err(pusher.unavailable(format!("it took nothing for {seconds} s")));
        }
    }
}

/// How far a blob is.
#[derive(Debug, Default)]
struct State {
    /// Bytes that were sent.
    count: AtomicU64,
    /// Whether sending waits for reading.
    is_starved: AtomicBool,
    /// Why it could not be read.
    failed: Mutex<Option<io::Error>>,
}

impl State {
    fn put(&self, error: io::Error) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn take(&self) -> Option<io::Error> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take()
    }
}

/// A blob that is read on a thread of its own.
struct FileBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    state: Arc<State>,
}

impl FileBody {
    fn new(opened: io::Result<Box<dyn Read + Send>>, size: u64, state: &Arc<State>) -> FileBody {
        let (sender, pieces) = mpsc::channel(PIECES);
        match opened {
            Ok(reader) => {
                let state = Arc::clone(state);
                tokio::task::spawn_blocking(move || read(reader, &sender, &state));
            }
            Err(error) => state.put(error),
        }
        FileBody {
            pieces,
            left: size,
            state: Arc::clone(state),
        }
    }
}

/// Reads to the end, or as long as anybody wants it.
fn read(mut reader: Box<dyn Read + Send>, sender: &mpsc::Sender<Bytes>, state: &State) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        match reader.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                if sender.blocking_send(piece.into()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return state.put(error),
        }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let polled = self.pieces.poll_recv(context);
        let is_starved = polled.is_pending();
        self.state.is_starved.store(is_starved, Ordering::Relaxed);
        let Some(mut piece) = std::task::ready!(polled) else {
            let early = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early");
            let error = self.state.take().unwrap_or_else(early);
            // The one who waits for the answer tells it; the transport says no more than that it ended.
            self.state.put(error);
            return Poll::Ready(Some(Err(early())));
        };
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        self.state
            .count
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
