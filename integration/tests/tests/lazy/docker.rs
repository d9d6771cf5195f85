//! Docker Engine with the plugin as its storage driver, lazily.

use std::fs;
use std::process::Command;

use pontoon_integration::BUILTIN;
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::run;
use pontoon_rig::containerd::Version;
use pontoon_rig::docker::Docker;
use pontoon_rig::http::get_unix;
use pontoon_rig::image::{self, Conversion, Layout, convert, lazy_fixture};
use pontoon_rig::plugin::find_binary;
use serde_json::Value;

use crate::json::parse;
use crate::stage::{LIMIT, Setup, Stage};

/// Docker keeps everything in this containerd namespace.
pub(crate) const NAMESPACE: &str = "moby";

pub(crate) struct Engine {
    pub(crate) docker: Docker,
    pub(crate) stage: Stage,
}

impl Engine {
    pub(crate) fn start(setup: &Setup) -> Self {
        let stage = Stage::start(setup);
        let cluster = &stage.bench.cluster;
        let docker = Docker::start(&cluster.sandbox, &cluster.containerd, stage.site.host());
        Self {
            docker: docker.unwrap(),
            stage,
        }
    }

    /// Runs `docker` with the words of `line`.
    pub(crate) fn docker(&self, line: &str) -> String {
        self.docker.docker(line.split_whitespace()).unwrap().stdout
    }

    /// Runs `docker` with the words of `line` and then a shell with `script`.
    pub(crate) fn shell(&self, line: &str, script: &str) -> String {
        let words = line.split_whitespace().chain(["sh", "-c", script]);
        self.docker.docker(words).unwrap().stdout
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> String {
        let all = ["--namespace", NAMESPACE].into_iter();
        let containerd = &self.stage.bench.cluster.containerd;
        containerd
            .ctr(all.chain(args.iter().copied()))
            .unwrap()
            .stdout
    }

    /// What Docker's API answers.
    pub(crate) fn api(&self, path: &str) -> Value {
        let answer = get_unix(&self.docker.socket(), path).unwrap();
        parse(&answer.expect(path, 200).unwrap().body)
    }

    pub(crate) fn check_empties(&self) {
        self.docker("buildx history rm --all");
        self.docker("system prune --all --force --volumes");
        self.docker("builder prune --all --force");
        let mut last = String::new();
        let emptied = pontoon_rig::wait::until("an empty snapshotter", LIMIT, || {
            self.stage.bench.collect_garbage()?;
            last = self.ctr(&["snapshots", "--snapshotter", SNAPSHOTTER, "ls"]);
            let dirs = self.stage.bench.cluster.plugin.snapshot_dirs()?;
            Ok((last.lines().count() == 1 && dirs.is_empty()).then_some(()))
        });
        assert!(emptied.is_ok(), "left behind: {last}");
    }
}

#[test]
fn docker_pulls_runs_builds_commits_and_pushes() {
    docker_works(&Setup::new(Version::V2_3));
}

#[test]
fn docker_pulls_runs_builds_commits_and_pushes_on_fuse() {
    docker_works(&Setup::on_fuse(Version::V2_3));
}

fn docker_works(setup: &Setup) {
    let mut engine = Engine::start(setup);
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = engine.stage.publish(&image, "lazy");
    let size = image.image.size().unwrap();
    engine.docker(&format!("pull --quiet {reference}"));
    let pulled = engine.stage.blob_bytes();
    assert!(pulled < size / 4, "pulled {pulled} of {size} bytes");
    check_sizes(&engine, &image.image, &reference);

    let run = format!("run --rm --network none {reference}");
    assert_eq!(
        engine.docker(&format!("{run} cat /odd/here/first")),
        "linked"
    );
    assert_eq!(build(&engine, &reference), "built\nlinked\ncopied");
    let script = "echo mine > /odd/mine; rm -r /twice";
    engine.shell("run --name one --network none built", script);
    assert_eq!(engine.docker("diff one").lines().count(), 3);
    let name = format!("{}/lazy:committed", engine.stage.site.host());
    engine.docker(&format!("commit one {name}"));
    engine.docker(&format!("push --quiet {name}"));
    engine.docker("rm --force one");

    // The stopped container and its image survive everybody.
    engine.shell("run --detach --name two --network none built", "sleep 3600");
    engine.docker("kill two");
    engine.docker.terminate().unwrap();
    if !engine.stage.rival {
        engine.stage.bench.cluster.plugin.kill().unwrap();
        engine.stage.bench.cluster.plugin.resume().unwrap();
        engine.stage.bench.cluster.wait_connected().unwrap();
    }
    engine.docker.resume().unwrap();
    engine.docker("start two");
    assert_eq!(engine.docker("exec two cat /built"), "built");
    engine.docker("rm --force two");

    // What was pushed is whole: containerd's own snapshotter takes it.
    engine.stage.pull_plainly(&name);
    let containerd = &engine.stage.bench.cluster.containerd;
    let script = "cat /built /odd/mine; [ ! -e /twice ] && stat -c %s /sizes/5000001";
    let program = ["/bin/sh", "-c", script];
    let ran = containerd.run(BUILTIN, &[], &name, "plain", &program);
    assert_eq!(ran.unwrap().stdout, "built\nmine\n5000001");
    engine.stage.remove(&name);

    engine.docker(&format!("image rm --force {name} built {reference}"));
    if !engine.stage.rival {
        engine.check_empties();
    }
    engine.docker.terminate().unwrap();
}

/// Builds an image with a `RUN` and a `COPY` on `base` and returns what it prints.
fn build(engine: &Engine, base: &str) -> String {
    let dir = engine
        .stage
        .bench
        .cluster
        .sandbox
        .subdir("context")
        .unwrap();
    let dockerfile = format!(
        "FROM {base}\nRUN --network=none echo built > /built && cat /odd/here/first >> /built-too\n\
         COPY copied /copied\nCMD [\"/bin/sh\", \"-c\", \"cat /built /built-too /copied\"]\n"
    );
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    fs::write(dir.join("copied"), "copied\n").unwrap();
    engine.docker(&format!("build --quiet --tag built {}", dir.display()));
    engine.docker("run --rm --network none built")
}

#[test]
fn docker_shows_what_images_take() {
    shows_what_images_take(&Setup::new(Version::V2_3), Conversion::Estargz);
}

#[test]
fn docker_shows_what_nydus_images_take() {
    let setup = Setup::new(Version::V2_3).nydus();
    shows_what_images_take(&setup, Conversion::Nydus);
}

/// `docker images` tells what a lazy image takes as soon as dockerd asks for it; a container's size is always true.
///
/// `multiPlatformSummary` of dockerd's `daemon/containerd/image_list.go` came back before it asked any snapshotter if
/// `CheckContentAvailable` missed a layer's blob in containerd's content store; it asks since 29.1.2.
fn shows_what_images_take(setup: &Setup, form: Conversion) {
    let mut engine = Engine::start(setup);
    if engine.stage.rival {
        // It says that layers take nothing.
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), form).unwrap();
    let reference = engine.stage.publish(&image, "shown");
    engine.docker(&format!("pull --quiet {reference}"));
    let image = &image.image;
    let taken = usage(&engine, &["--namespace", NAMESPACE], SNAPSHOTTER, image);
    assert!(taken > 20_000_000, "{taken} bytes");

    engine.docker(&format!("create --name one {reference} true"));
    let containers = engine.api("/containers/json?all=1&size=1");
    let container = &containers[0];
    let written = container["SizeRw"].as_u64().unwrap_or(0);
    let below = container["SizeRootFs"].as_u64().unwrap() - written;
    // And what Docker puts between them: /etc/hosts and the like.
    assert!(
        (taken..taken + 1_000_000).contains(&below),
        "{containers:#}"
    );

    let is_asked = asks_for_usage_of_lazy_images(&engine);
    let lazy = shown(&engine);
    assert_eq!(lazy.is_available, Some(false), "{lazy:?}");
    assert_eq!(lazy.unpacked, if is_asked { taken } else { 0 }, "{lazy:?}");
    assert_eq!(lazy.size, lazy.content + lazy.unpacked, "{lazy:?}");
    assert!(lazy.content < 100_000, "{lazy:?}");
    // Nor does it say then how the image is configured, although it runs it so.
    let inspect = format!("/images/{reference}/json");
    let inspected = engine.api(&inspect);
    assert_eq!(
        inspected["Config"]["Env"].is_array(),
        is_asked,
        "{inspected:#}"
    );

    hydrate(&engine, &reference);
    let whole = shown(&engine);
    assert_eq!(whole.is_available, Some(true), "{whole:?}");
    assert_eq!(whole.unpacked, taken, "{whole:?}");
    let content = image.size().unwrap() + image.manifest().unwrap().len() as u64;
    assert_eq!(whole.content, content, "{whole:?}");
    assert_eq!(whole.size, whole.content + taken, "{whole:?}");
    assert!(engine.api(&inspect)["Config"]["Env"].is_array());

    engine.docker("rm one");
    engine.docker(&format!("image rm --force {reference}"));
    engine.check_empties();
    engine.docker.terminate().unwrap();
}

/// What Docker shows of the only image.
#[derive(Debug)]
struct Shown {
    /// In `docker images`.
    size: u64,
    /// Of its manifest: what containerd's content store has.
    content: u64,
    /// Of its manifest: what the driver says.
    unpacked: u64,
    /// Whether the content store has everything.
    is_available: Option<bool>,
}

fn shown(engine: &Engine) -> Shown {
    let images = engine.api("/images/json?manifests=1");
    assert_eq!(images.as_array().map(Vec::len), Some(1), "{images:#}");
    let manifest = &images[0]["Manifests"][0];
    Shown {
        size: images[0]["Size"].as_u64().unwrap(),
        content: manifest["Size"]["Content"].as_u64().unwrap(),
        unpacked: manifest["ImageData"]["Size"]["Unpacked"].as_u64().unwrap(),
        is_available: manifest["Available"].as_bool(),
    }
}

fn asks_for_usage_of_lazy_images(engine: &Engine) -> bool {
    let version = engine.docker("version --format {{.Server.Version}}");
    let numbers = version.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u32> = numbers.take(3).map(|n| n.parse().unwrap()).collect();
    numbers >= vec![29, 1, 2]
}

/// `pontoon hydrate` of a reference that Docker has pulled.
fn hydrate(engine: &Engine, reference: &str) {
    let cluster = &engine.stage.bench.cluster;
    let mut command = Command::new(find_binary("pontoon").unwrap());
    command.args(["hydrate", reference, "--namespace", NAMESPACE]);
    command
        .arg("--containerd")
        .arg(cluster.containerd.socket())
        .arg("--config")
        .arg(cluster.sandbox.path("plugin.toml"));
    run(&mut command, LIMIT).unwrap();
}

/// What the image takes is told as on a driver that unpacks it.
fn check_sizes(engine: &Engine, image: &Layout, reference: &str) {
    if engine.stage.rival {
        // It says that layers take nothing.
        return;
    }
    let ours = usage(engine, &["--namespace", NAMESPACE], SNAPSHOTTER, image);
    assert!(ours > 20_000_000, "{ours} bytes");
    let df = engine.api("/system/df");
    let layers = df["LayersSize"].as_u64().unwrap();
    assert!(layers >= ours, "system df: {df:#}");
    // Without the bytes.
    let (asked, size) = (engine.stage.blob_bytes(), image.size().unwrap());
    assert!(asked < size / 4, "{asked} of {size} bytes for sizes");

    // On the driver that unpacks, where only directories take other space: nearly the same.
    engine.stage.pull_plainly(reference);
    let builtin = usage(engine, &[], BUILTIN, image);
    assert!(
        ours.abs_diff(builtin) < builtin / 20,
        "{ours} bytes here, {builtin} unpacked"
    );
    engine.stage.remove(reference);
}

/// What all snapshots of an image take on a snapshotter, in bytes, as containerd is told.
fn usage(engine: &Engine, options: &[&str], snapshotter: &str, image: &Layout) -> u64 {
    let chain = image.chain_ids().unwrap();
    let list = ["snapshots", "--snapshotter", snapshotter, "usage", "-b"];
    let args = options.iter().copied().chain(list);
    let args = args.chain(chain.iter().map(String::as_str));
    let containerd = &engine.stage.bench.cluster.containerd;
    let printed = containerd.ctr(args).unwrap().stdout;
    let rows = printed.lines().skip(1);
    let sizes = rows.map(|row| row.split_whitespace().nth(1).unwrap().parse::<u64>());
    sizes.sum::<Result<u64, _>>().unwrap()
}

/// An image that cannot be lazy is loaded as ever.
#[test]
fn docker_loads_and_saves_ordinary_images() {
    loads_and_saves(&Setup::new(Version::V2_3));
}

#[test]
fn docker_loads_and_saves_ordinary_images_on_the_plugin_for_nydus() {
    loads_and_saves(&Setup::new(Version::V2_3).nydus());
}

fn loads_and_saves(setup: &Setup) {
    let mut engine = Engine::start(setup);
    let sandbox = &engine.stage.bench.cluster.sandbox;
    let odd = image::odd(&sandbox.subdir("odd").unwrap()).unwrap();
    let archive = sandbox.path("odd.tar");
    odd.archive("loaded.invalid/odd:1", &archive).unwrap();
    engine.docker(&format!("load --quiet --input {}", archive.display()));
    let run = "run --rm --network none loaded.invalid/odd:1";
    let found = engine.docker(&format!("{run} find /data"));
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, image::odd_entries());
    let saved = sandbox.path("saved.tar");
    engine.docker(&format!(
        "save --output {} loaded.invalid/odd:1",
        saved.display()
    ));
    assert!(saved.metadata().unwrap().len() > odd.size().unwrap());
    assert_eq!(engine.stage.site.gate.requests(), 0);
    engine.docker("image rm --force loaded.invalid/odd:1");
    if !engine.stage.rival {
        engine.check_empties();
    }
    engine.docker.terminate().unwrap();
}
