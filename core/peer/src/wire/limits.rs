//! What others may take of this node.

use std::time::Duration;

/// The most that others may have of anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one node.
    pub peer_connections: usize,
    /// Connections of one address that have not shown yet whose they are.
    pub strangers: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// Bytes of the headers of a request.
    pub header_bytes: usize,
    /// Answers with chunks under way in all.
    pub uploads: usize,
    /// Answers with chunks under way to one node.
    pub peer_uploads: usize,
    /// Requests for chunks that wait for others to be answered.
    pub queued: usize,
    /// Of these, requests of one node.
    pub peer_queued: usize,
    /// Bytes of one answer, unless one chunk has more.
    pub answer_bytes: u64,
    /// Bytes a second to all nodes together.
    pub bytes_per_second: Option<u64>,
    /// Who takes less in a second, in bytes, is given up after [`Limits::grace`].
    pub slowest: u64,
    /// How much longer than that an answer may take.
    pub grace: Duration,
    /// Questions for changes that wait for one.
    pub parked: usize,
    /// Of these, questions of one node.
    pub peer_parked: usize,
    /// How long such a question waits.
    pub park: Duration,
    /// Changes within so long are told at once.
    pub gather: Duration,
    /// How long a connection stays without a request.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            peer_connections: 32,
            strangers: 16,
            handshake: Duration::from_secs(3),
            header_bytes: 16 << 10,
            uploads: 64,
            peer_uploads: 8,
            queued: 256,
            peer_queued: 16,
            answer_bytes: 16 << 20,
            bytes_per_second: None,
            slowest: 64 << 10,
            grace: Duration::from_secs(5),
            parked: 128,
            peer_parked: 16,
            park: Duration::from_secs(30),
            gather: Duration::from_millis(20),
            idle: Duration::from_secs(90),
        }
    }
}
