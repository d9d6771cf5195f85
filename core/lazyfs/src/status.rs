//! What is told about a layer, and what is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::Error;

/// How far a layer is, and what went wrong.
#[derive(Debug, Clone)]
pub struct Status {
    /// Bytes of the layer's files.
    pub bytes: u64,
    /// How many of them are here.
    pub local_bytes: u64,
    /// The same in percent; 100 only if everything is here.
    pub percent: f64,
    /// Bytes of the layer's blob.
    pub blob_bytes: u64,
    /// What is doing in the background.
    pub background: BackgroundState,
    /// The last failure, also if it is over.
    pub last_error: Option<LastError>,
    /// What was counted since the layer was opened.
    pub counted: Counted,
}

/// A failure.
#[derive(Debug, Clone)]
pub struct LastError {
    /// When.
    pub when: SystemTime,
    /// What.
    pub error: Error,
}

/// What is doing in the background for a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackgroundState {
    /// Nothing was asked for, or it is switched off.
    Idle,
    /// Chunks are being fetched ahead, or wait for their turn.
    Running,
    /// The cache admits nothing more until there is space.
    NoSpace,
    /// The registry fails; it is tried again after a while.
    Failing,
    /// Everything that was asked for has been tried.
    Done,
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What was counted. Only grows.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counted {
            $($(#[$doc])+ pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn counted(&self) -> Counted {
                Counted { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Reads that found all their bytes here.
    ready_reads,
    /// Reads that had to wait for bytes.
    waited_reads,
    /// Reads that failed.
    failed_reads,
    /// Requests that somebody waited for when they were made.
    demand_requests,
    /// Requests for nobody yet.
    background_requests,
    /// Bytes that came, compressed, unwanted ones in gaps included.
    fetched_bytes,
    /// Chunks that were here already, in another layer or elsewhere in the same one, and were taken from there.
    taken_chunks,
    /// Their bytes.
    taken_bytes,
    /// Chunks that came from other nodes.
    peer_chunks,
    /// Their bytes.
    peer_bytes,
    /// Members that the registry was asked for too, because other nodes that have them were late.
    late_peers,
    /// Members inflated.
    inflated_members,
    /// Members that had wrong bytes, each time.
    wrong_members,
    /// Requests that failed and were made again.
    retries,
    /// Chunks that could not be stored and were answered from memory.
    unstored_chunks,
}

/// The share of `local` in `all`, in percent; 100 only if it is everything.
pub(crate) fn percent(local: u64, all: u64) -> f64 {
    if local >= all {
        return 100.0;
    }
    // Two decimals, rounded down.
    (u128::from(local) * 10_000 / u128::from(all)) as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn only_everything_is_a_hundred_percent() {
        assert_eq!(percent(0, 0), 100.0);
        assert_eq!(percent(0, 3), 0.0);
        assert_eq!(percent(1, 3), 33.33);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99.99);
        assert_eq!(percent(7, 7), 100.0);
    }
}
