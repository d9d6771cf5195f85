//! Where the admin endpoint listens.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::AdminAddress;
use crate::error::Error;
use crate::socket::{self, Socket};

/// A listening socket of the endpoint, before there is a runtime.
#[derive(Debug)]
pub(crate) enum Bound {
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
pub(crate) fn listen(address: &AdminAddress, daemon: &Path) -> Result<Option<Bound>, Error> {
    let unix = |path: &Path| -> Result<Option<Bound>, Error> {
        let (listener, file) = socket::listen(path)?;
        Ok(Some(Bound::Unix(listener, file)))
    };
    match address {
        AdminAddress::Off => Ok(None),
        AdminAddress::Beside => unix(&beside(daemon)),
        AdminAddress::Unix(path) => unix(path),
        AdminAddress::Tcp(address) => tcp(*address),
    }
}

fn tcp(address: SocketAddr) -> Result<Option<Bound>, Error> {
    let listener = TcpListener::bind(address).map_err(|source| Error::Admin { address, source })?;
    Ok(Some(Bound::Tcp(listener)))
}

/// `/run/pontoon/overlayfs-admin.sock` for `/run/pontoon/overlayfs.sock`.
fn beside(daemon: &Path) -> PathBuf {
    let stem = daemon.file_stem().unwrap_or_default().to_string_lossy();
    daemon.with_file_name(format!("{stem}-admin.sock"))
}

impl Bound {
    pub(super) fn into_listener(self) -> io::Result<Listener> {
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
