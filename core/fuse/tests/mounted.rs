//! A mounted layer, for the other tests.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use pontoon_cache::Cache;
use pontoon_fuse::{Config, LayerTable, Server};
use pontoon_lazyfs::{Engine, LazyLayer};
use tokio::runtime::Runtime;

use crate::fixture::{self, FakeBlob, Made, Maker};

/// Fields are dropped in this order: first the server, so that nothing is mounted when the directory goes.
pub(crate) struct Mounted {
    pub(crate) server: Server,
    pub(crate) layers: Arc<LayerTable>,
    pub(crate) engine: Arc<Engine>,
    _runtime: Runtime,
    pub(crate) cache: Arc<Cache>,
    pub(crate) directory: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn empty() -> Self {
        Mounted::with(pontoon_lazyfs::Config::default())
    }

    pub(crate) fn with(config: pontoon_lazyfs::Config) -> Self {
        Mounted::served(&Config::default(), config)
    }

    pub(crate) fn served(served: &Config, config: pontoon_lazyfs::Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = fixture::runtime();
        let cache = fixture::open_cache(directory.path());
        let engine = Engine::new(config, cache.clone(), runtime.handle().clone());
        let layers = Arc::new(LayerTable::default());
        let mountpoint = directory.path().join("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        let handle = runtime.handle().clone();
        let server = Server::start(served, &mountpoint, layers.clone(), handle).unwrap();
        Mounted {
            server,
            layers,
            engine,
            _runtime: runtime,
            cache,
            directory,
        }
    }

    /// Adds a layer and answers it with its blob and where it is.
    pub(crate) fn add(&self, number: u32, maker: Maker) -> Added {
        let made = maker.make();
        let layer = self.open(number, &made);
        self.layers.insert(number, layer.clone());
        self.server.changed(number);
        Added {
            layer,
            blob: made.blob,
            files: made.files,
            path: self.server.path(number),
        }
    }

    fn open(&self, number: u32, made: &Made) -> Arc<LazyLayer> {
        let directory = self.directory.path().join(format!("tree-{number}"));
        std::fs::create_dir(&directory).unwrap();
        fixture::open(&self.engine, &self.cache, &directory, made)
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.server.mountpoint().to_owned()
    }
}

pub(crate) struct Added {
    pub(crate) layer: Arc<LazyLayer>,
    pub(crate) blob: Arc<FakeBlob>,
    pub(crate) files: std::collections::BTreeMap<String, Vec<u8>>,
    pub(crate) path: PathBuf,
}

pub(crate) fn start(
    mountpoint: &Path,
    layers: &Arc<LayerTable>,
    runtime: &Runtime,
) -> pontoon_fuse::Result<Server> {
    let config = Config::default();
    let runtime = runtime.handle().clone();
    Server::start(&config, mountpoint, layers.clone(), runtime)
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap();
    let mut lines = mounts.lines();
    lines.any(|line| line.split(' ').nth(4) == Some(path))
}

/// All extended attributes of a file, which is not followed.
pub(crate) fn xattrs(path: &Path) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let names = names[..length].split(|byte| *byte == 0);
    let mut all = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let name = CString::new(name).unwrap();
        let length = rustix::fs::lgetxattr(path, &name, &mut value[..])?;
        value.truncate(length);
        all.push((name.into_bytes(), value));
    }
    all.sort();
    Ok(all)
}
