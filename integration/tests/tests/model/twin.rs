//! The same random requests to the daemon and to containerd's own overlayfs: both must answer the same.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::client::Client;
use pontoon_rig::plugin::{Kind as Program, Plugin, Setup};
use pontoon_rig::sandbox::Sandbox;
use pontoon_snapshot::{
    Class, Filter, Info, Key, Keyspaces, LabelChange, Labels, Mount, Result, Snapshotter,
    SnapshotterName,
};

use crate::caller::key;
use crate::random::Random;

/// Few keys, so that most requests meet a snapshot that is there.
const KEYS: u64 = 12;

const FILTERS: [&str; 5] = [
    "",
    "kind==committed",
    "parent!=\"\"",
    "labels.a==1",
    "name~=^k1",
];

/// One of the two.
struct Twin {
    sn: Arc<dyn Snapshotter>,
    plugin: Plugin,
    _sandbox: Sandbox,
}

/// A request, and how to ask it.
enum Request {
    Prepare(Key, Option<Key>, Labels),
    View(Key, Option<Key>, Labels),
    Mounts(Key),
    Commit(Key, Key, Option<Key>, Labels),
    Remove(Key),
    Stat(Key),
    Update(Key, LabelChange),
    List(&'static str),
    Usage(Key),
}

/// An answer without what may differ: times, and where directories are.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    /// The mounts, with `#` for each number of a directory.
    Mounts(Vec<Mount>),
    Infos(Vec<Info>),
    Usage(u64, u64),
    Refused(Class),
}

impl Twin {
    fn start(kind: Program) -> Self {
        let sandbox = Sandbox::new().unwrap();
        let setup = Setup {
            kind,
            log_level: "info",
            ..Setup::default()
        };
        let plugin = Plugin::start(&sandbox, setup).unwrap();
        let client = Client::with_deadline(plugin.socket(), Duration::from_secs(30)).unwrap();
        let sn = client.open(&SnapshotterName::new("twin").unwrap()).unwrap();
        // containerd's List fails until something was made.
        sn.prepare(&key("first"), None, Labels::default()).unwrap();
        Twin {
            sn,
            plugin,
            _sandbox: sandbox,
        }
    }

    /// The answer, and the numbers of the directories in it, in order.
    fn ask(&self, request: &Request) -> (Answer, Vec<String>) {
        let mut numbers = Vec::new();
        let answer = self.try_ask(request, &mut numbers);
        (
            answer.unwrap_or_else(|error| Answer::Refused(error.class())),
            numbers,
        )
    }

    fn try_ask(&self, request: &Request, numbers: &mut Vec<String>) -> Result<Answer> {
        let sn = &self.sn;
        let mounts = match request {
            Request::Prepare(key, parent, labels) => {
                sn.prepare(key, parent.as_ref(), labels.clone())?
            }
            Request::View(key, parent, labels) => sn.view(key, parent.as_ref(), labels.clone())?,
            Request::Mounts(key) => sn.mounts(key)?,
            Request::Commit(name, key, parent, labels) => {
                sn.commit(name, key, parent.as_ref(), labels.clone())?;
                return Ok(Answer::Done);
            }
            Request::Remove(key) => {
                sn.remove(key)?;
                return Ok(Answer::Done);
            }
            Request::Stat(key) => return Ok(Answer::Infos(vec![timeless(sn.stat(key)?)])),
            Request::Update(key, change) => {
                let info = sn.update(key, change.clone())?;
                return Ok(Answer::Infos(vec![timeless(info)]));
            }
            Request::List(filter) => {
                let mut infos = Vec::new();
                sn.walk(&Filter::parse(&[filter]).unwrap(), &mut |info| {
                    infos.push(timeless(info));
                    ControlFlow::Continue(())
                })?;
                return Ok(Answer::Infos(infos));
            }
            Request::Usage(key) => {
                let usage = sn.usage(key)?;
                return Ok(Answer::Usage(usage.size_bytes, usage.inodes));
            }
        };
        let mounts = mounts
            .into_iter()
            .map(|mount| placeless(mount, self.plugin.root(), numbers));
        Ok(Answer::Mounts(mounts.collect()))
    }
}

fn timeless(info: Info) -> Info {
    Info {
        created: std::time::UNIX_EPOCH,
        updated: std::time::UNIX_EPOCH,
        ..info
    }
}

/// `mount` with `#` for the number of each snapshot's directory, which is appended to `numbers`.
fn placeless(mount: Mount, root: &Path, numbers: &mut Vec<String>) -> Mount {
    let snapshots = format!("{}/snapshots/", root.display());
    let mut without = |text: &str| {
        let mut parts = text.split(&snapshots);
        let mut rest = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (number, path) = part.split_once('/').unwrap();
            numbers.push(number.to_owned());
            rest = format!("{rest}#/{path}");
        }
        rest
    };
    Mount {
        source: without(&mount.source),
        options: mount.options.iter().map(|option| without(option)).collect(),
        ..mount
    }
}

fn any_request(random: &mut Random) -> Request {
    let any_key = |random: &mut Random| key(&format!("k{}", random.below(KEYS)));
    let (one, other) = (any_key(random), any_key(random));
    let parent = (random.below(3) > 0).then(|| any_key(random));
    let labels = [("a", random.below(3)), ("b", random.below(3))];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_string()));
    let labels = Labels::new(labels.into_iter().take(random.below(3) as usize)).unwrap();
    match random.below(20) {
        0..5 => Request::Prepare(one, parent, labels),
        5..7 => Request::View(one, parent, labels),
        7 => Request::Mounts(one),
        8..12 => {
            // On its own name containerd commits a snapshot as its own parent, which it cannot remove again.
            let parent = parent.filter(|parent| *parent != one && random.below(2) == 0);
            Request::Commit(one, other, parent, labels)
        }
        12..15 => Request::Remove(one),
        15 => Request::Stat(one),
        16 => Request::Update(one, LabelChange::Replace(labels)),
        17 => {
            let value = (random.below(2) == 0).then(|| "set".to_owned());
            Request::Update(one, LabelChange::Set([("a".to_owned(), value)].into()))
        }
        18 => Request::List(FILTERS[random.below(FILTERS.len() as u64) as usize]),
        _ => Request::Usage(one),
    }
}

fn describe(request: &Request) -> String {
    match request {
        Request::Prepare(key, parent, labels) => format!("Prepare {key} on {parent:?} {labels:?}"),
        Request::View(key, parent, labels) => format!("View {key} of {parent:?} {labels:?}"),
        Request::Mounts(key) => format!("Mounts {key}"),
        Request::Commit(name, key, parent, labels) => {
            format!("Commit {key} as {name} on {parent:?} {labels:?}")
        }
        Request::Remove(key) => format!("Remove {key}"),
        Request::Stat(key) => format!("Stat {key}"),
        Request::Update(key, change) => format!("Update {key} {change:?}"),
        Request::List(filter) => format!("List {filter:?}"),
        Request::Usage(key) => format!("Usage {key}"),
    }
}

/// Whether both are right, in their own way.
fn differs(request: &Request, ours: &Answer, theirs: &Answer) -> bool {
    let Request::Commit(_, key, parent, _) = request else {
        return false;
    };
    let (Answer::Refused(ours), Answer::Refused(theirs)) = (ours, theirs) else {
        return false;
    };
    match (ours, theirs) {
        // A snapshot as its own parent: for containerd it is gone already, for Pontoon it is not committed.
        (Class::FailedPrecondition, Class::NotFound) => parent.as_ref() == Some(key),
        _ => false,
    }
}

#[test]
fn containerd_answers_the_same() {
    let (seed, full) = crate::settings();
    let mut random = Random::new(seed);
    let ours = Twin::start(Program::from_env());
    let theirs = Twin::start(Program::Oracle);
    // Their number for each of our directories.
    let mut directories: HashMap<String, String> = HashMap::new();
    let mut past = Vec::new();
    let mut refused = 0;
    let requests = if full { 20_000 } else { 1200 };
    for _ in 0..requests {
        let request = any_request(&mut random);
        past.push(describe(&request));
        let recent = || past[past.len().saturating_sub(15)..].join("\n");
        let (our_answer, our_numbers) = ours.ask(&request);
        let (their_answer, their_numbers) = theirs.ask(&request);
        if !differs(&request, &our_answer, &their_answer) {
            assert_eq!(our_answer, their_answer, "after\n{}", recent());
        }
        assert_eq!(
            our_numbers.len(),
            their_numbers.len(),
            "after\n{}",
            recent()
        );
        for (our, their) in our_numbers.into_iter().zip(their_numbers) {
            let known = directories.entry(our).or_insert_with(|| their.clone());
            assert_eq!(*known, their, "another directory, after\n{}", recent());
        }
        refused += usize::from(matches!(our_answer, Answer::Refused(_)));
    }
    println!("{requests} requests, {refused} of them refused");
    assert!(refused > requests / 10 && refused < requests * 9 / 10);
}
