//! Gives chunks to other nodes.

mod body;
mod frames;
mod guests;
mod handle;
mod parked;
mod pulse;
mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::wire::buffers::Buffers;
use crate::wire::{Limits, Shelf};
use crate::{Admission, Error, Identity, Refused, Result, tls};

use frames::FRAME_BYTES;
use guests::Guests;
use handle::Guest;
use parked::Parked;
use pulse::Pulse;
use uploads::Uploads;

/// Plain bytes that may wait for the network behind TLS, for each connection.
const TLS_BUFFER: usize = 256 << 10;

/// How a node gives chunks.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// The zone that it says it is in.
    pub zone: String,
    /// What others may take.
    pub limits: Limits,
}

/// What a server has done since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that are open.
    pub connections: u64,
    /// Connections that were not let in because there were too many.
    pub crowded_out: u64,
    /// Handshakes that came to nothing.
    pub failed_handshakes: u64,
    /// Nodes that were not admitted.
    pub refused: u64,
    /// Answers to HAVE.
    pub haves: u64,
    /// Answers with chunks.
    pub uploads: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Their bytes, decompressed.
    pub bytes: u64,
    /// Requests that were turned away because there was enough to do.
    pub busy: u64,
    /// Requests for what is not here.
    pub missing: u64,
    /// Requests that made no sense.
    pub nonsense: u64,
    /// Connections that were given up because their ends took too little.
    pub too_slow: u64,
}

macro_rules! tallies {
    ($($name:ident),*) => {
        /// [`Counters`], while they count.
        #[derive(Debug, Default)]
        struct Tallies {
            $($name: AtomicU64,)*
        }

        impl Tallies {
            fn read(&self) -> Counters {
                Counters {
                    connections: 0,
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

tallies!(
    crowded_out,
    failed_handshakes,
    refused,
    haves,
    uploads,
    chunks,
    bytes,
    busy,
    missing,
    nonsense,
    too_slow
);

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What all connections have in common.
#[derive(Debug)]
struct Shared {
    shelf: Arc<dyn Shelf>,
    admission: Admission,
    config: ServerConfig,
    uploads: Arc<Uploads>,
    guests: Arc<Guests>,
    parked: Arc<Parked>,
    buffers: Buffers,
    tallies: Tallies,
}

/// Listens for other nodes until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Server {
    /// Listens at `listen` and gives what is on `shelf` to whomever `admission` admits.
    ///
    /// Has to be called within a runtime, which serves. [`Error::Listen`] if somebody else is there.
    pub async fn start(
        listen: SocketAddr,
        config: ServerConfig,
        identity: &Identity,
        admission: Admission,
        shelf: Arc<dyn Shelf>,
    ) -> Result<Server> {
        let mut tls = tls::server_config(identity)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let failed = |source| Error::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            shelf,
            admission,
            uploads: Uploads::new(&config.limits),
            guests: Guests::new(&config.limits),
            parked: Parked::new(&config.limits),
            buffers: Buffers::new(FRAME_BYTES),
            tallies: Tallies::default(),
            config,
        });
        let accepting = accept(
            Arc::clone(&shared),
            listener,
            TlsAcceptor::from(Arc::new(tls)),
        );
        let accepting = tokio::spawn(accepting).abort_handle();
        Ok(Server {
            address,
            shared,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        Counters {
            connections: self.shared.guests.len() as u64,
            ..self.shared.tallies.read()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    // All of them end with this.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => match shared.guests.come(from.ip()) {
                    Some(place) => {
                        let met = meet(Arc::clone(&shared), acceptor.clone(), tcp, from, place);
                        connections.spawn(met);
                    }
                    None => add(&shared.tallies.crowded_out, 1),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection of another node; trying again");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Finds out whose a connection is, and serves it.
async fn meet(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    from: SocketAddr,
    place: guests::Stranger,
) {
    // If it fails answers are late, not wrong.
    let _ = tcp.set_nodelay(true);
    let handshake = timeout(shared.config.limits.handshake, acceptor.accept(tcp)).await;
    let Ok(Ok(stream)) = handshake else {
        add(&shared.tallies.failed_handshakes, 1);
        return;
    };
    let shown = stream.get_ref().1.peer_certificates();
    let peer = shown.and_then(|shown| shown.first()).and_then(tls::peer_id);
    let Some(peer) = peer else {
        add(&shared.tallies.failed_handshakes, 1);
        return;
    };
    let guest = Guest::new(&shared, peer, from.ip(), place);
    match shared.admission.admits(peer, from.ip(), None) {
        Ok(()) => {
            if guest.seat().is_err() {
                return;
            }
            guest.pulse().rest();
        }
        // Who may have a token shows it with its first request, soon: until then it is a stranger.
        Err(Refused::Unknown) if shared.admission.takes_tokens() => {}
        Err(refused) => {
            add(&shared.tallies.refused, 1);
            // Whoever likes can have this written as often as he likes.
            tracing::debug!(%peer, %from, %refused, "another node was not admitted");
            return;
        }
    }
    serve(&shared, stream, guest).await;
}

async fn serve(shared: &Arc<Shared>, mut stream: TlsStream<TcpStream>, guest: Arc<Guest>) {
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
    let pulse: Arc<Pulse> = Arc::clone(guest.pulse());
    let service = service_fn(move |request| {
        let guest = Arc::clone(&guest);
        async move { guest.answer(request).await }
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(shared.config.limits.header_bytes.max(8 << 10));
    http.max_headers(32);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // How it ends is of no use to anybody: what was asked for is asked for elsewhere.
        _ = connection => {}
        is_idle = pulse.stops() => if !is_idle {
            add(&shared.tallies.too_slow, 1);
        },
    }
}
