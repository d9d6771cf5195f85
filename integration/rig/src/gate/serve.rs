//! A gate at work: connections, requests, answers.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, HOST, HeaderMap, HeaderName,
    HeaderValue, LOCATION, RANGE, TRANSFER_ENCODING,
};
use hyper::service::service_fn;
use hyper::{Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::body::{Ended, Piped, Plan, pipe};
use super::fault::Fault;
use super::request::Request;
use super::state::{Chosen, Shared};

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Accepts connections until it is aborted, and then drops them all.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let number = shared.connect();
                    connections.spawn(connection(stream, number, Arc::clone(&shared), tls.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    number: usize,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
) {
    shared.thawed().await;
    // The handshakes of TCP and of TLS, which loopback makes at once.
    let trips = if tls.is_some() { 2 } else { 1 };
    sleep(shared.link().round_trip * trips).await;
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else {
        return;
    };
    let socket = Arc::new(socket);
    let service =
        service_fn(|request| answer(Arc::clone(&shared), number, Arc::clone(&socket), request));
    let server = auto::Builder::new(TokioExecutor::new());
    // How a connection ends is the client's affair.
    match tls {
        None => {
            let _ = server
                .serve_connection(TokioIo::new(stream), service)
                .await
                .map_err(drop);
        }
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                let _ = server
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .map_err(drop);
            }
        }
    }
}

/// Waits until the rule that gave this receiver is gone.
pub(super) async fn until_over(mut over: watch::Receiver<()>) {
    // Nothing is ever sent: it returns when the sender is dropped.
    let _ = over.changed().await;
}

async fn answer(
    shared: Arc<Shared>,
    connection: usize,
    socket: Arc<OwnedFd>,
    mut request: hyper::Request<Incoming>,
) -> Result<Response<Piped>, Ended> {
    let seen = shared.arrive(connection, &request);
    shared.thawed().await;
    sleep(shared.link().round_trip).await;
    for (over, held) in shared.holds(&seen) {
        until_over(over).await;
        drop(held);
    }
    let chosen = shared.fault(&seen);
    let early = match &chosen {
        Some((fault, over)) => before(&shared, &seen, fault, over.clone()).await?,
        None => None,
    };
    if let Some((fault, _)) = &chosen {
        ask_otherwise(fault, &seen, request.headers_mut());
    }
    let mut answer = match early {
        Some(answer) => answer,
        None => go_on(&shared, &seen, request).await,
    };
    let status = answer.status().as_u16();
    shared.note(seen.number, |exchange| exchange.status = Some(status));
    let plan = chosen.map_or_else(Plan::default, |chosen| {
        plan(chosen, &seen, socket, &mut answer)
    });
    let number = seen.number;
    Ok(answer.map(|body| pipe(shared, number, body, plan)))
}

/// What a fault does before the registry is asked: perhaps an answer instead.
async fn before(
    shared: &Shared,
    seen: &Request,
    fault: &Fault,
    over: watch::Receiver<()>,
) -> Result<Option<Answer>, Ended> {
    match fault {
        Fault::Refuse => Err(Ended),
        Fault::Delay(time) => {
            sleep(*time).await;
            Ok(None)
        }
        Fault::Silent => {
            until_over(over).await;
            Ok(None)
        }
        Fault::Answer {
            status,
            headers,
            body,
        } => {
            let mut answer = local(*status, Bytes::copy_from_slice(body));
            for (name, value) in headers {
                let name = HeaderName::try_from(name.as_str());
                let value = HeaderValue::try_from(value.as_str());
                if let (Ok(name), Ok(value)) = (name, value) {
                    answer.headers_mut().insert(name, value);
                }
            }
            Ok(Some(answer))
        }
        Fault::Redirect(lifetime) if seen.is_blob() && !seen.is_signed() => {
            let path = shared.sign(seen, *lifetime);
            // Another name for the same address.
            let host = shared.host.replacen("127.0.0.1", "localhost", 1);
            let location = format!("{}://{host}{path}", shared.scheme);
            let mut answer = local(307, Bytes::new());
            if let Ok(location) = HeaderValue::try_from(location) {
                answer.headers_mut().insert(LOCATION, location);
            }
            Ok(Some(answer))
        }
        _ => Ok(None),
    }
}

/// What a fault does to the range that the registry is asked for.
fn ask_otherwise(fault: &Fault, seen: &Request, headers: &mut HeaderMap) {
    match fault {
        Fault::IgnoreRange => {
            headers.remove(RANGE);
        }
        Fault::OtherRange | Fault::OtherRangeUnsaid => {
            let Some((first @ 1.., Some(end))) = seen.bytes() else {
                return;
            };
            let range = format!("bytes={}-{}", first - 1, end.saturating_sub(2));
            if let Ok(range) = HeaderValue::try_from(range) {
                headers.insert(RANGE, range);
            }
        }
        _ => {}
    }
}

/// Makes an answer say that its range is this one.
fn claim_range(headers: &mut HeaderMap, first: u64, end: u64) {
    let said = headers
        .get(CONTENT_RANGE)
        .and_then(|said| said.to_str().ok());
    let size = said.and_then(|said| Some(said.rsplit_once('/')?.1.to_owned()));
    let claim = size.map(|size| format!("bytes {first}-{}/{size}", end.saturating_sub(1)));
    if let Some(claim) = claim.and_then(|claim| HeaderValue::try_from(claim).ok()) {
        headers.insert(CONTENT_RANGE, claim);
    }
}

/// Answers a request as it would be without a fault.
async fn go_on(shared: &Shared, seen: &Request, mut request: hyper::Request<Incoming>) -> Answer {
    let (upstream, tokens) = shared.upstream();
    if let Some(tokens) = tokens.filter(|_| seen.is_token()) {
        let Ok(body) = request.body_mut().collect().await else {
            return local(400, Bytes::new());
        };
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let authorization = seen.authorization.as_deref();
        let (status, body) = tokens.answer(&seen.method, &seen.query, authorization, &body);
        return local(status, body.into());
    }
    let mut target = format!("{}?{}", seen.path, seen.query);
    if seen.query.is_empty() {
        target.pop();
    }
    if seen.is_signed() {
        let Some((path, authorization)) = shared.signed(&seen.path) else {
            return local(403, Bytes::from_static(b"the address has expired\n"));
        };
        target = path;
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(value) = authorization.and_then(|a| HeaderValue::try_from(a).ok()) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
    }
    if let Ok(uri) = Uri::try_from(target) {
        *request.uri_mut() = uri;
    }
    if let Ok(host) = HeaderValue::try_from(seen.host.as_str()) {
        request.headers_mut().insert(HOST, host);
    }
    let scheme = HeaderValue::from_static(shared.scheme);
    request.headers_mut().insert("x-forwarded-proto", scheme);
    end_to_end(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
    match forward(&upstream, request).await {
        Ok(answer) => answer,
        Err(error) => local(502, format!("the gate: {upstream}: {error}\n").into()),
    }
}

async fn forward(
    upstream: &str,
    request: hyper::Request<Incoming>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let address: SocketAddr = upstream.parse()?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut answer = sender.send_request(request).await?;
    end_to_end(answer.headers_mut());
    *answer.version_mut() = Version::HTTP_11;
    Ok(answer.map(BodyExt::boxed))
}

/// Leaves out the headers that are about one connection.
fn end_to_end(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove("keep-alive");
    headers.remove(TRANSFER_ENCODING);
}

fn local(status: u16, body: Bytes) -> Answer {
    let length = body.len();
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    answer
}

/// What a fault does to the body of `answer`.
fn plan((fault, over): Chosen, seen: &Request, socket: Arc<OwnedFd>, answer: &mut Answer) -> Plan {
    let mut plan = Plan::default();
    match fault {
        Fault::Cut(after) => plan.cut = Some(after),
        Fault::Reset(after) => {
            plan.cut = Some(after);
            plan.reset = Some(socket);
        }
        Fault::OtherRangeUnsaid => {
            if let Some((first, Some(end))) = seen.bytes() {
                claim_range(answer.headers_mut(), first, end);
            }
        }
        Fault::FalseRange => {
            if let Some((first, Some(end))) = seen.bytes() {
                claim_range(answer.headers_mut(), first + 1, end + 1);
            }
        }
        Fault::Stall(after) => plan.stall = Some((after, over)),
        Fault::Trickle(rate) => plan.rate = Some(rate),
        Fault::CorruptFirst => plan.flip = Some(0),
        Fault::CorruptByte(offset) => plan.flip = offset.checked_sub(first_byte(answer.headers())),
        Fault::Shorten(by) => {
            let length = number(answer.headers(), &CONTENT_LENGTH);
            plan.keep = length.map(|length| length.saturating_sub(by));
            if let Some(keep) = plan.keep {
                answer.headers_mut().insert(CONTENT_LENGTH, keep.into());
            }
        }
        _ => {}
    }
    plan
}

/// The offset in the blob of a body's first byte (RFC 9110, 14.4).
fn first_byte(headers: &HeaderMap) -> u64 {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    first.and_then(|first| first.parse().ok()).unwrap_or(0)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
