//! The body of an answer on its way to the client: counted, slowed, cut, corrupted.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame};
use rustix::net::sockopt::set_socket_linger;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::state::Shared;

/// What is paced goes in pieces of this many bytes, ten segments of a network.
const PIECE: usize = 16 * 1024;

/// The end of a body before its time.
#[derive(Debug, thiserror::Error)]
#[error("the gate ends the connection")]
pub(super) struct Ended;

/// A body that another task fills.
#[derive(Debug)]
pub(super) struct Piped {
    frames: mpsc::Receiver<Result<Frame<Bytes>, Ended>>,
    // Whether hyper has taken all there is: then it sends what it has.
    idle: watch::Sender<bool>,
}

impl Body for Piped {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        // In this order: who sees the frame taken must not see the old state.
        self.idle.send_replace(false);
        let polled = self.frames.poll_recv(context);
        if polled.is_pending() {
            self.idle.send_replace(true);
        }
        polled
    }
}

/// What is done to a body.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The connection ends after so many bytes.
    pub(super) cut: Option<u64>,
    /// With that end, the connection is reset: its socket.
    pub(super) reset: Option<Arc<OwnedFd>>,
    /// Nothing comes after so many bytes until the fault is over.
    pub(super) stall: Option<(u64, watch::Receiver<()>)>,
    /// The body ends here, in order.
    pub(super) keep: Option<u64>,
    /// The byte of the body whose lowest bit is flipped.
    pub(super) flip: Option<u64>,
    /// Bytes per second of this body alone.
    pub(super) rate: Option<u64>,
}

/// Hands `body` to the client, by `plan`, and counts it for exchange `number`.
pub(super) fn pipe(
    shared: Arc<Shared>,
    number: usize,
    body: BoxBody<Bytes, hyper::Error>,
    plan: Plan,
) -> Piped {
    let (sender, frames) = mpsc::channel(1);
    let idle = watch::Sender::new(false);
    let pump = Pump {
        idle: idle.subscribe(),
        shared,
        number,
        plan,
        sent: 0,
        sender,
    };
    tokio::spawn(pump.run(body));
    Piped { frames, idle }
}

/// Whether a body goes on.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    Complete,
    Stopped,
}

struct Pump {
    shared: Arc<Shared>,
    number: usize,
    plan: Plan,
    sent: u64,
    sender: mpsc::Sender<Result<Frame<Bytes>, Ended>>,
    idle: watch::Receiver<bool>,
}

impl Pump {
    async fn run(mut self, mut body: BoxBody<Bytes, hyper::Error>) {
        let mut next = self.boundary().await;
        while next == Next::More {
            next = match body.frame().await {
                None => Next::Complete,
                Some(Err(_)) => {
                    // The client sees the connection end, as it would have without us.
                    self.end().await;
                    Next::Stopped
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data(data).await,
                    Err(_) => Next::More,
                },
            };
        }
        if next == Next::Complete {
            self.shared
                .note(self.number, |exchange| exchange.complete = true);
        }
    }

    /// Ends the connection once what was sent before is on its way: hyper throws away
    /// what it has not written when a body fails.
    async fn end(&mut self) {
        let Ok(place) = self.sender.reserve().await else {
            return;
        };
        if self.idle.wait_for(|idle| *idle).await.is_ok() {
            place.send(Err(Ended));
        }
    }

    async fn data(&mut self, mut data: Bytes) -> Next {
        while !data.is_empty() {
            let mut piece = data.split_to(self.piece(data.len()));
            if let Some(at) = self.plan.flip.and_then(|at| at.checked_sub(self.sent))
                && at < piece.len() as u64
            {
                let mut bytes = piece.to_vec();
                bytes[at as usize] ^= 1;
                piece = bytes.into();
            }
            let length = piece.len();
            self.wait(length).await;
            if self.sender.send(Ok(Frame::data(piece))).await.is_err() {
                return Next::Stopped;
            }
            self.sent += length as u64;
            self.shared
                .note(self.number, |exchange| exchange.bytes += length as u64);
            let next = self.boundary().await;
            if next != Next::More {
                return next;
            }
        }
        Next::More
    }

    /// How much of `available` bytes goes next: not over a boundary of the plan.
    fn piece(&self, available: usize) -> usize {
        let stall = self.plan.stall.as_ref().map(|(at, _)| *at);
        let boundaries = [self.plan.cut, self.plan.keep, stall].into_iter().flatten();
        let ahead = boundaries.filter_map(|at| at.checked_sub(self.sent));
        let nearest = ahead.filter(|left| *left > 0).min().unwrap_or(u64::MAX);
        let most = match self.plan.rate {
            // Ten pieces a second, however slow it is.
            Some(rate) => (rate / 10).clamp(1, PIECE as u64) as usize,
            None if self.shared.link().bytes_per_second > 0 => PIECE,
            None => usize::MAX,
        };
        available
            .min(most)
            .min(usize::try_from(nearest).unwrap_or(usize::MAX))
    }

    /// Waits until the link and this body's own rate have carried `length` more bytes.
    async fn wait(&mut self, length: usize) {
        self.shared.thawed().await;
        if let Some(at) = self.shared.reserve(length) {
            sleep_until(at.into()).await;
        }
        if let Some(rate) = self.plan.rate {
            let takes = Duration::from_secs_f64(length as f64 / rate.max(1) as f64);
            sleep_until((Instant::now() + takes).into()).await;
        }
    }

    /// Does what the plan says of the place that the body is at.
    async fn boundary(&mut self) -> Next {
        if let Some((_, over)) = self.plan.stall.take_if(|(at, _)| *at == self.sent) {
            super::serve::until_over(over).await;
        }
        if self.plan.cut == Some(self.sent) {
            if let Some(socket) = self.plan.reset.take() {
                // How the kernel closes what has no time to linger (socket(7)).
                let _ = set_socket_linger(&*socket, Some(Duration::ZERO));
            }
            self.end().await;
            return Next::Stopped;
        }
        if self.plan.keep == Some(self.sent) {
            return Next::Complete;
        }
        Next::More
    }
}
