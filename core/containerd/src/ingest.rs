//! Writing a blob into containerd's content store.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use pontoon_layer::Digest;
use pontoon_proto::content::{self as v1, WriteAction};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status, Streaming};

use crate::content::{ContentStore, in_time, is_mismatch};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};

/// Bytes of data in one message.
const PIECE_BYTES: usize = 1 << 20;

/// Messages under way: containerd answers each one, and waiting for each answer would leave it idle meanwhile.
const PIECES: usize = 4;

/// How often, and how long apart, a blob that somebody else writes is tried again.
const PATIENCE: (u32, Duration) = (30, Duration::from_secs(1));

/// How a blob got into the content store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingested {
    /// It was there already.
    Present,
    /// It was written.
    Written {
        /// How many bytes were asked for: not those that an earlier attempt had written.
        bytes: u64,
    },
}

/// One attempt at writing one blob.
struct Attempt<'a> {
    operation: String,
    digest: &'a Digest,
    size: u64,
    labels: &'a BTreeMap<String, String>,
    requests: mpsc::Sender<v1::WriteContentRequest>,
}

/// A session of writing, which has the blob's lock.
struct Session {
    requests: mpsc::Sender<v1::WriteContentRequest>,
    answers: Streaming<v1::WriteContentResponse>,
    /// Bytes that are there from earlier.
    offset: u64,
}

pub(crate) async fn ingest<S, E>(
    store: &ContentStore,
    descriptor: &Descriptor,
    labels: &BTreeMap<String, String>,
    open: impl Fn(u64) -> S,
) -> Result<Ingested>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let operation = format!("writing blob {}", descriptor.digest);
    let size = i64::try_from(descriptor.size).map_err(|_| Error::Invalid {
        what: format!("blob {}", descriptor.digest),
        reason: format!(
            "{} bytes are more than containerd can keep",
            descriptor.size
        ),
    })?;
    let mut restarted = false;
    loop {
        let Some(session) = begin(store, descriptor, size, &operation).await? else {
            return Ok(Ingested::Present);
        };
        let Session {
            requests,
            mut answers,
            mut offset,
        } = session;
        if restarted || offset > descriptor.size {
            // A write at offset 0 drops what is there.
            offset = 0;
        }
        let attempt = Attempt {
            operation: operation.clone(),
            digest: &descriptor.digest,
            size: descriptor.size,
            labels,
            requests,
        };
        let sent = async { attempt.send(open(offset), offset).await };
        let (sent, answered) = race(sent, committed(&operation, &mut answers)).await;
        // What containerd says goes first: our side then fails only because containerd went away.
        let error = match (answered, sent) {
            (Some(Ok(())), _) => {
                let bytes = descriptor.size - offset;
                return Ok(Ingested::Written { bytes });
            }
            (Some(Err(status)), _) if status.code() == Code::AlreadyExists => {
                return Ok(Ingested::Present);
            }
            (Some(Err(status)), _) => Error::status(&operation, &status),
            (None, Err(error)) => return Err(error),
            (None, Ok(())) => Error::nonsense(&operation, "it ended before the commit"),
        };
        if !is_mismatch(&error) {
            return Err(error);
        }
        if offset == 0 {
            forget(store, descriptor).await;
            return Err(Error::Damaged {
                what: format!("blob {}", descriptor.digest),
                reason: error.to_string(),
            });
        }
        tracing::warn!(blob = %descriptor.digest, offset, "what an earlier attempt had written is damaged; writing all of it again");
        restarted = true;
    }
}

/// Opens a session, waiting for whoever else writes the blob. `None` if it is there.
async fn begin(
    store: &ContentStore,
    descriptor: &Descriptor,
    size: i64,
    operation: &str,
) -> Result<Option<Session>> {
    let mut tries = 0;
    loop {
        let (requests, receiver) = mpsc::channel(PIECES);
        let first = v1::WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: descriptor.write_reference(),
            total: size,
            expected: descriptor.digest.to_string(),
            ..v1::WriteContentRequest::default()
        };
        // The channel is empty, and its other end is here.
        let _ = requests.send(first).await;
        let mut service = store.service();
        let opened = async {
            let mut answers = service
                .write(ReceiverStream::new(receiver))
                .await?
                .into_inner();
            let stat = answers.message().await?;
            Ok::<_, Status>((answers, stat))
        };
        match in_time(operation, opened).await? {
            Ok((_, None)) => {
                return Err(Error::nonsense(operation, "it ended at once"));
            }
            Ok((answers, Some(stat))) => {
                let offset = u64::try_from(stat.offset).map_err(|_| {
                    Error::nonsense(operation, format!("the offset is {}", stat.offset))
                })?;
                return Ok(Some(Session {
                    requests,
                    answers,
                    offset,
                }));
            }
            Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
            // The lock's error; a containerd that is away gives the same code, but not this text.
            Err(status) if is_locked(&status) => {
                tries += 1;
                if tries == PATIENCE.0 {
                    return Err(Error::Busy {
                        operation: operation.to_owned(),
                    });
                }
                tokio::time::sleep(PATIENCE.1).await;
            }
            Err(status) => return Err(Error::status(operation, &status)),
        }
    }
}

/// containerd's `plugins/content/local/locks.go`: "ref %s locked for %s (since %s): unavailable".
fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("locked")
}

impl Attempt<'_> {
    /// Sends all of `source` from `offset` on, then the commit.
    async fn send<S, E>(&self, source: S, mut offset: u64) -> Result<()>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut source = std::pin::pin!(source);
        if offset < self.size {
            while let Some(data) = source.next().await {
                let mut data = data.map_err(|error| Error::Source {
                    digest: self.digest.clone(),
                    source: error.into(),
                })?;
                if data.len() as u64 > self.size - offset {
                    return Err(self.damaged(format!("there are more than {} bytes", self.size)));
                }
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE_BYTES));
                    let end = offset + piece.len() as u64;
                    self.request(WriteAction::Write, offset, piece).await?;
                    offset = end;
                }
            }
        }
        if offset != self.size {
            return Err(self.damaged(format!("there are {offset} bytes instead of {}", self.size)));
        }
        self.request(WriteAction::Commit, offset, Bytes::new())
            .await
    }

    async fn request(&self, action: WriteAction, offset: u64, data: Bytes) -> Result<()> {
        let last = action == WriteAction::Commit;
        let signed = |number| {
            i64::try_from(number)
                .map_err(|_| Error::nonsense(&self.operation, format!("{number} is no offset")))
        };
        let request = v1::WriteContentRequest {
            action: action.into(),
            offset: signed(offset)?,
            data,
            total: if last { signed(self.size)? } else { 0 },
            expected: if last {
                self.digest.to_string()
            } else {
                String::new()
            },
            labels: if last {
                self.labels.clone()
            } else {
                BTreeMap::new()
            },
            ..v1::WriteContentRequest::default()
        };
        in_time(&self.operation, self.requests.send(request))
            .await?
            .map_err(|_| Error::Unavailable {
                operation: self.operation.clone(),
                reason: "it ended the transfer".to_owned(),
            })
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Damaged {
            what: format!("blob {}", self.digest),
            reason,
        }
    }
}

/// Waits for the answer to the commit. Answers to what comes before it say nothing that the commit does not check.
async fn committed(
    operation: &str,
    answers: &mut Streaming<v1::WriteContentResponse>,
) -> Result<(), Status> {
    loop {
        match answers.message().await? {
            None => {
                return Err(Status::internal(format!(
                    "{operation}: no answer to the commit"
                )));
            }
            Some(answer) if answer.action == i32::from(WriteAction::Commit) => return Ok(()),
            Some(_) => {}
        }
    }
}

/// Both, until containerd's side has ended, or ours in an error, or neither moves.
async fn race(
    sent: impl Future<Output = Result<()>>,
    answered: impl Future<Output = Result<(), Status>>,
) -> (Result<()>, Option<Result<(), Status>>) {
    let (mut sent, mut answered) = (std::pin::pin!(sent), std::pin::pin!(answered));
    let sent = tokio::select! {
        biased;
        answered = &mut answered => return (Ok(()), Some(answered)),
        sent = &mut sent => sent,
    };
    match sent {
        Ok(()) => match in_time("committing", answered).await {
            Ok(answered) => (Ok(()), Some(answered)),
            Err(error) => (Err(error), None),
        },
        // If containerd ended the transfer, its reason is on its way.
        Err(Error::Unavailable { operation, reason }) => {
            let answered = tokio::time::timeout(Duration::from_secs(1), answered).await;
            (Err(Error::Unavailable { operation, reason }), answered.ok())
        }
        Err(error) => (Err(error), None),
    }
}

/// What containerd has of a damaged blob is of no use to the next attempt.
async fn forget(store: &ContentStore, descriptor: &Descriptor) {
    let reference = descriptor.write_reference();
    if let Err(error) = store.abort(&reference).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            reference,
            error,
            "damaged data stay in containerd's content store until they are collected"
        );
    }
}
