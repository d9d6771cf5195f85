//! List: a walk that goes no faster than its client reads.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pontoon_proto::convert;
use pontoon_proto::snapshots as v1;
use pontoon_snapshot::{Error, Filter, Info, Result, Snapshotter};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::{Call, stopping};

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

/// The messages of one List, and how it ended: a walk that broke off is an error, never a shorter list.
#[derive(Debug)]
pub(crate) struct Batches {
    batches: mpsc::Receiver<v1::ListSnapshotsResponse>,
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
    type Item = Result<v1::ListSnapshotsResponse, Status>;

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
    sender: mpsc::Sender<v1::ListSnapshotsResponse>,
    time_max: Duration,
) -> Result<()> {
    let filter = Filter::parse(filters)?;
    let mut packer = Packer {
        sender,
        deadline: Instant::now() + time_max,
        infos: Vec::new(),
        bytes: 0,
        end: Ok(()),
    };
    keyspace.walk(&filter, &mut |info| packer.add(info))?;
    if packer.end.is_ok() && !packer.infos.is_empty() {
        let _ = packer.send();
    }
    packer.end
}

/// About what an info takes in a message: all of it that can be long.
fn bytes(info: &v1::Info) -> usize {
    let labels = info
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len());
    info.name.len() + info.parent.len() + labels.sum::<usize>()
}

/// Packs infos into messages.
struct Packer {
    sender: mpsc::Sender<v1::ListSnapshotsResponse>,
    deadline: Instant,
    infos: Vec<v1::Info>,
    bytes: usize,
    end: Result<()>,
}

impl Packer {
    fn add(&mut self, info: Info) -> ControlFlow<()> {
        let info = convert::info(info);
        self.bytes += bytes(&info);
        self.infos.push(info);
        if self.infos.len() < BATCH_INFOS && self.bytes < BATCH_BYTES {
            return ControlFlow::Continue(());
        }
        self.send()
    }

    /// Hands the message over as soon as the client has read enough of those before.
    fn send(&mut self) -> ControlFlow<()> {
        let info = std::mem::take(&mut self.infos);
        self.bytes = 0;
        let sent = self.sender.send(v1::ListSnapshotsResponse { info });
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
