//! List: a walk that goes no faster than its client reads.
//!
//! The thread that walks also encodes: an info is made of a dozen pieces of memory, and two threads that make and free
//! them for each other wait for the heap's lock more than they work.

mod encoded;

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use pontoon_proto::convert;
use pontoon_snapshot::{Error, Filter, Info, Result, Snapshotter};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::{Call, stopping};

pub(crate) use encoded::{PATH, serve};

/// Infos in one message, as containerd has it.
const BATCH_INFOS: usize = 100;

/// A message is sent when it has this many bytes: far below the 16 MiB that clients accept, though one info may have
/// labels of 256 KiB.
const BATCH_BYTES: usize = 1024 * 1024;

/// Messages that are ready before the client asks, so that the threads of the walk and of the socket need not take turns
/// message by message.
const BATCHES_AHEAD: usize = 4;

/// How long one List may take: it holds a place and a version of the database. 10,000 snapshots take 20 ms.
pub(super) const LIST_TIME_MAX: Duration = Duration::from_secs(60);

/// What stands before each info in a `ListSnapshotsResponse`: the tag of field 1, a message with its length.
const INFO_TAG: u8 = 1 << 3 | 2;

/// The encoded messages of one List, and how it ended: a walk that broke off is an error, never a shorter list.
#[derive(Debug)]
pub(crate) struct Batches {
    batches: mpsc::Receiver<Bytes>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
}

/// Starts the walk on a blocking thread; it is given up after `time_max`.
pub(super) fn start(call: Call, filters: Vec<String>, time_max: Duration) -> Batches {
    let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
    let (ended, end) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let outcome = call.finish(|keyspace| walk(keyspace, &filters, sender, time_max));
        // The client may be gone, which is no news.
        let _ = ended.send(outcome);
    });
    Batches {
        batches,
        end: Some(end),
    }
}

impl Stream for Batches {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = ready!(self.batches.poll_recv(context)) {
            return Poll::Ready(Some(Ok(batch)));
        }
        let Some(end) = &mut self.end else {
            return Poll::Ready(None);
        };
        let outcome = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(match outcome {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_cut_off) => Some(Err(stopping())),
        })
    }
}

fn walk(
    keyspace: &dyn Snapshotter,
    filters: &[String],
    sender: mpsc::Sender<Bytes>,
    time_max: Duration,
) -> Result<()> {
    let filter = Filter::parse(filters)?;
    let mut packer = Packer {
        sender,
        deadline: Instant::now() + time_max,
        infos: 0,
        message: Vec::new(),
        end: Ok(()),
    };
    keyspace.walk(&filter, &mut |info| packer.add(info))?;
    if packer.end.is_ok() && packer.infos > 0 {
        let _ = packer.send();
    }
    packer.end
}

/// Packs infos into messages.
struct Packer {
    sender: mpsc::Sender<Bytes>,
    deadline: Instant,
    infos: usize,
    message: Vec<u8>,
    end: Result<()>,
}

impl Packer {
    fn add(&mut self, info: Info) -> ControlFlow<()> {
        self.message.push(INFO_TAG);
        convert::info(info)
            .encode_length_delimited(&mut self.message)
            .expect("a Vec has room for everything");
        self.infos += 1;
        if self.infos < BATCH_INFOS && self.message.len() < BATCH_BYTES {
            return ControlFlow::Continue(());
        }
        self.send()
    }

    /// Hands the message over as soon as the client has read enough of those before.
    fn send(&mut self) -> ControlFlow<()> {
        // The next message is about as long.
        let next = Vec::with_capacity(self.message.len());
        let message = Bytes::from(std::mem::replace(&mut self.message, next));
        self.infos = 0;
        let sent = self.sender.send(message);
        match Handle::current().block_on(tokio::time::timeout_at(self.deadline, sent)) {
            Ok(Ok(())) => ControlFlow::Continue(()),
            Ok(Err(_client_gone)) => ControlFlow::Break(()),
            Err(_too_late) => {
                self.end = Err(Error::Unavailable {
                    operation: "list".to_owned(),
                    reason: "the client did not read it in time; try again".to_owned(),
                });
                ControlFlow::Break(())
            }
        }
    }
}
