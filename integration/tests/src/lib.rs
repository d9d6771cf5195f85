//! Tests of Pontoon under real containerd and Docker.
//!
//! The plugin under test is `pontoon-overlayfs`; `PONTOON_PLUGIN=oracle` puts
//! containerd's own overlayfs in its place, which is how the tests themselves are
//! tested. `PONTOON_FULL=1` runs the long forms.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::command::{attempt, run};
use pontoon_rig::containerd::Version;
use pontoon_rig::image::Layout;
use pontoon_rig::registry::Registry;
use pontoon_rig::tree::Tree;
use pontoon_rig::{Error, Result, wait};

/// containerd's built-in snapshotter, with which unpacked trees are compared.
pub const BUILTIN: &str = "overlayfs";

/// How long the plugin may take to come to rest.
const LIMIT: Duration = Duration::from_secs(30);

/// How long one pull may take.
const PULL_LIMIT: Duration = Duration::from_mins(2);

/// Whether the long forms were asked for.
pub fn full() -> bool {
    std::env::var_os("PONTOON_FULL").is_some_and(|value| value != "0")
}

/// A containerd with the plugin under test, and a registry. The registry ends first.
#[derive(Debug)]
pub struct Bench {
    /// The registry.
    pub registry: Registry,
    /// containerd and the plugin.
    pub cluster: Cluster,
}

impl Bench {
    /// Starts everything; layers are unpacked `concurrent_unpacks` at a time.
    pub fn start(version: Version, concurrent_unpacks: u32) -> Result<Self> {
        let cluster = Cluster::start(Setup {
            concurrent_unpacks,
            ..Setup::new(version)
        })?;
        Ok(Self {
            registry: Registry::start(&cluster.sandbox)?,
            cluster,
        })
    }

    /// Writes an image with `make`, pushes it and returns its reference.
    pub fn publish(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<Layout>,
    ) -> Result<(Layout, String)> {
        let layout = make(&self.cluster.sandbox.subdir(&format!("images/{name}"))?)?;
        let reference = self.registry.push(&layout, name, "1")?;
        Ok((layout, reference))
    }

    /// Pulls an image and unpacks it onto `snapshotter`.
    pub fn pull(&self, snapshotter: &str, reference: &str) -> Result<()> {
        run(&mut self.pull_command(snapshotter, reference), PULL_LIMIT).map(drop)
    }

    /// Pulls an image onto the plugin, again and again until all of it is there: what a
    /// node does when its plugin was gone for a moment.
    ///
    /// That `ctr` succeeds is not enough. Where it unpacks in parallel, containerd 2.3
    /// drops the error of a Prepare that failed, stops at that layer and reports success
    /// (`core/unpack/unpacker.go`, the `break` after `topHalf`).
    pub fn pull_stubbornly(&self, image: &Layout, reference: &str) -> Result<()> {
        let chain = image.chain_ids()?;
        let top = chain.last().map(String::as_str).unwrap_or_default();
        let mut last = None;
        let pulled = wait::until("a pull that works", LIMIT, || {
            let answer = attempt(&mut self.pull_command(SNAPSHOTTER, reference), PULL_LIMIT)?;
            let info = ["snapshots", "--snapshotter", SNAPSHOTTER, "info", top];
            let found = self.cluster.containerd.try_ctr(info)?;
            if answer.status.success() && found.status.success() {
                return Ok(Some(()));
            }
            let why = format!("{}\n{}", answer.stderr, found.stderr);
            last = Some(Error::unexpected("pulling", why));
            Ok(None)
        });
        pulled.map_err(|timeout| last.unwrap_or(timeout))
    }

    /// The command that pulls an image, to be run beside other things.
    pub fn pull_command(&self, snapshotter: &str, reference: &str) -> Command {
        let mut command = self.cluster.containerd.ctr_command();
        command.args([
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            snapshotter,
        ]);
        command.arg(reference);
        command
    }

    /// The tree of an unpacked image, as containerd mounts it.
    pub fn tree(&self, snapshotter: &str, reference: &str) -> Result<Tree> {
        // containerd 2 never reuses a target that it mounted once.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let target = self.cluster.sandbox.subdir(&format!("view/{number}"))?;
        let target = target.to_string_lossy();
        let options = ["--snapshotter", snapshotter];
        let containerd = &self.cluster.containerd;
        let mount = ["images", "mount"].iter().chain(&options);
        containerd.ctr(mount.chain(&[reference, &target]))?;
        let tree = Tree::read(Path::new(target.as_ref()));
        let unmount = ["images", "unmount", "--rm"].iter().chain(&options);
        containerd.ctr(unmount.chain(&[target.as_ref()]))?;
        tree
    }

    /// Fails unless the plugin's unpacked image equals the built-in overlayfs's.
    pub fn check_parity(&self, reference: &str) -> Result<()> {
        let ours = self.tree(SNAPSHOTTER, reference)?;
        let builtin = self.tree(BUILTIN, reference)?;
        let differences = ours.differences(&builtin);
        if ours.is_empty() || !differences.is_empty() {
            return Err(Error::unexpected("the same tree", differences.join("\n")));
        }
        Ok(())
    }

    /// Runs a program in a container of its own and returns what it printed.
    pub fn run(&self, id: &str, reference: &str, program: &[&str]) -> Result<String> {
        let output = self
            .cluster
            .containerd
            .run(SNAPSHOTTER, &[], reference, id, program)?;
        Ok(output.stdout)
    }

    /// Starts a container that goes on.
    pub fn start_container(&self, id: &str, reference: &str) -> Result<()> {
        let args = [
            "run",
            "--detach",
            "--snapshotter",
            SNAPSHOTTER,
            reference,
            id,
        ];
        self.cluster
            .containerd
            .ctr(args.iter().chain(&["/bin/sleep", "3600"]))
            .map(drop)
    }

    /// Runs a shell command in a running container.
    pub fn exec(&self, id: &str, script: &str) -> Result<String> {
        let args = [
            "tasks",
            "exec",
            "--exec-id",
            "x",
            id,
            "/bin/sh",
            "-c",
            script,
        ];
        Ok(self.cluster.containerd.ctr(args)?.stdout)
    }

    /// Kills a container's processes, then deletes it and its snapshot.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let containerd = &self.cluster.containerd;
        containerd.ctr(["tasks", "rm", "--force", id])?;
        containerd.ctr(["containers", "rm", id]).map(drop)
    }

    /// Removes every container, also those that a failed run left half made.
    pub fn remove_containers(&self) -> Result<()> {
        let containerd = &self.cluster.containerd;
        for id in containerd
            .ctr(["containers", "ls", "--quiet"])?
            .stdout
            .lines()
        {
            // Where there is no task, there is nothing to remove.
            containerd.try_ctr(["tasks", "rm", "--force", id])?;
            containerd.ctr(["containers", "rm", id])?;
        }
        Ok(())
    }

    /// Runs containerd's collector to its end. A snapshot is made and removed first:
    /// the collector calls `Cleanup` only of a snapshotter that lost something.
    pub fn collect_garbage(&self) -> Result<()> {
        let containerd = &self.cluster.containerd;
        let snapshots = ["snapshots", "--snapshotter", SNAPSHOTTER];
        containerd.ctr(snapshots.iter().chain(&["prepare", "to-collect", ""]))?;
        containerd.ctr(snapshots.iter().chain(&["rm", "to-collect"]))?;
        let lease = containerd.ctr(["leases", "create"])?.stdout;
        containerd
            .ctr(["leases", "rm", "--sync", lease.trim()])
            .map(drop)
    }

    /// Waits until the plugin holds what containerd knows, and nothing else: removal
    /// is asynchronous, and the collector runs after it.
    pub fn check_settles(&self) -> Result<()> {
        let mut last = None;
        let settled = wait::until("a plugin without leaks", LIMIT, || {
            match self.cluster.check_leaks() {
                Ok(()) => return Ok(Some(())),
                Err(error) => last = Some(error),
            }
            self.collect_garbage()?;
            Ok(None)
        });
        settled.map_err(|timeout| last.unwrap_or(timeout))
    }

    /// Removes every image and waits until containerd's collector has brought the
    /// plugin back to nothing: no snapshot, no directory, no mount.
    pub fn check_empties(&self) -> Result<()> {
        let containerd = &self.cluster.containerd;
        let images = containerd.ctr(["images", "ls", "--quiet"])?.stdout;
        for image in images.lines() {
            containerd.ctr(["images", "rm", "--sync", image])?;
        }
        let leases = containerd.ctr(["leases", "ls", "--quiet"])?.stdout;
        for lease in leases.lines() {
            containerd.ctr(["leases", "rm", "--sync", lease])?;
        }
        self.check_settles()?;
        let left = self.cluster.snapshots()?;
        if !left.is_empty() {
            return Err(Error::unexpected(
                "an empty snapshotter",
                format!("{left:#?}"),
            ));
        }
        Ok(())
    }
}
