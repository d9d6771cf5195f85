//! A blob somewhere else, read by ranges. Registries give them; peers will too.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pontoon_layer::Digest;

use crate::error::Result;

/// A future that can be stored and sent.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who waits for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// A program does. Never waits behind what nobody waits for.
    Demand,
    /// Nobody yet.
    Background,
}

/// A blob that somebody else has, of which any part can be read. Its bytes are not verified: the reader knows the
/// digests of parts, or checks the whole.
pub trait Blob: Send + Sync + fmt::Debug {
    /// What it is called.
    fn digest(&self) -> &Digest;

    /// Its size in bytes, as its descriptor says.
    fn size(&self) -> u64;

    /// The bytes of `range`, all of them. Many may be read at the same time; dropping the future gives up.
    ///
    /// Transfers that break off are resumed, elsewhere if there is an elsewhere. `TooLarge` for ranges beyond
    /// [`READ_BYTES_MAX`] and beyond the end of the blob.
    fn read(&self, range: Range<u64>, urgency: Urgency) -> BoxFuture<'_, Result<Bytes>>;

    /// The bytes of `range` as they come, for what is too large to hold in memory, such as a whole layer.
    fn stream(&self, range: Range<u64>, urgency: Urgency) -> Box<dyn ByteStream>;

    /// What came of `range` did not have its digest. Whoever delivered it is not asked again for this blob for a
    /// while, if there is somebody else, which is the answer: then it is worth while to read it again.
    fn report_damage(&self, range: Range<u64>) -> bool {
        let _ = range;
        false
    }

    /// When those who may be asked for this blob last gave anything to anybody. Who has waited for longer than he
    /// likes, and knows that others are served, stands in a queue and may wait on.
    fn last_progress(&self) -> Option<Instant> {
        None
    }

    /// How fast the way to whoever is asked first for this blob is, measured lately. `None` if nobody knows yet.
    fn pace(&self) -> Option<Pace> {
        None
    }
}

/// How fast a way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From a request to the first byte of its answer, when nothing is in the way.
    pub round_trip: Duration,
    /// What comes while something comes.
    pub bytes_per_second: u64,
}

impl Pace {
    /// The bytes that are on their way at any moment when the way is used up, times `times`.
    pub fn window_bytes(&self, times: u32) -> u64 {
        let nanoseconds = self.round_trip.as_nanos().saturating_mul(times.into());
        let bytes = nanoseconds.saturating_mul(self.bytes_per_second.into()) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The most bytes that one [`Blob::read`] gives.
pub const READ_BYTES_MAX: u64 = 256 << 20;

/// Bytes that come one piece after the other.
pub trait ByteStream: Send + fmt::Debug {
    /// The next piece, never empty; `None` when everything that was asked for has come. Nothing comes after an error.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>>;
}
