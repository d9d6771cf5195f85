//! Credentials that the kubelet gives with a pull: a proxy between it and the runtime's image service.
//!
//! The kubelet's `imageServiceEndpoint` is our socket; everything is passed on to the runtime as it comes, unread. Of
//! `PullImage` a copy is looked at: <https://github.com/kubernetes/cri-api>, `runtime/v1/api.proto`.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::{Remembered, Secret, docker};
use crate::reference::Reference;

/// The only method that is looked at.
const PULL_IMAGE: &str = "/runtime.v1.ImageService/PullImage";

/// Bytes of a request for a pull, as in the kubelet.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Connections at a time; the kubelet has one.
const CONNECTIONS_MAX: usize = 64;

/// How long accepting rests when the system refuses it.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long a connection may take to end once the proxy is to stop; a pull takes as long as it takes.
const END_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct AuthConfig {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
    #[prost(string, tag = "3")]
    auth: String,
    #[prost(string, tag = "5")]
    identity_token: String,
    #[prost(string, tag = "6")]
    registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthConfig(..)")
    }
}

impl AuthConfig {
    /// containerd's order.
    fn secret(self) -> Option<Secret> {
        if !self.username.is_empty() {
            return Some(Secret::Password {
                username: self.username,
                password: self.password,
            });
        }
        if !self.identity_token.is_empty() {
            return Some(Secret::IdentityToken(self.identity_token));
        }
        if !self.registry_token.is_empty() {
            return Some(Secret::RegistryToken(self.registry_token));
        }
        docker::password(&self.auth)
    }
}

/// Passes the image service of a runtime on, and tells [`Remembered`] which credentials pulls have.
#[derive(Debug, Clone)]
pub struct ImageServiceProxy {
    runtime: Channel,
    remembered: Remembered,
}

impl ImageServiceProxy {
    /// Passes on to the runtime's socket `runtime`, which is connected to when it is needed, and again when it was
    /// gone. To be called within tokio.
    pub fn new(runtime: &Path, remembered: Remembered) -> Self {
        let path = PathBuf::from(runtime);
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is for a header that nobody reads.
        let endpoint = Endpoint::from_static("http://localhost");
        ImageServiceProxy {
            runtime: endpoint.connect_with_connector_lazy(connect),
            remembered,
        }
    }

    /// Serves `listener` until `stop` says true, then until what is under way has ended, or some seconds.
    pub async fn serve(self, listener: UnixListener, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let accepted = async { (place.await, listener.accept().await) };
            let (place, accepted) = tokio::select! {
                () = told(&mut stop) => break,
                Some(_) = connections.join_next() => continue,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let served = self.clone().connection(stream, stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the image service was not accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
        let end = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_PATIENCE, end).await;
    }

    async fn connection(self, stream: UnixStream, mut stop: watch::Receiver<bool>) {
        let service = service_fn(move |request| self.clone().call(request));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the image service ended");
        }
    }

    async fn call(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if request.uri().path() != PULL_IMAGE {
            return Ok(self.pass_on(request.map(Body::new)).await);
        }
        let (parts, body) = request.into_parts();
        let bytes = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let reason = format!("reading a request for a pull: {error}");
                return Ok(Status::resource_exhausted(reason).into_http());
            }
        };
        let offer = offer(bytes.clone());
        if let Some((reference, secret)) = &offer {
            // Before it is passed on: layers are prepared, by us, while the pull is under way.
            self.remembered.offer(reference, secret.clone());
        }
        let request = Request::from_parts(parts, Body::new(Full::new(bytes)));
        let response = self.pass_on(request).await;
        if let Some((reference, secret)) = &offer {
            match has_failed(&response) {
                true => self.remembered.withdraw(reference, secret),
                false => self.remembered.keep(reference, secret),
            }
        }
        Ok(response)
    }

    async fn pass_on(&self, request: Request<Body>) -> Response<Body> {
        let mut runtime = self.runtime.clone();
        let answered = match runtime.ready().await {
            Ok(runtime) => runtime.call(request).await,
            Err(error) => Err(error),
        };
        answered.unwrap_or_else(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let reason = source.unwrap_or_else(|| error.to_string());
            let text = format!("the container runtime does not answer: {reason}");
            Status::unavailable(text).into_http()
        })
    }
}

/// Returns when `stop` says true, or nobody can say so any more.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A failure of a call that gives nothing stands in the headers.
fn has_failed(response: &Response<Body>) -> bool {
    match response.headers().get(Status::GRPC_STATUS) {
        None => !response.status().is_success(),
        Some(code) => Code::from_bytes(code.as_bytes()) != Code::Ok,
    }
}

/// What a request for a pull says, if it says how to log in. gRPC's framing is in
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
fn offer(mut bytes: Bytes) -> Option<(Reference, Secret)> {
    let is_compressed = bytes.try_get_u8().ok()?;
    let length = bytes.try_get_u32().ok()? as usize;
    if is_compressed != 0 || length != bytes.len() {
        return None;
    }
    let request = PullImageRequest::decode(bytes).ok()?;
    let reference = Reference::parse(&request.image?.image).ok()?;
    Some((reference, request.auth?.secret()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: &impl Message) -> Bytes {
        let body = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&body);
        frame.into()
    }

    #[test]
    fn logins_are_read_from_pulls() {
        let request = |auth| PullImageRequest {
            image: Some(ImageSpec {
                image: "r.example/app:1".to_owned(),
            }),
            auth,
        };
        let auth = AuthConfig {
            auth: "dTpw".to_owned(),
            ..AuthConfig::default()
        };
        let (reference, secret) = offer(frame(&request(Some(auth)))).unwrap();
        assert_eq!(reference.repository(), "app");
        let expected = Secret::Password {
            username: "u".to_owned(),
            password: "p".to_owned(),
        };
        assert!(secret == expected);
        assert!(offer(frame(&request(None))).is_none());
        assert!(offer(frame(&request(Some(AuthConfig::default())))).is_none());
    }

    #[test]
    fn whatever_comes_is_survived() {
        for bytes in [
            &b""[..],
            b"\0",
            b"\0\0\0\0\x05",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x01\xff",
            b"\0\xff\xff\xff\xff",
        ] {
            assert!(offer(Bytes::copy_from_slice(bytes)).is_none());
        }
    }
}
