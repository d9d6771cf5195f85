//! A link of a given bandwidth and round trip between clients and a server on loopback.
//!
//! A [`Wire`] is a TCP proxy: what it delays are bytes, so that TLS and HTTP/2 pay for their
//! round trips as they do on a real link. Each direction is a delay line of half a round
//! trip, and all connections share one bandwidth towards the clients, fairly. A new
//! connection pays the round trip of its handshake. Slow start is not modelled: a connection
//! may use the whole link at once.
//!
//! It reads along where it can (HTTP/1.1 without TLS) and keeps a [`Journal`] of requests,
//! and of the time in which the link was busy.
//!
//! It works for benchmarks: one thread that copies and waits, and nothing else. What
//! [`Gate`](crate::gate::Gate) has beside it, faults and holds, is not here.

mod journal;
mod lane;
mod pump;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use journal::{Journal, Transfer};

use crate::error::{At, Error, Result};
use crate::gate::Link;
use pump::Pump;

/// A running link. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Wire {
    host: String,
    shared: Arc<Shared>,
    // Closed when the wire is dropped, which its thread sees.
    hold: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// What the wire's thread and its owner both use.
#[derive(Debug)]
struct Shared {
    link: Mutex<Link>,
    journal: Mutex<Journal>,
}

impl Shared {
    fn link(&self) -> Link {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Starts a link in front of `upstream` (`address:port`).
    pub fn start(upstream: &str, link: Link) -> Result<Self> {
        let to: SocketAddr = upstream
            .parse()
            .map_err(|_| Error::unexpected(upstream, "not an address and a port"))?;
        let listener = TcpListener::bind("127.0.0.1:0").at("listen on", "127.0.0.1")?;
        listener.set_nonblocking(true).at("listen on", "a port")?;
        let host = listener.local_addr().at("find the address of", "a wire")?;
        let (hold, held) = UnixStream::pair().at("make", "a pair of sockets")?;
        let shared = Arc::new(Shared {
            link: Mutex::new(link),
            journal: Mutex::default(),
        });
        let pump = Pump::new(listener, held, to, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || pump.run())
            .at("start the thread of", "a wire")?;
        Ok(Self {
            host: host.to_string(),
            shared,
            hold: Some(hold),
            thread: Some(thread),
        })
    }

    /// Its `address:port`, by which clients know the server.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Changes the link, for what is not yet on it.
    pub fn set_link(&self, link: Link) {
        *self
            .shared
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// Begins a new journal and returns the old one.
    pub fn turn_page(&self) -> Journal {
        std::mem::take(&mut self.shared.journal())
    }

    /// What has gone over it since the journal began.
    pub fn journal(&self) -> Journal {
        self.shared.journal().clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(thread) = self.thread.take() {
            // It ends by itself; that it panicked has been printed.
            let _ = thread.join();
        }
    }
}
