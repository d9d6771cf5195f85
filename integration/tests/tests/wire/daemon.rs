//! A daemon with something to lose, and a raw client of it.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;

use pontoon_proto::snapshots::snapshots_client::SnapshotsClient;
use pontoon_proto::{snapshots as v1, types};
use pontoon_rig::plugin::{Plugin, Setup};
use pontoon_rig::sandbox::Sandbox;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// The snapshotter name that the tests use.
pub(crate) const NAME: &str = "wire";

/// What the file of the snapshot holds that must not be lost.
const KEPT: &str = "written before anything went wrong";

/// A running daemon that holds a committed snapshot, `kept`, and an active one, `open`.
pub(crate) struct Daemon {
    runtime: Runtime,
    service: SnapshotsClient<Channel>,
    kept: Vec<v1::Info>,
    pub(crate) plugin: Plugin,
    pub(crate) sandbox: Sandbox,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Daemon::start_in(Sandbox::new().unwrap())
    }

    /// A daemon on the root that `sandbox` already has, or a new one.
    pub(crate) fn start_in(sandbox: Sandbox) -> Self {
        let plugin = Plugin::start(&sandbox, Setup::default()).unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = {
            let _inside = runtime.enter();
            SnapshotsClient::new(channel(plugin.socket()))
                .max_decoding_message_size(16 << 20)
                .max_encoding_message_size(64 << 20)
        };
        let mut daemon = Daemon {
            runtime,
            service,
            kept: Vec::new(),
            plugin,
            sandbox,
        };
        let mounts = daemon.prepare("kept-active", "").unwrap();
        fs::write(directory(&mounts).join("file"), KEPT).unwrap();
        daemon.commit("kept", "kept-active").unwrap();
        daemon.prepare("open", "kept").unwrap();
        daemon.kept = daemon.list(&[]).unwrap();
        daemon
    }

    /// Waits for one call.
    pub(crate) fn call<T, F>(
        &self,
        call: impl FnOnce(SnapshotsClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let call = call(self.service.clone());
        self.runtime.block_on(call).map(tonic::Response::into_inner)
    }

    /// Runs anything that needs the client's runtime.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn service(&self) -> SnapshotsClient<Channel> {
        self.service.clone()
    }

    pub(crate) fn prepare(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, Status> {
        self.prepare_with(key, parent, BTreeMap::new())
    }

    pub(crate) fn prepare_with(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<types::Mount>, Status> {
        let request = v1::PrepareSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        let answer = self.call(|mut service| async move { service.prepare(request).await })?;
        Ok(answer.mounts)
    }

    pub(crate) fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        let request = v1::CommitSnapshotRequest {
            snapshotter: NAME.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        self.call(|mut service| async move { service.commit(request).await })
    }

    pub(crate) fn remove(&self, key: &str) -> Result<(), Status> {
        let request = v1::RemoveSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: key.to_owned(),
        };
        self.call(|mut service| async move { service.remove(request).await })
    }

    pub(crate) fn cleanup(&self) -> Result<(), Status> {
        let request = v1::CleanupRequest {
            snapshotter: NAME.to_owned(),
        };
        self.call(|mut service| async move { service.cleanup(request).await })
    }

    /// All infos of a List, after all its messages.
    pub(crate) fn list(&self, filters: &[&str]) -> Result<Vec<v1::Info>, Status> {
        Ok(self.list_batches(filters)?.concat())
    }

    /// The messages of a List.
    pub(crate) fn list_batches(&self, filters: &[&str]) -> Result<Vec<Vec<v1::Info>>, Status> {
        let request = v1::ListSnapshotsRequest {
            snapshotter: NAME.to_owned(),
            filters: filters.iter().map(ToString::to_string).collect(),
        };
        let mut service = self.service.clone();
        self.runtime.block_on(async {
            let mut answer = service.list(request).await?.into_inner();
            let mut batches = Vec::new();
            while let Some(batch) = answer.message().await? {
                batches.push(batch.info);
            }
            Ok(batches)
        })
    }

    /// Panics unless the daemon still runs and holds what it held before, and nothing else.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&mut self) {
        self.assert_kept();
        assert_eq!(
            self.list(&[]).unwrap(),
            self.kept,
            "other snapshots are there"
        );
        self.cleanup().unwrap();
        let directories = self.plugin.snapshot_dirs().unwrap();
        assert_eq!(directories.len(), self.kept.len(), "{directories:?}");
    }

    /// Panics unless the daemon still runs and holds what it held before.
    #[track_caller]
    pub(crate) fn assert_kept(&mut self) {
        let ended = self.plugin.process().unwrap().ended().unwrap();
        assert_eq!(ended, None, "the daemon has ended");
        let kept = self.list(&["name==kept", "name==open"]).unwrap();
        assert_eq!(kept, self.kept);
        let request = v1::MountsRequest {
            snapshotter: NAME.to_owned(),
            key: "open".to_owned(),
        };
        let answer = self.call(|mut service| async move { service.mounts(request).await });
        let lower = option(&answer.unwrap().mounts, "lowerdir=").to_owned();
        assert_eq!(
            fs::read_to_string(Path::new(&lower).join("file")).unwrap(),
            KEPT
        );
    }
}

/// A lazy channel to the daemon on `socket`; inside of a runtime.
pub(crate) fn channel(socket: &Path) -> Channel {
    let address = format!("unix:{}", socket.display());
    Endpoint::from_shared(address).unwrap().connect_lazy()
}

/// The value of the option that begins with `prefix`.
pub(crate) fn option<'a>(mounts: &'a [types::Mount], prefix: &str) -> &'a str {
    let mut options = mounts[0].options.iter();
    let value = options.find_map(|option| option.strip_prefix(prefix));
    value.unwrap_or_else(|| panic!("no {prefix} in {mounts:?}"))
}

/// The directory that a bind mount shows.
pub(crate) fn directory(mounts: &[types::Mount]) -> &Path {
    assert_eq!(mounts[0].r#type, "bind", "{mounts:?}");
    Path::new(&mounts[0].source)
}

/// Panics unless `answer` is an error with `code` whose text is of a reasonable length; answers the text.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code) -> String {
    match answer {
        Err(status) if status.code() == code => {
            let told = status.message();
            assert!((10..600).contains(&told.len()), "an odd message: {told}");
            told.to_owned()
        }
        other => panic!("{code:?} expected, but it is {other:?}"),
    }
}
