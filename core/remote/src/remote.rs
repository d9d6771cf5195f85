//! The provider: what is asked of it, and what it answers with.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_cache::Cache;
use pontoon_holder::{Keeper, Settings};
use pontoon_lazyfs::Engine;
use pontoon_linux::IdMap;
use pontoon_overlay::{
    Chain, LayerProvider, LayerRequest, Link, Offer, Recorded, SnapshotId, User,
};
use pontoon_snapshot::{Result, Usage};
use pontoon_source::{Registry, Remembered};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::config::{Config, HolderConfig, LazyConfig};
use crate::decisions::Decisions;
use crate::download::Space;
use crate::erofs::Erofs;
use crate::front::Front;
use crate::profiles::Profiles;
use crate::record::Record;
use crate::session::Sessions;
use crate::stock::{Opened, Stock, TREES};
use crate::toc::{Memory, Reading};
use crate::{Error, credentials, quiet, restore};

/// Threads that talk to registries; inflating and disks have their own.
const THREADS: usize = 2;

/// How often idle images are looked for.
const IDLE_INTERVAL: Duration = Duration::from_secs(15);

/// How long what EROFS has read is in memory twice, at most.
const COPIES_INTERVAL: Duration = Duration::from_secs(1);

/// Where FUSE is mounted.
const MOUNTPOINT: &str = "mnt";

/// Brings lazy layers, and unpacks the ordinary ones among them.
#[derive(Debug)]
pub struct Remote {
    pub(crate) shared: Arc<Shared>,
    remembered: Remembered,
    stop: watch::Sender<bool>,
    runtime: Mutex<Option<Runtime>>,
    left: AtomicBool,
}

/// What all work for layers needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) runtime: Handle,
    pub(crate) registry: Registry,
    pub(crate) reading: Reading,
    pub(crate) engine: Arc<Engine>,
    pub(crate) stock: Arc<Stock>,
    pub(crate) space: Space,
    /// Where downloads are.
    pub(crate) temporary: PathBuf,
    pub(crate) front: Front,
    pub(crate) erofs: Arc<Erofs>,
    pub(crate) sessions: Sessions,
    pub(crate) decisions: Decisions,
    pub(crate) profiles: Arc<Profiles>,
}

impl Shared {
    fn keep_decisions(&self) {
        if let Err(error) = self.decisions.keep() {
            tracing::warn!(%error, "the next start does not know why layers are not lazy");
        }
    }
}

impl Remote {
    /// A provider that keeps everything in `<root>/lazy`. Asks nobody and mounts nothing before it has to.
    ///
    /// `root` is made if it is missing.
    pub fn open(root: &Path, config: Config) -> Result<Arc<Self>, Error> {
        let root = make(root)?;
        let directory = make(&root.join("lazy"))?;
        let temporary = make(&directory.join("tmp"))?;
        let runtime = threads()?;
        let handle = runtime.handle().clone();
        let _inside = handle.enter();
        let remembered =
            Remembered::open(&directory.join("credentials.json")).map_err(Error::Credentials)?;
        let sources = credentials::chain(&config.credentials, &remembered);
        let registry = Registry::new(config.registry.clone(), sources);
        let cache = Arc::new(Cache::open(&root.join(crate::CACHE), config.cache)?);
        let engine = Engine::new(config.fetching.clone(), Arc::clone(&cache), handle.clone());
        let erofs = Arc::new(choose(&directory, &temporary, &config.lazy)?);
        let stock = Stock::open(
            &directory,
            cache,
            Arc::clone(&engine),
            registry.clone(),
            Arc::clone(&erofs),
            config.peers.clone(),
            handle.clone(),
        );
        let failed = |source| Error::Io {
            operation: "open",
            path: directory.clone(),
            source,
        };
        let stock = stock.map_err(failed)?;
        let profiles = Profiles::open(directory.join("profiles"), engine.clone(), handle.clone());
        let profiles = Arc::new(profiles.map_err(failed)?);
        let (stop, stopped) = watch::channel(false);
        if let Some(service) = &config.credentials.image_service {
            credentials::serve_image_service(&handle, service, &remembered, stopped.clone())?;
        }
        let shared = Arc::new(Shared {
            reading: Reading {
                registry: registry.clone(),
                limits: config.limits.clone(),
                opaque: config.opaque,
                memory: Memory::new(),
            },
            space: Space::new(config.unpack.temporary_bytes_max),
            front: Front::new(
                directory.join(MOUNTPOINT),
                config.serving.clone(),
                Arc::clone(&stock) as _,
                handle.clone(),
                keeper(&directory, config.holder.as_ref())?,
            ),
            runtime: handle.clone(),
            erofs,
            temporary,
            registry,
            engine,
            stock,
            sessions: Sessions::default(),
            decisions: Decisions::open(directory.join("decisions.json"), root.join("snapshots")),
            profiles,
            config,
        });
        keep_up(&shared, &stopped);
        Ok(Arc::new(Remote {
            shared,
            remembered,
            stop,
            runtime: Mutex::new(Some(runtime)),
            left: AtomicBool::new(false),
        }))
    }

    /// Whether it was closed and has left what it served to another process. That one may not begin before this process
    /// has ended, so the root has to stay locked until then.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// The directory of a layer below the mount, if it has any files. Adds it to `opened`.
    fn lower(
        &self,
        chain: &Chain<'_>,
        link: &Link,
        opened: &mut Vec<Opened>,
    ) -> Result<Option<PathBuf>> {
        let Some(record) = &link.layer else {
            return Ok(Some(chain.directory(link)));
        };
        let Some(record) = Record::decode(record)? else {
            return Ok(None);
        };
        let shared = &self.shared;
        let server = shared.front.server()?;
        let opened_layer = shared.stock.open_layer(&record)?;
        let number = opened_layer.item.record.number;
        if opened_layer.is_new {
            server.appeared(number);
        }
        let tree = shared.stock.trees().path(&opened_layer.item.record.tree);
        shared
            .erofs
            .cover(&server, number, &opened_layer.layer, &tree)?;
        opened.push(opened_layer);
        Ok(Some(server.path(number)))
    }
}

impl LayerProvider for Remote {
    fn offer(&self, request: &LayerRequest<'_>) -> Offer {
        self.answer(request)
    }

    fn lowerdirs(&self, chain: &Chain<'_>, id_map: Option<&IdMap>) -> Result<Option<Vec<PathBuf>>> {
        let mut opened = Vec::new();
        let mut paths = Vec::new();
        for link in chain.links {
            paths.extend(self.lower(chain, link, &mut opened)?);
        }
        if let ([], Some(top)) = (paths.as_slice(), chain.links.first()) {
            // None has any files; this directory is empty.
            paths.push(chain.directory(top));
        }
        self.started(&opened);
        if let Some(map) = id_map {
            self.shared.front.check_id_map(map)?;
        }
        Ok(Some(paths))
    }

    fn usage(&self, record: &[u8]) -> Result<Usage> {
        Ok(Record::decode(record)?.map_or_else(Usage::default, |record| record.usage()))
    }

    fn release(&self, id: SnapshotId, record: &[u8]) -> Result<()> {
        let Some(record) = Record::decode(record)? else {
            return Ok(());
        };
        self.shared.profiles.end_of(&record.key()?);
        if self.shared.stock.release(id, &record)? {
            self.shared.front.changed(record.number);
        }
        Ok(())
    }

    fn reconcile(&self, layers: &[Recorded], users: &[User]) {
        let shared = &self.shared;
        shared.stock.reconcile(layers);
        let inherited = shared.front.inherit(!layers.is_empty());
        if inherited.lost > 0 {
            restore::name_lost(users);
        }
        if inherited.adopted > 0 {
            shared.stock.adopt();
            restore::restore(&shared.stock, users);
        }
    }

    fn close(&self, is_used: bool) {
        self.stop.send_replace(true);
        // First of all: what is closed below must not become anybody's answer.
        if is_used && self.shared.front.leave() {
            self.left.store(true, Ordering::Relaxed);
        }
        self.shared.profiles.end_all();
        self.shared.stock.close();
        self.shared.front.stop();
        // What was left to another process keeps all this until the process ends, so nothing is dropped then.
        self.shared.stock.cache.close();
        if let Err(error) = self.remembered.flush() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "credentials are not remembered"
            );
        }
        self.shared.keep_decisions();
        self.shared.sessions.clear();
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// Begins what is done every now and then.
fn keep_up(shared: &Arc<Shared>, stopped: &watch::Receiver<bool>) {
    let runtime = &shared.runtime;
    runtime.spawn(drop_copies(Arc::clone(shared), stopped.clone()));
    runtime.spawn(drop_idle(Arc::clone(shared), stopped.clone()));
    let engine = Arc::clone(&shared.engine);
    runtime.spawn(quiet::give_memory_back(engine, stopped.clone()));
}

/// Forgets images that nobody asks for any more, and keeps what was decided.
async fn drop_idle(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let lifetime = shared.config.lazy.image_lifetime;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(IDLE_INTERVAL.min(lifetime)) => {}
        }
        let shared = Arc::clone(&shared);
        // It may delete files. A panic has been logged.
        let _ = tokio::task::spawn_blocking(move || {
            shared.sessions.drop_idle(lifetime);
            shared.keep_decisions();
        })
        .await;
    }
}

/// Who keeps what is served, in a directory of its own.
fn keeper(directory: &Path, config: Option<&HolderConfig>) -> Result<Option<Arc<Keeper>>, Error> {
    let Some(config) = config else {
        return Ok(None);
    };
    let settings = Settings {
        directory: directory.join("holder"),
        program: config
            .program
            .clone()
            .unwrap_or_else(pontoon_holder::program_beside),
        unit: pontoon_holder::is_unit(),
        patience: config.patience,
        advice: config.advice.clone(),
    };
    let keeper = Keeper::new(settings).map_err(Error::Threads)?;
    Ok(Some(Arc::new(keeper)))
}

/// Has the kernel keep one copy of what is read, not two.
async fn drop_copies(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    while shared.erofs.chosen().is_erofs() {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(COPIES_INTERVAL) => {}
        }
        let shared = Arc::clone(&shared);
        let dropped = tokio::task::spawn_blocking(move || {
            shared.erofs.drop_copies(&shared.stock.reads());
        });
        // A panic has been logged.
        let _ = dropped.await;
    }
}

/// Whether the kernel serves trees below `directory`.
fn choose(directory: &Path, temporary: &Path, config: &LazyConfig) -> Result<Erofs, Error> {
    let chosen = config.front_end.choose(&directory.join(TREES), temporary)?;
    tracing::info!(
        front_end = chosen.name,
        why = chosen.why,
        "who serves lazy layers"
    );
    Ok(Erofs::new(directory.join(MOUNTPOINT), config, chosen))
}

fn threads() -> Result<Runtime, Error> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(THREADS).thread_name("lazy");
    builder.enable_all().build().map_err(Error::Threads)
}

/// Makes a directory that only its owner may look into, and answers its path without links.
fn make(path: &Path) -> Result<PathBuf, Error> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.and_then(|()| fs::canonicalize(path))
        .map_err(|source| Error::Io {
            operation: "create directory",
            path: path.to_owned(),
            source,
        })
}
