//! A model of one keyspace: a map, and the contract in a few lines, written without looking at the store's rules.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pontoon_metastore::{CommitSnapshot, NewLayer, NewSnapshot, Store};
use pontoon_snapshot::{Class, Key, Kind, LabelChange, Labels, SnapshotterName, Usage};
use proptest::prelude::*;

use crate::fixture::key;

/// One operation, small enough to be made at random.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Create {
        view: bool,
        key: String,
        parent: Option<String>,
    },
    Layer {
        name: String,
        parent: Option<String>,
    },
    Commit {
        key: String,
        name: String,
        parent: Option<String>,
    },
    Remove(String),
    Label {
        key: String,
        value: String,
    },
    Measure(String),
    Forget,
}

/// What the model knows of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Modelled {
    pub(crate) kind: Kind,
    pub(crate) parent: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) usage: Option<u64>,
}

/// The snapshots, and how many removed ones are not forgotten.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) snapshots: BTreeMap<String, Modelled>,
    pub(crate) removed: usize,
}

impl Model {
    /// What the contract says about `op`: done, or refused with this class and nothing changed.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Class> {
        match op {
            Op::Create { view, key, parent } => {
                let kind = if *view { Kind::View } else { Kind::Active };
                self.create(kind, key, parent)
            }
            Op::Layer { name, parent } => self.create(Kind::Committed, name, parent),
            Op::Commit { key, name, parent } => self.commit(key, name, parent.as_ref()),
            Op::Remove(key) => {
                if !self.snapshots.contains_key(key) {
                    return Err(Class::NotFound);
                }
                let is_child = |s: &Modelled| s.parent.as_ref() == Some(key);
                if self.snapshots.values().any(is_child) {
                    return Err(Class::FailedPrecondition);
                }
                self.snapshots.remove(key);
                self.removed += 1;
                Ok(())
            }
            Op::Label { key, value } => {
                let snapshot = self.snapshots.get_mut(key).ok_or(Class::NotFound)?;
                snapshot.label = Some(value.clone());
                Ok(())
            }
            Op::Measure(key) => {
                if let Some(snapshot) = self.snapshots.get_mut(key) {
                    snapshot.usage = Some(7);
                }
                Ok(())
            }
            Op::Forget => {
                self.removed = 0;
                Ok(())
            }
        }
    }

    fn create(&mut self, kind: Kind, key: &str, parent: &Option<String>) -> Result<(), Class> {
        if let Some(parent) = parent {
            match self.snapshots.get(parent) {
                None => return Err(Class::NotFound),
                Some(parent) if parent.kind != Kind::Committed => return Err(Class::Invalid),
                Some(_) => {}
            }
        }
        if self.snapshots.contains_key(key) {
            return Err(Class::AlreadyExists);
        }
        let snapshot = Modelled {
            kind,
            parent: parent.clone(),
            label: None,
            usage: None,
        };
        self.snapshots.insert(key.to_owned(), snapshot);
        Ok(())
    }

    fn commit(&mut self, key: &str, name: &str, parent: Option<&String>) -> Result<(), Class> {
        let active = self.snapshots.get(key).ok_or(Class::NotFound)?;
        if self.snapshots.contains_key(name) {
            return Err(Class::AlreadyExists);
        }
        if active.kind != Kind::Active {
            return Err(Class::FailedPrecondition);
        }
        let own = active.parent.clone();
        match (&own, parent) {
            (Some(own), Some(given)) if own != given => return Err(Class::Invalid),
            (None, Some(given)) => match self.snapshots.get(given).map(|parent| parent.kind) {
                None => return Err(Class::NotFound),
                Some(Kind::Committed) => {}
                Some(_) => return Err(Class::FailedPrecondition),
            },
            _ => {}
        }
        self.snapshots.remove(key);
        let snapshot = Modelled {
            kind: Kind::Committed,
            parent: own.or(parent.cloned()),
            label: None,
            usage: None,
        };
        self.snapshots.insert(name.to_owned(), snapshot);
        Ok(())
    }
}

/// Does `op` to the store, in the keyspace `name`.
pub(crate) fn perform(store: &Store, name: &SnapshotterName, op: &Op) -> Result<(), Class> {
    let parent = |parent: &Option<String>| parent.as_deref().map(key);
    let outcome = match op {
        Op::Create {
            view,
            key: k,
            parent: p,
        } => {
            let new = NewSnapshot {
                id: store.allocate_id(),
                key: key(k),
                kind: if *view { Kind::View } else { Kind::Active },
                parent: parent(p),
                labels: Labels::default(),
            };
            store.create(name, new).map(|_| ())
        }
        Op::Layer { name: n, parent: p } => {
            let new = NewLayer {
                id: store.allocate_id(),
                name: key(n),
                parent: parent(p),
                labels: Labels::default(),
                usage: None,
                layer: None,
            };
            store.create_committed(name, new).map(|_| ())
        }
        Op::Commit {
            key: k,
            name: n,
            parent: p,
        } => {
            let commit = CommitSnapshot {
                key: key(k),
                name: key(n),
                parent: parent(p),
                labels: Labels::default(),
                usage: None,
            };
            store.commit(name, commit).map(|_| ())
        }
        Op::Remove(k) => store.remove(name, &key(k)).map(|_| ()),
        Op::Label { key: k, value } => {
            let label = BTreeMap::from([("l".to_owned(), Some(value.clone()))]);
            let change = LabelChange::Set(label);
            store.update(name, &key(k), change).map(|_| ())
        }
        Op::Measure(k) => measure(store, name, &key(k)),
        Op::Forget => store.removed().and_then(|removed| {
            let ids: Vec<_> = removed.iter().map(|removed| removed.id).collect();
            store.forget_removed(&ids)
        }),
    };
    outcome.map_err(|error| error.class())
}

fn measure(store: &Store, name: &SnapshotterName, key: &Key) -> pontoon_snapshot::Result<()> {
    let Ok(record) = store.get(name, key) else {
        return Ok(());
    };
    let usage = Usage {
        size_bytes: 7,
        inodes: 7,
    };
    store.put_usages(&[(record.id, usage)])
}

/// What the store holds under `name`, as a model; checks on the way that its indexes agree with its rows.
pub(crate) fn observe(store: &Store, name: &SnapshotterName) -> Model {
    let mut records = Vec::new();
    store
        .walk(name, &mut |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .unwrap();
    let mut snapshots = BTreeMap::new();
    for record in records {
        assert!(store.contains(record.id).unwrap(), "{record:?}");
        let info = record.info;
        snapshots.insert(
            info.key.to_string(),
            Modelled {
                kind: info.kind,
                parent: info.parent.map(|parent| parent.to_string()),
                label: info.labels.get("l").map(str::to_owned),
                usage: record.usage.map(|usage| usage.size_bytes),
            },
        );
    }
    let removed = store.removed().unwrap().len();
    Model { snapshots, removed }
}

/// Operations on few keys, so that they meet.
pub(crate) fn ops(count: usize) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..count)
}

fn op() -> impl Strategy<Value = Op> {
    let some_key = || prop::sample::select(vec!["a", "b", "c", "d", "e"]).prop_map(str::to_owned);
    let parent = move || prop::option::of(some_key());
    prop_oneof![
        4 => (any::<bool>(), some_key(), parent())
            .prop_map(|(view, key, parent)| Op::Create { view, key, parent }),
        2 => (some_key(), parent()).prop_map(|(name, parent)| Op::Layer { name, parent }),
        4 => (some_key(), some_key(), parent())
            .prop_map(|(key, name, parent)| Op::Commit { key, name, parent }),
        3 => some_key().prop_map(Op::Remove),
        1 => (some_key(), "[a-z]{1,3}").prop_map(|(key, value)| Op::Label { key, value }),
        1 => some_key().prop_map(Op::Measure),
        1 => Just(Op::Forget),
    ]
}

/// A run of operations that touches every table, for tests that need a fixed one.
pub(crate) fn script() -> Vec<Op> {
    let mut ops = Vec::new();
    for round in 0..4 {
        let (active, layer) = (format!("active-{round}"), format!("layer-{round}"));
        let parent = (round > 0).then(|| format!("layer-{}", round - 1));
        ops.push(Op::Create {
            view: false,
            key: active.clone(),
            parent: parent.filter(|_| round % 2 == 1),
        });
        ops.push(Op::Label {
            key: active.clone(),
            value: format!("{round:0100}"),
        });
        ops.push(Op::Commit {
            key: active,
            name: layer.clone(),
            parent: None,
        });
        ops.push(Op::Measure(layer.clone()));
        ops.push(Op::Create {
            view: true,
            key: format!("view-{round}"),
            parent: Some(layer),
        });
        ops.push(Op::Remove(format!("view-{}", round.max(1) - 1)));
    }
    ops.push(Op::Forget);
    ops
}

mod tests {
    use super::*;
    use crate::fixture::name;

    fn in_memory() -> Store {
        Store::with_backend(|| Ok(redb::backends::InMemoryBackend::new())).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_store_does_what_the_model_does(ops in ops(60)) {
            let store = in_memory();
            let mut model = Model::default();
            for op in &ops {
                prop_assert_eq!(perform(&store, &name(), op), model.apply(op), "{:?}", op);
            }
            prop_assert_eq!(observe(&store, &name()), model);
        }

        /// Each caller has a keyspace of its own, and so an order of its own; all share the batches.
        #[test]
        fn callers_in_one_batch_do_not_disturb_each_other(
            callers in proptest::collection::vec(ops(25), 4),
        ) {
            let store = in_memory();
            let forgetting = |op: &Op| matches!(op, Op::Forget);
            let name = |caller: usize| SnapshotterName::new(format!("caller-{caller}")).unwrap();
            std::thread::scope(|scope| {
                for (caller, ops) in callers.iter().enumerate() {
                    let (store, name) = (&store, &name);
                    scope.spawn(move || {
                        let mut model = Model::default();
                        // What is removed is common to all names.
                        for op in ops.iter().filter(|op| !forgetting(op)) {
                            let done = perform(store, &name(caller), op);
                            assert_eq!(done, model.apply(op), "{op:?}");
                        }
                        assert_eq!(observe(store, &name(caller)).snapshots, model.snapshots);
                    });
                }
            });
        }

        #[test]
        fn callers_of_one_keyspace_get_the_answers_of_some_order(
            callers in proptest::collection::vec(ops(8), 3),
        ) {
            let store = in_memory();
            let answered: Vec<Vec<Answered>> = std::thread::scope(|scope| {
                let spawn = |ops: &'_ Vec<Op>| {
                    let (store, ops) = (&store, ops.clone());
                    scope.spawn(move || {
                        let answer = |op: Op| (perform(store, &name(), &op), op);
                        ops.into_iter().filter(one_transaction).map(answer).collect()
                    })
                };
                let callers: Vec<_> = callers.iter().map(spawn).collect();
                callers.into_iter().map(|caller| caller.join().unwrap()).collect()
            });
            let remaining: Vec<&[Answered]> = answered.iter().map(Vec::as_slice).collect();
            let left = observe(&store, &name());
            prop_assert!(some_order(&Model::default(), &remaining, &left), "{:?}", answered);
        }
    }

    type Answered = (Result<(), Class>, Op);

    /// The others ask the store twice, so they are no single step of any order.
    fn one_transaction(op: &Op) -> bool {
        !matches!(op, Op::Forget | Op::Measure(_))
    }

    /// Whether the callers' operations in some order, each caller's own kept, give these answers and end in `left`.
    fn some_order(model: &Model, callers: &[&[Answered]], left: &Model) -> bool {
        if callers.iter().all(|caller| caller.is_empty()) {
            return model == left;
        }
        (0..callers.len()).any(|next| {
            let Some(((answer, op), rest)) = callers[next].split_first() else {
                return false;
            };
            let mut model = model.clone();
            if model.apply(op) != *answer {
                return false;
            }
            let mut callers = callers.to_vec();
            callers[next] = rest;
            some_order(&model, &callers, left)
        })
    }
}
