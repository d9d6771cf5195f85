//! Where the admin endpoint listens.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::AdminAddress;
use crate::error::Error;
use crate::socket::{self, Socket};
use crate::status::Chain;

/// How long after the first try there is another one; then twice as long each time, up to [`RETRY_TIME_MAX`].
const RETRY_TIME: Duration = Duration::from_secs(1);

/// The longest time between two tries.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);

/// The endpoint before there is a runtime. It may not have its address yet: the daemon serves without it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: Address,
    bound: Option<Bound>,
}

#[derive(Debug, Clone)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A listening socket of the endpoint.
#[derive(Debug)]
enum Bound {
    Unix(UnixListener, Socket),
    Tcp(TcpListener),
}

/// The same inside of a runtime.
pub(super) enum Listener {
    /// With its file, which goes when this is dropped.
    Unix(
        tokio::net::UnixListener,
        #[expect(dead_code, reason = "kept to be dropped")] Socket,
    ),
    Tcp(tokio::net::TcpListener),
}

/// Listens on `address`, `None` if that is nowhere; the daemon's own socket is `daemon`.
pub(crate) fn open(address: &AdminAddress, daemon: &Path) -> Option<Endpoint> {
    let address = match address {
        AdminAddress::Off => return None,
        AdminAddress::Beside => Address::Unix(beside(daemon)),
        AdminAddress::Unix(path) => Address::Unix(path.clone()),
        AdminAddress::Tcp(address) => Address::Tcp(*address),
    };
    let bound = address.listen().inspect_err(|error| {
        tracing::warn!(
            error = %Chain(error),
            "there is no admin endpoint yet; free its address or change [admin] address"
        );
    });
    let bound = bound.ok();
    Some(Endpoint { address, bound })
}

impl Address {
    fn listen(&self) -> Result<Bound, Error> {
        match self {
            Address::Unix(path) => {
                let (listener, file) = socket::listen(path)?;
                Ok(Bound::Unix(listener, file))
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address);
                listener.map(Bound::Tcp).map_err(|source| Error::Admin {
                    address: *address,
                    source,
                })
            }
        }
    }

    /// Tries until the address is free.
    async fn listen_at_last(self) -> Bound {
        let mut rest = RETRY_TIME;
        loop {
            tokio::time::sleep(rest).await;
            rest = (2 * rest).min(RETRY_TIME_MAX);
            let address = self.clone();
            match tokio::task::spawn_blocking(move || address.listen()).await {
                Ok(Ok(bound)) => {
                    tracing::info!(admin = %bound, "there is an admin endpoint now");
                    return bound;
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = %Chain(&error), "there is no admin endpoint yet");
                }
                Err(_panicked) => {}
            }
        }
    }
}

/// `/run/pontoon/overlayfs-admin.sock` for `/run/pontoon/overlayfs.sock`.
fn beside(daemon: &Path) -> PathBuf {
    let stem = daemon.file_stem().unwrap_or_default().to_string_lossy();
    daemon.with_file_name(format!("{stem}-admin.sock"))
}

impl Endpoint {
    /// The endpoint's listener, as soon as it can have its address.
    pub(super) async fn listener(self) -> io::Result<Listener> {
        match self.bound {
            Some(bound) => bound.into_listener(),
            None => self.address.listen_at_last().await.into_listener(),
        }
    }

    /// Where it listens, if it does.
    pub(crate) fn place(&self) -> Option<impl fmt::Display> {
        self.bound.as_ref()
    }
}

impl Bound {
    fn into_listener(self) -> io::Result<Listener> {
        match self {
            Bound::Unix(listener, file) => {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener)?;
                Ok(Listener::Unix(listener, file))
            }
            Bound::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(tokio::net::TcpListener::from_std(listener)?))
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Unix(_, file) => write!(f, "{}", file.path().display()),
            Bound::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("an unknown address"),
            },
        }
    }
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Listener::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
            Listener::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}
