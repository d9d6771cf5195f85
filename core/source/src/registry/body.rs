//! Bodies of answers: bounded, and given up when next to nothing comes.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::failure;
use crate::error::{Error, Result};

/// Bytes that must come while we wait as long as a stall lasts; who sends less is not sending.
const TRICKLE: u64 = 4 << 10;

/// How much of an unwanted body is read so that its connection can be used again, and for how long.
const DRAIN_BYTES_MAX: u64 = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A body that is being read.
#[derive(Debug)]
pub(crate) struct Body {
    response: Response,
    host: String,
    object: String,
    stall: Duration,
    /// How long we waited, and what came, since the clock was set.
    waited: Duration,
    came: u64,
}

impl Body {
    pub(crate) fn new(response: Response, host: &str, object: &str, stall: Duration) -> Self {
        Body {
            response,
            host: host.to_owned(),
            object: object.to_owned(),
            stall,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// The next piece, never empty; `None` at the end. The time between calls does not count.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.waited >= self.stall {
                if self.came < TRICKLE {
                    let seconds = self.stall.as_secs_f32();
                    let reason = format!("next to nothing came for {seconds} s");
                    return Err(failure::unavailable(&self.host, &self.object, reason));
                }
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            let started = Instant::now();
            let left = self.stall - self.waited;
            let piece = tokio::time::timeout(left, self.response.chunk()).await;
            match piece {
                Err(_) => self.waited = self.stall,
                Ok(Err(error)) => {
                    return Err(failure::transport(&self.host, &self.object, error));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(piece))) => {
                    self.waited += started.elapsed();
                    self.came += piece.len() as u64;
                    if !piece.is_empty() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

impl Body {
    /// Nothing more is wanted. If there is nothing more either, its connection can be used again.
    pub(crate) async fn end(&mut self) {
        let _ = tokio::time::timeout(Duration::ZERO, self.response.chunk()).await;
    }
}

/// All of a body that must not be larger than `bytes_max`.
pub(crate) async fn whole(
    response: Response,
    host: &str,
    object: &str,
    bytes_max: u64,
    stall: Duration,
) -> Result<Bytes> {
    let too_large = || Error::TooLarge {
        object: object.to_owned(),
        limit: bytes_max,
        unit: "bytes",
    };
    let announced = response.content_length();
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let mut body = Body::new(response, host, object, stall);
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await? {
        if bytes.len() as u64 + piece.len() as u64 > bytes_max {
            return Err(too_large());
        }
        if bytes.is_empty() && Some(piece.len() as u64) == announced {
            return Ok(piece);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// The beginning of a body that says why something failed; reads it to its end if that is near.
pub(crate) async fn excerpt(mut response: Response) -> Bytes {
    let mut bytes = BytesMut::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
    bytes.freeze()
}
