//! This node among others, if it is to take part.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_daemon::config::{Bytes, DeValue, Setting};
use pontoon_daemon::section;
use pontoon_lazyfs::Peers;
use pontoon_peer::net::Bootstrap;
use pontoon_peer::{Admission, Config, Identity, Node, Settings, ZONE_BYTES_MAX, admission};
use serde_json::{Value, json};

/// What it keeps, below the root: its key, and whom it knew.
const DIRECTORY: &str = "peer";

/// The largest secret that is read, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

section! {
    /// Chunks of lazy layers from other nodes that have them, and to those: over TLS, each chunk verified by who takes it. The
    /// registry is asked for what nobody has or is late with. `docs/peers.md` says how to begin.
    pub struct PeerSection {
        /// Take part. `"auto"`: pontoon-nydus does, once it has a way to find others and an admission; pontoon-stargz does
        /// not.
        pub enabled: PeerSwitch = PeerSwitch::Auto,
        /// Where other nodes ask who has what, TCP.
        pub listen: Address = Address(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7001)),
        /// Where other nodes take chunks, TCP.
        pub https_listen: Address = Address(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7002)),
        /// Where the first other node is found: `ADDRESS:PORT` of its `listen`; `dns:NAME:PORT`, all of whose addresses are
        /// tried; or `file:PATH`, with one `ADDRESS:PORT` a line, read each time.
        pub bootstrap: Vec<String> = Vec::new(),
        /// Also look for others on the local networks, by multicast.
        pub mdns: bool = false,
        /// Admission: a file with the ids of the nodes that may take part, one a line (`pontoon peers id` tells a node's). It is read again
        /// when it changes. Empty: none.
        pub allow_file: String = String::new(),
        /// Admission: the public key of the cluster, as `pontoon peers token` prints it. Nodes that show a token signed with it
        /// may take part. Empty: none.
        pub cluster_key: String = String::new(),
        /// The file with this node's own token. Empty: none.
        pub token_file: String = String::new(),
        /// A file with a secret that all nodes share: those with another one, or none, do not find each other's layers.
        /// Empty: none.
        pub secret_file: String = String::new(),
        /// What all other nodes together are given, in bytes a second. 0: as much as they take.
        pub upload_bytes_per_second: Bytes = Bytes(0),
        /// Take chunks and give none.
        pub leech: bool = false,
        /// Where this node is, for example a rack: others in the same zone are asked first. Empty: nowhere.
        pub zone: String = String::new(),
    }
}

/// Whether to take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerSwitch {
    /// If that was prepared.
    Auto,
    /// Yes or no.
    Is(bool),
}

impl Setting for PeerSwitch {
    fn allowed() -> String {
        "true, false or \"auto\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str() {
            Some("auto") => Some(PeerSwitch::Auto),
            Some(_) => None,
            None => value.as_bool().map(PeerSwitch::Is),
        }
    }

    fn write(&self) -> String {
        match self {
            PeerSwitch::Auto => "\"auto\"".to_owned(),
            PeerSwitch::Is(is) => is.to_string(),
        }
    }
}

/// An IP address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(SocketAddr);

impl Setting for Address {
    fn allowed() -> String {
        "an IP address and a port, as \"0.0.0.0:7001\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok().map(Address)
    }

    fn write(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// How it is with other nodes.
#[derive(Debug)]
pub(crate) struct Peering {
    node: Mutex<Option<Arc<Node>>>,
    /// Why this node does not take part.
    reason: Option<String>,
}

impl Peering {
    /// Begins to take part if `section` says so; `by_itself` if it says nothing. Whatever is wrong keeps no layer from its
    /// registry: it is logged and told.
    pub(crate) fn start(section: &PeerSection, by_itself: bool, root: &Path) -> Self {
        let started = match why_not(section, by_itself) {
            Some(reason) => Err(reason),
            None => section.start(root).inspect_err(|reason| {
                tracing::error!(
                    reason,
                    "other nodes are neither asked nor served: everything comes from registries"
                );
            }),
        };
        match started {
            Ok(node) => {
                let status = node.status();
                tracing::info!(id = status.id, listen = %status.listen, "taking part among other nodes");
                Peering {
                    node: Mutex::new(Some(Arc::new(node))),
                    reason: None,
                }
            }
            Err(reason) => Peering {
                node: Mutex::default(),
                reason: Some(reason),
            },
        }
    }

    /// For whom layers are opened.
    pub(crate) fn peers(&self) -> Option<Arc<dyn Peers>> {
        let node = self.node();
        node.map(|node| node as Arc<dyn Peers>)
    }

    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        let node = self.node.lock();
        node.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What `pontoon peers` shows.
    pub(crate) fn status(&self) -> Value {
        let Some(node) = self.node() else {
            return json!({ "enabled": false, "reason": self.reason });
        };
        match serde_json::to_value(node.status()) {
            Ok(Value::Object(mut status)) => {
                status.insert("enabled".to_owned(), true.into());
                Value::Object(status)
            }
            _ => Value::Null,
        }
    }

    /// Takes part no more.
    pub(crate) fn stop(&self) {
        let node = self.node.lock();
        // Layers that are open know it too.
        if let Some(node) = node.unwrap_or_else(PoisonError::into_inner).take() {
            node.stop();
        }
    }
}

/// Why this node is not to take part.
fn why_not(section: &PeerSection, by_itself: bool) -> Option<String> {
    let reason = match section.enabled {
        PeerSwitch::Is(true) => return None,
        PeerSwitch::Is(false) => "[peer] enabled is false",
        PeerSwitch::Auto if !by_itself => "[peer] enabled is not true",
        PeerSwitch::Auto if section.bootstrap.is_empty() && !section.mdns => {
            "[peer] has neither bootstrap nor mdns, so no other node can be found"
        }
        PeerSwitch::Auto if section.allow_file.is_empty() && section.cluster_key.is_empty() => {
            "[peer] has neither allow_file nor cluster_key, so no other node would be admitted"
        }
        PeerSwitch::Auto => return None,
    };
    Some(reason.to_owned())
}

impl PeerSection {
    fn start(&self, root: &Path) -> Result<Node, String> {
        let directory = root.join(DIRECTORY);
        let identity = Identity::open(&directory.join("key")).map_err(|error| whole(&error))?;
        let admission = Admission::open(&admission::Config {
            allow_file: path(&self.allow_file),
            cluster_key: match self.cluster_key.as_str() {
                "" => None,
                key => Some(
                    key.parse()
                        .map_err(|error| format!("[peer] cluster_key: {error}"))?,
                ),
            },
            token_file: path(&self.token_file),
        });
        let admission = admission.map_err(|error| whole(&error))?;
        self.check(&admission)?;
        let bootstrap = self.bootstrap.iter().map(|place| {
            let parsed: Result<Bootstrap, _> = place.parse();
            parsed.map_err(|error| format!("[peer] bootstrap: {error}"))
        });
        let settings = Settings {
            discovery: Config {
                bootstrap: bootstrap.collect::<Result<_, String>>()?,
                mdns: self.mdns,
                remembered: Some(directory.join("remembered")),
                secret: self.secret()?,
                ..Config::new(self.listen.0, self.https_listen.0.port())
            },
            https_listen: self.https_listen.0,
            leech: self.leech,
            zone: self.zone.clone(),
            upload_bytes_per_second: self.upload_bytes_per_second.0,
        };
        Node::start(settings, identity, admission).map_err(|error| whole(&error))
    }

    /// What makes no sense, or would let in whom nobody meant.
    fn check(&self, admission: &Admission) -> Result<(), String> {
        let listens = [self.listen.0, self.https_listen.0];
        let is_local = listens.iter().all(|listen| listen.ip().is_loopback());
        if !admission.is_configured() && !is_local {
            // Whoever comes by way of this machine, as through a proxy, would be taken for one of its programs.
            return Err(
                "[peer] has neither allow_file nor cluster_key: set one of them, or have listen and https_listen be loopback addresses"
                    .to_owned(),
            );
        }
        // Others take an answer with anything else in it for a broken node's.
        if self.zone.len() > ZONE_BYTES_MAX || self.zone.chars().any(char::is_control) {
            return Err(format!(
                "[peer] zone {:?}: it has at most {ZONE_BYTES_MAX} bytes, and no control characters",
                self.zone
            ));
        }
        Ok(())
    }

    fn secret(&self) -> Result<Vec<u8>, String> {
        let Some(file) = path(&self.secret_file) else {
            return Ok(Vec::new());
        };
        let failed = |reason: String| format!("[peer] secret_file {}: {reason}", file.display());
        let size = fs::metadata(&file)
            .map_err(|error| failed(error.to_string()))?
            .len();
        if size == 0 || size > SECRET_BYTES_MAX {
            return Err(failed(format!(
                "it has {size} bytes; a secret has 1 to {SECRET_BYTES_MAX}"
            )));
        }
        fs::read(&file).map_err(|error| failed(error.to_string()))
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Address {
        Address("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn nobody_takes_part_unprepared() {
        let mut section = PeerSection::default();
        let root = tempfile::tempdir().unwrap();
        for by_itself in [false, true] {
            let peering = Peering::start(&section, by_itself, root.path());
            assert!(peering.peers().is_none());
            assert_eq!(peering.status()["enabled"], false);
        }
        section.bootstrap = vec!["127.0.0.1:1".to_owned()];
        let why = why_not(&section, true).unwrap();
        assert!(why.contains("admitted"), "{why}");
        section.allow_file = "/some/file".to_owned();
        assert_eq!(why_not(&section, true), None);
        assert!(why_not(&section, false).is_some());
        section.enabled = PeerSwitch::Is(false);
        assert!(why_not(&section, true).is_some());
    }

    #[test]
    fn a_node_keeps_its_key_and_stops() {
        let root = tempfile::tempdir().unwrap();
        let section = PeerSection {
            enabled: PeerSwitch::Is(true),
            listen: loopback(),
            https_listen: loopback(),
            ..PeerSection::default()
        };
        let id = || {
            let peering = Peering::start(&section, false, root.path());
            assert!(peering.peers().is_some(), "{:?}", peering.reason);
            let id = peering.status()["id"].as_str().unwrap().to_owned();
            peering.stop();
            assert!(peering.peers().is_none());
            id
        };
        assert_eq!(id(), id());
    }

    #[test]
    fn what_is_wrong_is_told_and_keeps_nothing_away() {
        let root = tempfile::tempdir().unwrap();
        let good = PeerSection {
            enabled: PeerSwitch::Is(true),
            listen: loopback(),
            https_listen: loopback(),
            ..PeerSection::default()
        };
        for section in [
            PeerSection {
                https_listen: Address("0.0.0.0:0".parse().unwrap()),
                ..good.clone()
            },
            PeerSection {
                zone: "a\nb".to_owned(),
                ..good.clone()
            },
            PeerSection {
                bootstrap: vec!["nonsense".to_owned()],
                ..good.clone()
            },
            PeerSection {
                cluster_key: "nonsense".to_owned(),
                ..good.clone()
            },
            PeerSection {
                secret_file: "/does/not/exist".to_owned(),
                ..good
            },
        ] {
            let peering = Peering::start(&section, true, root.path());
            assert!(peering.peers().is_none());
            let status = peering.status();
            let reason = status["reason"].as_str().unwrap();
            assert!(reason.starts_with("[peer] "), "{reason}");
        }
    }
}
