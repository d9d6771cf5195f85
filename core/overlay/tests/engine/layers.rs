//! The seam for layers, with a provider that really unpacks and one whose layers lie elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use pontoon_linux::IdMap;
use pontoon_metastore::{Link, SnapshotId};
use pontoon_overlay::{
    Chain, LayerProvider, LayerRequest, NoLayers, Offer, Options, Recorded, User,
};
use pontoon_snapshot::{
    Class, Error, Filter, Info, Key, LABEL_SNAPSHOT_REF, Labels, Result, Snapshotter, Usage,
};

use crate::site::{Site, extract, key, option};

/// Brings the layers of a directory: `unpack-*` by copying them, `lazy-*` where they are, `broken-*` half.
#[derive(Debug)]
struct Shelf {
    directory: tempfile::TempDir,
    offered: Mutex<u32>,
    released: Mutex<Vec<SnapshotId>>,
    in_use: Mutex<bool>,
    /// Whether it is not known what a layer takes.
    unknown: Mutex<bool>,
    /// What the next offer removes and deletes.
    removes: Mutex<Option<Removal>>,
    /// Whether a release panics.
    broken: Mutex<bool>,
    /// Told when the next release begins; it goes on when it is told or the other end is gone.
    held: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    /// Lets several offers be made before any is answered.
    together: Mutex<Option<Arc<Barrier>>>,
    /// What the engine knew when it was opened.
    reconciled: Mutex<Vec<Recorded>>,
    users: Mutex<Vec<User>>,
    closed: Mutex<u32>,
    /// What the last close said.
    left_used: Mutex<bool>,
}

struct Removal(Arc<dyn Snapshotter>, Key);

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.fmt(f)
    }
}

const LAZY_USAGE: Usage = Usage {
    size_bytes: 4096,
    inodes: 3,
};

impl Shelf {
    fn new(layers: &[&str]) -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        for layer in layers {
            let path = directory.path().join(layer);
            fs::create_dir(&path).unwrap();
            fs::write(path.join(format!("file-of-{layer}")), *layer).unwrap();
        }
        Arc::new(Shelf {
            directory,
            offered: Mutex::default(),
            released: Mutex::default(),
            in_use: Mutex::default(),
            unknown: Mutex::default(),
            removes: Mutex::default(),
            broken: Mutex::default(),
            held: Mutex::default(),
            together: Mutex::default(),
            reconciled: Mutex::default(),
            users: Mutex::default(),
            closed: Mutex::default(),
            left_used: Mutex::default(),
        })
    }

    fn copy(&self, layer: &str, to: &Path) {
        let from = self.directory.path().join(layer).join(".");
        let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(status.unwrap().success());
    }

    fn released(&self) -> Vec<SnapshotId> {
        self.released.lock().unwrap().clone()
    }
}

impl LayerProvider for Shelf {
    fn offer(&self, request: &LayerRequest<'_>) -> Offer {
        *self.offered.lock().unwrap() += 1;
        let together = self.together.lock().unwrap().clone();
        if let Some(barrier) = together {
            barrier.wait();
        }
        let removes = self.removes.lock().unwrap().take();
        if let Some(Removal(snapshots, key)) = removes {
            snapshots.remove(&key).unwrap();
            snapshots.cleanup().unwrap();
        }
        let layer = request.target;
        if !self.directory.path().join(layer).exists() {
            return Offer::Skip;
        }
        match layer.split('-').next().unwrap() {
            "unpack" => {
                self.copy(layer, request.directory);
                Offer::Unpacked
            }
            "lazy" => Offer::Lazy(layer.as_bytes().to_vec()),
            "refused" | "late" => Offer::Refuse {
                reason: "nobody reads this form".to_owned(),
                detail: Some("convert it".to_owned()),
                transient: layer.starts_with("late"),
            },
            _ => {
                self.copy(layer, request.directory);
                Offer::Decline("no digests".to_owned())
            }
        }
    }

    fn lowerdirs(&self, chain: &Chain<'_>, _: Option<&IdMap>) -> Result<Option<Vec<PathBuf>>> {
        let shelf = self.directory.path();
        let path = |link: &Link| match &link.layer {
            Some(layer) => shelf.join(std::str::from_utf8(layer).unwrap()),
            None => chain.directory(link),
        };
        Ok(Some(chain.links.iter().map(path).collect()))
    }

    fn usage(&self, _: &[u8]) -> Result<Usage> {
        if *self.unknown.lock().unwrap() {
            return Err(Error::invalid("usage", "it is not known yet"));
        }
        Ok(LAZY_USAGE)
    }

    fn release(&self, id: SnapshotId, record: &[u8]) -> Result<()> {
        assert!(record.starts_with(b"lazy-"));
        let broken = *self.broken.lock().unwrap();
        assert!(!broken, "the provider is broken on purpose");
        let held = self.held.lock().unwrap().take();
        if let Some((begun, go_on)) = held {
            begun.send(()).unwrap();
            let _ = go_on.recv();
        }
        if *self.in_use.lock().unwrap() {
            return Err(Error::Unavailable {
                operation: "releasing a layer".to_owned(),
                reason: "it is in use".to_owned(),
            });
        }
        self.released.lock().unwrap().push(id);
        Ok(())
    }

    fn reconcile(&self, layers: &[Recorded], users: &[User]) {
        *self.reconciled.lock().unwrap() = layers.to_vec();
        *self.users.lock().unwrap() = users.to_vec();
    }

    fn close(&self, is_used: bool) {
        *self.closed.lock().unwrap() += 1;
        *self.left_used.lock().unwrap() = is_used;
    }
}

/// What containerd does after `AlreadyExists`: looks for the layer by its label and parent.
fn find(snapshots: &dyn Snapshotter, target: &str, parent: &str) -> Info {
    let filter = format!("labels.\"{LABEL_SNAPSHOT_REF}\"=={target},parent==\"{parent}\"");
    let mut found = Vec::new();
    let mut collect = |info| {
        found.push(info);
        ControlFlow::Continue(())
    };
    let filter = Filter::parse(&[filter]).unwrap();
    snapshots.walk(&filter, &mut collect).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Prepares the extraction of `target` and answers the layer that is there already.
fn provided(snapshots: &dyn Snapshotter, target: &str, at: &str, parent: Option<&Key>) -> Key {
    let error = snapshots
        .prepare(&key(at), parent, extract(target))
        .unwrap_err();
    assert_eq!(error.class(), Class::AlreadyExists);
    let Error::LayerExists { name, target: told } = error else {
        panic!("{error}");
    };
    assert_eq!(told, target);
    let info = find(snapshots, target, parent.map_or("", Key::as_str));
    assert_eq!(info.key, name);
    assert_eq!(info.kind, pontoon_snapshot::Kind::Committed);
    assert_eq!(info.labels.get(LABEL_SNAPSHOT_REF), Some(target));
    name
}

#[test]
fn unpacked_lazy_and_ordinary_layers_lie_on_each_other() {
    let shelf = Shelf::new(&["unpack-1", "lazy-2"]);
    let site = Site::with(Options::default(), Arc::clone(&shelf) as _);
    let snapshots = site.snapshots();
    let base = provided(&*snapshots, "unpack-1", "default/1/x", None);
    let middle = provided(&*snapshots, "lazy-2", "default/2/x", Some(&base));
    let mounts = snapshots
        .prepare(&key("default/3/x"), Some(&middle), extract("ordinary-3"))
        .unwrap();
    site.inside(&mounts, |root| {
        assert_eq!(
            fs::read(root.join("file-of-unpack-1")).unwrap(),
            b"unpack-1"
        );
        fs::remove_file(root.join("file-of-lazy-2")).unwrap();
    });
    let top = key("default/4/ordinary-3");
    snapshots
        .commit(&top, &key("default/3/x"), None, extract("ordinary-3"))
        .unwrap();
    let view = snapshots
        .view(&key("default/5/v"), Some(&top), Labels::default())
        .unwrap();
    let lower: Vec<&str> = option(&view, "lowerdir").unwrap().split(':').collect();
    assert_eq!(Path::new(lower[1]), shelf.directory.path().join("lazy-2"));
    site.inside(&view, |root| {
        assert!(root.join("file-of-unpack-1").exists());
        assert!(!root.join("file-of-lazy-2").exists());
    });
    assert_eq!(snapshots.usage(&middle).unwrap(), LAZY_USAGE);
    assert_eq!(snapshots.usage(&base).unwrap().inodes, 2);

    // containerd asks again for what is there: the provider is not asked again.
    let offered = *shelf.offered.lock().unwrap();
    assert_eq!(provided(&*snapshots, "unpack-1", "default/6/x", None), base);
    assert_eq!(*shelf.offered.lock().unwrap(), offered);
    // The view has none.
    assert_eq!(site.directories().len(), 3);
}

#[test]
fn a_direct_client_finds_the_layer_under_its_chain_id() {
    let shelf = Shelf::new(&["unpack-1", "lazy-2"]);
    let site = Site::with(Options::default(), shelf);
    let snapshots = site.snapshots();
    let base = provided(&*snapshots, "unpack-1", "extract-1", None);
    assert_eq!(base, key("unpack-1"));
    let top = provided(&*snapshots, "lazy-2", "extract-2", Some(&base));
    assert_eq!(top, key("lazy-2"));
}

#[test]
fn one_layer_on_two_parents_is_two_snapshots() {
    let shelf = Shelf::new(&["unpack-2"]);
    let site = Site::with(Options::default(), shelf);
    let snapshots = site.snapshots();
    for (base, at) in [
        ("default/1/a", "default/2/x"),
        ("default/3/b", "default/4/x"),
    ] {
        site.layer(base, None, |_| {});
        provided(&*snapshots, "unpack-2", at, Some(&key(base)));
    }
    // And with raw keys, where the name itself is taken.
    let raw = Site::with(Options::default(), Shelf::new(&["unpack-2"]));
    let snapshots = raw.snapshots();
    for (base, at) in [("a", "x"), ("b", "y")] {
        raw.layer(base, None, |_| {});
        provided(&*snapshots, "unpack-2", at, Some(&key(base)));
    }
}

#[test]
fn a_declined_layer_is_counted_and_unpacked_by_containerd() {
    let shelf = Shelf::new(&["broken-1"]);
    let site = Site::with(Options::default(), shelf);
    let snapshots = site.snapshots();
    for at in ["default/1/x", "default/2/x"] {
        let mounts = snapshots
            .prepare(&key(at), None, extract("broken-1"))
            .unwrap();
        assert_eq!(mounts[0].fs_type, "overlay");
        // What the provider left half done is not there.
        site.inside(&mounts, |root| {
            assert_eq!(fs::read_dir(root).unwrap().count(), 0)
        });
    }
    assert_eq!(
        site.engine().declined(),
        BTreeMap::from([("no digests".to_owned(), 2)])
    );
    // What it left is deleted when nobody waits.
    snapshots.cleanup().unwrap();
    assert_eq!(site.directories().len(), 2);
}

#[test]
fn a_layer_that_nobody_can_unpack_makes_prepare_fail_and_leaves_nothing() {
    let shelf = Shelf::new(&["refused-1", "late-1"]);
    let site = Site::with(Options::default(), shelf);
    let snapshots = site.snapshots();
    for (target, class) in [
        ("refused-1", Class::FailedPrecondition),
        ("late-1", Class::Unavailable),
    ] {
        let error = snapshots
            .prepare(&key("default/1/x"), None, extract(target))
            .unwrap_err();
        assert_eq!(error.class(), class);
        let text = error.to_string();
        for part in [target, "nobody reads this form: convert it"] {
            assert!(text.contains(part), "{text}");
        }
    }
    snapshots.stat(&key("default/1/x")).unwrap_err();
    assert_eq!(site.directories().len(), 0);
    // containerd unpacks none of them.
    assert_eq!(site.engine().declined(), BTreeMap::new());
}

#[test]
fn the_same_layer_asked_for_twice_at_once_is_there_once() {
    for target in ["unpack-1", "lazy-1"] {
        let shelf = Shelf::new(&[target]);
        *shelf.together.lock().unwrap() = Some(Arc::new(Barrier::new(4)));
        let site = Site::with(Options::default(), Arc::clone(&shelf) as _);
        let snapshots = site.snapshots();
        std::thread::scope(|scope| {
            let provided: Vec<_> = (1..=4)
                .map(|at| {
                    let snapshots = &snapshots;
                    let at = format!("default/{at}/x");
                    scope.spawn(move || {
                        let prepared = snapshots.prepare(&key(&at), None, extract(target));
                        match prepared.unwrap_err() {
                            Error::LayerExists { name, .. } => name,
                            error => panic!("{error}"),
                        }
                    })
                })
                .collect();
            let mut names: Vec<Key> = provided
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect();
            names.dedup();
            assert_eq!(names, [find(&*snapshots, target, "").key]);
        });
        assert_eq!(site.directories().len(), 1);
        let lazy = target.starts_with("lazy");
        assert_eq!(shelf.released().len(), if lazy { 3 } else { 0 });
    }
}

#[test]
fn a_layer_is_released_when_its_snapshot_is_deleted() {
    let shelf = Shelf::new(&["lazy-1"]);
    let site = Site::with(Options::default(), Arc::clone(&shelf) as _);
    let snapshots = site.snapshots();
    let layer = provided(&*snapshots, "lazy-1", "default/1/x", None);
    *shelf.in_use.lock().unwrap() = true;
    snapshots.remove(&layer).unwrap();
    snapshots.cleanup().unwrap();
    assert_eq!(
        (site.directories().len(), site.engine().removed().unwrap()),
        (1, 1)
    );
    *shelf.in_use.lock().unwrap() = false;
    snapshots.cleanup().unwrap();
    assert_eq!(site.directories(), [""; 0]);
    assert_eq!(shelf.released().len(), 1);
}

#[test]
fn a_provider_is_told_at_the_start_what_is_recorded() {
    let shelf = Shelf::new(&["lazy-1", "lazy-2", "unpack-3"]);
    let mut site = Site::with(Options::default(), Arc::clone(&shelf) as _);
    assert_eq!(*shelf.reconciled.lock().unwrap(), []);
    let snapshots = site.snapshots();
    provided(&*snapshots, "lazy-1", "default/1/x", None);
    let removed = provided(&*snapshots, "lazy-2", "default/2/x", None);
    provided(&*snapshots, "unpack-3", "default/3/x", None);
    // It is not released yet.
    *shelf.in_use.lock().unwrap() = true;
    snapshots.remove(&removed).unwrap();
    drop(snapshots);
    site.reopen(|_| {});
    assert_eq!(*shelf.closed.lock().unwrap(), 1);
    let mut told: Vec<Vec<u8>> = shelf
        .reconciled
        .lock()
        .unwrap()
        .iter()
        .map(|layer| layer.record.clone())
        .collect();
    told.sort();
    assert_eq!(told, [b"lazy-1", b"lazy-2"]);
}

#[test]
fn a_layer_is_there_also_if_its_usage_is_not_known_yet() {
    let shelf = Shelf::new(&["lazy-1"]);
    let mut site = Site::with(Options::default(), Arc::clone(&shelf) as _);
    *shelf.unknown.lock().unwrap() = true;
    let layer = provided(&*site.snapshots(), "lazy-1", "default/1/x", None);
    assert!(site.snapshots().usage(&layer).is_err());
    // Nor is its empty directory measured instead.
    site.reopen(|_| {});
    assert!(site.snapshots().usage(&layer).is_err());
    *shelf.unknown.lock().unwrap() = false;
    assert_eq!(site.snapshots().usage(&layer).unwrap(), LAZY_USAGE);
}

#[test]
fn a_parent_that_is_removed_meanwhile_is_not_found() {
    let shelf = Shelf::new(&[]);
    let site = Site::with(Options::default(), Arc::clone(&shelf) as _);
    let snapshots = site.snapshots();
    let base = key("default/1/base");
    site.layer(base.as_str(), None, |_| {});
    *shelf.removes.lock().unwrap() = Some(Removal(Arc::clone(&snapshots), base.clone()));
    let error = snapshots
        .prepare(&key("default/2/x"), Some(&base), extract("ordinary"))
        .unwrap_err();
    assert!(matches!(error, Error::ParentNotFound { .. }), "{error}");
    assert_eq!(site.directories(), [""; 0]);
}

#[test]
fn a_provider_that_panics_stops_no_other_deletion() {
    let shelf = Shelf::new(&["lazy-1"]);
    let site = Site::with(Options::default(), Arc::clone(&shelf) as _);
    let snapshots = site.snapshots();
    let layer = provided(&*snapshots, "lazy-1", "default/1/x", None);
    let other = key("default/2/x");
    snapshots.prepare(&other, None, Labels::default()).unwrap();
    *shelf.broken.lock().unwrap() = true;
    snapshots.remove(&layer).unwrap();
    snapshots.remove(&other).unwrap();
    snapshots.cleanup().unwrap();
    assert_eq!(
        (site.directories().len(), site.engine().removed().unwrap()),
        (1, 1)
    );
    *shelf.broken.lock().unwrap() = false;
    snapshots.cleanup().unwrap();
    assert_eq!(site.directories(), [""; 0]);
}

#[test]
fn a_synchronous_remove_does_not_wait_for_a_sweep_of_others() {
    let shelf = Shelf::new(&["lazy-1"]);
    let options = Options {
        sync_remove: true,
        ..Options::default()
    };
    let site = Site::with(options, Arc::clone(&shelf) as _);
    let snapshots = site.snapshots();
    let layer = provided(&*snapshots, "lazy-1", "default/1/x", None);
    let other = key("default/2/x");
    snapshots.prepare(&other, None, Labels::default()).unwrap();
    *shelf.in_use.lock().unwrap() = true;
    snapshots.remove(&layer).unwrap();
    *shelf.in_use.lock().unwrap() = false;

    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    *shelf.held.lock().unwrap() = Some((begun, may_go_on));
    let (removed, was_removed) = mpsc::channel();
    let deadline = Duration::from_secs(30);
    std::thread::scope(|scope| {
        // Dropped if this test fails, so that the sweep goes on.
        let go_on = go_on;
        let sweep = scope.spawn(|| snapshots.cleanup());
        has_begun.recv_timeout(deadline).unwrap();
        scope.spawn(|| removed.send(snapshots.remove(&other)));
        was_removed.recv_timeout(deadline).unwrap().unwrap();
        assert_eq!(site.directories().len(), 1);
        go_on.send(()).unwrap();
        sweep.join().unwrap().unwrap();
    });
    assert_eq!(site.directories(), [""; 0]);
}

#[test]
fn ordinary_overlayfs_says_whose_layer_it_cannot_mount() {
    let mut site = Site::with(Options::default(), Shelf::new(&["lazy-1"]));
    let layer = provided(&*site.snapshots(), "lazy-1", "default/1/x", None);
    site.reopen_with(Arc::new(NoLayers));
    let error = site
        .snapshots()
        .view(&key("default/2/v"), Some(&layer), Labels::default())
        .unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(
        error.to_string().contains("start the plugin that made it"),
        "{error}"
    );
    assert_eq!(site.directories().len(), 1);
}
