//! The numbers of all decisions.

use std::time::Duration;

/// How patient, how careful and how greedy a node is.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Bytes of one request that somebody waits for, at most, unless one chunk is longer.
    pub demand_bytes_max: u64,
    /// Bytes of one request that nobody waits for.
    pub prefetch_bytes_max: u64,
    /// Requests under way that somebody waits for.
    pub demand_asks_max: usize,
    /// Requests under way that nobody waits for.
    pub prefetch_asks_max: usize,
    /// Requests under way to one node. It would refuse more.
    pub peer_asks_max: usize,
    /// Of these, requests that nobody waits for.
    pub peer_prefetch_max: usize,
    /// Bytes of data for which the same nodes ask the registry.
    pub extent_bytes: u64,
    /// How long what somebody waits for is not asked of the registry because another node is about to have it.
    pub demand_patience: Duration,
    /// The same for what nobody waits for.
    pub prefetch_patience: Duration,
    /// So long the second of the two nodes that ask the registry gives the first.
    pub second_patience: Duration,
    /// How long after the first other node was found the registry is not asked, because nobody has told yet what it has: while
    /// somebody waits, and while nobody does.
    pub look: (Duration, Duration),
    /// A node that got nothing new for so long is not about to have anything.
    pub growing: Duration,
    /// Bounds for how long a request goes on before a second node is asked.
    pub hedge_peer: (Duration, Duration),
    /// Bounds for how long a request goes on before the registry is asked.
    pub hedge_registry: (Duration, Duration),
    /// So many answers have to come before they tell how long answers take.
    pub hedge_samples: u64,
    /// The part of requests that may be made a second time.
    pub hedge_requests: f64,
    /// The part of bytes that may be asked for a second time.
    pub hedge_bytes: f64,
    /// When nothing came of a request for so long, somebody else is asked whatever it costs.
    pub patience: Duration,
    /// The first ban of a node.
    pub ban_first: Duration,
    /// The longest ban.
    pub ban_most: Duration,
    /// Nodes whose bans are remembered.
    pub bans_kept: usize,
    /// More bans in a minute turn all nodes off.
    pub bans_a_minute: usize,
    /// For so long.
    pub off: Duration,
    /// So many failures of a kind in a row that a node may have once, but not again and again, are a ban.
    pub strikes: u32,
    /// How long a node is left alone after a failure; each one more in a row doubles it.
    pub pause_first: Duration,
    /// And at most.
    pub pause_most: Duration,
    /// How long a node is left alone that does not serve this one.
    pub refused_pause: Duration,
    /// Nodes of one layer that are known.
    pub members_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        let ms = Duration::from_millis;
        Settings {
            demand_bytes_max: 1 << 20,
            prefetch_bytes_max: 4 << 20,
            demand_asks_max: 64,
            prefetch_asks_max: 8,
            peer_asks_max: 6,
            peer_prefetch_max: 2,
            extent_bytes: 8 << 20,
            demand_patience: ms(150),
            prefetch_patience: ms(2000),
            second_patience: ms(75),
            look: (ms(100), ms(400)),
            growing: ms(1000),
            hedge_peer: (ms(3), ms(50)),
            hedge_registry: (ms(100), ms(300)),
            hedge_samples: 50,
            hedge_requests: 0.05,
            hedge_bytes: 0.10,
            patience: ms(1000),
            ban_first: Duration::from_secs(10 * 60),
            ban_most: Duration::from_secs(24 * 60 * 60),
            bans_kept: 4096,
            bans_a_minute: 3,
            off: Duration::from_secs(5 * 60),
            strikes: 5,
            pause_first: ms(500),
            pause_most: Duration::from_secs(60),
            refused_pause: Duration::from_secs(60),
            members_max: 1024,
        }
    }
}
