//! The way in and out: TCP, then TLS, then the hello, then libp2p's multiplexer.
//!
//! libp2p gets a connection when both ends have admitted each other, not before: there is no stream, and no kad, without that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use libp2p_core::muxing::StreamMuxerBox;
use libp2p_core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p_core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p_core::{Multiaddr, Transport};
use libp2p_tcp::tokio::Transport as Tcp;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::contact::Place;
use super::hello::{self, Hello, HelloError};
use super::shared::Shared;
use crate::{Admission, Identity, PeerId, Refused, Result, tls};

/// How long connecting may take on a network of one site, or between two.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long TLS and the hello may take.
const HELLO_MAX: Duration = Duration::from_secs(3);

/// How many that have not been admitted yet may come from one address at a time.
const STRANGERS_PER_ADDRESS_MAX: usize = 64;

/// Streams of one connection. Kad has at most 32 in each direction.
const STREAMS_MAX: usize = 128;

/// What a connection is to libp2p.
type Connection = (PeerId, StreamMuxerBox);
type Opening = BoxFuture<'static, Result<Connection, DoorError>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the other end took too long")]
    TooLong,
    #[error("the other end is this node")]
    Myself,
    #[error("the other end shows no ed25519 key")]
    NoKey,
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("too many connections from this address have not been admitted yet")]
    TooMany,
}

/// Who is let through.
pub(super) struct Gate {
    local: PeerId,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    admission: Admission,
    shared: Arc<Shared>,
}

impl Gate {
    pub(super) fn new(
        identity: &Identity,
        admission: Admission,
        shared: Arc<Shared>,
    ) -> Result<Gate> {
        Ok(Gate {
            local: identity.peer_id(),
            acceptor: Arc::new(tls::server_config(identity)?).into(),
            // libp2p compares with the peer that it wanted, if it wanted one.
            connector: Arc::new(tls::client_config(identity, None)?).into(),
            admission,
            shared,
        })
    }

    async fn enter(self: Arc<Self>, tcp: TcpStream, from: IpAddr) -> Result<Connection, DoorError> {
        let _stranger = self.shared.stranger(from).ok_or(DoorError::TooMany)?;
        let hello = async {
            let mut stream = TlsStream::from(self.acceptor.accept(tcp).await?);
            let peer = self.hello(&mut stream, from).await?;
            Ok::<_, DoorError>((peer, stream))
        };
        let (peer, stream) = within(HELLO_MAX, hello).await?;
        let muxer = yamux().upgrade_inbound(stream.compat(), info()).await?;
        Ok((peer, StreamMuxerBox::new(muxer)))
    }

    async fn leave(
        self: Arc<Self>,
        tcp: impl Future<Output = io::Result<TcpStream>> + Send,
        to: SocketAddr,
    ) -> Result<Connection, DoorError> {
        let tcp = within(CONNECT_MAX, async { Ok(tcp.await?) }).await?;
        let hello = async {
            let name = ServerName::from(to.ip());
            let mut stream = TlsStream::from(self.connector.connect(name, tcp).await?);
            let peer = self.hello(&mut stream, to.ip()).await;
            if matches!(peer, Err(DoorError::Myself)) {
                self.shared.found_myself(to);
            }
            Ok::<_, DoorError>((peer?, stream))
        };
        let (peer, stream) = within(HELLO_MAX, hello).await?;
        let muxer = yamux().upgrade_outbound(stream.compat(), info()).await?;
        Ok((peer, StreamMuxerBox::new(muxer)))
    }

    /// Both ends judge each other. Who is admitted becomes a contact.
    async fn hello(
        &self,
        stream: &mut TlsStream<TcpStream>,
        other: IpAddr,
    ) -> Result<PeerId, DoorError> {
        let shown = match stream {
            TlsStream::Client(stream) => stream.get_ref().1.peer_certificates(),
            TlsStream::Server(stream) => stream.get_ref().1.peer_certificates(),
        };
        let shown = shown.and_then(|shown| shown.first());
        let peer = shown.and_then(tls::peer_id).ok_or(DoorError::NoKey)?;
        if peer == self.local {
            return Err(DoorError::Myself);
        }
        let ours = self.shared.hello(self.admission.token());
        let judge = |hello: &Hello| self.judge(peer, other, hello);
        let theirs = hello::exchange(stream, &ours, judge).await;
        match &theirs {
            Err(HelloError::Refused(refused)) => self.shared.refused(peer, other, *refused),
            Err(HelloError::RefusedUs(why)) => self.shared.refused_us(peer, other, *why),
            _ => {}
        }
        let theirs = theirs?;
        self.shared.contacts().met(peer, other, &theirs);
        Ok(peer)
    }

    fn judge(&self, peer: PeerId, other: IpAddr, hello: &Hello) -> Result<(), Refused> {
        if self.shared.contacts().banned(&peer).is_some() {
            return Err(Refused::Banned);
        }
        let token = hello.token.as_ref().map(|token| token.as_bytes());
        self.admission.admits(peer, other, token)
    }
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, DoorError>>,
) -> Result<T, DoorError> {
    tokio::time::timeout(time, work)
        .await
        .unwrap_or(Err(DoorError::TooLong))
}

fn yamux() -> libp2p_yamux::Config {
    let mut config = libp2p_yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

/// The name of the multiplexer: nobody negotiates it, both ends have no other.
fn info() -> <libp2p_yamux::Config as UpgradeInfo>::Info {
    "/yamux/1.0.0"
}

/// How many from which address have not been admitted yet.
#[derive(Debug, Default)]
pub(super) struct Strangers(std::sync::Mutex<HashMap<IpAddr, usize>>);

impl Strangers {
    pub(super) fn enter(&self, from: IpAddr) -> bool {
        let mut strangers = self.lock();
        let count = strangers.entry(from).or_default();
        let is_room = *count < STRANGERS_PER_ADDRESS_MAX;
        *count += usize::from(is_room);
        is_room
    }

    pub(super) fn leave(&self, from: IpAddr) {
        if let Entry::Occupied(mut entry) = self.lock().entry(from) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        // A number is never half changed.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// libp2p's transport of this node.
pub(super) struct Door {
    tcp: Tcp,
    gate: Arc<Gate>,
}

impl Door {
    pub(super) fn new(gate: Gate) -> Door {
        let config = libp2p_tcp::Config::default().nodelay(true);
        Door {
            tcp: Tcp::new(config.listen_backlog(256)),
            gate: Arc::new(gate),
        }
    }
}

impl Transport for Door {
    type Output = Connection;
    type Error = DoorError;
    type ListenerUpgrade = Opening;
    type Dial = Opening;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<DoorError>> {
        self.tcp
            .listen_on(id, address)
            .map_err(|error| error.map(DoorError::Io))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Opening, TransportError<DoorError>> {
        let Some(place) = Place::parse(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let options = DialOpts {
            // From the listening port two nodes that dial each other would open one connection at once.
            port_use: PortUse::New,
            ..options
        };
        let tcp = self.tcp.dial(place.tcp(), options);
        let tcp = tcp.map_err(|error| error.map(DoorError::Io))?;
        let tcp = tcp.map(|stream| stream.map(|stream| stream.0));
        let to = SocketAddr::new(place.ip, place.port);
        let gate = Arc::clone(&self.gate);
        gate.shared.counts.dialled.fetch_add(1, Relaxed);
        Ok(gate.leave(tcp, to).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Opening, DoorError>> {
        let event = std::task::ready!(Pin::new(&mut self.tcp).poll(context));
        let from = match &event {
            TransportEvent::Incoming { send_back_addr, .. } => Place::parse(send_back_addr),
            _ => None,
        };
        let gate = Arc::clone(&self.gate);
        let event = event.map_err(DoorError::Io);
        Poll::Ready(event.map_upgrade(move |tcp| {
            async move {
                let from = from.ok_or(DoorError::NoKey)?;
                gate.enter(tcp.await?.0, from.ip).await
            }
            .boxed()
        }))
    }
}
