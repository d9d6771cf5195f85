//! Connections: accepted up to a limit, served, and closed in order when the daemon stops.

use std::convert::Infallible;
use std::future::Future;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pontoon_proto::snapshots::snapshots_server::SnapshotsServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::caller::{Caller, Callers};
use crate::log::Seldom;
use crate::service::{Service, list};

/// The largest message, in bytes, as in containerd.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests of one connection that may wait or be worked on; containerd has one connection for all it does.
const STREAMS_MAX: u32 = 1024;

/// Requests that a client may have given up before they were looked at; with more its connection is closed. That is
/// for strangers who flood a server (the default is 20). Our one client shares its connection among all its callers,
/// any of which may give up while the daemon is busy, and the others must not suffer for it.
const GIVEN_UP_MAX: usize = 1024;

/// How long accepting rests when the system refuses it, for want of descriptors say.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves gRPC on `listener` until `stop` says true, then until every connection has finished what it was at.
pub(crate) async fn serve(
    listener: StdListener,
    service: Service,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let service = Arc::new(service);
    let callers = Arc::new(Callers::default());
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let mut complaint = Seldom::default();
    let stopped = stop.clone();
    let mut stopping = pin!(told(&mut stop));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stopping => break,
            Some(_) = connections.join_next() => continue,
            accepted = accepted => accepted,
        };
        let admitted = accepted.and_then(|(stream, _)| Ok((callers.connected(&stream)?, stream)));
        match admitted {
            Ok((caller, stream)) => {
                let service = Router::new(Arc::clone(&service), caller);
                let served = connection(stream, service, stopped.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                if complaint.is_due(Instant::now()) {
                    tracing::warn!(%error, "a connection was not accepted");
                }
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Serves one connection until its client or `stop` ends it.
async fn connection(stream: UnixStream, service: Router, mut stop: watch::Receiver<bool>) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(GIVEN_UP_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Returns when the daemon is told to stop, or nobody could tell it any more.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Takes the requests of one connection where they are answered, each with who called.
#[derive(Clone)]
struct Router {
    service: Arc<Service>,
    generated: SnapshotsServer<Service>,
    caller: Arc<Caller>,
}

impl Router {
    fn new(service: Arc<Service>, caller: Caller) -> Self {
        let generated = SnapshotsServer::from_arc(Arc::clone(&service))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Router {
            service,
            generated,
            caller: Arc::new(caller),
        }
    }
}

impl tower::Service<hyper::Request<Incoming>> for Router {
    type Response = hyper::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Requests wait for their place later, where those that need none do not wait with them.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: hyper::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Arc::clone(&self.caller));
        if request.uri().path() == list::PATH {
            let answer = list::serve(Arc::clone(&self.service), request, MESSAGE_BYTES_MAX);
            return Box::pin(async move { Ok(answer.await) });
        }
        self.generated.call(request)
    }
}
