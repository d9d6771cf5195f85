//! A registry behind a gate, a containerd, and the plugin.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pontoon_integration::{BUILTIN, Bench};
use pontoon_rig::cluster::{self, Cluster, SNAPSHOTTER};
use pontoon_rig::containerd::{Pull, Version};
use pontoon_rig::digest;
use pontoon_rig::gate::Request;
use pontoon_rig::http::get_unix;
use pontoon_rig::image::{ADDED_BY_FORMATS, Conversion, Converted, Layout, UNLISTED, noise};
use pontoon_rig::plugin::Kind;
use pontoon_rig::registry::Front;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::site::{self, Site, Users};
use pontoon_rig::token::{PASSWORD, USER};
use pontoon_rig::tree::Tree;
use pontoon_rig::wait;
use rustix::process::Pid;
use serde_json::json;

use crate::json::parse;

/// How long anything here may take before a test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Where the plugin listens to the kubelet, in the sandbox.
const IMAGE_SERVICE: &str = "cri.sock";

/// Where the plugin's cache is, in the sandbox.
const CACHE: &str = "plugin/lazy/blobs";

/// A large file of `lazy_fixture()` and its size.
pub(crate) const LARGE: (&str, usize) = ("sizes/5000001", 5_000_001);

/// From where a plugin knows the registry's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Its configuration.
    Configuration,
    /// Docker's.
    DockerConfig,
    /// What a kubelet tells the runtime.
    ImageService,
    /// It does not.
    Nobody,
}

/// A small disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Memory, with these options of tmpfs.
    Memory(&'static str),
    /// A file of 64 MiB with an ext4 in it.
    Ext4,
}

/// How a stage is set.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) version: Version,
    /// The plugin, where no other one was asked for.
    pub(crate) plugin: Option<&'static str>,
    /// The form of images, where a test does not say.
    pub(crate) form: Conversion,
    pub(crate) site: site::Setup,
    /// Who serves trees: `auto`, `erofs` or `fuse`.
    pub(crate) front_end: String,
    /// More of the plugin's configuration, as whole sections.
    pub(crate) config: String,
    /// More of the section `[registry]` of the plugin's configuration, as whole lines.
    pub(crate) registry: String,
    /// More of the section `[lazy]` of the plugin's configuration, as whole lines.
    pub(crate) lazy: String,
    /// Whether the plugin fetches what nobody has asked for.
    pub(crate) background: bool,
    /// From where the plugin knows the registry's user.
    pub(crate) known: Known,
    /// How long the plugin waits for a registry that does not answer.
    pub(crate) patience_seconds: u32,
    /// Whether containerd 1.7 has its image service.
    pub(crate) cri: bool,
    /// How much the plugin keeps, as TOML; 0 is no limit.
    pub(crate) cache_max: &'static str,
    /// What the plugin's cache is on, if that is a disk of its own.
    pub(crate) cache_disk: Option<Disk>,
    /// More environment variables of the plugin.
    pub(crate) env: Vec<(String, String)>,
    /// Under which other names containerd knows the plugin too.
    pub(crate) other_names: Vec<&'static str>,
}

impl Setup {
    /// An open registry, and a plugin that fetches what is read and no more. Where all run with the plugin for nydus images,
    /// images are such.
    pub(crate) fn new(version: Version) -> Self {
        let form = match Kind::lazy_from_env() {
            Kind::Pontoon(name) if name == NYDUS => Conversion::NydusSmallChunks,
            _ => Conversion::Estargz,
        };
        Self {
            version,
            plugin: None,
            form,
            site: site::Setup::default(),
            front_end: front_end(),
            config: String::new(),
            registry: String::new(),
            lazy: String::new(),
            background: false,
            known: Known::Nobody,
            patience_seconds: 20,
            cri: false,
            cache_max: "0",
            cache_disk: None,
            env: Vec::new(),
            other_names: Vec::new(),
        }
    }

    /// The same, and FUSE serves trees.
    pub(crate) fn on_fuse(version: Version) -> Self {
        Self {
            front_end: "fuse".into(),
            ..Self::new(version)
        }
    }

    /// The same with nydus images and the plugin for them.
    pub(crate) fn nydus(self) -> Self {
        Self {
            plugin: Some(NYDUS),
            form: Conversion::NydusBase,
            ..self
        }
    }
}

/// The plugin for nydus images.
pub(crate) const NYDUS: &str = "pontoon-nydus";

/// Who serves trees where a test does not say.
pub(crate) fn front_end() -> String {
    std::env::var("PONTOON_FRONT_END").unwrap_or_else(|_| "auto".into())
}

/// Everything that a test needs. The registry ends first.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) site: Site,
    pub(crate) bench: Bench,
    /// Whether stargz-snapshotter is in the plugin's place.
    pub(crate) rival: bool,
    user: Option<String>,
    /// Where the cache is, if it is on a disk of its own. The sandbox unmounts it.
    pub(crate) disk: Option<PathBuf>,
}

impl Stage {
    pub(crate) fn start(setup: &Setup) -> Self {
        let sandbox = Sandbox::new().unwrap();
        let disk = setup.cache_disk.map(|disk| mount_disk(&sandbox, disk));
        let site = Site::start(&sandbox, setup.site).unwrap();
        // What a `Bench` publishes and looks up goes around the gate.
        let registry = site.store().front(&sandbox, &Front::default()).unwrap();
        let config = configuration(setup, &site, &sandbox);
        let mut parts = cluster::Setup::lazy(setup.version, &config);
        let rival = parts.plugin.kind == Kind::Stargz;
        if let Some(plugin) = setup.plugin.filter(|_| !rival) {
            parts.plugin.kind = Kind::Pontoon(plugin.into());
        }
        if rival {
            let alone = !setup.background;
            parts.plugin.config =
                format!("{{\"no_background_fetch\": {alone}, \"noprefetch\": {alone}}}");
        }
        parts.plugin.env = setup.env.clone();
        parts.other_names = setup.other_names.clone();
        parts.cri_hosts = setup.cri.then(|| site.hosts_dir().clone());
        let cluster = Cluster::start_in(sandbox, parts).unwrap();
        let user = (setup.site.users != Users::All).then(|| format!("{USER}:{PASSWORD}"));
        Self {
            site,
            bench: Bench { registry, cluster },
            rival,
            user,
            disk,
        }
    }

    /// Uploads a converted image.
    pub(crate) fn publish(&self, image: &Converted, name: &str) -> String {
        self.site.push_converted(image, name, "1").unwrap()
    }

    /// Pulls as users do who want lazy loading.
    pub(crate) fn pull(&self, reference: &str) {
        self.pull_onto(SNAPSHOTTER, reference);
    }

    /// Pulls onto containerd's own snapshotter.
    pub(crate) fn pull_plainly(&self, reference: &str) {
        self.pull_onto(BUILTIN, reference);
    }

    fn pull_onto(&self, snapshotter: &str, reference: &str) {
        let pull = self.request(snapshotter, reference);
        self.bench.cluster.containerd.pull(&pull).unwrap();
    }

    /// A pull with everything that containerd needs to know.
    pub(crate) fn request<'a>(&'a self, snapshotter: &'a str, reference: &'a str) -> Pull<'a> {
        Pull {
            reference,
            snapshotter,
            hosts: Some(self.site.hosts_dir()),
            user: self.user.as_deref(),
        }
    }

    /// Pulls, and fails unless that was lazy.
    pub(crate) fn pull_lazily(&self, image: &Layout, reference: &str) {
        let before = self.blob_bytes();
        self.pull(reference);
        let (pulled, size) = (self.blob_bytes() - before, image.size().unwrap());
        assert!(
            pulled < size / 4,
            "pulled {pulled} of {size} bytes\n{}",
            self.bench.cluster.plugin.log()
        );
    }

    /// How many bytes of blobs have come through the gate.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.site.gate.bytes_of(Request::is_blob)
    }

    /// The image as containerd mounts it, without what formats add and what has a time of its own.
    pub(crate) fn tree(&self, snapshotter: &str, reference: &str) -> Tree {
        let mut tree = self.bench.tree(snapshotter, reference).unwrap();
        for path in ADDED_BY_FORMATS {
            tree.remove(path);
        }
        for path in UNLISTED {
            tree.forget_time(path);
            if self.rival {
                // It makes them up.
                tree.remove(path);
            }
        }
        if self.rival {
            // It keeps attributes that containerd drops, and takes no time for the year 1.
            tree.remove("odd/attributes");
            tree.remove("odd/old");
        }
        tree
    }

    /// Fails unless the image is what containerd's own snapshotter unpacks.
    pub(crate) fn check_parity(&self, reference: &str) {
        let ours = self.tree(SNAPSHOTTER, reference);
        let builtin = self.tree(BUILTIN, reference);
        let differences = ours.differences(&builtin);
        assert!(!ours.is_empty(), "{reference} is empty");
        assert_eq!(differences.len(), 0, "{reference}: {}", shown(&differences));
    }

    /// Mounts an image for reading, until the answer is dropped.
    pub(crate) fn view(&self, reference: &str) -> View<'_> {
        self.view_of(self.bench.cluster.containerd.namespace(), reference)
    }

    /// The same for an image in another containerd namespace.
    pub(crate) fn view_of(&self, namespace: &str, reference: &str) -> View<'_> {
        // containerd 2 never uses a target again that it mounted once.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let sandbox = &self.bench.cluster.sandbox;
        let target = sandbox.subdir(&format!("look/{number}")).unwrap();
        let text = target.to_str().unwrap();
        let mount = ["images", "mount", "--snapshotter", SNAPSHOTTER];
        let all = ["--namespace", namespace].into_iter().chain(mount);
        let containerd = &self.bench.cluster.containerd;
        containerd.ctr(all.chain([reference, text])).unwrap();
        View {
            stage: self,
            namespace: namespace.into(),
            target,
        }
    }

    /// Runs a program in a container of its own and returns what it printed.
    pub(crate) fn run(&self, id: &str, reference: &str, program: &[&str]) -> String {
        self.bench.run(id, reference, program).unwrap()
    }

    /// Has a container read a large file, and fails unless it is what it should be.
    pub(crate) fn check_reads(&self, id: &str, reference: &str) {
        // By its exit status: ctr may lose the output of a program that ends at once.
        let script = format!(
            "[ \"$(sha256sum < /{})\" = '{}  -' ]",
            LARGE.0,
            large_digest()
        );
        self.run(id, reference, &["/bin/sh", "-c", &script]);
    }

    /// A number of the daemon's metrics, of the series whose labels hold `label`; 0 if there is none.
    pub(crate) fn number(&self, metric: &str, label: &str) -> u64 {
        let socket = self.bench.cluster.sandbox.path("plugin-admin.sock");
        let answer = get_unix(&socket, "/metrics").unwrap();
        let text = String::from_utf8(answer.body).unwrap();
        let mut lines = text.lines();
        let found = lines.find(|line| line.starts_with(metric) && line.contains(label));
        let value = found.and_then(|line| line.rsplit(' ').next());
        value.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Whether FUSE serves trees.
    pub(crate) fn is_on_fuse(&self) -> bool {
        let socket = self.bench.cluster.sandbox.path("plugin-admin.sock");
        let report = parse(&get_unix(&socket, "/layers").unwrap().body);
        report["front_end"]["name"] == "fuse"
    }

    /// The socket on which the plugin listens to the kubelet.
    pub(crate) fn image_service(&self) -> PathBuf {
        self.bench.cluster.sandbox.path(IMAGE_SERVICE)
    }

    /// Removes an image and what only it needs.
    pub(crate) fn remove(&self, reference: &str) {
        let remove = ["images", "rm", "--sync", reference];
        self.bench.cluster.containerd.ctr(remove).unwrap();
    }

    /// Ends everything in order; nothing is left.
    pub(crate) fn finish(mut self) {
        if self.rival {
            return;
        }
        self.bench.check_settles().unwrap();
        self.bench.check_empties().unwrap();
        self.bench.cluster.containerd.terminate().unwrap();
        assert!(self.bench.cluster.plugin.terminate().unwrap().success());
        let mut mounts = self.bench.cluster.mounts().unwrap();
        mounts.retain(|mount| Some(mount) != self.disk.as_ref());
        assert_eq!(mounts, Vec::<PathBuf>::new(), "mounts left behind");
        let gone = || Ok(self.holders().is_empty().then_some(()));
        wait::until("the end of the holder", LIMIT, gone).unwrap();
    }

    /// The processes that keep what the plugin serves.
    pub(crate) fn holders(&self) -> Vec<Pid> {
        let root = self.bench.cluster.plugin.root().join("lazy");
        let root = root.to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let holders = pids.filter(|pid| {
            // One that ends meanwhile is none.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let program = arguments.next().unwrap_or_default();
            program.ends_with("/pontoon-holder") && arguments.any(|arg| arg.starts_with(root))
        });
        holders.filter_map(Pid::from_raw).collect()
    }
}

/// Differences, cut to what can be read.
pub(crate) fn shown(differences: &[String]) -> String {
    let lines = differences.iter().take(20);
    let lines = lines.map(|line| line.chars().take(600).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

/// The digest of the large file, as `sha256sum` writes it.
pub(crate) fn large_digest() -> String {
    let digest = digest::sha256(&noise(LARGE.1 as u64, LARGE.1));
    digest["sha256:".len()..].to_owned()
}

/// An image that is mounted.
#[derive(Debug)]
pub(crate) struct View<'a> {
    stage: &'a Stage,
    namespace: String,
    target: PathBuf,
}

impl View<'_> {
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.target.join(path)
    }

    pub(crate) fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.path(path))
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        let target = self.target.to_string_lossy();
        let unmount = ["images", "unmount", "--rm", "--snapshotter", SNAPSHOTTER];
        let all = ["--namespace", &self.namespace].into_iter().chain(unmount);
        let containerd = &self.stage.bench.cluster.containerd;
        let unmounted = containerd.ctr(all.chain([target.as_ref()]));
        // The sandbox unmounts what a failed test leaves.
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

fn mount_disk(sandbox: &Sandbox, disk: Disk) -> PathBuf {
    let target = sandbox.subdir(CACHE).unwrap();
    let mut mount = Command::new("mount");
    match disk {
        Disk::Memory(options) => mount.args(["-t", "tmpfs", "-o", options, "pontoon-test"]),
        Disk::Ext4 => {
            let image = sandbox.path("cache.img");
            let file = fs::File::create(&image).unwrap();
            file.set_len(64 << 20).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
            mount.args(["-o", "loop"]).arg(image)
        }
    };
    run(mount.arg(&target));
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    target
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// What the plugin is told.
fn configuration(setup: &Setup, site: &Site, sandbox: &Sandbox) -> String {
    let host = site.host();
    // Never the one of who runs the tests.
    let docker = sandbox.path("docker.json");
    let auths = match setup.known {
        Known::DockerConfig => {
            let auth = json!({"username": USER, "password": PASSWORD});
            json!({"auths": {host: auth}})
        }
        _ => json!({}),
    };
    fs::write(&docker, auths.to_string()).unwrap();
    let fixed: Vec<String> = match setup.known {
        Known::Configuration => vec![format!("{host} {USER} {PASSWORD}")],
        _ => Vec::new(),
    };
    let mut text = format!(
        "[registry]\nconfig_path = {:?}\npatience_seconds = {}\n{}\
         [background]\nenabled = {}\n[cache]\nfree_bytes_min = 0\nmax_bytes = {}\n\
         [credentials]\ndocker_config = {docker:?}\nfixed = {fixed:?}\n",
        site.hosts_dir(),
        setup.patience_seconds,
        setup.registry,
        setup.background,
        setup.cache_max,
    );
    if setup.known == Known::ImageService {
        let listen = sandbox.path(IMAGE_SERVICE);
        let runtime = sandbox.path("containerd/c.sock");
        let more = format!("image_service_listen = {listen:?}\nimage_service = {runtime:?}\n");
        text.push_str(&more);
    }
    text.push_str(&format!(
        "[lazy]\nfront_end = {:?}\n{}",
        setup.front_end, setup.lazy
    ));
    text.push_str(&setup.config);
    text
}
