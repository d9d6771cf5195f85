//! How layers are fetched.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How layers are fetched: one setting for all layers of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a read waits for a registry that does not answer, before it fails with EIO. `[registry] patience`.
    pub patience: Duration,
    /// A read that misses has so many bytes of the blob fetched from there on, if small members lie there and as long as
    /// nobody has measured how fast the way to the registry is: less would leave it idle for as long as a round trip
    /// takes. Later it is twice bandwidth times round trip; and up to eight times more for who reads on and on.
    pub along_bytes: u64,
    /// What is measured counts within these bounds, in bytes.
    pub window_bytes: RangeInclusive<u64>,
    /// So many bytes of the blob that nobody wants are fetched along rather than asking twice.
    pub gap_bytes_max: u64,
    /// The most bytes of one request, unless a single member is larger.
    pub request_bytes_max: u64,
    /// Compressed bytes, fetched and not yet inflated, of all layers; a single member may be larger. A third of it
    /// is for what nobody waits for.
    pub memory_bytes_max: u64,
    /// Members inflated at the same time. 0: as many as there are processors.
    pub inflaters: usize,
    /// What is fetched before anybody asks for it.
    pub background: BackgroundConfig,
}

/// What is fetched before anybody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundConfig {
    /// Whether anything is. What a layer's landmark names always is.
    pub enabled: bool,
    /// At most so many bytes a second, of all layers. 0: as fast as they come.
    pub bytes_per_second: u64,
    /// Requests at the same time, of all layers. There are fewer as a rule: no more is asked for than the way to the
    /// registry holds.
    pub requests: usize,
    /// The most bytes of one request.
    pub request_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            patience: Duration::from_secs(60),
            along_bytes: 512 << 10,
            window_bytes: 256 << 10..=4 << 20,
            gap_bytes_max: 64 << 10,
            request_bytes_max: 4 << 20,
            memory_bytes_max: 24 << 20,
            inflaters: 0,
            background: BackgroundConfig::default(),
        }
    }
}

impl Default for BackgroundConfig {
    fn default() -> Self {
        BackgroundConfig {
            enabled: true,
            bytes_per_second: 0,
            requests: 16,
            request_bytes: 1 << 20,
        }
    }
}

impl Config {
    pub(crate) fn inflaters(&self) -> usize {
        match self.inflaters {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            inflaters => inflaters,
        }
    }
}
