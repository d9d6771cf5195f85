//! One of several callers, and what it knows must be there.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pontoon_rig::wait;
use pontoon_snapshot::{Class, Error, Key, Kind, LabelChange, Labels, Result, Snapshotter};

use crate::expected::{Change, Expected, Files, Snapshot};
use crate::random::Random;
use crate::stage::{self, Stage};

/// The committed snapshot that all callers may build on, and its one file.
pub(crate) const SHARED: &str = "shared";
pub(crate) const SHARED_FILE: &str = "shared-file";

/// How many snapshots a caller keeps; with more it rather removes.
const SNAPSHOTS: usize = 25;

/// When the callers shall stop.
pub(crate) struct Stop {
    at: u64,
    /// Whether they stop by themselves then; else they go on until the daemon is gone.
    by_themselves: bool,
    left: AtomicBool,
}

/// Tells the others when its caller is gone.
pub(crate) struct Leaving<'a>(&'a AtomicBool);

/// Works on keys that begin with a prefix of its own.
pub(crate) struct Caller {
    prefix: String,
    random: Random,
    sn: Arc<dyn Snapshotter>,
    mountpoint: PathBuf,
    expected: Expected,
    /// The operation that was not answered, if any.
    unanswered: Option<Change>,
    names: u64,
}

impl Stop {
    pub(crate) fn new(at: u64, by_themselves: bool) -> Self {
        Stop {
            at,
            by_themselves,
            left: AtomicBool::new(false),
        }
    }

    /// Waits until so many operations are done, or a caller has left early.
    pub(crate) fn wait(&self, operations: &AtomicU64) {
        wait::until("the round's operations", Duration::from_secs(60), || {
            let left = self.left.load(Ordering::Relaxed);
            let done = left || operations.load(Ordering::Relaxed) >= self.at;
            Ok(done.then_some(()))
        })
        .unwrap();
    }

    pub(crate) fn guard(&self) -> Leaving<'_> {
        Leaving(&self.left)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Caller {
    pub(crate) fn new(number: usize, random: Random, stage: &Stage) -> Self {
        let shared = Snapshot {
            kind: Kind::Committed,
            parent: None,
            labels: Labels::default(),
            files: Files::from([(SHARED_FILE.to_owned(), SHARED.to_owned())]),
        };
        let pin = Snapshot {
            kind: Kind::Active,
            parent: Some(key(SHARED)),
            ..shared.clone()
        };
        let expected = [(key(SHARED), shared), (key("shared-pin"), pin)];
        Caller {
            prefix: format!("c{number}-"),
            random,
            sn: stage.connect(),
            mountpoint: stage.mountpoint(number),
            expected: Expected(expected.into()),
            unanswered: None,
            names: 0,
        }
    }

    /// Does one thing after the other until it shall stop or is not answered.
    pub(crate) fn work(&mut self, stop: &Stop, operations: &AtomicU64) {
        while !(stop.by_themselves && operations.load(Ordering::Relaxed) >= stop.at) {
            let answered = match self.random.below(100) {
                0..60 => self.change(),
                60..80 => self.write(),
                80..95 => self.look(),
                _ => self.contend(),
            };
            match answered {
                Ok(()) => operations.fetch_add(1, Ordering::Relaxed),
                // It is killed, or says that it is stopping.
                Err(error) if error.class() == Class::Unavailable => return,
                Err(error) => panic!("{}: {error:?}", self.prefix),
            };
        }
    }

    /// Changes something, and holds the answer against the model.
    fn change(&mut self) -> Result<()> {
        let change = self.any_change();
        let answer = self.ask(&change);
        if answer
            .as_ref()
            .is_err_and(|error| error.class() == Class::Unavailable)
        {
            self.unanswered = Some(change);
            return answer;
        }
        match self.expected.after(&change) {
            Ok(next) => {
                answer.unwrap_or_else(|error| panic!("{change:?}: {error}"));
                self.expected = next;
            }
            Err(class) => match answer {
                Err(error) if error.class() == class => {}
                other => panic!("{change:?}: {class:?} expected, but it is {other:?}"),
            },
        }
        Ok(())
    }

    fn ask(&self, change: &Change) -> Result<()> {
        let sn = &self.sn;
        match change.clone() {
            Change::Prepare {
                key,
                parent,
                labels,
            } => sn.prepare(&key, parent.as_ref(), labels).map(drop),
            Change::View {
                key,
                parent,
                labels,
            } => sn.view(&key, parent.as_ref(), labels).map(drop),
            Change::Commit {
                name,
                key,
                parent,
                labels,
            } => sn.commit(&name, &key, parent.as_ref(), labels),
            Change::Remove { key } => sn.remove(&key),
            Change::Update { key, labels } => {
                sn.update(&key, LabelChange::Replace(labels)).map(drop)
            }
        }
    }

    /// A change that is likely to succeed, or to fail in one way.
    fn any_change(&mut self) -> Change {
        let labels = self.labels();
        let (any, parent) = (self.any_key(), self.parent());
        let many = self.expected.0.len() > SNAPSHOTS;
        match self.random.below(if many { 200 } else { 100 }) {
            0..30 => Change::Prepare {
                key: self.new_key(),
                parent,
                labels,
            },
            30..36 => Change::View {
                key: self.new_key(),
                parent,
                labels,
            },
            36..39 => Change::Prepare {
                key: any,
                parent,
                labels,
            },
            39..42 => Change::View {
                key: self.new_key(),
                parent: Some(any),
                labels,
            },
            42..70 => {
                let key = self.some(&[Kind::Active]).unwrap_or(any);
                let own = self
                    .expected
                    .0
                    .get(&key)
                    .and_then(|active| active.parent.clone());
                // Only a snapshot without a parent may be given another.
                let parent = if own.is_none() { parent } else { own };
                Change::Commit {
                    name: self.new_key(),
                    key,
                    parent,
                    labels,
                }
            }
            70..73 => {
                let active = self.some(&[Kind::Active]).unwrap_or_else(|| any.clone());
                Change::Commit {
                    name: any,
                    key: active,
                    parent: None,
                    labels,
                }
            }
            73..83 => Change::Update { key: any, labels },
            83..85 => Change::Remove { key: key(SHARED) },
            _ => Change::Remove { key: any },
        }
    }

    /// Writes or deletes a file of an active snapshot.
    fn write(&mut self) -> Result<()> {
        let Some(key) = self.some(&[Kind::Active]) else {
            return Ok(());
        };
        let mounts = self.sn.mounts(&key)?;
        let files = &mut self.expected.0.get_mut(&key).expect("it is expected").files;
        let name = format!("f{}", self.random.below(6));
        let at = self.mountpoint.join(&name);
        let content = format!("{} {}", key, self.random.next());
        let delete = self.random.below(4) == 0 && files.contains_key(&name);
        stage::mounted(&mounts, &self.mountpoint, || {
            if delete {
                fs::remove_file(&at).unwrap();
            } else {
                fs::write(&at, &content).unwrap();
            }
        });
        if delete {
            files.remove(&name);
        } else {
            files.insert(name, content);
        }
        Ok(())
    }

    /// Asks what changes nothing.
    fn look(&mut self) -> Result<()> {
        let key = self.any_key();
        let expected = self.expected.0.get(&key);
        let class = |answer: &Result<()>| answer.as_ref().err().map(Error::class);
        match self.random.below(5) {
            0 => match self.sn.stat(&key) {
                Ok(info) => {
                    let expected = expected.unwrap_or_else(|| panic!("{key} is there"));
                    assert_eq!((info.kind, &info.parent), (expected.kind, &expected.parent));
                    assert_eq!(info.labels, expected.labels);
                    assert!(info.created <= info.updated);
                }
                Err(error) if error.class() == Class::NotFound => {
                    assert!(expected.is_none(), "{error}")
                }
                Err(error) => return Err(error),
            },
            1 => {
                let infos = stage::list(&*self.sn, &self.prefix)?;
                let is = self.expected.is(&self.prefix, &infos);
                assert!(
                    is,
                    "{}: {:#?} expected, but it is {infos:#?}",
                    self.prefix, self.expected
                );
            }
            2 => self.sn.cleanup()?,
            3 => {
                let answer = self.sn.usage(&key).map(drop);
                if expected.is_none() && class(&answer) == Some(Class::NotFound) {
                    return Ok(());
                }
                answer?;
            }
            _ => {
                let answer = self.sn.mounts(&key).map(drop);
                let wanted = match expected.map(|snapshot| snapshot.kind) {
                    None => Some(Class::NotFound),
                    Some(Kind::Committed) => Some(Class::FailedPrecondition),
                    Some(_) => None,
                };
                if wanted.is_none() || class(&answer) != wanted {
                    answer?;
                }
            }
        }
        Ok(())
    }

    /// Works on a key that all callers use; nobody knows what must be there.
    fn contend(&mut self) -> Result<()> {
        let name = key(&format!("contended-{}", self.random.below(3)));
        let shared = key(SHARED);
        let answer = match self.random.below(2) {
            0 => self
                .sn
                .prepare(&name, Some(&shared), Labels::default())
                .map(drop),
            _ => self.sn.remove(&name),
        };
        match answer {
            Err(error) if matches!(error.class(), Class::AlreadyExists | Class::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Finds out what became of the operation that was not answered, if there is one: it is done (`Some(true)`),
    /// or nothing of it is.
    pub(crate) fn settle(&mut self) -> Option<bool> {
        let change = self.unanswered.take()?;
        let infos = stage::list(&*self.sn, &self.prefix).unwrap();
        if self.expected.is(&self.prefix, &infos) {
            return Some(false);
        }
        match self.expected.after(&change) {
            Ok(next) if next.is(&self.prefix, &infos) => {
                self.expected = next;
                Some(true)
            }
            _ => panic!(
                "{change:?} was not answered, and is neither done nor undone: {infos:#?}, before it {:#?}",
                self.expected
            ),
        }
    }

    /// Panics unless List answers what this caller expects.
    pub(crate) fn assert_is(&self) {
        let infos = stage::list(&*self.sn, &self.prefix).unwrap();
        let is = self.expected.is(&self.prefix, &infos);
        assert!(
            is,
            "{}: {:#?} expected, but it is {infos:#?}",
            self.prefix, self.expected
        );
    }

    /// The keys of its own snapshots.
    pub(crate) fn own_keys(&self) -> impl Iterator<Item = Key> {
        let keys = self.expected.0.keys();
        keys.filter(|key| key.as_str().starts_with(&self.prefix))
            .cloned()
    }

    /// One of the snapshots that are there, and the files that it must show.
    pub(crate) fn any_snapshot(&self, random: &mut Random) -> (Option<Key>, Files) {
        let keys: Vec<Key> = self.own_keys().collect();
        if keys.is_empty() {
            return (None, Files::new());
        }
        let key = random.pick(&keys).clone();
        let files = self.expected.0[&key].files.clone();
        (Some(key), files)
    }

    fn new_key(&mut self) -> Key {
        self.names += 1;
        key(&format!("{}{}", self.prefix, self.names))
    }

    /// A key of its own that is there, was there, or never was.
    fn any_key(&mut self) -> Key {
        let keys: Vec<Key> = self.own_keys().collect();
        if keys.is_empty() || self.random.below(10) == 0 {
            return key(&format!(
                "{}{}",
                self.prefix,
                self.random.below(self.names + 2)
            ));
        }
        self.random.pick(&keys).clone()
    }

    /// One of its own snapshots of these kinds.
    fn some(&mut self, kinds: &[Kind]) -> Option<Key> {
        let mut keys = self.expected.keys(kinds);
        keys.retain(|key| key.as_str().starts_with(&self.prefix));
        (!keys.is_empty()).then(|| self.random.pick(&keys).clone())
    }

    /// No parent, one of its own, or the shared one.
    fn parent(&mut self) -> Option<Key> {
        match self.random.below(5) {
            0 => None,
            1 => Some(key(SHARED)),
            _ => self.some(&[Kind::Committed]),
        }
    }

    fn labels(&mut self) -> Labels {
        let count = self.random.below(4);
        let pair = |_| {
            (
                format!("l{}", self.random.below(5)),
                self.random.next().to_string(),
            )
        };
        Labels::new((0..count).map(pair)).unwrap()
    }
}

/// The key `text`.
pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}
