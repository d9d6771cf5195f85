//! The gRPC service: each RPC taken apart, done by the engine on a blocking thread, and put together again.

pub(crate) mod list;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use pontoon_proto::convert;
use pontoon_proto::snapshots::{self as v1, snapshots_server::Snapshots};
use pontoon_snapshot::{
    Key, Keyspaces, LabelChange, Labels, Result, Snapshotter, SnapshotterName, Usage,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Request, Response, Status, async_trait};
use tracing::Span;

use crate::caller::Caller;
use crate::metrics::RpcMetrics;
use crate::rpc::{Pace, Rpc};
use crate::status;

/// The snapshots service of one daemon.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    /// One permit for each request that is worked on; whoever holds all of them knows that nothing is.
    gate: Arc<Semaphore>,
    /// What may take long gets half of the places. The others are always there for metadata, a Commit above all, for
    /// which containerd waits inside a transaction of its own.
    slow: Arc<Semaphore>,
}

struct Shared {
    engine: Arc<dyn Keyspaces>,
    metrics: Arc<RpcMetrics>,
    mounts_are_quick: bool,
    /// The threads of sockets that may do quick work themselves: all but one, which stays for everything else.
    at_once: Semaphore,
}

/// One request on its way.
struct Call {
    rpc: Rpc,
    pace: Pace,
    name: String,
    caller: Option<Arc<Caller>>,
    span: Span,
    begun: Instant,
    shared: Arc<Shared>,
    /// Given back when the work is done, even if the client went away meanwhile.
    _permit: OwnedSemaphorePermit,
    /// The second permit of what may take long, one of fewer.
    _slow_permit: Option<OwnedSemaphorePermit>,
}

impl Service {
    /// A service in front of `engine`, whose Mounts never waits if `mounts_are_quick`; `gate` bounds how many requests
    /// are worked on at a time, `socket_threads` is how many threads poll it.
    pub(crate) fn new(
        engine: Arc<dyn Keyspaces>,
        mounts_are_quick: bool,
        gate: Arc<Semaphore>,
        socket_threads: usize,
        metrics: Arc<RpcMetrics>,
    ) -> Self {
        let shared = Shared {
            engine,
            metrics,
            mounts_are_quick,
            at_once: Semaphore::new(socket_threads.saturating_sub(1)),
        };
        let slow = (gate.available_permits() / 2).max(1);
        Service {
            shared: Arc::new(shared),
            gate,
            slow: Arc::new(Semaphore::new(slow)),
        }
    }

    /// Begins a request that takes as long as its kind does.
    async fn begin<M>(
        &self,
        rpc: Rpc,
        request: Request<M>,
        subject: fn(&M) -> (&str, &str),
    ) -> Result<(Call, M), Status> {
        let pace = rpc.pace(self.shared.mounts_are_quick);
        self.begin_at(pace, rpc, request, subject).await
    }

    /// Waits for a place and takes note of what is asked, and by whom. `subject` answers the message's
    /// snapshotter name and key.
    async fn begin_at<M>(
        &self,
        pace: Pace,
        rpc: Rpc,
        request: Request<M>,
        subject: fn(&M) -> (&str, &str),
    ) -> Result<(Call, M), Status> {
        let begun = Instant::now();
        // This one first: whoever waits for it shall not hold one of the others.
        let slow_permit = match pace {
            Pace::Slow => Some(permit(&self.slow).await?),
            Pace::Quick | Pace::Usual => None,
        };
        let permit = permit(&self.gate).await?;
        let (name, key) = subject(request.get_ref());
        let namespace = request.metadata().get("containerd-namespace");
        let namespace = namespace.and_then(|value| value.to_str().ok());
        let span = tracing::info_span!(
            "rpc",
            rpc = rpc.name(),
            snapshotter = name,
            ns = namespace.unwrap_or_else(|| namespace_of(key)),
            key
        );
        let call = Call {
            rpc,
            pace,
            name: name.to_owned(),
            caller: request.extensions().get::<Arc<Caller>>().cloned(),
            span,
            begun,
            shared: Arc::clone(&self.shared),
            _permit: permit,
            _slow_permit: slow_permit,
        };
        Ok((call, request.into_inner()))
    }

    /// List, whose messages come encoded.
    async fn list_encoded(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<list::Batches>, Status> {
        let (call, message) = self
            .begin(Rpc::List, request, |m| (&m.snapshotter, ""))
            .await?;
        let batches = list::start(call, message.filters, list::LIST_TIME_MAX);
        Ok(Response::new(batches))
    }

    /// The usage that a snapshot's record holds; `None` if there is none, if it cannot be looked up, or not just now.
    fn recorded_usage(&self, message: &v1::UsageRequest) -> Option<Usage> {
        let _turn = self.shared.at_once.try_acquire().ok()?;
        let look_up = || {
            let name = SnapshotterName::new(message.snapshotter.as_str())?;
            let key = Key::new(message.key.as_str())?;
            self.shared.engine.open(&name)?.recorded_usage(&key)
        };
        catch_unwind(AssertUnwindSafe(look_up)).ok()?.ok()?
    }
}

impl Call {
    /// Runs `work` and answers what it does. Quick work is done at once. Usual work is done on this thread, too: the
    /// runtime gives the other tasks of this thread to another one, and nothing waits for that, as it would for a
    /// blocking thread to begin and again for its answer. What may take seconds has a thread of its own.
    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&dyn Snapshotter) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let shared = Arc::clone(&self.shared);
        if self.pace == Pace::Quick
            && let Ok(_turn) = shared.at_once.try_acquire()
        {
            return self.finish(work).map(Response::new);
        }
        let outcome = match self.pace {
            Pace::Quick | Pace::Usual => tokio::task::block_in_place(move || self.finish(work)),
            Pace::Slow => tokio::task::spawn_blocking(move || self.finish(work))
                .await
                .unwrap_or_else(|_cancelled| Err(stopping())),
        };
        outcome.map(Response::new)
    }

    /// Does the work, counts it, and logs how it failed. A panic has been logged and is an internal error.
    fn finish<T>(self, work: impl FnOnce(&dyn Snapshotter) -> Result<T>) -> Result<T, Status> {
        let done = catch_unwind(AssertUnwindSafe(move || self.do_counted(work)));
        done.unwrap_or_else(|_panic| Err(bug()))
    }

    fn do_counted<T>(&self, work: impl FnOnce(&dyn Snapshotter) -> Result<T>) -> Result<T, Status> {
        let _inside = self.span.enter();
        let mut running = self.shared.metrics.begin(self.rpc, self.begun);
        match self.keyspace().and_then(|keyspace| work(&*keyspace)) {
            Ok(answer) => {
                running.code = Code::Ok;
                tracing::debug!("done");
                Ok(answer)
            }
            Err(error) => {
                status::log(&error);
                let status = status::of(&error);
                running.code = status.code();
                Err(status)
            }
        }
    }

    fn keyspace(&self) -> Result<Arc<dyn Snapshotter>> {
        let name = SnapshotterName::new(self.name.as_str())?;
        if self.rpc.writes()
            && let Some(caller) = &self.caller
        {
            caller.claim(&name)?;
        }
        self.shared.engine.open(&name)
    }
}

async fn permit(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    let permit = Arc::clone(places).acquire_owned().await;
    permit.map_err(|_closed| stopping())
}

/// containerd's namespace in a key of its metadata layer, for releases that do not send it as metadata.
fn namespace_of(key: &str) -> &str {
    match key.split_once('/') {
        Some((first, rest)) if rest.contains('/') => first,
        _ => "",
    }
}

fn stopping() -> Status {
    Status::unavailable("the daemon is stopping; try again")
}

fn bug() -> Status {
    Status::internal("this failed by a bug of the daemon; its log has the place")
}

#[async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<v1::PrepareSnapshotRequest>,
    ) -> Result<Response<v1::PrepareSnapshotResponse>, Status> {
        let (call, message) = self
            .begin(Rpc::Prepare, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| {
            let (key, parent) = (Key::new(message.key)?, convert::parent(message.parent)?);
            let mounts = keyspace.prepare(&key, parent.as_ref(), Labels::new(message.labels)?)?;
            let mounts = mounts.into_iter().map(convert::mount).collect();
            Ok(v1::PrepareSnapshotResponse { mounts })
        })
        .await
    }

    async fn view(
        &self,
        request: Request<v1::ViewSnapshotRequest>,
    ) -> Result<Response<v1::ViewSnapshotResponse>, Status> {
        let (call, message) = self
            .begin(Rpc::View, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| {
            let (key, parent) = (Key::new(message.key)?, convert::parent(message.parent)?);
            let mounts = keyspace.view(&key, parent.as_ref(), Labels::new(message.labels)?)?;
            let mounts = mounts.into_iter().map(convert::mount).collect();
            Ok(v1::ViewSnapshotResponse { mounts })
        })
        .await
    }

    async fn mounts(
        &self,
        request: Request<v1::MountsRequest>,
    ) -> Result<Response<v1::MountsResponse>, Status> {
        let (call, message) = self
            .begin(Rpc::Mounts, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| {
            let mounts = keyspace.mounts(&Key::new(message.key)?)?;
            let mounts = mounts.into_iter().map(convert::mount).collect();
            Ok(v1::MountsResponse { mounts })
        })
        .await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (call, message) = self
            .begin(Rpc::Commit, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| {
            let (name, key) = (Key::new(message.name)?, Key::new(message.key)?);
            let parent = convert::parent(message.parent)?;
            keyspace.commit(&name, &key, parent.as_ref(), Labels::new(message.labels)?)
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (call, message) = self
            .begin(Rpc::Remove, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| keyspace.remove(&Key::new(message.key)?))
            .await
    }

    async fn stat(
        &self,
        request: Request<v1::StatSnapshotRequest>,
    ) -> Result<Response<v1::StatSnapshotResponse>, Status> {
        let (call, message) = self
            .begin(Rpc::Stat, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| {
            let info = keyspace.stat(&Key::new(message.key)?)?;
            let info = Some(convert::info(info));
            Ok(v1::StatSnapshotResponse { info })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<v1::UpdateSnapshotRequest>,
    ) -> Result<Response<v1::UpdateSnapshotResponse>, Status> {
        let (call, message) = self
            .begin(Rpc::Update, request, |m| {
                let key = m.info.as_ref().map_or("", |info| &info.name);
                (&m.snapshotter, key)
            })
            .await?;
        call.run(move |keyspace| {
            let given = message.info.unwrap_or_default();
            let paths = message.update_mask.unwrap_or_default().paths;
            let change = LabelChange::from_mask(&paths, given.labels)?;
            let info = keyspace.update(&Key::new(given.name)?, change)?;
            let info = Some(convert::info(info));
            Ok(v1::UpdateSnapshotResponse { info })
        })
        .await
    }

    type ListStream = tokio_stream::Empty<Result<v1::ListSnapshotsResponse, Status>>;

    /// Not called: the server has [`list::serve`] answer requests for this.
    async fn list(
        &self,
        _: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(bug())
    }

    /// A committed snapshot's is in its record: no scan, and no waiting for those of others.
    async fn usage(
        &self,
        request: Request<v1::UsageRequest>,
    ) -> Result<Response<v1::UsageResponse>, Status> {
        let recorded = self.recorded_usage(request.get_ref());
        let pace = match recorded {
            Some(_) => Pace::Quick,
            None => Pace::Slow,
        };
        let (call, message) = self
            .begin_at(pace, Rpc::Usage, request, |m| (&m.snapshotter, &m.key))
            .await?;
        call.run(move |keyspace| {
            let usage = match recorded {
                Some(usage) => usage,
                None => keyspace.usage(&Key::new(message.key)?)?,
            };
            Ok(convert::usage(usage))
        })
        .await
    }

    async fn cleanup(&self, request: Request<v1::CleanupRequest>) -> Result<Response<()>, Status> {
        let (call, _message) = self
            .begin(Rpc::Cleanup, request, |m| (&m.snapshotter, ""))
            .await?;
        call.run(|keyspace| keyspace.cleanup()).await
    }
}
