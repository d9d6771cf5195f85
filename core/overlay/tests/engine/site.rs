//! A root with an engine, and mounts that go away with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_linux::{Mounter, SystemMounter};
use pontoon_overlay::{Engine, LayerProvider, NoLayers, Options};
use pontoon_snapshot::{
    Key, Keyspaces, LABEL_SNAPSHOT_REF, Labels, Mount, Snapshotter, SnapshotterName,
};

/// How long a test waits for what happens in the background.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Site {
    directory: tempfile::TempDir,
    engine: Option<Arc<Engine>>,
    provider: Arc<dyn LayerProvider>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(Options::default(), Arc::new(NoLayers))
    }

    pub(crate) fn with_options(options: Options) -> Self {
        Self::with(options, Arc::new(NoLayers))
    }

    pub(crate) fn with(options: Options, provider: Arc<dyn LayerProvider>) -> Self {
        let mut site = Site {
            directory: tempfile::tempdir().unwrap(),
            engine: None,
            provider,
        };
        site.open(options);
        site
    }

    /// Opens the engine again, after `between` was done to the root.
    pub(crate) fn reopen(&mut self, between: impl FnOnce(&Self)) {
        self.engine = None;
        between(self);
        self.open(Options::default());
    }

    /// Opens the engine again with another provider.
    pub(crate) fn reopen_with(&mut self, provider: Arc<dyn LayerProvider>) {
        self.provider = provider;
        self.reopen(|_| {});
    }

    /// The error of opening an engine on the root.
    pub(crate) fn open_refused(&self) -> pontoon_snapshot::Error {
        let provider = Arc::clone(&self.provider);
        Engine::open(&self.root(), Options::default(), provider).unwrap_err()
    }

    fn open(&mut self, options: Options) {
        let engine = Engine::open(&self.root(), options, Arc::clone(&self.provider));
        self.engine = Some(engine.unwrap());
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    pub(crate) fn snapshots(&self) -> Arc<dyn Snapshotter> {
        let name = SnapshotterName::new("test").unwrap();
        Keyspaces::open(&**self.engine(), &name).unwrap()
    }

    /// Beside the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The names in `snapshots/`, sorted.
    pub(crate) fn directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("snapshots")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Mounts what a snapshot answered and runs `work` in it.
    pub(crate) fn inside<T>(&self, mounts: &[Mount], work: impl FnOnce(&Path) -> T) -> T {
        let target = self.path("target");
        fs::create_dir_all(&target).unwrap();
        let mounted = Mounted::new(mounts, &target);
        let answer = work(&target);
        drop(mounted);
        answer
    }

    /// Commits a snapshot `name` on `parent` in which `work` was done.
    pub(crate) fn layer(&self, name: &str, parent: Option<&str>, work: impl FnOnce(&Path)) {
        let snapshots = self.snapshots();
        let active = key(&format!("making-{name}"));
        let mounts = snapshots
            .prepare(&active, parent.map(key).as_ref(), Labels::default())
            .unwrap();
        self.inside(&mounts, work);
        snapshots
            .commit(&key(name), &active, None, Labels::default())
            .unwrap();
    }
}

/// Mounts, unmounted on drop, also of a test that fails.
pub(crate) struct Mounted {
    target: PathBuf,
    count: usize,
}

impl Mounted {
    pub(crate) fn new(mounts: &[Mount], target: &Path) -> Self {
        let mut mounted = Mounted {
            target: target.to_owned(),
            count: 0,
        };
        for mount in mounts {
            SystemMounter.mount(mount, target).unwrap();
            mounted.count += 1;
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..self.count {
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(&self.target, flags);
        }
    }
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    Labels::new(pairs).unwrap()
}

/// The labels of the extraction of a layer.
pub(crate) fn extract(target: &str) -> Labels {
    labels(&[(LABEL_SNAPSHOT_REF, target)])
}

/// The value of option `key=` of the only mount.
pub(crate) fn option<'a>(mounts: &'a [Mount], key: &str) -> Option<&'a str> {
    assert_eq!(mounts.len(), 1);
    mounts[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
}

/// Waits until `what` is true.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(
            begin.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An error with its causes.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
