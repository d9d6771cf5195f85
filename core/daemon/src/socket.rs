//! Unix sockets that only root can connect to, from the moment they exist; or the one that systemd passed
//! (socket activation, LISTEN_FDS).

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::Error;

/// The longest path of a socket, in bytes: `sun_path` of unix(7) with its closing zero is 108.
const PATH_BYTES_MAX: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long another daemon may take to bind in the same directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A listening socket; its file is removed when this is dropped, unless somebody has put another one there.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

/// A socket that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("socket {} has a path of more than {PATH_BYTES_MAX} bytes; use a shorter --address", .0.display())]
    TooLong(PathBuf),
    #[error("socket {} is not an absolute path with a directory; use one", .0.display())]
    NoDirectory(PathBuf),
    #[error("{} exists and is not a socket; remove it or use another --address", .0.display())]
    NotASocket(PathBuf),
    #[error("socket {} is served by another process; stop that or use another --address", .0.display())]
    Live(PathBuf),
    #[error("directory {} is locked by another process; stop that or use another --address", .0.display())]
    Locked(PathBuf),
    #[error("cannot {operation} {}", .path.display())]
    Failed {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Listens on `path`, where a socket that nobody serves any more is replaced. Its directory is made if it is missing.
pub(crate) fn listen(path: &Path) -> Result<(UnixListener, Socket), SocketError> {
    let address = address(path)?;
    let directory = path.parent().filter(|_| path.is_absolute());
    let directory = directory.ok_or_else(|| SocketError::NoDirectory(path.to_owned()))?;
    make_directory(directory)?;
    // Between the test whether a socket is stale and its replacement, no other daemon may do the same.
    let _locked = lock(directory)?;
    remove_stale(path, &address)?;
    let failed = |operation, errno: Errno| failure(operation, path, errno.into());
    let socket = stream_socket().map_err(|errno| failed("create socket", errno))?;
    // bind(2) makes the file with the mode of the socket: there is no moment in which others could connect.
    rustix::fs::fchmod(&socket, Mode::from(0o600))
        .map_err(|errno| failed("restrict socket", errno))?;
    rustix::net::bind(&socket, &address).map_err(|errno| failed("bind socket", errno))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| failed("listen on socket", errno))?;
    let file = identity(path).map_err(|error| failure("look at socket", path, error))?;
    let socket_file = Socket {
        path: path.to_owned(),
        file,
    };
    Ok((UnixListener::from(socket), socket_file))
}

/// The socket that the service manager passed, if it did: sd_listen_fds(3).
pub(crate) fn activated() -> Result<Option<UnixListener>, Error> {
    let mut passed = listenfd::ListenFd::from_env();
    let refused = |found: String, source| Error::Activation { found, source };
    match passed.len() {
        0 => Ok(None),
        1 => passed
            .take_unix_listener(0)
            .map_err(|source| refused("something else".to_owned(), Some(source))),
        more => Err(refused(format!("{more} descriptors"), None)),
    }
}

impl Socket {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Whoever comes next replaces it if this fails.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn address(path: &Path) -> Result<SocketAddrUnix, SocketError> {
    match SocketAddrUnix::new(path) {
        Ok(address) if path.as_os_str().len() <= PATH_BYTES_MAX => Ok(address),
        Ok(_) | Err(Errno::NAMETOOLONG) => Err(SocketError::TooLong(path.to_owned())),
        Err(errno) => Err(failure("use the path of socket", path, errno.into())),
    }
}

fn make_directory(directory: &Path) -> Result<(), SocketError> {
    if directory.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory);
    made.and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o711)))
        .map_err(|error| failure("create directory", directory, error))
}

fn lock(directory: &Path) -> Result<File, SocketError> {
    let opened =
        File::open(directory).map_err(|error| failure("open directory", directory, error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(opened),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => return Err(SocketError::Locked(directory.to_owned())),
            Err(errno) => return Err(failure("lock directory", directory, errno.into())),
        }
    }
}

fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failure("look at", path, error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    let probe = stream_socket().map_err(|errno| failure("create socket", path, errno.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| failure("remove stale socket", path, error))
        }
        // A full backlog is a server too, if a slow one.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::Live(path.to_owned())),
        Err(errno) => Err(failure("test socket", path, errno.into())),
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn failure(operation: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Failed {
        operation,
        path: path.to_owned(),
        source,
    }
}
