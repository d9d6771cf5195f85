//! Docker Engine with the plugin as its storage driver.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pontoon_integration::Bench;
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::docker::Docker;
use pontoon_rig::http::get_unix;
use pontoon_rig::{digest, image};
use serde_json::Value;

/// Docker keeps everything in this containerd namespace.
const NAMESPACE: &str = "moby";

struct Engine {
    docker: Docker,
    bench: Bench,
}

impl Engine {
    fn start() -> Self {
        let bench = Bench::start(Version::V2_3, 1).unwrap();
        let cluster = &bench.cluster;
        let host = bench.registry.host();
        let docker = Docker::start(&cluster.sandbox, &cluster.containerd, host).unwrap();
        Self { docker, bench }
    }

    /// Runs `docker` with the words of `line`.
    fn docker(&self, line: &str) -> String {
        self.docker.docker(line.split_whitespace()).unwrap().stdout
    }

    /// Runs `docker` with the words of `line` and then a shell with `script`.
    fn shell(&self, line: &str, script: &str) -> String {
        let words = line.split_whitespace().chain(["sh", "-c", script]);
        self.docker.docker(words).unwrap().stdout
    }

    /// A build context with the given files.
    fn context(&self, files: &[(&str, &[u8])]) -> PathBuf {
        let dir = self.bench.cluster.sandbox.subdir("context").unwrap();
        for (name, data) in files {
            fs::write(dir.join(name), data).unwrap();
        }
        dir
    }

    fn ctr(&self, args: &[&str]) -> String {
        let mut all = vec!["--namespace", NAMESPACE];
        all.extend(args);
        self.bench.cluster.containerd.ctr(all).unwrap().stdout
    }

    fn content_path(&self, digest: &str) -> PathBuf {
        let store = "root/io.containerd.content.v1.content/blobs";
        let store = self.bench.cluster.containerd.dir().join(store);
        store.join(digest.replacen(':', "/", 1))
    }

    /// The content that containerd's store has under a digest.
    fn content(&self, digest: &str) -> Vec<u8> {
        fs::read(self.content_path(digest)).unwrap()
    }

    fn has_content(&self, digest: &str) -> bool {
        self.content_path(digest).exists()
    }

    /// Fails unless Docker has given everything back.
    fn check_empties(&self) {
        // The record of a build keeps its result alive.
        self.docker("buildx history rm --all");
        self.docker("system prune --all --force --volumes");
        self.docker("builder prune --all --force");
        let mut last = (String::new(), Vec::new());
        let limit = std::time::Duration::from_secs(30);
        let emptied = pontoon_rig::wait::until("an empty snapshotter", limit, || {
            self.bench.collect_garbage()?;
            let keys = self.ctr(&["snapshots", "--snapshotter", SNAPSHOTTER, "ls"]);
            let dirs = self.bench.cluster.plugin.snapshot_dirs()?;
            let empty = keys.lines().count() == 1 && dirs.is_empty();
            last = (keys, dirs);
            Ok(empty.then_some(()))
        });
        assert!(emptied.is_ok(), "left behind: {last:#?}");
        assert_eq!(
            self.bench.cluster.plugin.mounts().unwrap(),
            Vec::<PathBuf>::new()
        );
    }
}

/// Builds an image with a `RUN` and a `COPY` on `base` and returns what it prints.
fn build(engine: &Engine, base: &str) -> String {
    let dockerfile = format!(
        "FROM {base}\nRUN --network=none echo built > /data/built && rm /data/kept\n\
         COPY copied /data/copied\nCMD [\"/bin/sh\", \"-c\", \"cat /data/built /data/copied\"]\n"
    );
    let dockerfile = dockerfile.as_bytes();
    let context = engine.context(&[("Dockerfile", dockerfile), ("copied", b"copied\n")]);
    engine.docker(&format!("build --quiet --tag built {}", context.display()));
    engine.docker("run --rm --network none built")
}

#[test]
fn builds_runs_commits_and_restarts() {
    let mut engine = Engine::start();
    assert_eq!(engine.docker("info --format {{.Driver}}"), SNAPSHOTTER);
    let (_, odd) = engine.bench.publish("odd", image::odd).unwrap();
    engine.docker(&format!("pull --quiet {odd}"));
    let found = engine.docker(&format!("run --rm --network none {odd} find /data"));
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, image::odd_entries());
    assert_eq!(build(&engine, &odd), "built\ncopied");

    let script = "echo mine > /data/mine; rm -r /data/opaque; while :; do sleep 1; done";
    engine.shell("run --detach --name one --network none built", script);
    let script = "until [ ! -e /data/opaque ]; do sleep 0.1; done; cat /data/mine";
    assert_eq!(engine.shell("exec one", script), "mine");
    engine.docker("commit one committed");
    let script = "cat /data/mine /data/built; [ ! -e /data/opaque ] && [ ! -e /data/kept ]";
    let printed = engine.shell("run --rm --network none committed", script);
    assert_eq!(printed, "mine\nbuilt");

    let usage = engine.docker("system df --format {{.Type}}|{{.TotalCount}}|{{.Size}}");
    let images = usage
        .lines()
        .find(|line| line.starts_with("Images|"))
        .unwrap();
    assert!(
        images.starts_with("Images|3|") && !images.ends_with("|0B"),
        "{usage}"
    );
    assert!(engine.docker("diff one").contains("D /data/opaque"));

    // The plugin is killed, Docker restarted, and the container starts with its data.
    engine.docker("stop --timeout 0 one");
    engine.bench.cluster.plugin.kill().unwrap();
    engine.bench.cluster.plugin.resume().unwrap();
    engine.bench.cluster.wait_connected().unwrap();
    engine.docker.terminate().unwrap();
    engine.docker.resume().unwrap();
    engine.docker("start one");
    assert_eq!(
        engine.docker("exec one cat /data/mine /data/copied"),
        "mine\ncopied"
    );
    engine.docker("restart --timeout 0 one");
    assert_eq!(engine.docker("exec one cat /data/mine"), "mine");

    engine.docker("rm --force one");
    engine.docker(&format!("image rm --force committed built {odd}"));
    engine.check_empties();
}

const MULTI: &str = "\
FROM scratch
ARG TARGETARCH
COPY busybox /bin/busybox
COPY greeting-${TARGETARCH} /greeting
CMD [\"/bin/busybox\", \"cat\", \"/greeting\"]
";

/// One entry of an index.
#[derive(Debug)]
struct Entry {
    platform: String,
    attestation: bool,
    digest: String,
}

fn entries(index: &[u8]) -> Vec<Entry> {
    let index: Value = serde_json::from_slice(index).unwrap();
    let list = index["manifests"].as_array().unwrap().iter();
    list.map(|entry| {
        let part = |name: &str| entry["platform"][name].as_str().unwrap_or_default();
        let kind = &entry["annotations"]["vnd.docker.reference.type"];
        Entry {
            platform: format!("{}/{}", part("os"), part("architecture")),
            attestation: kind == "attestation-manifest",
            digest: entry["digest"].as_str().unwrap().to_owned(),
        }
    })
    .collect()
}

/// Builds for two platforms and returns the digest of the index that was stored.
fn build_for_two_platforms(engine: &Engine, reference: &str) -> String {
    let context = engine.context(&[
        ("Dockerfile", MULTI.as_bytes()),
        ("busybox", &image::busybox().unwrap()),
        ("greeting-amd64", b"hello from amd64\n"),
        ("greeting-arm64", b"hello from arm64\n"),
    ]);
    fs::set_permissions(context.join("busybox"), Permissions::from_mode(0o755)).unwrap();
    let options = "--platform linux/amd64,linux/arm64 --provenance=true --quiet";
    engine.docker(&format!(
        "buildx build {options} --tag {reference} {}",
        context.display()
    ));
    let images = engine.ctr(&["images", "ls"]);
    let row = images
        .lines()
        .find(|line| line.contains("multi:1"))
        .unwrap();
    let digest = row
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"));
    digest.unwrap().to_owned()
}

/// Docker lists the manifests that are stored, with their kinds.
fn check_listed(engine: &Engine, stored: &[Entry]) {
    let listed = get_unix(&engine.docker.socket(), "/images/json?manifests=true").unwrap();
    let listed = listed.expect("listing images", 200).unwrap();
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    let found = listed[0]["Manifests"].as_array().unwrap().iter();
    let found: BTreeSet<(&str, bool)> = found
        .map(|entry| {
            (
                entry["ID"].as_str().unwrap(),
                entry["Kind"] == "attestation",
            )
        })
        .collect();
    let expected = stored
        .iter()
        .map(|entry| (entry.digest.as_str(), entry.attestation));
    assert_eq!(found, expected.collect());
    let tree = engine.docker("image ls --tree");
    assert!(
        tree.contains("linux/amd64") && tree.contains("linux/arm64"),
        "{tree}"
    );
}

/// The registry has every manifest and blob, byte for byte; returns the digests and
/// contents of what the host's platform needs.
fn check_pushed(engine: &Engine, stored: &[Entry]) -> Vec<(String, Vec<u8>)> {
    let registry = &engine.bench.registry;
    let host = format!("linux/{}", image::architecture());
    let mut host_blobs = Vec::new();
    for entry in stored {
        let bytes = registry.manifest("multi", &entry.digest).unwrap();
        assert_eq!(bytes, engine.content(&entry.digest));
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        for part in layers.chain([&manifest["config"]]) {
            let blob_digest = part["digest"].as_str().unwrap();
            let blob = registry.blob("multi", blob_digest).unwrap();
            assert_eq!(digest::sha256(&blob), blob_digest);
            assert_eq!(blob, engine.content(blob_digest));
            if entry.platform == host {
                host_blobs.push((blob_digest.to_owned(), blob));
            }
        }
    }
    host_blobs
}

#[test]
fn stores_a_multi_platform_build_with_attestations() {
    let engine = Engine::start();
    let reference = format!("{}/multi:1", engine.bench.registry.host());
    let index_digest = build_for_two_platforms(&engine, &reference);
    let index = engine.content(&index_digest);
    let stored = entries(&index);
    let of = |attestation| {
        stored
            .iter()
            .filter(move |entry| entry.attestation == attestation)
    };
    let real: BTreeSet<&str> = of(false).map(|entry| entry.platform.as_str()).collect();
    assert_eq!(real, BTreeSet::from(["linux/amd64", "linux/arm64"]));
    assert_eq!(of(true).count(), 2, "{stored:?}");
    check_listed(&engine, &stored);

    let greeting = format!("hello from {}", image::architecture());
    let run = format!("run --rm --network none {reference}");
    assert_eq!(engine.docker(&run), greeting);

    engine.docker(&format!("push --quiet {reference}"));
    assert_eq!(engine.bench.registry.manifest("multi", "1").unwrap(), index);
    let host_blobs = check_pushed(&engine, &stored);

    // Pulled back into an empty engine: the same again.
    engine.docker(&format!("image rm --force {reference}"));
    engine.check_empties();
    assert!(
        !engine.has_content(&index_digest),
        "the index is still there"
    );
    engine.docker(&format!("pull --quiet {reference}"));
    assert_eq!(engine.content(&index_digest), index);
    for (blob_digest, blob) in &host_blobs {
        assert_eq!(&engine.content(blob_digest), blob);
    }
    assert_eq!(engine.docker(&run), greeting);
    engine.docker(&format!("image rm --force {reference}"));
    engine.check_empties();
}
