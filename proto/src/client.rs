//! A blocking client: the domain's [`Snapshotter`], by a daemon on a unix socket.

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_snapshot::{
    Error, Filter, Info, Key, Keyspaces, LabelChange, Labels, Mount, Result, Snapshotter,
    SnapshotterName, Usage, Visit,
};
use prost_types::FieldMask;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::convert;
use crate::snapshots::{self as v1, snapshots_client::SnapshotsClient};

/// The largest message, in bytes, as in containerd.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a call may take unless [`Client::with_deadline`] says otherwise. The longest is Usage of an active
/// snapshot with millions of files.
const DEADLINE: Duration = Duration::from_secs(300);

/// A daemon on a unix socket. Cheap to clone; callable from many threads at once, which share one connection.
///
/// It connects with the first call, and again with the next call after the connection was lost. A call is sent
/// once: where the answer was lost, whether it was done is not known.
///
/// The daemon's errors are [`Error::Remote`]; [`Error::Unavailable`] says that there was no answer. Not for use
/// inside of an async task: a call blocks its thread.
#[derive(Debug, Clone)]
pub struct Client(Arc<Connection>);

struct Connection {
    /// `None` only while dropped. One thread of its own sees at once when the daemon closes the connection.
    runtime: Option<Runtime>,
    service: SnapshotsClient<Channel>,
    deadline: Duration,
}

/// One keyspace of a [`Client`].
#[derive(Debug, Clone)]
struct Remote {
    client: Client,
    name: SnapshotterName,
}

impl Client {
    /// A client of the daemon on `socket`, which need not be there yet.
    pub fn new(socket: &Path) -> Result<Self> {
        Client::with_deadline(socket, DEADLINE)
    }

    /// A client each of whose calls gives up after `deadline`.
    pub fn with_deadline(socket: &Path, deadline: Duration) -> Result<Self> {
        let Some(path) = socket.to_str() else {
            let what = format!("socket {}", socket.display());
            return Err(Error::invalid(
                what,
                "its path is not UTF-8; use one that is",
            ));
        };
        let endpoint = Endpoint::from_shared(format!("unix:{path}"))
            .map_err(|error| Error::invalid(format!("socket {path}"), error.to_string()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("pontoon-client")
            .enable_all()
            .build()
            .map_err(|error| Error::io("starting the client's thread", error))?;
        let service = {
            let _inside = runtime.enter();
            SnapshotsClient::new(endpoint.connect_lazy())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        Ok(Client(Arc::new(Connection {
            runtime: Some(runtime),
            service,
            deadline,
        })))
    }

    /// Waits for one call, which `operation` names in errors.
    fn call<T, F>(
        &self,
        operation: &str,
        call: impl FnOnce(SnapshotsClient<Channel>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Status>>,
    {
        let runtime = (self.0.runtime.as_ref()).expect("a client that is in use is not dropped");
        let call = call(self.0.service.clone());
        runtime
            .block_on(async { tokio::time::timeout(self.0.deadline, call).await })
            .map_err(|_| Error::Unavailable {
                operation: operation.to_owned(),
                reason: format!("no answer in {:?}; is the daemon stuck?", self.0.deadline),
            })?
            .map_err(|status| error(operation, &status))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Its one task is the connection; waiting for it is of no use to anybody.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Keyspaces for Client {
    fn open(&self, name: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
        Ok(Arc::new(Remote {
            client: self.clone(),
            name: name.clone(),
        }))
    }
}

impl Remote {
    fn snapshotter(&self) -> String {
        self.name.as_str().to_owned()
    }
}

impl Snapshotter for Remote {
    fn prepare(&self, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<Vec<Mount>> {
        let request = v1::PrepareSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: text(key),
            parent: convert::parent_text(parent),
            labels: labels.into_map(),
        };
        let answer = self.client.call("Prepare", |mut service| async move {
            service.prepare(request).await
        })?;
        Ok(mounts(answer.into_inner().mounts))
    }

    fn view(&self, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<Vec<Mount>> {
        let request = v1::ViewSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: text(key),
            parent: convert::parent_text(parent),
            labels: labels.into_map(),
        };
        let answer =
            self.client.call(
                "View",
                |mut service| async move { service.view(request).await },
            )?;
        Ok(mounts(answer.into_inner().mounts))
    }

    fn mounts(&self, key: &Key) -> Result<Vec<Mount>> {
        let request = v1::MountsRequest {
            snapshotter: self.snapshotter(),
            key: text(key),
        };
        let answer = self.client.call("Mounts", |mut service| async move {
            service.mounts(request).await
        })?;
        Ok(mounts(answer.into_inner().mounts))
    }

    fn commit(&self, name: &Key, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<()> {
        let request = v1::CommitSnapshotRequest {
            snapshotter: self.snapshotter(),
            name: text(name),
            key: text(key),
            labels: labels.into_map(),
            parent: convert::parent_text(parent),
        };
        self.client.call("Commit", |mut service| async move {
            service.commit(request).await
        })?;
        Ok(())
    }

    fn remove(&self, key: &Key) -> Result<()> {
        let request = v1::RemoveSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: text(key),
        };
        self.client.call("Remove", |mut service| async move {
            service.remove(request).await
        })?;
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Info> {
        let request = v1::StatSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: text(key),
        };
        let answer =
            self.client.call(
                "Stat",
                |mut service| async move { service.stat(request).await },
            )?;
        convert::info_from(answer.into_inner().info.unwrap_or_default())
    }

    fn update(&self, key: &Key, change: LabelChange) -> Result<Info> {
        let (paths, labels) = match change {
            LabelChange::Replace(labels) => (vec!["labels".to_owned()], labels.into_map()),
            // An empty mask would mean all labels.
            LabelChange::Set(changes) if changes.is_empty() => return self.stat(key),
            LabelChange::Set(changes) => {
                let paths = changes.keys().map(|key| format!("labels.{key}")).collect();
                let set = |(key, value): (_, Option<_>)| value.map(|value| (key, value));
                (paths, changes.into_iter().filter_map(set).collect())
            }
        };
        let request = v1::UpdateSnapshotRequest {
            snapshotter: self.snapshotter(),
            info: Some(v1::Info {
                name: text(key),
                labels,
                ..v1::Info::default()
            }),
            update_mask: Some(FieldMask { paths }),
        };
        let answer = self.client.call("Update", |mut service| async move {
            service.update(request).await
        })?;
        convert::info_from(answer.into_inner().info.unwrap_or_default())
    }

    fn walk(&self, filter: &Filter, visit: Visit<'_>) -> Result<()> {
        let request = v1::ListSnapshotsRequest {
            snapshotter: self.snapshotter(),
            filters: filter.as_strings().to_vec(),
        };
        let answer =
            self.client.call(
                "List",
                |mut service| async move { service.list(request).await },
            )?;
        let mut batches = answer.into_inner();
        while let Some(batch) = self.client.call("List", |_| batches.message())? {
            for info in batch.info {
                if let ControlFlow::Break(()) = visit(convert::info_from(info)?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn usage(&self, key: &Key) -> Result<Usage> {
        let request = v1::UsageRequest {
            snapshotter: self.snapshotter(),
            key: text(key),
        };
        let answer = self.client.call("Usage", |mut service| async move {
            service.usage(request).await
        })?;
        Ok(convert::usage_from(answer.into_inner()))
    }

    fn cleanup(&self) -> Result<()> {
        let request = Request::new(v1::CleanupRequest {
            snapshotter: self.snapshotter(),
        });
        self.client.call("Cleanup", |mut service| async move {
            service.cleanup(request).await
        })?;
        Ok(())
    }
}

fn text(key: &Key) -> String {
    key.as_str().to_owned()
}

fn mounts(mounts: Vec<crate::types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(convert::mount_from).collect()
}

/// A failed call: the daemon's answer, or that there was none.
fn error(operation: &str, status: &Status) -> Error {
    // Only a status that this process made up for a broken connection has a source.
    let Some(mut source) = std::error::Error::source(status) else {
        return Error::Remote {
            class: convert::class(status.code()),
            message: status.message().to_owned(),
        };
    };
    while let Some(cause) = source.source() {
        source = cause;
    }
    Error::Unavailable {
        operation: operation.to_owned(),
        reason: format!("the daemon cannot be reached ({source}); is it running?"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;

    use pontoon_snapshot::Class;

    use super::*;

    fn stat(client: &Client) -> Error {
        let keyspace = client.open(&SnapshotterName::new("x").unwrap()).unwrap();
        keyspace.stat(&Key::new("k").unwrap()).unwrap_err()
    }

    #[test]
    fn a_daemon_that_is_not_there_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&dir.path().join("none.sock")).unwrap();
        let error = stat(&client);
        assert_eq!(error.class(), Class::Unavailable);
        let told = error.to_string();
        assert!(
            told.contains("Stat") && told.contains("No such file"),
            "{told}"
        );
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_unavailable_after_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("mute.sock");
        let _mute = UnixListener::bind(&socket).unwrap();
        let client = Client::with_deadline(&socket, Duration::from_millis(50)).unwrap();
        let error = stat(&client);
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.to_string().contains("50ms"), "{error}");
    }

    #[test]
    fn a_daemon_that_hangs_up_is_unavailable_to_every_caller() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("rude.sock");
        let rude = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || while rude.accept().is_ok() {});
        let client = Client::with_deadline(&socket, Duration::from_secs(20)).unwrap();
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| stat(&client))).collect();
            for error in asking.into_iter().map(|asking| asking.join().unwrap()) {
                assert_eq!(error.class(), Class::Unavailable, "{error}");
            }
        });
    }

    #[test]
    fn a_path_that_is_no_text_is_refused() {
        let error = Client::new(Path::new(OsStr::from_bytes(b"/\xff"))).unwrap_err();
        assert_eq!(error.class(), Class::Invalid);
    }
}
