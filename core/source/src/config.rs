//! How patient the client is, and where it finds what operators say about hosts.

use std::path::PathBuf;
use std::time::Duration;

use crate::dragonfly::Dragonfly;
use crate::manifest::Platform;

/// Settings of a [`Registry`](crate::Registry). The defaults suit a node on a network.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories of containerd's `config_path` form (`HOST_PORT_/hosts.toml`, `_default/hosts.toml`); the first
    /// that knows a host wins.
    pub hosts_directories: Vec<PathBuf>,
    /// The dfdaemon of Dragonfly through which blobs are fetched, if there is one.
    pub dragonfly: Dragonfly,
    /// Which manifest of an index is ours.
    pub platform: Platform,
    /// How long connecting and the TLS handshake may take together. `dial_timeout` of a hosts.toml wins.
    pub connect_timeout: Duration,
    /// A transfer, or an answer, that gives next to nothing for this long is given up and resumed.
    pub stall_timeout: Duration,
    /// How long somebody waits without getting anything, with all tries, before the error is told.
    pub patience: Duration,
    /// Tries without progress before the error is told, each at every host that may have the thing.
    pub attempts: u32,
    /// The wait before the second try; it doubles from there, and is random between half and whole.
    pub backoff: Duration,
    /// The longest wait between tries, and the longest `Retry-After` that is waited for.
    pub backoff_max: Duration,
    /// Requests for blobs in flight per host that somebody waits for.
    pub demand_per_host: usize,
    /// Requests for blobs in flight per host that nobody waits for, on top of those.
    pub background_per_host: usize,
    /// How long the target of a redirect is used before it is asked for again. It is also when it stops working.
    pub redirect_lifetime: Duration,
    /// How long hosts.toml is believed before it is looked at again.
    pub hosts_lifetime: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hosts_directories: Vec::new(),
            dragonfly: Dragonfly::default(),
            platform: Platform::host(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(60),
            attempts: 6,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            demand_per_host: 64,
            background_per_host: 16,
            redirect_lifetime: Duration::from_secs(300),
            hosts_lifetime: Duration::from_secs(30),
        }
    }
}
