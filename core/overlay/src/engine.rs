//! Opens a root and keeps it running.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use pontoon_linux::probe;
use pontoon_metastore::{Link, Record, Removed, SnapshotId, Store, Written};
use pontoon_snapshot::{
    Error, Key, Keyspaces, Kind, Mount, Result, Snapshotter, SnapshotterName, Usage,
};

use crate::compose::Plan;
use crate::keyspace::Keyspace;
use crate::layers::Declined;
use crate::measure::Measurer;
use crate::provider::Chain;
use crate::reaper::Reaper;
use crate::recovery::Lost;
use crate::request;
use crate::root::{Owner, Root};
use crate::tree::{self, Cancel};
use crate::{Features, LayerProvider, recovery, users};

/// What the operator chooses.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Answer each snapshot's upper directory as label `containerd.io/snapshot/overlay.upperdir`.
    pub upperdir_label: bool,
    /// Delete a snapshot's directory before Remove returns, not soon after.
    pub sync_remove: bool,
    /// Let containerd change the owner of every file where ids cannot be mapped, instead of refusing its id mappings.
    /// Also part of [`Engine::capabilities`].
    pub slow_chown: bool,
    /// Options of every overlay mount, not of bind mounts.
    pub mount_options: Vec<String>,
}

/// An open root. Hands out its keyspaces; deletes and measures in the background until it is closed or dropped.
#[derive(Debug)]
pub struct Engine {
    core: Arc<Core>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Opens `root`, which is made if it is missing, and locks it.
    ///
    /// [`Error::Unavailable`] if another process has it; [`Error::Invalid`] if an option is not understood or the
    /// filesystem cannot carry overlays.
    pub fn open(
        root: &Path,
        options: Options,
        provider: Arc<dyn LayerProvider>,
    ) -> Result<Arc<Self>> {
        let root = Root::open(root)?;
        require_types(root.path())?;
        require_metadata(&root)?;
        let store = Store::open(&root.metadata())?;
        let scratch = root.path().join("probe");
        let (features, overlay_options) =
            Features::probe_options(&scratch, &options.mount_options)?;
        let found = recovery::scan(&root, &store)?;
        provider.reconcile(&found.layers, &found.users);
        let core = Arc::new(Core {
            root,
            store,
            features,
            overlay_options,
            options,
            provider,
            lost: found.lost,
            declined: Declined::default(),
            reaper: Reaper::new(found.orphans, found.removed),
            measurer: Measurer::new(found.unmeasured),
        });
        let engine = Engine {
            workers: Mutex::new(vec![
                start("reaper", &core, |core| core.reaper.run(core))?,
                start("measurer", &core, |core| core.measurer.run(core))?,
            ]),
            core,
        };
        Ok(Arc::new(engine))
    }

    /// What this kernel and filesystem can do.
    pub fn features(&self) -> &Features {
        &self.core.features
    }

    /// The capabilities that containerd may be told.
    pub fn capabilities(&self) -> Vec<&'static str> {
        self.features().capabilities(self.core.options.slow_chown)
    }

    /// The root, as an absolute path without links.
    pub fn root(&self) -> &Path {
        self.core.root.path()
    }

    /// What was written to the metadata since the start.
    pub fn written(&self) -> Written {
        self.core.store.written()
    }

    /// Every snapshotter name that has snapshots, and how many. Reads all records.
    pub fn names(&self) -> Result<Vec<(SnapshotterName, u64)>> {
        self.core.store.names()
    }

    /// How many removed snapshots still have a directory.
    pub fn removed(&self) -> Result<u64> {
        Ok(self.core.store.removed()?.len() as u64)
    }

    /// How often the layer provider declined a layer since the start, by reason.
    pub fn declined(&self) -> BTreeMap<String, u64> {
        self.core.declined.counts()
    }

    /// Stops the work in the background; what it leaves, the next start takes up. Idempotent.
    pub fn close(&self) {
        self.core.reaper.stop();
        self.core.measurer.stop();
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in workers.drain(..) {
            // One that panicked has said so.
            let _ = worker.join();
        }
        // Better once too often than a container without its files.
        let is_used = match users::of(&self.core.root, &self.core.store) {
            Ok(users) => !users.is_empty(),
            Err(_) => true,
        };
        self.core.provider.close(is_used);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl Keyspaces for Engine {
    fn open(&self, name: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
        Ok(Arc::new(Keyspace::new(
            Arc::clone(&self.core),
            name.clone(),
        )))
    }
}

fn start(
    name: &str,
    core: &Arc<Core>,
    work: impl FnOnce(&Core) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let core = Arc::clone(core);
    let run = move || {
        // Behind what somebody waits for. That it may not be, does not matter.
        let _ = rustix::process::setpriority_process(None, BACKGROUND_NICENESS);
        work(&core);
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| Error::io(format!("start thread {name}"), error))
}

/// Does one piece of a worker's work. A panic, which the panic hook tells, ends that piece only.
pub(crate) fn survive<T>(piece: &str, work: impl FnOnce() -> T) -> Option<T> {
    let done = panic::catch_unwind(AssertUnwindSafe(work)).ok();
    if done.is_none() {
        tracing::error!("a panic ended {piece}; going on with the rest");
    }
    done
}

/// On Linux niceness is each thread's own.
const BACKGROUND_NICENESS: i32 = 10;

fn require_types(root: &Path) -> Result<()> {
    let told = probe::tells_types(root)
        .map_err(|error| Error::io(format!("list {}", root.display()), error))?;
    if told != Some(false) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("the filesystem of root {}", root.display()),
        "it does not tell the types of directory entries (d_type), which overlayfs needs; on XFS, format it with ftype=1, else use another filesystem",
    ))
}

/// Refuses to begin anew beside snapshots: without their records all of them would be deleted as orphans.
fn require_metadata(root: &Root) -> Result<()> {
    if root.metadata().exists() || recovery::directories(root)?.is_empty() {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("root {}", root.path().display()),
        reason: "it holds snapshots, but metadata.redb is missing; restore that file, or delete the directories in snapshots/ to begin anew".to_owned(),
    })
}

/// What all keyspaces share.
pub(crate) struct Core {
    pub(crate) root: Root,
    pub(crate) store: Store,
    pub(crate) features: Features,
    /// Options of every overlay: configured and probed.
    overlay_options: Vec<String>,
    pub(crate) options: Options,
    pub(crate) provider: Arc<dyn LayerProvider>,
    lost: Lost,
    pub(crate) declined: Declined,
    pub(crate) reaper: Reaper,
    pub(crate) measurer: Measurer,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("root", &self.root)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The directories of a snapshot that is being made; deleted again unless they are kept.
pub(crate) struct NewDirectory<'core> {
    pub(crate) id: SnapshotId,
    /// What the layer provider said, if this is the snapshot of a layer that it brings.
    pub(crate) layer: Option<Vec<u8>>,
    core: &'core Core,
    kept: bool,
}

impl NewDirectory<'_> {
    /// To be called with what came of its record: kept if that is there. If nobody knows, the reaper finds out.
    pub(crate) fn recorded<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.kept = matches!(outcome, Ok(_) | Err(Error::Uncertain { .. }));
        if let Err(Error::Uncertain { .. }) = outcome {
            self.core.reaper.abandoned(self.abandoned());
        }
        outcome
    }

    /// Leaves it to the reaper to delete it: that may take longer than the caller can wait.
    pub(crate) fn give_up(mut self) {
        self.kept = true;
        self.core.reaper.abandoned(self.abandoned());
    }

    fn abandoned(&mut self) -> Removed {
        Removed {
            id: self.id,
            layer: self.layer.take(),
        }
    }
}

impl Drop for NewDirectory<'_> {
    fn drop(&mut self) {
        if !self.kept && self.core.root.remove(self.id).is_err() {
            // Who brought the layer has been told already.
            self.layer = None;
            self.core.reaper.abandoned(self.abandoned());
        }
    }
}

impl Core {
    pub(crate) fn new_directory(&self, kind: Kind, owner: Owner) -> Result<NewDirectory<'_>> {
        let id = self.store.allocate_id();
        self.root.make(id, kind, owner)?;
        Ok(self.with_id(id))
    }

    /// For a snapshot that needs none: only its id.
    pub(crate) fn no_directory(&self) -> NewDirectory<'_> {
        self.with_id(self.store.allocate_id())
    }

    fn with_id(&self, id: SnapshotId) -> NewDirectory<'_> {
        NewDirectory {
            id,
            layer: None,
            core: self,
            kept: false,
        }
    }

    /// The directories below a snapshot, nearest first.
    pub(crate) fn lower(
        &self,
        chain: &[Link],
        id_mapping: Option<&request::IdMapping>,
    ) -> Result<Vec<String>> {
        self.lost.check(chain)?;
        if chain.iter().any(|link| link.layer.is_some()) {
            let of_chain = self.chain(chain);
            let id_map = id_mapping.map(request::IdMapping::map);
            if let Some(paths) = self.provider.lowerdirs(&of_chain, id_map)? {
                return paths.into_iter().map(text_of).collect();
            }
        }
        Ok(chain.iter().map(|link| self.root.upper(link.id)).collect())
    }

    /// The part of the mapping asked for that mounts carry out.
    pub(crate) fn mounted_mapping<'a>(
        &self,
        key: &Key,
        asked: Option<&'a request::IdMapping>,
    ) -> Result<Option<&'a request::IdMapping>> {
        request::mounted_mapping(key, asked, &self.features, self.options.slow_chown)
    }

    pub(crate) fn chain<'a>(&'a self, links: &'a [Link]) -> Chain<'a> {
        Chain {
            links,
            snapshots: self.root.snapshots(),
        }
    }

    /// The mounts of snapshot `id` on what [`Core::lower`] answered.
    pub(crate) fn mounts(
        &self,
        id: SnapshotId,
        kind: Kind,
        lower: Vec<String>,
        extract: bool,
        id_mapping: Option<&request::IdMapping>,
    ) -> Vec<Mount> {
        let plan = Plan {
            kind,
            upper: self.root.upper(id),
            work: self.root.work(id),
            lower,
            extract_on: extract.then(|| self.root.empty()),
            id_mapping,
            options: &self.overlay_options,
        };
        plan.mounts()
    }

    /// What a snapshot takes; of committed ones from the record, if it is there.
    pub(crate) fn usage(&self, record: &Record) -> Result<Usage> {
        match recorded_usage(record) {
            Some(usage) => Ok(usage),
            None if record.info.kind == Kind::Committed => {
                let usage = match &record.layer {
                    Some(layer) => self.provider.usage(layer)?,
                    None => self.measure(record.id, &record.info.key)?,
                };
                self.measurer.found(record.id, usage);
                Ok(usage)
            }
            None => self.measure(record.id, &record.info.key),
        }
    }

    fn measure(&self, id: SnapshotId, key: &Key) -> Result<Usage> {
        let upper = PathBuf::from(self.root.upper(id));
        tree::usage(&upper, Cancel::never())
            .map_err(|error| Error::io(format!("measure snapshot {key}"), error))
    }
}

/// What a snapshot takes, where that need not be measured.
pub(crate) fn recorded_usage(record: &Record) -> Option<Usage> {
    match record.info.kind {
        Kind::View => Some(Usage::default()),
        Kind::Committed => record.usage,
        Kind::Active => None,
    }
}

fn text_of(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| {
        Error::invalid(
            format!("lower directory {}", path.display()),
            "it is not UTF-8, which mount options must be",
        )
    })
}

/// For [`recovery`] and [`crate::fsck`]: visits every record of every name.
pub(crate) fn visit_all(
    store: &Store,
    visit: &mut dyn FnMut(&SnapshotterName, Record),
) -> Result<()> {
    for (name, _) in store.names()? {
        store.walk(&name, &mut |record| {
            visit(&name, record);
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
