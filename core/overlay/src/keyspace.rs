//! The operations of one snapshotter name.

use std::ops::ControlFlow;
use std::sync::Arc;

use pontoon_metastore::{CommitSnapshot, Link, NewSnapshot, Record, Removed, SnapshotId};
use pontoon_snapshot::{
    Error, Filter, Info, Key, Kind, LabelChange, Labels, Mount, Result, Snapshotter,
    SnapshotterName, Usage, Visit,
};

use crate::compose;
use crate::engine::{Core, NewDirectory, recorded_usage};
use crate::layers::{self, Extraction};
use crate::request::{self, IdMapping};
use crate::root::{Owner, Root};

/// The label that names a snapshot's upper directory, made up for answers if that is configured.
const LABEL_UPPERDIR: &str = "containerd.io/snapshot/overlay.upperdir";

#[derive(Debug)]
pub(crate) struct Keyspace {
    core: Arc<Core>,
    name: SnapshotterName,
}

impl Keyspace {
    pub(crate) fn new(core: Arc<Core>, name: SnapshotterName) -> Self {
        Keyspace { core, name }
    }

    /// Prepare and View: directory, then record.
    fn create(
        &self,
        kind: Kind,
        key: &Key,
        parent: Option<&Key>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let core = &*self.core;
        request::check(key, &labels)?;
        let asked = request::id_mapping(&labels)?;
        let mapping = core.mounted_mapping(key, asked.as_ref())?;
        let chain = match parent {
            Some(parent) => core.store.chain(&self.name, key, parent)?,
            None => Vec::new(),
        };
        let extract = kind == Kind::Active && request::extract_target(&labels).is_some();
        let mut directory = None;
        if extract {
            let extraction = Extraction {
                name: &self.name,
                key,
                parent,
                labels: &labels,
                chain: &chain,
            };
            directory = Some(layers::offer(core, &extraction)?);
        }
        let lower = core.lower(&chain, mapping)?;
        let owner = owner(asked.as_ref(), &lower).map_err(|error| {
            // Its directory is gone, and so perhaps the parent.
            let chain = parent.map(|parent| core.store.chain(&self.name, key, parent));
            chain.and_then(Result::err).unwrap_or(error)
        })?;
        let directory = match directory {
            Some(made) if owner == Owner::ROOT => made,
            _ if !compose::uses_directory(kind, parent.is_some()) => core.no_directory(),
            _ => core.new_directory(kind, owner)?,
        };
        let id = directory.id;
        let mounts = core.mounts(id, kind, lower, extract, mapping);
        self.record(directory, kind, key, parent, labels, &chain)?;
        Ok(mounts)
    }

    /// Makes the record of a snapshot that was composed on `chain`.
    fn record(
        &self,
        directory: NewDirectory<'_>,
        kind: Kind,
        key: &Key,
        parent: Option<&Key>,
        labels: Labels,
        chain: &[Link],
    ) -> Result<()> {
        let new = NewSnapshot {
            id: directory.id,
            key: key.clone(),
            kind,
            parent: parent.cloned(),
            labels,
        };
        let created = directory.recorded(self.core.store.create(&self.name, new))?;
        if same_directories(&created.chain, chain) {
            return Ok(());
        }
        // Between the two transactions the parent was removed and another one committed under its name.
        self.remove(key)?;
        Err(Error::Unavailable {
            operation: format!("making snapshot {key}"),
            reason: "its parent was replaced at the same moment; try again".to_owned(),
        })
    }

    fn answer(&self, record: Record) -> Info {
        let mut info = record.info;
        if self.core.options.upperdir_label
            && compose::uses_directory(info.kind, info.parent.is_some())
        {
            let upper = self.core.root.upper(record.id);
            info.labels = info.labels.with(LABEL_UPPERDIR, upper);
        }
        info
    }
}

/// Who owns the upper directory: the mapped root, or else whoever owns the parent's.
fn owner(id_mapping: Option<&IdMapping>, lower: &[String]) -> Result<Owner> {
    match (id_mapping, lower.first()) {
        (Some(mapping), _) => Ok(mapping.owner()),
        (None, Some(parent)) => Root::owner_of(parent),
        (None, None) => Ok(Owner::ROOT),
    }
}

fn same_directories(one: &[Link], other: &[Link]) -> bool {
    let ids = |chain: &[Link]| -> Vec<SnapshotId> { chain.iter().map(|link| link.id).collect() };
    one.len() == other.len() && ids(one) == ids(other)
}

impl Snapshotter for Keyspace {
    fn prepare(&self, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels)
    }

    fn view(&self, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels)
    }

    fn mounts(&self, key: &Key) -> Result<Vec<Mount>> {
        let (record, chain) = self.core.store.mountable(&self.name, key)?;
        let Info { kind, labels, .. } = &record.info;
        let core = &self.core;
        let asked = request::id_mapping(labels)?;
        let mapping = core.mounted_mapping(key, asked.as_ref())?;
        let lower = core.lower(&chain, mapping)?;
        let extract = *kind == Kind::Active && request::extract_target(labels).is_some();
        Ok(core.mounts(record.id, *kind, lower, extract, mapping))
    }

    fn commit(&self, name: &Key, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<()> {
        let commit = CommitSnapshot {
            key: key.clone(),
            name: name.clone(),
            parent: parent.cloned(),
            labels,
            usage: None,
        };
        let record = self.core.store.commit(&self.name, commit)?;
        self.core.measurer.committed(record.id);
        Ok(())
    }

    fn remove(&self, key: &Key) -> Result<()> {
        let Record { id, layer, .. } = self.core.store.remove(&self.name, key)?;
        if self.core.options.sync_remove {
            self.core.reaper.delete(&self.core, &Removed { id, layer });
        } else {
            self.core.reaper.removed();
        }
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Info> {
        Ok(self.answer(self.core.store.get(&self.name, key)?))
    }

    fn update(&self, key: &Key, change: LabelChange) -> Result<Info> {
        Ok(self.answer(self.core.store.update(&self.name, key, change)?))
    }

    fn walk(&self, filter: &Filter, visit: Visit<'_>) -> Result<()> {
        self.core.store.walk(&self.name, &mut |record| {
            if filter.matches(&record.info) {
                visit(self.answer(record))
            } else {
                ControlFlow::Continue(())
            }
        })
    }

    fn usage(&self, key: &Key) -> Result<Usage> {
        let mut record = self.core.store.get(&self.name, key)?;
        loop {
            let answer = self.core.usage(&record);
            if answer.is_ok() {
                return answer;
            }
            // It may have been removed meanwhile, and another one made under its key.
            let now = self.core.store.get(&self.name, key)?;
            if now.id == record.id {
                return answer;
            }
            record = now;
        }
    }

    fn recorded_usage(&self, key: &Key) -> Result<Option<Usage>> {
        Ok(recorded_usage(&self.core.store.get(&self.name, key)?))
    }

    fn cleanup(&self) -> Result<()> {
        self.core.reaper.sweep(&self.core)
    }
}
