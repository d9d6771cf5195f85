//! A network of its own for several nodes of one machine: a bridge, and for each node a network namespace behind a link.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::command::run;
use crate::error::Result;
use crate::sandbox::Sandbox;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Where `ip netns` keeps namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";

/// A bridge with a namespace for each node. Dropping it takes all of it down; what a killed run has left is taken down when
/// the next one is made.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The second and third byte of all its addresses.
    number: (u8, u8),
    nodes: usize,
}

impl Network {
    /// A network for `nodes` nodes, each of which is sent `mbit_per_second` at most; without it as fast as the machine can.
    pub fn new(sandbox: &Sandbox, nodes: usize, mbit_per_second: Option<u32>) -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        sweep();
        let seed = std::process::id().wrapping_mul(7);
        let network = Self {
            name: sandbox.name().to_owned(),
            number: (
                64 + (seed % 128) as u8,
                (seed / 128 % 200) as u8 + NEXT.fetch_add(1, Ordering::Relaxed) % 50,
            ),
            nodes,
        };
        let (bridge, address) = (network.bridge(), network.address());
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{address}/24"), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for node in 0..nodes {
            network.add(node, mbit_per_second)?;
        }
        Ok(network)
    }

    fn add(&self, node: usize, mbit_per_second: Option<u32>) -> Result<()> {
        let (name, link) = (self.namespace(node), self.link(node));
        let address = format!("{}/24", self.node_address(node));
        ip(&["netns", "add", &name])?;
        let pair = ["link", "add", &link, "type", "veth", "peer", "name", "eth0"];
        ip(&[&pair[..], &["netns", &name]].concat())?;
        ip(&["link", "set", &link, "master", &self.bridge(), "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        if let Some(rate) = mbit_per_second {
            let rate = format!("{rate}mbit");
            let shape = ["tbf", "rate", &rate, "burst", "256kb", "latency", "50ms"];
            let mut command = Command::new("tc");
            command.args(["qdisc", "add", "dev", &link, "root"]);
            run(command.args(shape), LIMIT)?;
        }
        Ok(())
    }

    /// The machine's own address on it.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number.0, self.number.1, 1)
    }

    /// The address of a node, counted from 0.
    pub fn node_address(&self, node: usize) -> Ipv4Addr {
        // There are no more than a few.
        let last = u8::try_from(node + 2).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, self.number.0, self.number.1, last)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.name)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn link(&self, node: usize) -> String {
        format!("{}v{node}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _ = ip(&["link", "del", &self.link(node)]);
            let _ = ip(&["netns", "del", &self.namespace(node)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

/// A command that runs `program` in a network namespace, if one is named. The process is that of the program itself.
pub fn inside(namespace: Option<&str>, program: &Path) -> Command {
    match namespace {
        None => Command::new(program),
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={NAMESPACES}/{name}"));
            command.arg("--").arg(program);
            command
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments), LIMIT).map(drop)
}

/// Takes down what runs have left that are over.
fn sweep() {
    for name in names(NAMESPACES) {
        if is_left(&name) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
    for name in names("/sys/class/net") {
        if is_left(&name) {
            let _ = ip(&["link", "del", &name]);
        }
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.collect()
}

/// Whether `name` is of a sandbox (`pt<process>-<number>`) whose process is gone.
fn is_left(name: &str) -> bool {
    let Some((process, _)) = name
        .strip_prefix("pt")
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !Path::new("/proc").join(process).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_reach_each_other_and_nothing_is_left() {
        let sandbox = Sandbox::new().unwrap();
        let network = Network::new(&sandbox, 2, Some(1000)).unwrap();
        let (first, second) = (network.namespace(0), network.node_address(1).to_string());
        let mut ping = inside(Some(&first), Path::new("python3"));
        // Nobody listens there, but somebody says so.
        let script = "import socket, sys\ns = socket.socket()\ns.settimeout(5)\nsys.exit(s.connect_ex((sys.argv[1], 9)) != 111)";
        run(ping.args(["-c", script, &second]), LIMIT).unwrap();
        let prefix = sandbox.name().to_owned();
        drop(network);
        let mut left = names(NAMESPACES);
        left.extend(names("/sys/class/net"));
        left.retain(|name| name.starts_with(&prefix));
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn only_what_sandboxes_have_left_is_taken_down() {
        assert!(is_left("pt99999999-0b"));
        assert!(!is_left(&format!("pt{}-0n1", std::process::id())));
        for name in ["eth0", "pt-0", "ptx-0", "point-to-point", "lo"] {
            assert!(!is_left(name), "{name}");
        }
    }
}
