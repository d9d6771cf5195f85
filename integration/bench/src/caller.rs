//! A caller of a snapshots socket: one connection, requests one after another, each of them timed.

use std::path::Path;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use pontoon_proto::snapshots::snapshots_client::SnapshotsClient;
use pontoon_proto::snapshots::{self as v1};
use pontoon_proto::types::Mount;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// The snapshotter name that the benchmarks use.
const NAME: &str = "bench";

/// One caller. Clones share the connection, as containerd's own calls do.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    client: SnapshotsClient<Channel>,
}

/// How long a request took, and its answer.
type Timed<T> = Result<(Duration, T), Status>;

impl Caller {
    /// Connects to the unix socket `path`.
    pub(crate) async fn connect(path: &Path) -> Result<Self, tonic::transport::Error> {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await?;
        Ok(Caller {
            client: SnapshotsClient::new(channel).max_decoding_message_size(16 << 20),
        })
    }

    pub(crate) async fn prepare(&mut self, key: &str, parent: &str) -> Timed<Vec<Mount>> {
        let request = v1::PrepareSnapshotRequest {
            snapshotter: NAME.into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(key),
        };
        let start = Instant::now();
        let response = self.client.prepare(request).await?;
        Ok((start.elapsed(), response.into_inner().mounts))
    }

    pub(crate) async fn view(&mut self, key: &str, parent: &str) -> Timed<Vec<Mount>> {
        let request = v1::ViewSnapshotRequest {
            snapshotter: NAME.into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(key),
        };
        let start = Instant::now();
        let response = self.client.view(request).await?;
        Ok((start.elapsed(), response.into_inner().mounts))
    }

    pub(crate) async fn commit(&mut self, name: &str, key: &str) -> Timed<()> {
        let request = v1::CommitSnapshotRequest {
            snapshotter: NAME.into(),
            name: name.into(),
            key: key.into(),
            labels: labels(name),
            parent: String::new(),
        };
        let start = Instant::now();
        self.client.commit(request).await?;
        Ok((start.elapsed(), ()))
    }

    pub(crate) async fn remove(&mut self, key: &str) -> Timed<()> {
        let request = v1::RemoveSnapshotRequest {
            snapshotter: NAME.into(),
            key: key.into(),
        };
        let start = Instant::now();
        self.client.remove(request).await?;
        Ok((start.elapsed(), ()))
    }

    pub(crate) async fn mounts(&mut self, key: &str) -> Timed<()> {
        let request = v1::MountsRequest {
            snapshotter: NAME.into(),
            key: key.into(),
        };
        let start = Instant::now();
        self.client.mounts(request).await?;
        Ok((start.elapsed(), ()))
    }

    pub(crate) async fn stat(&mut self, key: &str) -> Timed<()> {
        let request = v1::StatSnapshotRequest {
            snapshotter: NAME.into(),
            key: key.into(),
        };
        let start = Instant::now();
        self.client.stat(request).await?;
        Ok((start.elapsed(), ()))
    }

    pub(crate) async fn usage(&mut self, key: &str) -> Timed<()> {
        let request = v1::UsageRequest {
            snapshotter: NAME.into(),
            key: key.into(),
        };
        let start = Instant::now();
        self.client.usage(request).await?;
        Ok((start.elapsed(), ()))
    }

    /// Lists everything and answers how many there are.
    pub(crate) async fn list(&mut self) -> Timed<usize> {
        let request = v1::ListSnapshotsRequest {
            snapshotter: NAME.into(),
            filters: Vec::new(),
        };
        let start = Instant::now();
        let mut stream = self.client.list(request).await?.into_inner();
        let mut count = 0;
        while let Some(batch) = stream.message().await? {
            count += batch.info.len();
        }
        Ok((start.elapsed(), count))
    }
}

/// Labels of the size that containerd's unpacker sends.
fn labels(key: &str) -> std::collections::BTreeMap<String, String> {
    let chain = format!("sha256:{:0>64}", key.len());
    [
        (
            "containerd.io/snapshot.ref".to_owned(),
            format!("{chain}-{key}"),
        ),
        ("containerd.io/snapshot/cri.layer-digest".to_owned(), chain),
        (
            "containerd.io/snapshot/cri.image-ref".to_owned(),
            "registry.example/library/image:tag".to_owned(),
        ),
    ]
    .into()
}
