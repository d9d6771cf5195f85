//! What must be there.

use std::collections::BTreeMap;

use pontoon_snapshot::{Class, Info, Key, Kind, Labels};

/// The files that a snapshot shows, by name.
pub(crate) type Files = BTreeMap<String, String>;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Key>,
    pub(crate) labels: Labels,
    pub(crate) files: Files,
}

/// Snapshots by key: those of one caller, and what all of them may build on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expected(pub(crate) BTreeMap<Key, Snapshot>);

/// What changes something.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Prepare {
        key: Key,
        parent: Option<Key>,
        labels: Labels,
    },
    View {
        key: Key,
        parent: Option<Key>,
        labels: Labels,
    },
    Commit {
        name: Key,
        key: Key,
        parent: Option<Key>,
        labels: Labels,
    },
    Remove {
        key: Key,
    },
    Update {
        key: Key,
        labels: Labels,
    },
}

impl Expected {
    /// What is there after `change`, or the class of the error that must be answered.
    pub(crate) fn after(&self, change: &Change) -> Result<Expected, Class> {
        let mut next = self.clone();
        match change.clone() {
            Change::Prepare {
                key,
                parent,
                labels,
            } => next.create(key, Kind::Active, parent, labels)?,
            Change::View {
                key,
                parent,
                labels,
            } => next.create(key, Kind::View, parent, labels)?,
            Change::Commit {
                name,
                key,
                parent,
                labels,
            } => next.commit(name, &key, parent, labels)?,
            Change::Remove { key } => {
                self.get(&key)?;
                if self
                    .0
                    .values()
                    .any(|other| other.parent.as_ref() == Some(&key))
                {
                    return Err(Class::FailedPrecondition);
                }
                next.0.remove(&key);
            }
            Change::Update { key, labels } => {
                next.0.get_mut(&key).ok_or(Class::NotFound)?.labels = labels;
            }
        }
        Ok(next)
    }

    fn create(
        &mut self,
        key: Key,
        kind: Kind,
        parent: Option<Key>,
        labels: Labels,
    ) -> Result<(), Class> {
        let files = match &parent {
            None => Files::new(),
            Some(parent) => {
                let parent = self.get(parent)?;
                if parent.kind != Kind::Committed {
                    return Err(Class::Invalid);
                }
                parent.files.clone()
            }
        };
        if self.0.contains_key(&key) {
            return Err(Class::AlreadyExists);
        }
        self.0.insert(
            key,
            Snapshot {
                kind,
                parent,
                labels,
                files,
            },
        );
        Ok(())
    }

    fn commit(
        &mut self,
        name: Key,
        key: &Key,
        parent: Option<Key>,
        labels: Labels,
    ) -> Result<(), Class> {
        let mut active = self.get(key)?.clone();
        if self.0.contains_key(&name) {
            return Err(Class::AlreadyExists);
        }
        if active.kind != Kind::Active {
            return Err(Class::FailedPrecondition);
        }
        if let (None, Some(parent)) = (&active.parent, parent) {
            // What the snapshot itself holds lies on top.
            let mut files = self.get(&parent)?.files.clone();
            files.append(&mut active.files);
            active = Snapshot {
                parent: Some(parent),
                files,
                ..active
            };
        }
        self.0.remove(key);
        self.0.insert(
            name,
            Snapshot {
                kind: Kind::Committed,
                labels,
                ..active
            },
        );
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<&Snapshot, Class> {
        self.0.get(key).ok_or(Class::NotFound)
    }

    /// The keys of all snapshots of these kinds.
    pub(crate) fn keys(&self, kinds: &[Kind]) -> Vec<Key> {
        let wanted = self
            .0
            .iter()
            .filter(|(_, snapshot)| kinds.contains(&snapshot.kind));
        wanted.map(|(key, _)| key.clone()).collect()
    }

    /// Whether `infos` are those of the snapshots whose keys begin with `prefix`.
    pub(crate) fn is(&self, prefix: &str, infos: &[Info]) -> bool {
        let mine = self
            .0
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix));
        mine.clone().count() == infos.len()
            && mine.zip(infos).all(|((key, snapshot), info)| {
                *key == info.key
                    && snapshot.kind == info.kind
                    && snapshot.parent == info.parent
                    && snapshot.labels == info.labels
            })
    }
}
