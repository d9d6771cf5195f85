//! Connections that are kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{ClientConfig, READ_BYTES_MAX};
use crate::admission::Token;
use crate::wire::error::{Error, Result};
use crate::{Identity, Peer, PeerId, tls};

/// A request.
pub(super) type Ask = hyper::Request<Empty<Bytes>>;

/// So often it is looked which connections nobody uses.
const SWEEP: Duration = Duration::from_secs(15);

/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chunks,
    /// Its answers may take half a minute, so it is not counted with the others.
    Have,
}

/// The connections to all nodes.
pub(super) struct Pool {
    config: Arc<ClientConfig>,
    identity: Identity,
    state: Mutex<State>,
    me: Weak<Pool>,
}

#[derive(Default)]
struct State {
    peers: HashMap<PeerId, Known>,
    is_swept: bool,
}

/// A node, and the connections to it that nobody uses.
struct Known {
    tls: Arc<rustls::ClientConfig>,
    idle: Vec<Idle>,
    chunks: Arc<Semaphore>,
    haves: Arc<Semaphore>,
    /// The token that it has shown, which was good.
    token: Option<Token>,
}

struct Idle {
    sender: SendRequest<Empty<Bytes>>,
    since: Instant,
}

/// A connection while somebody uses it. Unless it is given back it is closed.
pub(super) struct Lease {
    pool: Arc<Pool>,
    pub(super) peer: Peer,
    sender: Option<SendRequest<Empty<Bytes>>>,
    /// It was used before: the other end may have closed it.
    is_old: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(config: Arc<ClientConfig>, identity: Identity) -> Arc<Pool> {
        Arc::new_cyclic(|me| Pool {
            config,
            identity,
            state: Mutex::default(),
            me: me.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `peer`, which may have to be made. [`Error::Slow`] if there is none within `patience`.
    pub(super) async fn lease(
        self: &Arc<Self>,
        peer: Peer,
        kind: Kind,
        patience: Duration,
    ) -> Result<Lease> {
        let (tls, permits) = self.known(peer.id, kind)?;
        let permit = timeout(patience, permits.acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(permit)) = permit else {
            return Err(Error::Slow {
                peer: peer.id,
                what: "what it was asked for before",
            });
        };
        let idle = self.idle(peer.id);
        let is_old = idle.is_some();
        let sender = match idle {
            Some(sender) => sender,
            None => self.connect(peer, tls).await?,
        };
        Ok(Lease {
            pool: Arc::clone(self),
            peer,
            sender: Some(sender),
            is_old,
            _permit: permit,
        })
    }

    fn known(
        &self,
        peer: PeerId,
        kind: Kind,
    ) -> Result<(Arc<rustls::ClientConfig>, Arc<Semaphore>)> {
        let mut state = self.lock();
        let is_new = !state.peers.contains_key(&peer);
        if is_new {
            self.sweep_later(&mut state);
        }
        let known = match state.peers.entry(peer) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.meet(peer)?),
        };
        let permits = match kind {
            Kind::Chunks => &known.chunks,
            Kind::Have => &known.haves,
        };
        Ok((Arc::clone(&known.tls), Arc::clone(permits)))
    }

    fn meet(&self, peer: PeerId) -> Result<Known> {
        let tls = tls::client_config(&self.identity, Some(peer));
        let mut tls = tls.map_err(|error| Error::Tls(Box::new(error)))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Known {
            tls: Arc::new(tls),
            idle: Vec::new(),
            chunks: Arc::new(Semaphore::new(self.config.connections)),
            haves: Arc::new(Semaphore::new(self.config.have_connections)),
            token: None,
        })
    }

    /// Whether `peer` has shown this token before.
    pub(super) fn has_shown(&self, peer: PeerId, token: &Token) -> bool {
        let state = self.lock();
        let known = state.peers.get(&peer);
        known.is_some_and(|known| known.token.as_ref() == Some(token))
    }

    /// `peer` has shown a token that is good.
    pub(super) fn showed(&self, peer: PeerId, token: Token) {
        if let Some(known) = self.lock().peers.get_mut(&peer) {
            known.token = Some(token);
        }
    }

    /// The connection to `peer` that was used last, if one is free.
    fn idle(&self, peer: PeerId) -> Option<SendRequest<Empty<Bytes>>> {
        let mut state = self.lock();
        let idle = &mut state.peers.get_mut(&peer)?.idle;
        while let Some(last) = idle.pop() {
            if !last.sender.is_closed() {
                return Some(last.sender);
            }
        }
        None
    }

    async fn connect(
        &self,
        peer: Peer,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<SendRequest<Empty<Bytes>>> {
        let failed = |source: io::Error| Error::Connect { peer, source };
        let late = |_| failed(io::Error::from(io::ErrorKind::TimedOut));
        let tcp = timeout(self.config.connect, TcpStream::connect(peer.address)).await;
        let tcp = tcp.map_err(late)?.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let name = ServerName::from(peer.address.ip());
        let handshake = async {
            let stream = TlsConnector::from(tls).connect(name, tcp).await;
            let stream = stream.map_err(failed)?;
            let mut http = http1::Builder::new();
            http.max_buf_size(READ_BYTES_MAX).max_headers(HEADERS_MAX);
            let made = http.handshake(TokioIo::new(stream)).await;
            made.map_err(|source| Error::Broken {
                peer: peer.id,
                source,
            })
        };
        let made = timeout(self.config.handshake, handshake).await;
        let (sender, connection) = made.map_err(late)??;
        // It ends when nobody can ask on it any more, or the other end closes it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn give_back(&self, peer: PeerId, sender: SendRequest<Empty<Bytes>>) {
        let mut state = self.lock();
        if let Some(known) = state.peers.get_mut(&peer) {
            known.idle.push(Idle {
                sender,
                since: Instant::now(),
            });
            self.sweep_later(&mut state);
        }
    }

    pub(super) fn forget(&self, peer: PeerId) {
        self.lock().peers.remove(&peer);
    }

    fn sweep_later(&self, state: &mut State) {
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(self.me.clone()));
        }
    }
}

/// Closes what nobody has used for long, as long as there is anything.
async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut state = pool.lock();
        let idle = pool.config.idle;
        let most = pool.config.connections;
        state.peers.retain(|_, known| {
            known
                .idle
                .retain(|one| !one.sender.is_closed() && one.since.elapsed() < idle);
            let is_used =
                known.chunks.available_permits() < most || Arc::strong_count(&known.haves) > 1;
            is_used || !known.idle.is_empty()
        });
        if state.peers.is_empty() {
            state.is_swept = false;
            return;
        }
    }
}

impl Lease {
    /// Sends a request. One that was lost because the other end had closed a kept connection is sent again on a new one.
    pub(super) async fn send(&mut self, ask: Ask) -> Result<Response<Incoming>> {
        let peer = self.peer;
        if let Some(sender) = &mut self.sender {
            let again = self.is_old.then(|| ask.clone());
            let sent = match sender.ready().await {
                Ok(()) => sender.send_request(ask).await,
                Err(error) => Err(error),
            };
            match (sent, again) {
                (Ok(response), _) => return Ok(response),
                // What came was no answer, so it is as if nobody had been asked.
                (Err(error), Some(again)) if !error.is_parse() && !error.is_user() => {
                    return self.send_anew(again).await;
                }
                (Err(error), _) => return Err(broken(peer.id, error)),
            }
        }
        self.send_anew(ask).await
    }

    async fn send_anew(&mut self, ask: Ask) -> Result<Response<Incoming>> {
        let (tls, _) = self.pool.known(self.peer.id, Kind::Chunks)?;
        let mut sender = self.pool.connect(self.peer, tls).await?;
        let sent = sender.send_request(ask).await;
        self.sender = Some(sender);
        self.is_old = false;
        sent.map_err(|error| broken(self.peer.id, error))
    }

    /// The answer was read to its end: the connection can be used again.
    pub(super) fn give_back(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.give_back(self.peer.id, sender);
        }
    }
}

/// What it means that no answer came.
fn broken(peer: PeerId, source: hyper::Error) -> Error {
    match source.is_parse() {
        true => Error::Nonsense {
            peer,
            reason: source.to_string(),
        },
        false => Error::Broken { peer, source },
    }
}
