//! The body of an answer.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::frames::Frames;

/// Chunks do not come any more; the connection is closed, so that it cannot be taken for all of them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BrokenOff(&'static str);

/// What is answered.
pub(super) enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// Piece by piece.
    Pieces(Pin<Box<dyn Stream<Item = Result<Bytes, BrokenOff>> + Send>>),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Whole(bytes) => f.debug_tuple("Whole").field(bytes).finish(),
            Answer::Pieces(_) => f.debug_tuple("Pieces").finish_non_exhaustive(),
        }
    }
}

impl Answer {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Answer {
        Answer::Whole(Some(bytes.into()))
    }

    /// `first`, and what follows it.
    pub(super) fn pieces(first: Bytes, frames: Frames, is_packed: bool, until: Instant) -> Answer {
        let pieces = stream::unfold(
            (Some(first), frames),
            move |(first, mut frames)| async move {
                if let Some(first) = first {
                    return Some((Ok(first), (None, frames)));
                }
                if frames.is_done() {
                    return None;
                }
                if Instant::now() >= until {
                    return Some((Err(BrokenOff("nobody wants it any more")), (None, frames)));
                }
                let next = match is_packed {
                    true => frames.next_packed().await,
                    false => frames.next().await,
                };
                let next = next.map_err(|_| BrokenOff("a chunk cannot be read any more"));
                Some((next, (None, frames)))
            },
        );
        Answer::Pieces(Box::pin(pieces))
    }

    /// A piece that nobody asks for later than this is not sent.
    pub(super) fn until(deadline: Option<Duration>) -> Instant {
        // An hour is as good as never.
        let deadline = deadline.unwrap_or(Duration::MAX);
        Instant::now() + deadline.min(Duration::from_secs(3600))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Answer::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Answer::Pieces(pieces) => {
                let next = pieces.as_mut().poll_next(context);
                next.map(|next| next.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length as u64)
            }
            Answer::Pieces(_) => SizeHint::default(),
        }
    }
}

/// Nothing fails that is answered: what goes wrong is an answer too.
pub(super) type Answered = Result<hyper::Response<Answer>, Infallible>;
