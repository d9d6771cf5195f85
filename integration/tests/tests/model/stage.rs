//! The daemon, and what can be said about all of it while nobody works.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pontoon_linux::{Mounter, SystemMounter};
use pontoon_proto::client::Client;
use pontoon_rig::plugin::{Plugin, Setup};
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::wait;
use pontoon_snapshot::{
    Class, Filter, Info, Key, Keyspaces, Kind, Labels, Mount, Result, Snapshotter, SnapshotterName,
};

use crate::caller::{Caller, SHARED, SHARED_FILE, key};
use crate::expected::Files;
use crate::random::Random;

/// How many snapshots are mounted and read after each round.
const READ_PER_ROUND: u64 = 6;

pub(crate) struct Stage {
    pub(crate) sn: Arc<dyn Snapshotter>,
    pub(crate) plugin: Plugin,
    _sandbox: Sandbox,
    mountpoint: PathBuf,
}

impl Stage {
    /// A daemon with one committed snapshot, which all callers may build on and nobody can remove.
    pub(crate) fn start() -> Self {
        let sandbox = Sandbox::new().unwrap();
        let setup = Setup {
            log_level: "info",
            ..Setup::default()
        };
        let plugin = Plugin::start(&sandbox, setup).unwrap();
        let stage = Stage {
            sn: connect(&plugin),
            mountpoint: sandbox.subdir("tmp/stage").unwrap(),
            plugin,
            _sandbox: sandbox,
        };
        let mounts = stage
            .sn
            .prepare(&key("shared-active"), None, Labels::default())
            .unwrap();
        fs::write(PathBuf::from(&mounts[0].source).join(SHARED_FILE), SHARED).unwrap();
        let (shared, active) = (key(SHARED), key("shared-active"));
        stage
            .sn
            .commit(&shared, &active, None, Labels::default())
            .unwrap();
        stage
            .sn
            .prepare(&key("shared-pin"), Some(&shared), Labels::default())
            .unwrap();
        stage
    }

    /// A connection for one caller.
    pub(crate) fn connect(&self) -> Arc<dyn Snapshotter> {
        connect(&self.plugin)
    }

    /// A directory for one caller's mounts.
    pub(crate) fn mountpoint(&self, number: usize) -> PathBuf {
        let path = self.mountpoint.with_file_name(format!("caller-{number}"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// Waits until the daemon answers.
    pub(crate) fn wait_reachable(&self) {
        wait::until("the daemon answers", Duration::from_secs(20), || match self
            .sn
            .stat(&key(SHARED))
        {
            Err(error) if error.class() == Class::Unavailable => Ok(None),
            other => Ok(Some(other.unwrap())),
        })
        .unwrap();
    }

    /// Panics unless there is what the callers expect, on disk too.
    pub(crate) fn assert_is(&mut self, callers: &[Caller], random: &mut Random) {
        for contended in list(&*self.sn, "contended-").unwrap() {
            self.sn.remove(&contended.key).unwrap();
        }
        let mut wanted = BTreeSet::from([key(SHARED), key("shared-pin")]);
        for caller in callers {
            caller.assert_is();
            wanted.extend(caller.own_keys());
        }
        let found = list(&*self.sn, "").unwrap();
        // A view on a parent mounts what is below it.
        let has_directory = |info: &&Info| info.kind != Kind::View || info.parent.is_none();
        let with_directory = found.iter().filter(has_directory).count();
        let found: BTreeSet<Key> = found.into_iter().map(|info| info.key).collect();
        assert_eq!(found, wanted);

        self.sn.cleanup().unwrap();
        let directories = self.plugin.snapshot_dirs().unwrap();
        assert_eq!(directories.len(), with_directory, "{directories:?}");
        for _ in 0..READ_PER_ROUND {
            let (key, files) = random.pick(callers).any_snapshot(random);
            if let Some(key) = key {
                assert_eq!(self.read(&key), files, "the files of {key}");
            }
        }
    }

    /// The files of a snapshot, through a mount of it.
    fn read(&self, of: &Key) -> Files {
        let view = key("stage-view");
        let committed = self.sn.stat(of).unwrap().kind == Kind::Committed;
        let mounts = if committed {
            self.sn.view(&view, Some(of), Labels::default()).unwrap()
        } else {
            self.sn.mounts(of).unwrap()
        };
        let mut files = Files::new();
        mounted(&mounts, &self.mountpoint, || {
            for entry in fs::read_dir(&self.mountpoint)
                .unwrap()
                .map(std::result::Result::unwrap)
            {
                let name = entry.file_name().into_string().unwrap();
                files.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        });
        if committed {
            self.sn.remove(&view).unwrap();
        }
        files
    }

    /// Ends the daemon as an administrator would.
    pub(crate) fn end(mut self) {
        assert!(self.plugin.terminate().unwrap().success());
        assert_eq!(self.plugin.mounts().unwrap(), Vec::<PathBuf>::new());
    }
}

fn connect(plugin: &Plugin) -> Arc<dyn Snapshotter> {
    let client = Client::with_deadline(plugin.socket(), Duration::from_secs(30)).unwrap();
    client
        .open(&SnapshotterName::new("model").unwrap())
        .unwrap()
}

/// The snapshots whose keys begin with `prefix`, a word without signs.
pub(crate) fn list(sn: &dyn Snapshotter, prefix: &str) -> Result<Vec<Info>> {
    let filter = Filter::parse(&[format!("name~=^{prefix}")]).unwrap();
    let mut infos = Vec::new();
    sn.walk(&filter, &mut |info| {
        infos.push(info);
        ControlFlow::Continue(())
    })?;
    Ok(infos)
}

/// Does something while `mounts` are mounted at `at`.
pub(crate) fn mounted(mounts: &[Mount], at: &PathBuf, work: impl FnOnce()) {
    struct Unmount<'a>(&'a PathBuf);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            SystemMounter.unmount(self.0).unwrap();
        }
    }
    assert_eq!(mounts.len(), 1);
    SystemMounter.mount(&mounts[0], at).unwrap();
    let _unmount = Unmount(at);
    work();
}
