//! A door in front of a registry: it counts what goes through, holds requests back, and
//! does to them what networks and registries do on bad days.
//!
//! A [`Gate`] is an HTTP proxy in this process (HTTP/1.1; with TLS HTTP/2 as well).
//! Clients are given its [`host`](Gate::host) as the registry.
//!
//! ```no_run
//! # fn main() -> pontoon_rig::Result<()> {
//! # use pontoon_rig::gate::{Fault, Gate, Link};
//! let gate = Gate::start("127.0.0.1:5000")?;
//! gate.link(Link::new(100, 20)); // 100 Mbit/s, 20 ms
//! let hold = gate.hold(|request| request.is_manifest());
//! // ... start a pull in another thread ...
//! hold.wait(1)?; // now the client waits for the manifest
//! hold.release();
//! let busy = gate.inject(|request| request.is_blob(), Fault::retry_after(429, 1));
//! busy.times(2);
//! assert_eq!(gate.count(|request| request.is_token()), 0);
//! println!("{} bytes of blobs", gate.bytes_of(|request| request.is_blob()));
//! # Ok(())
//! # }
//! ```
//!
//! The functions that choose requests run while the gate is locked: they must not call it.

mod body;
mod fault;
mod request;
mod serve;
mod state;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

pub use fault::{Fault, Link};
pub use request::{Exchange, Request};

use crate::authority::Identity;
use crate::error::{At, Result};
use crate::token::Tokens;
use crate::wait;
use state::{Effect, Shared};

/// Where a gate answers requests for tokens.
pub const TOKEN_PATH: &str = "/token";

/// How long a test waits for the requests that it holds back.
const LIMIT: Duration = Duration::from_secs(20);

/// A running gate. Dropping it closes every connection.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    runtime: Option<Runtime>,
    accepting: Mutex<Option<AbortHandle>>,
    standing: Mutex<Option<Injection>>,
}

impl Gate {
    /// Starts a gate in front of `upstream` (`address:port`, plain HTTP). It answers
    /// plain HTTP.
    pub fn start(upstream: &str) -> Result<Self> {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), upstream)
    }

    /// The same, where others than this machine's programs find it.
    pub fn start_at(address: IpAddr, upstream: &str) -> Result<Self> {
        Self::open(address, upstream, None)
    }

    /// Starts a gate that answers HTTPS as `identity`, with HTTP/2 for who asks for it.
    /// The way from it to `upstream` is plain HTTP.
    pub fn start_tls(upstream: &str, identity: &Identity) -> Result<Self> {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self::open(address, upstream, Some(Arc::new(identity.server_config()?)))
    }

    fn open(address: IpAddr, upstream: &str, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).at("listen on", "a free port")?;
        let address = listener.local_addr().at("find the address of", "a gate")?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("gate")
            .enable_all()
            .build()
            .at("start the threads of", "a gate")?;
        let gate = Self {
            shared: Arc::new(Shared::new(address.to_string(), scheme, upstream)),
            address,
            tls,
            runtime: Some(runtime),
            accepting: Mutex::new(None),
            standing: Mutex::new(None),
        };
        gate.accept(listener)?;
        Ok(gate)
    }

    fn accept(&self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true).at("listen on", "a port")?;
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).at("listen on", "a port")?;
        let tls = self.tls.clone().map(TlsAcceptor::from);
        let accepting = serve::accept(listener, Arc::clone(&self.shared), tls);
        let handle = runtime.spawn(accepting).abort_handle();
        *lock(&self.accepting) = Some(handle);
        Ok(())
    }

    /// Its `address:port`, by which clients know the registry.
    pub fn host(&self) -> &str {
        &self.shared.host
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.shared.scheme
    }

    /// Puts it in front of another registry.
    pub fn set_upstream(&self, host: &str) {
        self.shared.set_upstream(host);
    }

    /// Answers requests for tokens ([`TOKEN_PATH`]) with those of `tokens`.
    pub fn set_tokens(&self, tokens: Arc<Tokens>) {
        self.shared.set_tokens(tokens);
    }

    // What goes through.

    /// Every request so far, in the order of arrival.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges()
    }

    /// How many requests came in.
    pub fn requests(&self) -> usize {
        self.count(|_| true)
    }

    /// How many requests that `wanted` chooses came in.
    pub fn count(&self, wanted: impl Fn(&Request) -> bool) -> usize {
        // Far below the limits of both types.
        self.shared
            .sum(|exchange| u64::from(wanted(&exchange.request))) as usize
    }

    /// How many bytes of bodies were handed to clients.
    pub fn bytes(&self) -> u64 {
        self.shared.sum(|exchange| exchange.bytes)
    }

    /// How many bytes of bodies the requests that `wanted` chooses got.
    pub fn bytes_of(&self, wanted: impl Fn(&Request) -> bool) -> u64 {
        self.shared
            .sum(|exchange| u64::from(wanted(&exchange.request)) * exchange.bytes)
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// What has gone through from now on.
    pub fn mark(&self) -> Mark<'_> {
        Mark {
            gate: self,
            requests: self.requests(),
            bytes: self.bytes(),
            connections: self.connections(),
        }
    }

    // What is done to it.

    /// Slows the way to the registry down to a link's measure.
    pub fn link(&self, link: Link) {
        self.shared.set_link(link);
    }

    /// Holds back the requests that `wanted` chooses, until the hold is released or
    /// dropped. They have not reached the registry then.
    pub fn hold(&self, wanted: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Hold {
        let held = Arc::new(AtomicUsize::new(0));
        let effect = Effect::Hold {
            held: Arc::clone(&held),
        };
        Hold {
            rule: self.rule(wanted, effect),
            held,
        }
    }

    /// Does `fault` to the requests that `wanted` chooses, for as long as the injection
    /// lives. Of several that choose a request, the newest wins.
    pub fn inject(
        &self,
        wanted: impl Fn(&Request) -> bool + Send + Sync + 'static,
        fault: Fault,
    ) -> Injection {
        Injection(self.rule(wanted, Effect::Fault(fault)))
    }

    /// Does `fault` to every request, in place of what was set before.
    pub fn set(&self, fault: Fault) {
        let injection = self.inject(|_| true, fault);
        *lock(&self.standing) = Some(injection);
    }

    /// Ends what [`set`](Self::set) began.
    pub fn clear(&self) {
        *lock(&self.standing) = None;
    }

    /// Stops everything where it is, bodies on their way included: connections stay open,
    /// and nothing comes over them until the freeze is dropped.
    pub fn freeze(&self) -> Freeze {
        self.shared.freeze(true);
        Freeze(Arc::clone(&self.shared))
    }

    /// Closes every connection and refuses new ones.
    pub fn down(&self) -> Result<()> {
        let Some(accepting) = lock(&self.accepting).take() else {
            return Ok(());
        };
        accepting.abort();
        // The port is closed when its task has ended, which takes a moment.
        let closed = || Ok(accepting.is_finished().then_some(()));
        wait::until("the end of the gate's port", LIMIT, closed)
    }

    /// Accepts connections again, on the same port.
    pub fn up(&self) -> Result<()> {
        self.down()?;
        let listener = TcpListener::bind(self.address).at("listen on", self.host())?;
        self.accept(listener)
    }

    /// Makes every address that [`Fault::Redirect`] gave out answer 403 from now on.
    pub fn expire_redirects(&self) {
        self.shared.expire_signed();
    }

    fn rule(
        &self,
        wanted: impl Fn(&Request) -> bool + Send + Sync + 'static,
        effect: Effect,
    ) -> RuleGuard {
        RuleGuard {
            id: self.shared.add_rule(Box::new(wanted), effect),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not a wait, which asynchronous callers may not do.
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A rule in force; dropping it ends it.
#[derive(Debug)]
struct RuleGuard {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for RuleGuard {
    fn drop(&mut self) {
        self.shared.remove_rule(self.id);
    }
}

/// Requests that are held back. Dropping it releases them.
#[derive(Debug)]
#[must_use = "it releases what it holds when it is dropped"]
pub struct Hold {
    rule: RuleGuard,
    held: Arc<AtomicUsize>,
}

impl Hold {
    /// How many requests are held now; those whose client gave up are not.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// How many requests were held since it began.
    pub fn hits(&self) -> usize {
        self.rule.shared.hits(self.rule.id)
    }

    /// Waits until `count` requests are held.
    pub fn wait(&self, count: usize) -> Result<()> {
        let what = format!("{count} requests held at the gate");
        wait::until(&what, LIMIT, || Ok((self.held() >= count).then_some(())))
    }

    /// Holds no more than `times` requests, those held so far included.
    pub fn times(&self, times: usize) -> &Self {
        self.rule.shared.limit_rule(self.rule.id, times);
        self
    }

    /// Lets them go on, and holds no others.
    pub fn release(self) {}
}

/// A fault in force. Dropping it ends it.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Injection(RuleGuard);

impl Injection {
    /// How many requests it was done to.
    pub fn hits(&self) -> usize {
        self.0.shared.hits(self.0.id)
    }

    /// Waits until it was done to `count` requests.
    pub fn wait(&self, count: usize) -> Result<()> {
        let what = format!("a fault done to {count} requests");
        wait::until(&what, LIMIT, || Ok((self.hits() >= count).then_some(())))
    }

    /// Is done to no more than `times` requests, those so far included.
    pub fn times(&self, times: usize) -> &Self {
        self.0.shared.limit_rule(self.0.id, times);
        self
    }
}

/// A gate that has stopped. Dropping it lets everything go on.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Freeze(Arc<Shared>);

impl Drop for Freeze {
    fn drop(&mut self) {
        self.0.freeze(false);
    }
}

/// What has gone through a gate since [`Gate::mark`].
#[derive(Debug)]
pub struct Mark<'a> {
    gate: &'a Gate,
    requests: usize,
    bytes: u64,
    connections: usize,
}

impl Mark<'_> {
    /// The requests since then.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.gate.exchanges().split_off(self.requests)
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.gate.requests() - self.requests
    }

    /// How many bytes of bodies were handed to clients, those of older requests included.
    pub fn bytes(&self) -> u64 {
        self.gate.bytes() - self.bytes
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.gate.connections() - self.connections
    }
}
