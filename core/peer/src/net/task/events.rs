//! What happens to other nodes, and what they ask and tell.

use std::sync::atomic::Ordering::Relaxed;

use libp2p_core::Multiaddr;
use libp2p_kad::store::RecordStore;
use libp2p_kad::{
    self as kad, GetProvidersOk, InboundRequest, ProviderRecord, QueryId, QueryResult,
};
use libp2p_mdns as mdns;
use libp2p_swarm::dial_opts::DialOpts;
use libp2p_swarm::{DialError, ListenError, SwarmEvent};

use super::super::Event;
use super::super::contact::Place;
use super::super::store::store_key;
use super::{PartsEvent, Task};
use crate::{Peer, PeerId};

impl Task {
    pub(super) fn happened(&mut self, event: SwarmEvent<PartsEvent>) {
        match event {
            SwarmEvent::Behaviour(PartsEvent::Kad(event)) => self.of_kad(event),
            SwarmEvent::Behaviour(PartsEvent::Mdns(mdns::Event::Discovered(peers))) => {
                for (peer, address) in peers.into_iter().take(64) {
                    self.seen_on_the_network(peer, &address);
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => self.connected(peer_id),
            SwarmEvent::ConnectionClosed { peer_id, .. } => self.disconnected(peer_id),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                self.not_reached(peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                if let ListenError::Denied { .. } = error {
                    self.shared.counts.too_many.fetch_add(1, Relaxed);
                }
                tracing::debug!(%error, "a connection was not taken");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listening for other nodes failed");
            }
            _ => {}
        }
    }

    fn of_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => self.told(record),
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, record, .. },
            } => {
                // How a layer is withdrawn: by whoever had announced it, with nothing as its value.
                if let Some(record) = record.filter(|record| record.value.is_empty()) {
                    let store = self.swarm.behaviour_mut().kad.store_mut();
                    store.remove_provider(&record.key, &source);
                }
            }
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                stats,
            } => self.progressed(&id, result, step.last, stats.num_successes() > 0),
            _ => {}
        }
    }

    fn progressed(&mut self, query: &QueryId, result: QueryResult, is_last: bool, reached: bool) {
        match result {
            QueryResult::GetProviders(result) => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    let peers: Vec<Peer> = providers
                        .iter()
                        .filter_map(|peer| self.found(*peer))
                        .collect();
                    if self.lookups.found(query, &peers) {
                        self.finish(query);
                    }
                }
                if is_last {
                    self.looked_up(query);
                }
            }
            QueryResult::StartProviding(result) => {
                // What took too long has told nobody, as far as can be seen.
                self.announced.ended(query, result.is_ok() && reached);
            }
            QueryResult::PutRecord(_) => {
                self.announced.ended(query, true);
            }
            _ => {}
        }
        self.shared.gauges().announced = self.announced.len();
    }

    /// A peer announces a layer. Where it is, is where its connection comes from.
    fn told(&mut self, mut record: ProviderRecord) {
        let place = self.shared.contacts().place(&record.provider);
        let kept = place.filter(|_| store_key(&record.key).is_some());
        let kept = kept.is_some_and(|place| {
            record.addresses = vec![place.multiaddr()];
            let store = self.swarm.behaviour_mut().kad.store_mut();
            store.add_provider(record).is_ok()
        });
        if !kept {
            self.shared.counts.records_refused.fetch_add(1, Relaxed);
        }
    }

    /// A peer that has a layer, with the address that is known best.
    fn found(&mut self, id: PeerId) -> Option<Peer> {
        if id == self.local {
            return None;
        }
        {
            let contacts = self.shared.contacts();
            if contacts.banned(&id).is_some() {
                return None;
            }
            if let Some(place) = contacts.place(&id) {
                return place.peer(id);
            }
        }
        let table = &mut self.swarm.behaviour_mut().kad;
        let kept = table.store_mut().addresses(&id);
        let kept: Vec<Place> = kept.iter().filter_map(Place::parse).collect();
        let places = kept.into_iter().chain(table.places(id));
        places
            .filter(|place| table.is_usable(place))
            .find_map(|place| place.peer(id))
    }

    fn connected(&mut self, peer: PeerId) {
        let place = self.shared.contacts().connected(&peer);
        let Some(place) = place else {
            // It said hello, so it is known; unless there are more connections than are remembered.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        if let Some(bucket) = kad.kbucket(peer) {
            let is_it = |address: &Multiaddr| Place::parse(address) == Some(place);
            let known = bucket.iter().find(|node| *node.node.key.preimage() == peer);
            let elsewhere = known.is_some_and(|node| !node.node.value.iter().any(is_it));
            if elsewhere {
                kad.remove_peer(&peer);
            }
        }
        kad.add_address(&peer, place.multiaddr());
        let alone = self.table == 0;
        self.count_table();
        if alone && self.table > 0 {
            self.announced.tell_all();
            self.lookups.forget_nothing();
        }
        let connected = Event::Connected(peer, place.peer(peer));
        let _ = self.events.try_send(connected);
    }

    fn disconnected(&mut self, peer: PeerId) {
        if self.shared.contacts().disconnected(&peer) {
            let _ = self.events.try_send(Event::Disconnected(peer));
        }
    }

    /// Somebody could not be reached. Nobody else shall be sent there by us.
    fn not_reached(&mut self, peer: Option<PeerId>, error: &DialError) {
        tracing::debug!(?peer, %error, "a peer was not reached");
        if matches!(
            error,
            DialError::Denied { .. } | DialError::DialPeerConditionFalse(_)
        ) {
            return;
        }
        self.shared.counts.failed.fetch_add(1, Relaxed);
        if let Some(peer) = peer
            && !self.swarm.is_connected(&peer)
        {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            self.count_table();
        }
    }

    pub(super) fn count_table(&mut self) {
        let buckets = self.swarm.behaviour_mut().kad.kbuckets();
        let table = buckets.map(|bucket| bucket.num_entries()).sum();
        if table == 0 && self.table > 0 {
            self.rounds.alone();
        }
        self.table = table;
    }

    fn seen_on_the_network(&mut self, peer: PeerId, address: &Multiaddr) {
        let table = &self.swarm.behaviour().kad;
        let Some(place) = Place::parse(address).filter(|place| table.is_usable(place)) else {
            return;
        };
        if peer == self.local || self.swarm.is_connected(&peer) {
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(vec![place.tcp()]);
        let _ = self.swarm.dial(options.build());
    }
}
