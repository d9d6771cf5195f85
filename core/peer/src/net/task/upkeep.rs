//! What has to be done from time to time.

use std::net::{IpAddr, SocketAddr};

use libp2p_swarm::dial_opts::DialOpts;
use tokio::time::Instant;

use super::super::contact::Place;
use super::super::shared::Gauges;
use super::super::{bootstrap, remembered};
use super::{REMEMBER_EVERY, Task};
use crate::{PeerId, Refused};

impl Task {
    /// Looks for a first other node, if it is time to.
    pub(super) fn begin_round(&mut self) {
        if !self.rounds.begins(self.table) || self.stopping.is_some() {
            return;
        }
        let places = self.config.bootstrap.clone();
        let remembered = self.config.remembered.clone();
        let dial = self.dial.clone();
        tokio::spawn(async move {
            let remembered = match remembered {
                Some(path) => tokio::task::spawn_blocking(move || remembered::read(&path)).await,
                None => Ok(Vec::new()),
            };
            let addresses = bootstrap::round(places, remembered.unwrap_or_default()).await;
            // One that is still under way is enough.
            let _ = dial.try_send(addresses);
        });
    }

    pub(super) fn dial(&mut self, addresses: Vec<SocketAddr>) {
        for address in addresses {
            let known = self.shared.contacts().is_connected(address);
            if known || self.shared.is_myself(address) {
                continue;
            }
            let place = Place {
                ip: address.ip(),
                port: address.port(),
                https_port: None,
            };
            let options = DialOpts::unknown_peer_id().address(place.tcp());
            let _ = self.swarm.dial(options.build());
        }
    }

    /// Whoever is not admitted any more goes; and what can be seen of all this is brought up to date.
    pub(super) fn look(&mut self) {
        let gone: Vec<(PeerId, IpAddr, Refused)> = {
            let contacts = self.shared.contacts();
            let connected = contacts
                .iter()
                .filter(|(_, contact)| contact.connections > 0);
            let refused = connected.filter_map(|(peer, contact)| {
                let verdict = match contacts.banned(peer) {
                    Some(_) => Err(Refused::Banned),
                    None => self
                        .admission
                        .still_admits(*peer, contact.from, contact.token),
                };
                Some((*peer, contact.from, verdict.err()?))
            });
            refused.collect()
        };
        for (peer, address, why) in gone {
            self.shared.refused(peer, address, why);
            self.shut_out(peer);
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.store_mut().sweep();
        let (keys, records) = kad.store_mut().size();
        self.count_table();
        *self.shared.gauges() = Gauges {
            connected: self.swarm.connected_peers().count(),
            table: self.table,
            keys,
            records,
            announced: self.announced.len(),
            lookups: self.lookups.len(),
        };
        if self.remembered.elapsed() >= REMEMBER_EVERY {
            self.remembered = Instant::now();
            self.remember();
        }
    }

    pub(super) fn shut_out(&mut self, peer: PeerId) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.remove_peer(&peer);
        kad.store_mut().forget(&peer);
        self.lookups.forget(&peer);
        let _ = self.swarm.disconnect_peer_id(peer);
        self.count_table();
    }

    pub(super) fn remember(&self) {
        let Some(path) = &self.config.remembered else {
            return;
        };
        let contacts = self.shared.contacts();
        let mut places: Vec<_> = contacts
            .iter()
            .filter(|(peer, contact)| contact.place.port != 0 && contacts.banned(peer).is_none())
            .map(|(_, contact)| {
                (
                    contact.connections == 0,
                    contact.seen.elapsed(),
                    contact.place,
                )
            })
            .collect();
        drop(contacts);
        if places.is_empty() {
            return;
        }
        places.sort_unstable_by_key(|(idle, since, _)| (*idle, *since));
        let addresses: Vec<SocketAddr> = places
            .iter()
            .map(|(_, _, place)| SocketAddr::new(place.ip, place.port))
            .collect();
        remembered::write(path, &addresses);
    }
}
