//! What snapshots take on disk.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pontoon_metastore::Store;
use pontoon_overlay::Options;
use pontoon_snapshot::{Class, Error, Labels, SnapshotterName, Usage};

use crate::site::{Site, key};

fn du(path: &Path) -> Usage {
    let run = |options: &[&str]| -> u64 {
        let output = Command::new("du").args(options).arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    Usage {
        size_bytes: run(&["-s", "--block-size=1"]),
        inodes: run(&["-s", "--inodes"]),
    }
}

fn upper(site: &Site, id: u32) -> std::path::PathBuf {
    site.root().join(format!("snapshots/{id}/fs"))
}

#[test]
fn usage_is_of_the_snapshot_alone_in_every_kind() {
    let site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("file"), vec![1; 50_000]).unwrap();
    });
    let snapshots = site.snapshots();
    let base = snapshots.usage(&key("base")).unwrap();
    assert_eq!(base, du(&upper(&site, 1)));
    assert!(base.size_bytes >= 50_000 && base.inodes == 2);
    let mounts = snapshots
        .prepare(&key("active"), Some(&key("base")), Labels::default())
        .unwrap();
    assert_eq!(
        snapshots.usage(&key("active")).unwrap(),
        du(&upper(&site, 2))
    );
    site.inside(&mounts, |root| fs::write(root.join("new"), "x").unwrap());
    assert_eq!(
        snapshots.usage(&key("active")).unwrap(),
        du(&upper(&site, 2))
    );
    snapshots
        .view(&key("view"), Some(&key("base")), Labels::default())
        .unwrap();
    assert_eq!(snapshots.usage(&key("view")).unwrap(), Usage::default());
}

/// The records' own usages, read from a store that no engine has open.
fn stored(site: &Site) -> Vec<Option<Usage>> {
    let store = Store::open(&site.root().join("metadata.redb")).unwrap();
    let mut usages = Vec::new();
    let name = SnapshotterName::new("test").unwrap();
    let mut visit = |record: pontoon_metastore::Record| {
        usages.push(record.usage);
        ControlFlow::Continue(())
    };
    store.walk(&name, &mut visit).unwrap();
    usages
}

#[test]
fn the_usage_of_a_committed_snapshot_is_recorded_once_known() {
    let mut site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("file"), vec![1; 50_000]).unwrap();
    });
    let told = site.snapshots().usage(&key("base")).unwrap();
    site.reopen(|site| {
        assert_eq!(stored(site), [Some(told)]);
        // From here on it is only looked up.
        fs::write(upper(site, 1).join("more"), vec![1; 50_000]).unwrap();
    });
    let snapshots = site.snapshots();
    assert_eq!(snapshots.usage(&key("base")).unwrap(), told);
    assert_eq!(snapshots.recorded_usage(&key("base")).unwrap(), Some(told));
    // An active one changes all the time.
    let labels = Labels::default();
    snapshots
        .prepare(&key("active"), Some(&key("base")), labels)
        .unwrap();
    assert_eq!(snapshots.recorded_usage(&key("active")).unwrap(), None);
    assert!(snapshots.recorded_usage(&key("nothing")).is_err());
}

#[test]
fn commits_are_measured_in_the_background_also_after_a_restart() {
    let mut site = Site::new();
    for layer in 0..20 {
        site.layer(&format!("layer-{layer}"), None, |root| {
            fs::write(root.join("file"), vec![1; 5_000]).unwrap();
        });
    }
    // Closed at once: what was not measured is measured by the next one.
    site.reopen(|_| {});
    let begin = Instant::now();
    loop {
        let mut known = 0;
        site.reopen(|site| known = stored(site).iter().flatten().count());
        if known == 20 {
            break;
        }
        assert!(begin.elapsed().as_secs() < 30, "{known} of 20 measured");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn what_is_removed_while_it_is_measured_is_not_found() {
    let site = Site::with_options(Options {
        sync_remove: true,
        ..Options::default()
    });
    let snapshots = site.snapshots();
    let done = AtomicBool::new(false);
    let told: Vec<Class> = std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut told = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let answer = snapshots.usage(&key("a"));
                told.extend(answer.err().map(|error| error.class()));
            }
            told
        });
        let made: Result<(), Error> = (0..200).try_for_each(|_| {
            snapshots.prepare(&key("a"), None, Labels::default())?;
            snapshots.remove(&key("a"))
        });
        done.store(true, Ordering::Relaxed);
        made.unwrap();
        asker.join().unwrap()
    });
    let others: Vec<&Class> = told
        .iter()
        .filter(|told| **told != Class::NotFound)
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn a_commit_does_not_look_at_the_tree() {
    let site = Site::new();
    let snapshots = site.snapshots();
    let mounts = snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    let upper = Path::new(&mounts[0].source);
    let aside = site.path("aside");
    fs::rename(upper, &aside).unwrap();
    snapshots
        .commit(&key("layer"), &key("a"), None, Labels::default())
        .unwrap();
    assert!(snapshots.usage(&key("layer")).is_err());
    fs::rename(&aside, upper).unwrap();
    assert_eq!(snapshots.usage(&key("layer")).unwrap(), du(upper));
}
