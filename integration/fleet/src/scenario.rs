//! What is simulated.

use std::time::Duration;

use pontoon_peer::policy::Settings;
use serde::Serialize;

/// How much of the policy is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peers {
    /// All of it.
    On,
    /// Nodes ask each other, but nobody waits for what another one is about to have.
    Impatient,
    /// Nodes do not know each other.
    Off,
}

/// Nodes, links, a registry and an image.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What chance makes of it.
    pub seed: u64,
    /// How many nodes start the image.
    pub nodes: u32,
    /// They start within this time, evenly.
    pub spread: Duration,
    /// How much of the policy is at work.
    pub peers: Peers,
    /// The policy's numbers.
    pub settings: Settings,
    /// The chunks of so many other nodes a node knows at every moment.
    pub watched: usize,
    /// Chunks of the image.
    pub chunks: usize,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// So many chunks the program reads, one after the other, until it is ready.
    pub hot: usize,
    /// So long the program works between two reads.
    pub think: Duration,
    /// From the mount of the image to the first read of the program.
    pub boot: Duration,
    /// What is between two nodes, one way: at least, and at most.
    pub latency: (Duration, Duration),
    /// What a node can receive, in bytes a second, and send.
    pub node_bytes_per_second: u64,
    /// What a node gives to others, in bytes a second.
    pub upload_bytes_per_second: u64,
    /// What the registry can send, in bytes a second.
    pub registry_bytes_per_second: u64,
    /// From a request to the registry to its first byte, if it has nothing else to do.
    pub registry_latency: Duration,
    /// The part of nodes that send twenty times slower.
    pub slow: f64,
    /// The part of nodes that send wrong bytes.
    pub liars: f64,
    /// The simulation is given up after so long.
    pub limit: Duration,
}

impl Default for Scenario {
    fn default() -> Scenario {
        let ms = Duration::from_millis;
        Scenario {
            seed: 1,
            nodes: 1000,
            spread: ms(1000),
            peers: Peers::On,
            settings: Settings::default(),
            watched: 16,
            chunks: 128,
            chunk_bytes: 1 << 20,
            hot: 24,
            think: ms(5),
            boot: ms(300),
            latency: (
                ms(0) + Duration::from_micros(100),
                ms(0) + Duration::from_micros(500),
            ),
            // 10 Gbit/s, of which others may have 200 MiB/s.
            node_bytes_per_second: 1_250_000_000,
            upload_bytes_per_second: 200 << 20,
            registry_bytes_per_second: 1_250_000_000,
            registry_latency: ms(30),
            slow: 0.02,
            liars: 0.0,
            limit: Duration::from_secs(4 * 60 * 60),
        }
    }
}

impl Scenario {
    /// The bytes of the image.
    pub fn image_bytes(&self) -> u64 {
        self.chunks as u64 * u64::from(self.chunk_bytes)
    }

    /// The policy's numbers, with as much of it as is at work.
    pub(crate) fn effective(&self) -> Settings {
        let mut settings = self.settings.clone();
        if self.peers == Peers::Impatient {
            settings.demand_patience = Duration::ZERO;
            settings.prefetch_patience = Duration::ZERO;
            settings.second_patience = Duration::ZERO;
            settings.look = (Duration::ZERO, Duration::ZERO);
        }
        settings
    }
}
