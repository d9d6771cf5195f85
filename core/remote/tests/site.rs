//! A root with an engine and the provider, and what containerd does with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_layer::Digest;
use pontoon_linux::{Mounter, SystemMounter};
use pontoon_overlay::{Engine, Options};
use pontoon_remote::{Config, LayerState, Remote};
use pontoon_snapshot::{Error, Key, Keyspaces, Labels, Mount, Snapshotter, SnapshotterName};

use crate::image::Image;

/// How long a test waits for what happens in the background.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Site {
    directory: tempfile::TempDir,
    config: Config,
    open: Option<Open>,
}

struct Open {
    engine: Arc<Engine>,
    remote: Arc<Remote>,
}

/// What became of a Prepare for a layer.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The plugin brought it.
    Exists(Key),
    /// containerd is to unpack it.
    Declined,
}

impl Prepared {
    pub(crate) fn exists(self) -> Key {
        match self {
            Prepared::Exists(key) => key,
            Prepared::Declined => panic!("containerd was to unpack the layer"),
        }
    }

    pub(crate) fn declined(self) {
        assert!(matches!(self, Prepared::Declined), "{self:?}");
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        Site::with(|_| {})
    }

    /// Without anything in the background, so that what is asked for is what a test asks for.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.fetching.background.enabled = false;
        config.registry.backoff = Duration::from_millis(10);
        change(&mut config);
        let mut site = Site {
            directory: tempfile::tempdir().unwrap(),
            config,
            open: None,
        };
        site.reopen();
        site
    }

    /// Opens everything again.
    pub(crate) fn reopen(&mut self) {
        self.close();
        let remote = Remote::open(&self.root(), self.config.clone()).unwrap();
        let engine = Engine::open(&self.root(), Options::default(), Arc::clone(&remote) as _);
        let engine = engine.unwrap();
        self.open = Some(Open { engine, remote });
    }

    /// Opens everything again, with another configuration.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.reopen();
    }

    /// As a daemon that ends.
    pub(crate) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.engine.close();
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.open.as_ref().unwrap().remote
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.open.as_ref().unwrap().engine
    }

    pub(crate) fn snapshots(&self) -> Arc<dyn Snapshotter> {
        let name = SnapshotterName::new("test").unwrap();
        Keyspaces::open(self.engine(), &name).unwrap()
    }

    /// Asks for the layer `index`, as containerd does in `namespace`.
    pub(crate) fn prepare(
        &self,
        namespace: &str,
        image: &Image,
        reference: &str,
        index: usize,
        parent: Option<&Key>,
    ) -> Prepared {
        let prepared = self.try_prepare(namespace, image, reference, index, parent);
        prepared.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where it may fail.
    pub(crate) fn try_prepare(
        &self,
        namespace: &str,
        image: &Image,
        reference: &str,
        index: usize,
        parent: Option<&Key>,
    ) -> Result<Prepared, Error> {
        self.try_prepare_with(namespace, index, parent, labels(image, reference, index))
    }

    /// The same with these labels.
    pub(crate) fn try_prepare_with(
        &self,
        namespace: &str,
        index: usize,
        parent: Option<&Key>,
        labels: Labels,
    ) -> Result<Prepared, Error> {
        let key = Key::new(format!("{namespace}/{}/extract", 100 + index)).unwrap();
        match self.snapshots().prepare(&key, parent, labels) {
            Ok(_) => {
                self.snapshots().remove(&key).unwrap();
                Ok(Prepared::Declined)
            }
            Err(Error::LayerExists { name, .. }) => Ok(Prepared::Exists(name)),
            Err(error) => Err(error),
        }
    }

    /// Pulls a whole image that the plugin must bring; answers the names of its layers.
    pub(crate) fn pull(&self, namespace: &str, image: &Image, reference: &str) -> Vec<Key> {
        let mut names: Vec<Key> = Vec::new();
        for index in 0..image.layers.len() {
            let prepared = self.prepare(namespace, image, reference, index, names.last());
            names.push(prepared.exists());
        }
        names
    }

    /// Runs `work` in a view of a snapshot.
    pub(crate) fn inside<T>(&self, snapshot: &Key, work: impl FnOnce(&Path) -> T) -> T {
        let target = self.directory.path().join("target");
        fs::create_dir_all(&target).unwrap();
        let view = Key::new("default/900/view").unwrap();
        let snapshots = self.snapshots();
        let mounts = snapshots
            .view(&view, Some(snapshot), Labels::default())
            .unwrap();
        let mounted = Mounted::new(&mounts, &target);
        let answer = work(&target);
        drop(mounted);
        snapshots.remove(&view).unwrap();
        answer
    }

    /// Removes snapshots, the topmost first, and what they took.
    pub(crate) fn remove(&self, names: &[Key]) {
        for name in names.iter().rev() {
            self.snapshots().remove(name).unwrap();
        }
        self.snapshots().cleanup().unwrap();
    }

    /// The names in a directory below `lazy`.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("lazy").join(directory)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// What the report says of a layer: its state and why.
    pub(crate) fn fate(&self, layer: &Digest) -> (LayerState, Option<String>) {
        let report = self.remote().report();
        let digest = layer.to_string();
        let found = report
            .layers
            .into_iter()
            .find(|layer| layer.digest == digest);
        let found = found.unwrap();
        (found.state, found.reason)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.close();
    }
}

/// The labels of containerd's Prepare.
pub(crate) fn labels(image: &Image, reference: &str, index: usize) -> Labels {
    let layer = &image.layers[index];
    let mut pairs = vec![
        (
            "containerd.io/snapshot.ref".to_owned(),
            image.chain_id(index),
        ),
        (
            "containerd.io/snapshot/cri.image-ref".to_owned(),
            reference.to_owned(),
        ),
        (
            "containerd.io/snapshot/cri.layer-digest".to_owned(),
            layer.digest().to_string(),
        ),
        (
            "containerd.io/snapshot/cri.manifest-digest".to_owned(),
            Digest::of(&image.manifest()).to_string(),
        ),
    ];
    pairs.extend(layer.annotations.iter().cloned());
    Labels::new(pairs).unwrap()
}

/// Mounts, unmounted on drop, also of a test that fails.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn new(mounts: &[Mount], target: &Path) -> Self {
        assert_eq!(mounts.len(), 1);
        SystemMounter.mount(&mounts[0], target).unwrap();
        Mounted(target.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Waits until `what` is true.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
