//! Several nodes of one machine, each with a network namespace, a containerd and a plugin of its own, and one registry.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::cluster::{self, Cluster};
use crate::containerd::Version;
use crate::error::{At, Error, Result};
use crate::gate::Link;
use crate::http::get_unix;
use crate::network::Network;
use crate::plugin::Kind;
use crate::sandbox::Sandbox;
use crate::site::{self, Site};

/// How a fleet is started.
#[derive(Debug)]
pub struct Setup {
    /// How many nodes there are.
    pub nodes: usize,
    /// Which containerd.
    pub version: Version,
    /// The plugin.
    pub kind: Kind,
    /// Its configuration, beside where registries and other nodes are.
    pub config: String,
    /// The link of the registry, which all nodes share.
    pub link: Link,
    /// What each node is sent at most.
    pub mbit_per_second: Option<u32>,
    /// The plugin's log level.
    pub log_level: &'static str,
}

/// Running nodes. Those that are `None` were stopped, or not yet started.
#[derive(Debug)]
pub struct Fleet {
    setup: Setup,
    nodes: Vec<Option<Cluster>>,
    /// The registry.
    pub site: Site,
    network: Network,
    sandbox: Sandbox,
}

/// The ports of a node, by which others know it.
const PEER_PORT: u16 = 7001;

impl Fleet {
    /// Starts the registry, and no node yet.
    pub fn new(setup: Setup) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let network = Network::new(&sandbox, setup.nodes, setup.mbit_per_second)?;
        let site = Site::start(
            &sandbox,
            site::Setup {
                address: Some(IpAddr::V4(network.address())),
                ..site::Setup::default()
            },
        )?;
        site.gate.link(setup.link);
        let nodes = (0..setup.nodes).map(|_| None).collect();
        Ok(Self {
            setup,
            nodes,
            site,
            network,
            sandbox,
        })
    }

    /// Starts the registry and all nodes.
    pub fn start(setup: Setup) -> Result<Self> {
        let mut fleet = Self::new(setup)?;
        for node in 0..fleet.setup.nodes {
            fleet.start_node(node)?;
        }
        Ok(fleet)
    }

    /// Starts a node.
    pub fn start_node(&mut self, node: usize) -> Result<()> {
        let mut setup = cluster::Setup::lazy(self.setup.version, "");
        setup.plugin.kind = self.setup.kind.clone();
        setup.plugin.config = self.configuration(node)?;
        setup.plugin.log_level = self.setup.log_level;
        setup.namespace = Some(self.network.namespace(node));
        let cluster = Cluster::start_in(Sandbox::new()?, setup)?;
        let told = self.peers(node)?;
        self.nodes[node] = Some(cluster);
        let id = told.get("id").and_then(Value::as_str).unwrap_or_default();
        self.admit(id)
    }

    /// Has all nodes let in the one that calls itself `id`.
    fn admit(&self, id: &str) -> Result<()> {
        let path = self.sandbox.path("admitted");
        let mut admitted = fs::read_to_string(&path).unwrap_or_default();
        if !admitted.lines().any(|line| line == id) {
            admitted.push_str(id);
            admitted.push('\n');
        }
        // Nobody reads half of it.
        let new = self.sandbox.path("admitted.new");
        fs::write(&new, admitted).at("write", &new)?;
        fs::rename(&new, &path).at("write", &path)
    }

    /// What a node tells of itself and of the others.
    pub fn peers(&self, node: usize) -> Result<Value> {
        self.ask(node, "/peers")
    }

    /// A number among a node's metrics; 0 if it is not there.
    pub fn metric(&self, node: usize, name: &str) -> Result<u64> {
        let answer = get_unix(&self.admin(node), "/metrics")?.expect("the metrics", 200)?;
        let text = String::from_utf8_lossy(&answer.body);
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.strip_prefix("{}")
                .unwrap_or(rest)
                .strip_prefix(' ')?
                .parse()
                .ok()
        };
        Ok(text.lines().find_map(value).unwrap_or(0))
    }

    fn ask(&self, node: usize, path: &str) -> Result<Value> {
        let answer = get_unix(&self.admin(node), path)?.expect(path, 200)?;
        let parsed = serde_json::from_slice(&answer.body);
        parsed.map_err(|error| {
            Error::unexpected(format!("the answer of node {node}"), error.to_string())
        })
    }

    fn admin(&self, node: usize) -> PathBuf {
        self.sandbox.path(&format!("{node}.sock"))
    }

    /// A directory for what is not a node's.
    pub fn subdir(&self, relative: &str) -> Result<PathBuf> {
        self.sandbox.subdir(relative)
    }

    /// A node.
    pub fn node(&self, node: usize) -> Result<&Cluster> {
        let cluster = self.nodes.get(node).and_then(Option::as_ref);
        cluster.ok_or_else(|| Error::unexpected(format!("node {node}"), "it is not running"))
    }

    /// A node, to be stopped or killed.
    pub fn node_mut(&mut self, node: usize) -> Result<&mut Cluster> {
        let cluster = self.nodes.get_mut(node).and_then(Option::as_mut);
        cluster.ok_or_else(|| Error::unexpected(format!("node {node}"), "it is not running"))
    }

    /// The nodes that run.
    pub fn nodes(&self) -> impl Iterator<Item = &Cluster> {
        self.nodes.iter().flatten()
    }

    fn configuration(&self, node: usize) -> Result<String> {
        let address = self.network.node_address(node);
        let others = (0..self.setup.nodes).filter(|other| *other != node);
        let others = others.map(|other| self.network.node_address(other));
        let bootstrap: Vec<String> = others.map(|other| format!("{other}:{PEER_PORT}")).collect();
        let admitted = self.sandbox.path("admitted");
        if !admitted.exists() {
            fs::write(&admitted, "").at("write", &admitted)?;
        }
        let hosts = self.site.hosts_dir();
        let admin = self.admin(node);
        Ok(format!(
            "{}\n[admin]\naddress = {admin:?}\n[registry]\nconfig_path = {hosts:?}\n[peer]\nenabled = true\nlisten = \"{address}:{PEER_PORT}\"\nhttps_listen = \"{address}:7002\"\nbootstrap = {bootstrap:?}\nallow_file = {admitted:?}\n",
            self.setup.config
        ))
    }
}
