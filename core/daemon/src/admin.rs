//! Health, metrics, layers and the log level by HTTP/1.1, on a unix socket or a loopback address.

mod listen;
mod profiles;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::config::LogLevel;
use crate::health::Health;
use crate::log::{Level, Seldom};
use crate::plugin::Engine;
use listen::Stream;

pub(crate) use listen::{Endpoint, open};

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 16;

/// The largest head of a request, in bytes; hyper wants at least 8 KiB.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The largest body of a request for a log level, in bytes: a word.
const BODY_BYTES_MAX: usize = 64;

/// How long a client may take to send the head of its next request, idle connections included.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// How long one connection may last, so that slow readers do not keep their place.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// How long accepting rests when the system refuses it.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The media type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoint shows and changes.
pub(crate) struct Admin {
    engine: Arc<dyn Engine>,
    health: Arc<Health>,
    registry: Arc<Registry>,
    level: Arc<Level>,
}

/// Serves `endpoint` until this is dropped.
pub(crate) async fn serve(endpoint: Endpoint, admin: Arc<Admin>) -> io::Result<Infallible> {
    let listener = endpoint.listener().await?;
    let mut complaint = Seldom::default();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let admin = Arc::clone(&admin);
        let connection = match listener.accept().await {
            Ok(stream) => connection(stream, admin),
            Err(error) => {
                if complaint.is_due(Instant::now()) {
                    tracing::warn!(%error, "an admin connection was not accepted");
                }
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        tokio::spawn(async move {
            if tokio::time::timeout(CONNECTION_TIME_MAX, connection)
                .await
                .is_err()
            {
                tracing::debug!("an admin connection took too long");
            }
            drop(place);
        });
    }
}

async fn connection(stream: Box<dyn Stream>, admin: Arc<Admin>) {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "an admin connection broke");
    }
}

impl Admin {
    /// An endpoint for these.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        health: Arc<Health>,
        registry: Registry,
        level: Arc<Level>,
    ) -> Self {
        Admin {
            engine,
            health,
            registry: Arc::new(registry),
            level,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let method = request.method().clone();
        match (request.uri().path(), method) {
            ("/live", Method::GET) => text(StatusCode::OK, "live"),
            ("/ready", Method::GET) => match self.health.ready().await {
                Ok(()) => text(StatusCode::OK, "ready"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &reason),
            },
            ("/metrics", Method::GET) => self.metrics().await,
            ("/layers", Method::GET) => self.layers().await,
            ("/peers", Method::GET) => self.peers().await,
            ("/profiles", Method::GET) => profiles::list(&self.engine).await,
            ("/profiles", Method::PUT) => profiles::import(&self.engine, request.into_body()).await,
            ("/profiles", _) => not_allowed("GET, PUT"),
            ("/log-level", Method::GET) => text(StatusCode::OK, &self.level.get().to_string()),
            ("/log-level", Method::PUT) => self.change_level(request.into_body()).await,
            ("/log-level", _) => not_allowed("GET, PUT"),
            ("/live" | "/ready" | "/metrics" | "/layers" | "/peers", _) => not_allowed("GET"),
            (path, method) => match (path.strip_prefix("/profiles/"), method) {
                (Some(name), Method::GET) => profiles::export(&self.engine, name).await,
                (Some(_), _) => not_allowed("GET"),
                (None, _) => text(
                    StatusCode::NOT_FOUND,
                    "there are /live, /ready, /metrics, /layers, /peers, /profiles and /log-level",
                ),
            },
        }
    }

    /// On a blocking thread, because some of it is read from the database and from /proc.
    async fn metrics(&self) -> Response<Full<Bytes>> {
        let registry = Arc::clone(&self.registry);
        let written = tokio::task::spawn_blocking(move || {
            let mut body = String::new();
            encode(&mut body, &registry).map(|()| body)
        });
        let Ok(Ok(body)) = written.await else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the metrics cannot be read",
            );
        };
        with_type(body, OPENMETRICS)
    }

    /// On a blocking thread, like the metrics.
    async fn layers(&self) -> Response<Full<Bytes>> {
        let engine = Arc::clone(&self.engine);
        match tokio::task::spawn_blocking(move || engine.layers()).await {
            Ok(Some(layers)) => with_type(format!("{layers}\n"), "application/json"),
            Ok(None) => text(
                StatusCode::NOT_FOUND,
                "this plugin has only layers that containerd unpacked",
            ),
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the layers cannot be told",
            ),
        }
    }

    /// On a blocking thread, like the metrics.
    async fn peers(&self) -> Response<Full<Bytes>> {
        let engine = Arc::clone(&self.engine);
        match tokio::task::spawn_blocking(move || engine.peers()).await {
            Ok(Some(peers)) => with_type(format!("{peers}\n"), "application/json"),
            Ok(None) => text(
                StatusCode::NOT_FOUND,
                "this plugin has no layers that other nodes could send",
            ),
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the other nodes cannot be told",
            ),
        }
    }

    async fn change_level(&self, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return text(StatusCode::BAD_REQUEST, "the body must be one word");
        };
        let body = body.to_bytes();
        let word = String::from_utf8_lossy(&body);
        match word.trim().parse::<LogLevel>() {
            Ok(level) => {
                self.level.set(level);
                text(StatusCode::OK, &level.to_string())
            }
            Err(reason) => text(StatusCode::BAD_REQUEST, &format!("the level {reason}")),
        }
    }
}

fn with_type(body: String, media_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let media_type = hyper::header::HeaderValue::from_static(media_type);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    let media_type = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("use {methods}"));
    let methods = hyper::header::HeaderValue::from_static(methods);
    response.headers_mut().insert(ALLOW, methods);
    response
}
