//! The admin endpoint of a running daemon: what `pontoon status`, `pontoon inspect` and `pontoon profile` ask.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::failure::{EXIT_UNAVAILABLE, Failure, chain};
use crate::layers::Report;

/// Where lazy daemons have their endpoints if their files say nothing else: beside their sockets.
const DEFAULTS: [&str; 2] = [
    "/run/pontoon/stargz-admin.sock",
    "/run/pontoon/nydus-admin.sock",
];

/// The largest answer that is read, in bytes: some hundred thousand layers.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long a daemon may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Admin {
    /// The admin endpoint of the daemon: a socket, or ADDRESS:PORT if its configuration says so; by default that of
    /// pontoon-stargz, or of pontoon-nydus if only that one runs
    #[arg(long, value_name = "SOCKET", default_value = default())]
    admin: Place,
}

/// The first endpoint that is there, or else the first one.
fn default() -> &'static str {
    let [first, _] = DEFAULTS;
    let mut there = DEFAULTS.into_iter().filter(|path| Path::new(path).exists());
    there.next().unwrap_or(first)
}

#[derive(Debug, Clone)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Place::Tcp(address)),
            Err(_) if text.is_empty() => Err("name a socket".to_owned()),
            Err(_) => Ok(Place::Unix(text.into())),
        }
    }
}

impl Admin {
    /// As it is written on the command line.
    pub(crate) fn place(&self) -> String {
        match &self.admin {
            Place::Unix(path) => path.display().to_string(),
            Place::Tcp(address) => address.to_string(),
        }
    }

    /// What the daemon knows of its layers.
    pub(crate) async fn report(&self) -> Result<Report, Failure> {
        let (status, body) = self.get("/layers").await?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(self.broken(
                    "this daemon has no lazy layers; ask that of pontoon-stargz or pontoon-nydus with --admin",
                ));
            }
            status => {
                let said = String::from_utf8_lossy(&body);
                return Err(self.broken(&format!("it answers {status}: {}", said.trim())));
            }
        }
        serde_json::from_slice(&body).map_err(|error| {
            self.broken(&format!(
                "its answer makes no sense ({error}); is it a daemon of this version?"
            ))
        })
    }

    /// Why the daemon is not ready, if it is not.
    pub(crate) async fn not_ready(&self) -> Result<Option<String>, Failure> {
        let (status, body) = self.get("/ready").await?;
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        Ok((status != StatusCode::OK).then_some(said))
    }

    /// What it counts, in the OpenMetrics text format.
    pub(crate) async fn metrics(&self) -> Result<String, Failure> {
        let (status, body) = self.get("/metrics").await?;
        if status != StatusCode::OK {
            return Err(self.broken(&format!("it answers {status} when asked for metrics")));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// What it knows of other nodes, as JSON.
    pub(crate) async fn peers(&self) -> Result<Bytes, Failure> {
        self.answered(self.get("/peers").await?)
    }

    /// A list of the learned orders that it has, as JSON.
    pub(crate) async fn profiles(&self) -> Result<Bytes, Failure> {
        self.answered(self.get("/profiles").await?)
    }

    /// The learned order called `name`.
    pub(crate) async fn profile(&self, name: &str) -> Result<Bytes, Failure> {
        self.answered(self.get(&format!("/profiles/{name}")).await?)
    }

    /// Gives it a learned order; answers what that is called.
    pub(crate) async fn import_profile(&self, profile: Vec<u8>) -> Result<String, Failure> {
        let (status, body) = self.send(Method::PUT, "/profiles", profile.into()).await?;
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        match status {
            StatusCode::BAD_REQUEST => Err(Failure::new(1, said)),
            status => self.answered((status, body)).map(|_| said),
        }
    }

    fn answered(&self, (status, body): (StatusCode, Bytes)) -> Result<Bytes, Failure> {
        if status == StatusCode::OK {
            return Ok(body);
        }
        let said = String::from_utf8_lossy(&body);
        Err(self.broken(&format!("it answers {status}: {}", said.trim())))
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error.to_string()))?;
        let answer = async {
            match &self.admin {
                Place::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await;
                    self.ask(stream.map_err(|error| self.absent(&error))?, request)
                        .await
                }
                Place::Tcp(address) => {
                    let stream = TcpStream::connect(address).await;
                    self.ask(stream.map_err(|error| self.absent(&error))?, request)
                        .await
                }
            }
        };
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        answer.unwrap_or_else(|_| Err(self.broken(&format!("no answer in {DEADLINE:?}"))))
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let broken = |error: hyper::Error| self.broken(&chain(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Its errors come out of the request as well.
        tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await;
        let body = body.map_err(|error| self.broken(&chain(&*error)))?;
        Ok((status, body.to_bytes()))
    }

    fn absent(&self, error: &std::io::Error) -> Failure {
        Failure::new(
            EXIT_UNAVAILABLE,
            format!(
                "no daemon answers at {} ({error}); start it (systemctl start pontoon-stargz, or pontoon-nydus), or name the endpoint that `address` in [admin] of its configuration says with --admin",
                self.place()
            ),
        )
    }

    pub(crate) fn broken(&self, reason: &str) -> Failure {
        let message = format!("asking the daemon at {}: {reason}", self.place());
        Failure::new(EXIT_UNAVAILABLE, message)
    }
}
