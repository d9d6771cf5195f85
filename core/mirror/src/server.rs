//! Listening, and who may have how much of it.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pontoon_containerd::Client;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use crate::answer::Body;
use crate::config::Config;
use crate::containerd::Containerd;
use crate::error::{Error, Result};
use crate::library::Library;
use crate::patient::Patient;
use crate::store::Store;

/// Connections at a time; more wait. Each has one request at a time, and one piece of a blob in memory.
const CONNECTIONS_MAX: usize = 64;

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long a client may take to send the head of its next request, idle connections included.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a client may leave unread what is there for it.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// How long accepting rests when the system refuses it.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A running mirror. It ends when this is dropped.
#[derive(Debug)]
pub struct Mirror {
    address: SocketAddr,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) given: AtomicU64,
    pub(crate) absent: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// What a mirror did since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that got what they asked for.
    pub given: u64,
    /// Requests for what is not here, tags included.
    pub absent: u64,
    /// Requests for what is never done.
    pub refused: u64,
    /// Requests that failed because containerd did not answer, or what it has is damaged.
    pub failed: u64,
    /// Bytes of blobs and manifests that were sent.
    pub bytes: u64,
}

impl Mirror {
    /// A mirror of what containerd has.
    pub fn start(config: &Config) -> Result<Self> {
        let Config {
            containerd,
            namespace,
            ..
        } = config.clone();
        Mirror::serve(config, None, move || {
            let client = Client::new(&containerd, &namespace).map_err(Error::Containerd)?;
            Ok(Arc::new(Containerd::new(client.content())) as Arc<dyn Store>)
        })
    }

    /// A mirror of what `here` has, and `elsewhere`, which is asked for what is not here, but not on behalf of somebody who
    /// is asked on behalf himself.
    pub fn of(
        config: &Config,
        here: Arc<dyn Store>,
        elsewhere: Option<Arc<dyn Store>>,
    ) -> Result<Self> {
        Mirror::serve(config, elsewhere, move || Ok(here))
    }

    fn serve(
        config: &Config,
        elsewhere: Option<Arc<dyn Store>>,
        here: impl FnOnce() -> Result<Arc<dyn Store>>,
    ) -> Result<Self> {
        let address = config.listen;
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        let unheard = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(unheard)?;
        listener.set_nonblocking(true).map_err(unheard)?;
        let address = listener.local_addr().map_err(unheard)?;
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(Error::Thread)?;
        let here = {
            // A client of containerd is made inside of the runtime that it works in.
            let _inside = runtime.enter();
            here()?
        };
        let counters = Arc::new(Counters::default());
        let library = Library {
            here,
            elsewhere,
            registries: config.registries.clone(),
            counters: Arc::clone(&counters),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("mirror".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Told by being dropped, too.
                    _ = stopped => {}
                    ended = accept(listener, Arc::new(library)) => {
                        let Err(error) = ended;
                        tracing::error!(%error, "the mirror does not work; restart the daemon");
                    }
                }
            });
            // A request to containerd that hangs is left behind.
            runtime.shutdown_background();
        });
        Ok(Mirror {
            address,
            counters,
            stop: Some(stop),
            thread: Some(thread.map_err(Error::Thread)?),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            given: read(&self.counters.given),
            absent: read(&self.counters.absent),
            refused: read(&self.counters.refused),
            failed: read(&self.counters.failed),
            bytes: read(&self.counters.bytes),
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told when it happened.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, library: Arc<Library>) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the mirror was not accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let library = Arc::clone(&library);
        tokio::spawn(async move {
            connection(stream, library).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, library: Arc<Library>) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let library = Arc::clone(&library);
        async move {
            let (request, _) = request.into_parts();
            Ok::<hyper::Response<Body>, Infallible>(library.answer(&request).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, READ_TIME_MAX)), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the mirror broke");
    }
}
