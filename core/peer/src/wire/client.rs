//! Asks other nodes.

mod chunks;
mod pool;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap};
use hyper::{Response, StatusCode};
use pontoon_cache::Key;
use tokio::time::{Instant, timeout};

use super::error::{Error, Result};
use super::request::Request;
use super::{CLASS, DEADLINE, GENERATION, PORT, RETRY_AFTER, TOKEN, ZSTD, have};
use crate::admission::Token;
use crate::policy::{Class, Layout};
use crate::{Admission, Have, Identity, Peer, PeerId};

pub use chunks::Chunks;
use pool::{Kind, Pool};

/// How long a question that waits for a change waits for its turn.
const TURN: Duration = Duration::from_secs(1);

/// The longest head of an answer, in bytes. As much is read at once of a body.
const READ_BYTES_MAX: usize = 512 << 10;

/// How other nodes are asked.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where this node serves chunks, if it does.
    pub port: Option<u16>,
    /// Connections to one node for chunks.
    pub connections: usize,
    /// Connections to one node for HAVE.
    pub have_connections: usize,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long a connection is kept that nobody uses.
    pub idle: Duration,
    /// A request of which nothing comes for so long is given up.
    pub silence: Duration,
    /// The same for a request for which nobody waits.
    pub prefetch_silence: Duration,
    /// A request of which less comes in a second, in bytes, is given up some time.
    pub slowest: u64,
    /// How long an answer to HAVE may take: longer than the other end waits for a change.
    pub have_patience: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            port: None,
            connections: 8,
            have_connections: 16,
            connect: Duration::from_millis(200),
            handshake: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            silence: Duration::from_secs(1),
            prefetch_silence: Duration::from_secs(10),
            slowest: 64 << 10,
            have_patience: Duration::from_secs(33),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// The layer.
    pub key: Key,
    /// How long its chunks are, as this node's own table says.
    pub layout: Arc<dyn Layout>,
    /// Which chunks.
    pub chunks: Range<usize>,
    /// How urgently.
    pub class: Class,
    /// When nobody wants them any more.
    pub deadline: Instant,
    /// Whether they may be compressed on their way: worth while where the link is slower than zstd.
    pub packed: bool,
}

/// Asks other nodes, over connections that are kept. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    admission: Admission,
    pool: Arc<Pool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Asks as the node of `identity`, which shows the token that `admission` has. Has to be used within a runtime.
    pub fn new(config: ClientConfig, identity: Identity, admission: Admission) -> Client {
        let config = Arc::new(config);
        Client {
            pool: Pool::new(Arc::clone(&config), identity),
            config,
            admission,
        }
    }

    /// Which of its chunks of a layer `peer` has, when it has others than it told with the generation `since`: that may
    /// take half a minute. `chunks` is how many the layer has.
    pub async fn have(
        &self,
        peer: &Peer,
        key: &Key,
        since: Option<u64>,
        chunks: usize,
    ) -> Result<Have> {
        let patience = self.config.have_patience;
        // Those that wait for a change take half a minute: what is answered at once does not wait for them, nor is the
        // other node to blame for it.
        let waiting = match since {
            Some(_) => match self.pool.lease(*peer, Kind::Have, TURN).await {
                Err(Error::Slow { .. }) => None,
                lease => Some(lease?),
            },
            None => None,
        };
        let since = since.filter(|_| waiting.is_some());
        let mut lease = match waiting {
            Some(lease) => lease,
            None => self.pool.lease(*peer, Kind::Chunks, patience).await?,
        };
        let ask = Request::Have {
            key: key.clone(),
            since,
        };
        let request = self.request(&ask, peer, HeaderMap::new());
        let answer = async {
            let response = lease.send(request).await?;
            self.admit(peer, response.headers())?;
            let response = judge(peer.id, response)?;
            let body = http_body_util::Limited::new(response.into_body(), have::BYTES_MAX);
            let read = body
                .collect()
                .await
                .map_err(|error| read_failed(peer.id, error))?;
            let read = read.to_bytes();
            have::decode(&read, chunks).map_err(|error| Error::Nonsense {
                peer: peer.id,
                reason: format!("to HAVE: {error}"),
            })
        };
        let slow = |_| Error::Slow {
            peer: peer.id,
            what: "its answer to HAVE",
        };
        let have = timeout(patience, answer).await.map_err(slow)??;
        lease.give_back();
        Ok(have)
    }

    /// Asks `peer` for chunks, which come one by one.
    pub async fn chunks(&self, peer: &Peer, order: &Order) -> Result<Chunks> {
        let silence = match order.class {
            Class::Demand => self.config.silence,
            Class::Prefetch => self.config.prefetch_silence,
        };
        let patience = order.deadline.saturating_duration_since(Instant::now());
        let patience = patience.min(silence);
        let mut lease = self.pool.lease(*peer, Kind::Chunks, patience).await?;
        let ask = Request::Chunks {
            key: order.key.clone(),
            chunks: order.chunks.clone(),
        };
        let request = self.request(&ask, peer, order.headers());
        let slow = |_| Error::Slow {
            peer: peer.id,
            what: "the beginning of its answer",
        };
        let response = timeout(patience, lease.send(request))
            .await
            .map_err(slow)??;
        self.admit(peer, response.headers())?;
        let response = judge(peer.id, response)?;
        let encoding = response.headers().get(CONTENT_ENCODING);
        let is_packed = match encoding.map(|encoding| encoding.as_bytes()) {
            None => false,
            Some(b"zstd") if order.packed => true,
            Some(_) => {
                return Err(nonsense(peer.id, "an encoding that it was not asked for"));
            }
        };
        let bytes = order.bytes();
        let told = response.headers().get(CONTENT_LENGTH);
        let told: Option<u64> = told.and_then(|told| told.to_str().ok()?.parse().ok());
        // The table is the same for everybody who has this layer.
        if !is_packed && told.is_some_and(|told| told != bytes) {
            return Err(nonsense(
                peer.id,
                "chunks of other lengths than the table says",
            ));
        }
        Ok(Chunks::new(
            lease,
            response.into_body(),
            order,
            is_packed,
            silence,
            self.config.slowest,
        ))
    }

    /// Closes the connections to `peer` that nobody uses just now, and forgets it.
    pub fn forget(&self, peer: PeerId) {
        self.pool.forget(peer);
    }

    /// Whoever answers has to be admitted here, as has whoever asks: an admitted node names whom it likes.
    fn admit(&self, peer: &Peer, headers: &HeaderMap) -> Result<()> {
        let shown = headers.get(TOKEN);
        let shown: Option<Token> = shown.and_then(|shown| shown.to_str().ok()?.parse().ok());
        let address = peer.address.ip();
        let admitted = match shown {
            // Its signature is looked at once.
            Some(token) if self.pool.has_shown(peer.id, &token) => {
                self.admission.still_admits(peer.id, address, Some(token))
            }
            shown => {
                let bytes = shown.as_ref().map(Token::as_bytes);
                let admitted = self.admission.admits(peer.id, address, bytes);
                if let (Ok(()), Some(token)) = (&admitted, shown) {
                    self.pool.showed(peer.id, token);
                }
                admitted
            }
        };
        admitted.map_err(|refused| Error::NotAdmitted {
            peer: peer.id,
            refused,
        })
    }

    fn request(&self, ask: &Request, peer: &Peer, headers: HeaderMap) -> pool::Ask {
        let mut request = hyper::Request::new(http_body_util::Empty::new());
        // Both are made of digits, digests and punctuation of theirs.
        if let Ok(target) = ask.to_string().parse() {
            *request.uri_mut() = target;
        }
        *request.headers_mut() = headers;
        if let Ok(host) = peer.address.to_string().parse() {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(port) = self.config.port {
            request.headers_mut().insert(PORT, port.into());
        }
        let token = self.admission.token();
        let token = token.and_then(|token| token.to_string().parse().ok());
        if let Some(token) = token {
            request.headers_mut().insert(TOKEN, token);
        }
        request
    }
}

impl Order {
    /// The bytes of all chunks.
    fn bytes(&self) -> u64 {
        let lengths = self
            .chunks
            .clone()
            .filter_map(|chunk| self.layout.place(chunk));
        lengths.map(|(_, length)| u64::from(length)).sum()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let class = match self.class {
            Class::Demand => "demand",
            Class::Prefetch => "prefetch",
        };
        headers.insert(CLASS, hyper::header::HeaderValue::from_static(class));
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(DEADLINE, left.into());
        if self.packed {
            headers.insert(
                ACCEPT_ENCODING,
                hyper::header::HeaderValue::from_static(ZSTD),
            );
        }
        headers
    }
}

fn nonsense(peer: PeerId, reason: &str) -> Error {
    Error::Nonsense {
        peer,
        reason: reason.to_owned(),
    }
}

/// What it means that a body could not be read.
fn read_failed(peer: PeerId, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    match error.downcast::<hyper::Error>() {
        Ok(error) => ended(peer, *error, 1),
        Err(error) => nonsense(peer, &format!("to HAVE: {error}")),
    }
}

/// What it means that a body ended in an error, `missing` bytes before its end.
fn ended(peer: PeerId, source: hyper::Error, missing: u64) -> Error {
    use std::error::Error as _;
    let cause = source
        .source()
        .and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let is_end = cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof);
    match is_end || source.is_incomplete_message() {
        true => Error::Cut { peer, missing },
        false => Error::Broken { peer, source },
    }
}

/// The response, if it has what was asked for.
fn judge(peer: PeerId, response: Response<Incoming>) -> Result<Response<Incoming>> {
    let number = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND => Err(Error::Missing {
            peer,
            generation: number(GENERATION),
        }),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let ms = number(RETRY_AFTER).unwrap_or(1000).min(60_000);
            Err(Error::Busy {
                peer,
                retry_after: Duration::from_millis(ms),
            })
        }
        status => Err(Error::Refused {
            peer,
            status: status.as_u16(),
        }),
    }
}
