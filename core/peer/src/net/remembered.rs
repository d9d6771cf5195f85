//! Peers that were known when the node last ran: one `address:port` of libp2p a line.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;

/// How many are remembered, and the longest file that is read.
pub(super) const REMEMBERED_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 16 << 10;

/// What is remembered. Whatever makes no sense is nothing.
pub(super) fn read(path: &Path) -> Vec<SocketAddr> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(path)?
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => text
            .lines()
            .filter_map(|line| line.parse().ok())
            .take(REMEMBERED_MAX)
            .collect(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "the remembered peers cannot be read");
            }
            Vec::new()
        }
    }
}

/// Remembers these instead.
pub(super) fn write(path: &Path, peers: &[SocketAddr]) {
    let text: String = peers
        .iter()
        .take(REMEMBERED_MAX)
        .map(|peer| format!("{peer}\n"))
        .collect();
    let new = path.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "remembering peers failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_again_and_nonsense_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers");
        assert!(read(&path).is_empty());
        let peers: Vec<SocketAddr> = (1..100)
            .map(|port| SocketAddr::from(([10, 0, 0, 1], port)))
            .collect();
        write(&path, &peers);
        assert_eq!(read(&path), peers[..REMEMBERED_MAX]);
        fs::write(&path, "nobody\n10.0.0.1:7001\n\n").unwrap();
        assert_eq!(read(&path).len(), 1);
        fs::write(&path, [0xff; 100]).unwrap();
        assert!(read(&path).is_empty());
    }
}
