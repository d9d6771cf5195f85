//! A small HTTP server whose answers a test writes, faults included.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pontoon_layer::Digest;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// First byte and last, of `size`.
    fn range(&self, size: usize) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let last = last
            .parse()
            .map_or(size - 1, |last: usize| last.min(size - 1));
        Some((first.parse().unwrap(), last))
    }
}

/// A part of a body.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Nothing more, for ever.
    Stall,
    /// A byte now and then, for ever.
    Drip,
    /// The connection is closed.
    Break,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<Piece>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn json(text: impl Into<String>) -> Self {
        Reply::new(200).data(text.into().into_bytes())
    }

    pub(crate) fn redirect(to: String) -> Self {
        Reply::new(307).header("location", to)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn data(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body.push(Piece::Data(bytes.into()));
        self
    }

    /// Keeps the first `bytes` of its body, then `then`; the announced length stays.
    pub(crate) fn cut(mut self, bytes: usize, then: Piece) -> Self {
        let mut left = bytes;
        let mut length = 0;
        for piece in &mut self.body {
            if let Piece::Data(data) = piece {
                length += data.len();
                *data = data.slice(..left.min(data.len()));
                left -= data.len();
            }
        }
        self.headers.push(("content-length", length.to_string()));
        self.body.push(then);
        self
    }
}

/// What a registry holds; answers as one that behaves.
#[derive(Debug, Default, Clone)]
pub(crate) struct Content {
    blobs: BTreeMap<String, Bytes>,
    manifests: BTreeMap<String, Bytes>,
}

impl Content {
    pub(crate) fn blob(mut self, bytes: &[u8]) -> Self {
        let bytes = Bytes::copy_from_slice(bytes);
        self.blobs.insert(Digest::of(&bytes).to_string(), bytes);
        self
    }

    /// Under its digest and a tag.
    pub(crate) fn manifest(mut self, tag: &str, bytes: &[u8]) -> Self {
        let bytes = Bytes::copy_from_slice(bytes);
        self.manifests.insert(tag.to_owned(), bytes.clone());
        self.manifests.insert(Digest::of(&bytes).to_string(), bytes);
        self
    }

    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let name = seen.path.rsplit('/').next().unwrap();
        if seen.path.contains("/manifests/") {
            return match self.manifests.get(name) {
                None => Reply::new(404),
                Some(bytes) => Reply::new(200)
                    .header("docker-content-digest", Digest::of(bytes).to_string())
                    .data(bytes.clone()),
            };
        }
        let Some(bytes) = self.blobs.get(name) else {
            return Reply::new(404);
        };
        match seen.range(bytes.len()) {
            None => Reply::new(200).data(bytes.clone()),
            Some((first, _)) if first >= bytes.len() => {
                Reply::new(416).header("content-range", format!("bytes */{}", bytes.len()))
            }
            Some((first, last)) => Reply::new(206)
                .header(
                    "content-range",
                    format!("bytes {first}-{last}/{}", bytes.len()),
                )
                .data(bytes.slice(first..=last)),
        }
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// What a server does before it has read the body of a request.
#[derive(Debug, Clone)]
pub(crate) enum Early {
    /// Reads it, and answers then.
    Read,
    Answer(Reply),
    /// Reads some of it, and closes the connection.
    Break,
    /// Reads some of it, and no more, for ever.
    Stall,
}

type Head = dyn Fn(&Seen) -> Early + Send + Sync;

/// The answers of a server.
struct Scripts {
    head: Box<Head>,
    script: Box<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Runs until it is dropped.
pub(crate) struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Server::with_tls(None, script).await
    }

    pub(crate) async fn with_tls(
        tls: Option<ServerConfig>,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Server::hasty(tls, |_| Early::Read, script).await
    }

    /// A server that may answer before it has read a request; `head` is given it without its body.
    pub(crate) async fn hasty(
        tls: Option<ServerConfig>,
        head: impl Fn(&Seen) -> Early + Send + Sync + 'static,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let scripts = Arc::new(Scripts {
            head: Box::new(head),
            script: Box::new(script),
            seen: Arc::clone(&seen),
        });
        let task = {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move {
                let mut served = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    served.spawn(connection(stream, acceptor.clone(), Arc::clone(&scripts)));
                }
            })
        };
        Server {
            address,
            seen,
            connections,
            task,
        }
    }

    /// Address and port.
    pub(crate) fn host(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Those whose path has `part`.
    pub(crate) fn seen_of(&self, part: &str) -> Vec<Seen> {
        let seen = self.seen().into_iter();
        seen.filter(|one| one.path.contains(part)).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, scripts: Arc<Scripts>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let scripts = Arc::clone(&scripts);
        async move {
            let (parts, mut body) = request.into_parts();
            let mut seen = Seen {
                method: parts.method,
                version: parts.version,
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                headers: parts.headers,
                body: Bytes::new(),
            };
            let early = (scripts.head)(&seen);
            let reply = match early {
                Early::Read => {
                    seen.body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                    (scripts.script)(&seen)
                }
                Early::Answer(reply) => reply,
                Early::Break | Early::Stall => {
                    body.frame().await;
                    scripts.seen.lock().unwrap().push(seen);
                    if matches!(early, Early::Stall) {
                        std::future::pending::<()>().await;
                    }
                    return Err(io::Error::other("scripted"));
                }
            };
            scripts.seen.lock().unwrap().push(seen);
            let mut response = Response::builder().status(reply.status);
            for (name, value) in reply.headers {
                response = response.header(name, value);
            }
            let body = Scripted {
                pieces: reply.body.into(),
                rest: Box::pin(tokio::time::sleep(Duration::from_millis(50))),
            };
            Ok::<_, io::Error>(response.body(body).unwrap())
        }
    });
    // A client that goes away, or a body that breaks off, is what tests are about.
    let Some(acceptor) = acceptor else {
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
        return;
    };
    let stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((_, mut stream)) => {
            // Closed with something unread, the client would not read what was said last.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            return;
        }
    };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if is_h2 {
        let builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

struct Scripted {
    pieces: VecDeque<Piece>,
    /// What was sent before a break is sent before it.
    rest: Pin<Box<Sleep>>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.pieces.front() {
            // Only the end of the connection ends it.
            Some(Piece::Stall) => return Poll::Pending,
            Some(Piece::Drip) => {
                if self.rest.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let next = Instant::now() + Duration::from_millis(50);
                self.rest.as_mut().reset(next);
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))));
            }
            Some(Piece::Break) => {
                return match self.rest.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(io::Error::other("scripted")))),
                    Poll::Pending => Poll::Pending,
                };
            }
            _ => {}
        }
        match self.pieces.pop_front() {
            Some(Piece::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            _ => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut length = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Data(data) => length += data.len() as u64,
                _ => return SizeHint::default(),
            }
        }
        SizeHint::with_exact(length)
    }
}
