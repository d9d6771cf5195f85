//! Kad, connecting only to where a node can be.
//!
//! Whom to ask next, and where that one is, other nodes tell. One that was admitted and lies could name thousands of addresses for a
//! peer, or those of services that only this node can reach. So of what was told few are tried, and none on this machine.

use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};

use libp2p_core::transport::PortUse;
use libp2p_core::{Endpoint, Multiaddr};
use libp2p_kad as kad;
use libp2p_swarm::behaviour::FromSwarm;
use libp2p_swarm::{
    ConnectionDenied, ConnectionId, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};

use super::contact::Place;
use super::store::Store;
use crate::PeerId;

/// How many addresses of one peer are tried.
const ADDRESSES_MAX: usize = 8;

/// How many that were told are looked at.
const TOLD_MAX: usize = 64;

type Kad = kad::Behaviour<Store>;

/// Kad, with a choice of addresses.
pub(super) struct Table {
    kad: Kad,
    loopback: bool,
}

impl Table {
    /// `loopback`: whether all of this takes place on one machine.
    pub(super) fn new(kad: Kad, loopback: bool) -> Table {
        Table { kad, loopback }
    }

    /// Where a peer may be, as far as it is known here or has been told, the latest first.
    pub(super) fn places(&mut self, peer: PeerId) -> Vec<Place> {
        // That is how libp2p asks before it connects. It changes nothing.
        let connection = ConnectionId::new_unchecked(usize::MAX);
        let told = self.kad.handle_pending_outbound_connection(
            connection,
            Some(peer),
            &[],
            Endpoint::Dialer,
        );
        self.chosen(&told.unwrap_or_default())
    }

    fn chosen(&self, told: &[Multiaddr]) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        let parsed = told.iter().rev().take(TOLD_MAX).filter_map(Place::parse);
        for place in parsed.filter(|place| self.is_usable(place)) {
            let is_it = |other: &&mut Place| (other.ip, other.port) == (place.ip, place.port);
            let is_room = places.len() < ADDRESSES_MAX;
            match places.iter_mut().find(is_it) {
                Some(known) => known.https_port = known.https_port.or(place.https_port),
                None if is_room => places.push(place),
                None => {}
            }
        }
        places
    }

    /// Whether another node can be there.
    pub(super) fn is_usable(&self, place: &Place) -> bool {
        place.is_usable(self.loopback)
    }
}

impl Deref for Table {
    type Target = Kad;

    fn deref(&self) -> &Kad {
        &self.kad
    }
}

impl DerefMut for Table {
    fn deref_mut(&mut self) -> &mut Kad {
        &mut self.kad
    }
}

impl NetworkBehaviour for Table {
    type ConnectionHandler = <Kad as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let told = self
            .kad
            .handle_pending_outbound_connection(connection, peer, addresses, role)?;
        Ok(self.chosen(&told).iter().map(Place::tcp).collect())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.kad
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.kad.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::store::Limits;
    use super::*;

    fn table(loopback: bool) -> Table {
        let local = PeerId::random();
        let store = Store::new(local, Limits::new(Duration::from_secs(900)));
        Table::new(Kad::new(local, store), loopback)
    }

    #[test]
    fn of_what_is_told_few_addresses_are_tried_and_none_of_this_machine() {
        let peer = PeerId::random();
        let mut table = table(false);
        for number in 1..100 {
            let address = format!("/ip4/10.0.0.{number}/tcp/7001/tcp/7002");
            table.add_address(&peer, address.parse().unwrap());
        }
        let of = |table: &mut Table| {
            let id = ConnectionId::new_unchecked(1);
            let role = Endpoint::Dialer;
            let told = table.handle_pending_outbound_connection(id, Some(peer), &[], role);
            told.unwrap()
        };
        assert_eq!(of(&mut table).len(), ADDRESSES_MAX);
        let places = table.places(peer);
        assert!(places.iter().all(|place| place.https_port == Some(7002)));
        table.remove_peer(&peer);
        let bad = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/::ffff:127.0.0.1/tcp/1",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/fe80::1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.251/tcp/1",
            "/ip4/255.255.255.255/tcp/1",
            "/ip4/10.0.0.1/tcp/0",
            "/dns4/localhost/tcp/1",
            "/ip4/10.0.0.1/udp/1",
        ];
        for address in bad {
            table.add_address(&peer, address.parse().unwrap());
        }
        assert_eq!(of(&mut table), Vec::<Multiaddr>::new());
        table.add_address(&peer, "/ip4/10.0.0.1/tcp/1".parse().unwrap());
        assert_eq!(of(&mut table).len(), 1);
    }

    #[test]
    fn on_one_machine_its_addresses_are_those_of_nodes() {
        let peer = PeerId::random();
        for loopback in [false, true] {
            let mut table = table(loopback);
            table.add_address(&peer, "/ip4/127.0.0.1/tcp/1/tcp/2".parse().unwrap());
            assert_eq!(table.places(peer).len(), usize::from(loopback));
        }
    }
}
