//! Who is who, and where: what admitted peers told in their hello.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libp2p_core::Multiaddr;
use libp2p_core::multiaddr::Protocol;
use tokio::time::Instant;

use super::hello::Hello;
use crate::admission::Token;
use crate::{Peer, PeerId};

/// How many peers are remembered.
const CONTACTS_MAX: usize = 4096;

/// How many are banned at a time.
const BANS_MAX: usize = 4096;

/// Where a peer is: the address of its libp2p port, and its HTTPS port.
///
/// As a multiaddr, `/ip4/10.0.0.1/tcp/7001/tcp/7002`: both ports of a node, so that who finds a provider knows where its chunks are
/// without asking it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    /// `None`: not known.
    pub(super) https_port: Option<u16>,
}

impl Place {
    /// Reads a multiaddr of one or two TCP ports, with or without a peer id behind them.
    pub(super) fn parse(address: &Multiaddr) -> Option<Place> {
        let mut parts = address.iter();
        let ip = match parts.next()? {
            Protocol::Ip4(ip) => IpAddr::from(ip),
            Protocol::Ip6(ip) => IpAddr::from(ip).to_canonical(),
            _ => return None,
        };
        let Protocol::Tcp(port) = parts.next()? else {
            return None;
        };
        let https_port = match parts.next() {
            Some(Protocol::Tcp(port)) => Some(port),
            Some(Protocol::P2p(_)) | None => None,
            Some(_) => return None,
        };
        Some(Place {
            ip,
            port,
            https_port,
        })
    }

    /// What kad keeps, and tells others.
    pub(super) fn multiaddr(&self) -> Multiaddr {
        let address = Multiaddr::from(self.ip).with(Protocol::Tcp(self.port));
        match self.https_port {
            Some(port) => address.with(Protocol::Tcp(port)),
            None => address,
        }
    }

    /// What TCP can dial.
    pub(super) fn tcp(&self) -> Multiaddr {
        Multiaddr::from(self.ip).with(Protocol::Tcp(self.port))
    }

    /// Whether another node can be there; `loopback`: also one on this machine.
    pub(super) fn is_usable(&self, loopback: bool) -> bool {
        let is_local = match self.ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let is_nowhere = self.ip.is_unspecified() || self.ip.is_multicast() || is_local;
        self.port != 0 && !is_nowhere && (loopback || !self.ip.is_loopback())
    }

    /// The peer as somebody who gives chunks away, if it does.
    pub(super) fn peer(&self, id: PeerId) -> Option<Peer> {
        let port = self.https_port.filter(|port| *port != 0)?;
        let address = SocketAddr::new(self.ip, port);
        Some(Peer { id, address })
    }
}

/// A peer that was admitted.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) place: Place,
    /// Where its connection comes from.
    pub(super) from: IpAddr,
    pub(super) token: Option<Token>,
    pub(super) connections: usize,
    pub(super) seen: Instant,
}

/// Who was admitted lately, and who is banned.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    known: HashMap<PeerId, Contact>,
    bans: HashMap<PeerId, Instant>,
}

impl Contacts {
    /// Notes what an admitted peer told. `from` is the IP address of the connection's other end.
    pub(super) fn met(&mut self, peer: PeerId, from: IpAddr, hello: &Hello) {
        let connections = self.known.get(&peer).map_or(0, |known| known.connections);
        if self.known.len() >= CONTACTS_MAX && !self.known.contains_key(&peer) {
            let gone = self
                .known
                .iter()
                .filter(|(_, contact)| contact.connections == 0)
                .min_by_key(|(_, contact)| contact.seen)
                .map(|(peer, _)| *peer);
            if let Some(gone) = gone {
                self.known.remove(&gone);
            }
        }
        let at = |ip: IpAddr| Place {
            ip: ip.to_canonical(),
            port: hello.port,
            https_port: Some(hello.https_port),
        };
        let told = hello.address.map(at);
        let contact = Contact {
            // Nobody sends us to ourselves by what it tells.
            place: told
                .filter(|place| place.is_usable(from.is_loopback()))
                .unwrap_or(at(from)),
            from,
            token: hello.token,
            connections,
            seen: Instant::now(),
        };
        self.known.insert(peer, contact);
    }

    /// Another connection to the peer; where it is.
    pub(super) fn connected(&mut self, peer: &PeerId) -> Option<Place> {
        let contact = self.known.get_mut(peer)?;
        contact.connections += 1;
        Some(contact.place)
    }

    /// One connection less. Whether it was the last.
    pub(super) fn disconnected(&mut self, peer: &PeerId) -> bool {
        let Some(contact) = self.known.get_mut(peer) else {
            return true;
        };
        contact.connections = contact.connections.saturating_sub(1);
        contact.seen = Instant::now();
        contact.connections == 0
    }

    /// Where the peer is, if it is connected just now.
    pub(super) fn place(&self, peer: &PeerId) -> Option<Place> {
        let contact = self.known.get(peer)?;
        (contact.connections > 0).then_some(contact.place)
    }

    /// Whether somebody at that address is connected.
    pub(super) fn is_connected(&self, address: SocketAddr) -> bool {
        let is_there = |contact: &Contact| {
            contact.connections > 0
                && contact.place.ip == address.ip().to_canonical()
                && contact.place.port == address.port()
        };
        self.known.values().any(is_there)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Contact)> {
        self.known.iter()
    }

    /// Has nothing to do with the peer until then.
    pub(super) fn ban(&mut self, peer: PeerId, time: Duration) {
        let now = Instant::now();
        self.bans.retain(|_, until| *until > now);
        if self.bans.len() >= BANS_MAX && !self.bans.contains_key(&peer) {
            let first = self.bans.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(peer, _)| *peer) {
                self.bans.remove(&first);
            }
        }
        // A century is forever, and can be added to any time.
        let until = now + time.min(Duration::from_secs(100 * 365 * 86400));
        let ban = self.bans.entry(peer).or_insert(until);
        *ban = until.max(*ban);
    }

    /// How long the peer will be banned, if it is.
    pub(super) fn banned(&self, peer: &PeerId) -> Option<Duration> {
        let until = self.bans.get(peer)?;
        until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            port: 7001,
            https_port: 7002,
            address: None,
            token: None,
        }
    }

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn a_place_has_one_form_that_kad_keeps() {
        let place = Place {
            ip: FROM,
            port: 7001,
            https_port: Some(7002),
        };
        let address = place.multiaddr();
        assert_eq!(address.to_string(), "/ip4/10.0.0.1/tcp/7001/tcp/7002");
        assert_eq!(Place::parse(&address), Some(place));
        let with_peer = address.with_p2p(PeerId::random()).unwrap();
        assert_eq!(Place::parse(&with_peer), Some(place));
        assert_eq!(place.tcp().to_string(), "/ip4/10.0.0.1/tcp/7001");
        for bad in [
            "/dns4/a/tcp/1",
            "/ip4/10.0.0.1",
            "/ip4/10.0.0.1/udp/1",
            "/ip4/10.0.0.1/tcp/1/ws",
        ] {
            assert_eq!(Place::parse(&bad.parse().unwrap()), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ban_ends_and_is_never_made_shorter() {
        let mut contacts = Contacts::default();
        let peer = PeerId::random();
        contacts.ban(peer, Duration::from_secs(600));
        contacts.ban(peer, Duration::from_secs(1));
        assert_eq!(contacts.banned(&peer), Some(Duration::from_secs(600)));
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(contacts.banned(&peer), None);
        contacts.ban(peer, Duration::MAX);
        for _ in 0..2 * BANS_MAX {
            contacts.ban(PeerId::random(), Duration::from_secs(600));
        }
        assert_eq!(contacts.bans.len(), BANS_MAX);
        assert!(contacts.banned(&peer).is_some(), "the longest one is kept");
    }

    #[tokio::test]
    async fn a_peer_is_where_it_says_unless_that_is_here_or_nowhere() {
        let mut contacts = Contacts::default();
        let peer = PeerId::random();
        for (told, at) in [
            ("192.168.0.1", "192.168.0.1"),
            ("::ffff:192.168.0.2", "192.168.0.2"),
            ("127.0.0.1", "10.0.0.1"),
            ("::1", "10.0.0.1"),
            ("0.0.0.0", "10.0.0.1"),
            ("169.254.169.254", "10.0.0.1"),
        ] {
            let address = Some(told.parse().unwrap());
            contacts.met(peer, FROM, &Hello { address, ..hello() });
            contacts.connected(&peer);
            let place = contacts.place(&peer).unwrap();
            assert_eq!(place.ip, at.parse::<IpAddr>().unwrap(), "{told}");
        }
    }

    #[tokio::test]
    async fn of_too_many_the_connected_ones_are_remembered() {
        let mut contacts = Contacts::default();
        let peer = PeerId::random();
        contacts.met(peer, FROM, &hello());
        contacts.connected(&peer);
        for _ in 0..2 * CONTACTS_MAX {
            contacts.met(PeerId::random(), FROM, &hello());
        }
        assert_eq!(contacts.iter().count(), CONTACTS_MAX);
        assert!(contacts.place(&peer).is_some());
        assert!(contacts.is_connected("10.0.0.1:7001".parse().unwrap()));
        contacts.met(peer, FROM, &hello());
        assert!(contacts.disconnected(&peer));
        assert!(contacts.place(&peer).is_none());
    }
}
