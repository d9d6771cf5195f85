//! What a gate can do to a request.

use std::time::Duration;

/// Something that goes wrong at a registry or on the way to it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers by itself; the registry sees nothing.
    Answer {
        /// The status code.
        status: u16,
        /// More headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// Waits before the request goes on.
    Delay(Duration),
    /// Does not answer while the fault is in force; then the request goes on.
    Silent,
    /// Closes the connection (HTTP/2: resets the stream) instead of an answer.
    Refuse,
    /// Ends the connection (HTTP/2: the stream) after that many bytes of the body.
    Cut(u64),
    /// Resets the connection after that many bytes of the body (HTTP/2: ends the stream):
    /// what is on its way then may be lost.
    Reset(u64),
    /// Sends that many bytes of the body, and no more while the fault is in force.
    Stall(u64),
    /// Slows one body down to that many bytes in a second, which come piece by piece.
    Trickle(u64),
    /// Flips a bit of the byte at this offset of the blob, in every answer that has it.
    CorruptByte(u64),
    /// Flips a bit of the first byte of every body.
    CorruptFirst,
    /// Leaves that many bytes off the end of every body, and out of its
    /// `Content-Length`.
    Shorten(u64),
    /// Answers a range with the whole blob and status 200.
    IgnoreRange,
    /// Answers a range with one that begins a byte before it, and says so.
    OtherRange,
    /// The same, but says that it is what was asked for.
    OtherRangeUnsaid,
    /// Answers a range with what was asked for, but says that it begins a byte later.
    FalseRange,
    /// Redirects a blob to an address that is good for this long: it needs no
    /// authorization, and answers 403 afterwards. It has another host name, as storage
    /// beside a registry has.
    Redirect(Duration),
}

impl Fault {
    /// An answer with nothing but a status.
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// An answer that names a time after which to try again, in whole seconds.
    pub fn retry_after(status: u16, seconds: u64) -> Self {
        Self::Answer {
            status,
            headers: vec![("Retry-After".into(), seconds.to_string())],
            body: Vec::new(),
        }
    }
}

/// The link between client and registry. The default is as fast as the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// What each new connection and each request waits for, once.
    pub round_trip: Duration,
    /// What all bodies together get in a second; 0 is no limit.
    pub bytes_per_second: u64,
}

impl Link {
    /// A link of so many megabits per second and milliseconds per round trip.
    pub fn new(megabits_per_second: u64, round_trip_ms: u64) -> Self {
        Self {
            round_trip: Duration::from_millis(round_trip_ms),
            bytes_per_second: megabits_per_second * 1_000_000 / 8,
        }
    }
}
