//! Docker Engine with the plugin as its storage driver.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::collections::BTreeSet;
use std::fs;
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

    fn docker(&self, args: &[&str]) -> String {
        self.docker.docker(args).unwrap().stdout
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

    /// The content that containerd's store has under a digest.
    fn content(&self, digest: &str) -> Vec<u8> {
        let path = self
            .bench
            .cluster
            .containerd
            .dir()
            .join("root/io.containerd.content.v1.content");
        fs::read(path.join("blobs").join(digest.replacen(':', "/", 1))).unwrap()
    }

    /// Fails unless Docker has given everything back.
    fn check_empties(&self) {
        self.docker(&["system", "prune", "--all", "--force", "--volumes"]);
        self.docker(&["builder", "prune", "--all", "--force"]);
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

#[test]
fn builds_runs_commits_and_restarts() {
    let mut engine = Engine::start();
    assert_eq!(
        engine.docker(&["info", "--format", "{{.Driver}}"]),
        SNAPSHOTTER
    );
    let (_, odd) = engine.bench.publish("odd", image::odd).unwrap();
    engine.docker(&["pull", "--quiet", &odd]);
    let run = ["run", "--rm", "--network", "none"];
    let found = engine.docker(&[&run[..], &[&odd, "/bin/find", "/data"]].concat());
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, image::odd_entries());

    let dockerfile = format!(
        "FROM {odd}\nRUN --network=none echo built > /data/built && rm /data/kept\n\
         COPY copied /data/copied\nCMD [\"/bin/sh\", \"-c\", \"cat /data/built /data/copied\"]\n"
    );
    let files: [(&str, &[u8]); 2] = [
        ("Dockerfile", dockerfile.as_bytes()),
        ("copied", b"copied\n"),
    ];
    let context = engine.context(&files);
    engine.docker(&[
        "build",
        "--quiet",
        "--tag",
        "built",
        context.to_str().unwrap(),
    ]);
    assert_eq!(
        engine.docker(&[&run[..], &["built"]].concat()),
        "built\ncopied"
    );

    let script = "echo mine > /data/mine; rm -r /data/opaque; while :; do sleep 1; done";
    engine.docker(&[
        "run",
        "--detach",
        "--name",
        "one",
        "--network",
        "none",
        "built",
        "sh",
        "-c",
        script,
    ]);
    let list = [
        "exec",
        "one",
        "sh",
        "-c",
        "until [ ! -e /data/opaque ]; do sleep 0.1; done; cat /data/mine",
    ];
    assert_eq!(engine.docker(&list), "mine");
    engine.docker(&["commit", "one", "committed"]);
    let cat = [
        "committed",
        "sh",
        "-c",
        "cat /data/mine /data/built; ls /data/opaque /data/kept 2>&1 | wc -l",
    ];
    let printed = engine.docker(&[&run[..], &cat].concat());
    assert!(printed.starts_with("mine\nbuilt"), "{printed}");

    let usage = engine.docker(&[
        "system",
        "df",
        "--format",
        "{{.Type}} {{.TotalCount}} {{.Size}}",
    ]);
    let images = usage
        .lines()
        .find(|line| line.starts_with("Images "))
        .unwrap();
    assert!(
        images.starts_with("Images 3 ") && !images.ends_with(" 0B"),
        "{usage}"
    );
    assert!(engine.docker(&["diff", "one"]).contains("D /data/opaque"));

    // The plugin is killed, Docker restarted, and the container starts with its data.
    engine.docker(&["stop", "--timeout", "0", "one"]);
    engine.bench.cluster.plugin.kill().unwrap();
    engine.bench.cluster.plugin.resume().unwrap();
    engine.docker.terminate().unwrap();
    engine.docker.resume().unwrap();
    engine.docker(&["start", "one"]);
    assert_eq!(
        engine.docker(&["exec", "one", "cat", "/data/mine", "/data/copied"]),
        "mine\ncopied"
    );
    engine.docker(&["restart", "--timeout", "0", "one"]);
    assert_eq!(engine.docker(&["exec", "one", "cat", "/data/mine"]), "mine");

    engine.docker(&["rm", "--force", "one"]);
    engine.docker(&["image", "rm", "--force", "committed", "built", &odd]);
    engine.check_empties();
}

const MULTI: &str = "\
FROM scratch
ARG TARGETARCH
COPY busybox /bin/busybox
COPY greeting-${TARGETARCH} /greeting
CMD [\"/bin/busybox\", \"cat\", \"/greeting\"]
";

/// An index's manifests, as (platform, whether it is an attestation, digest).
fn manifests(index: &Value) -> Vec<(String, bool, String)> {
    let list = index["manifests"].as_array().unwrap().iter();
    list.map(|entry| {
        let part = |name: &str| entry["platform"][name].as_str().unwrap_or_default();
        let kind = &entry["annotations"]["vnd.docker.reference.type"];
        let platform = format!("{}/{}", part("os"), part("architecture"));
        let digest = entry["digest"].as_str().unwrap().to_owned();
        (platform, kind == "attestation-manifest", digest)
    })
    .collect()
}

#[test]
fn stores_a_multi_platform_build_with_attestations() {
    let engine = Engine::start();
    let reference = format!("{}/multi:1", engine.bench.registry.host());
    let context = engine.context(&[
        ("Dockerfile", MULTI.as_bytes()),
        ("busybox", &image::busybox().unwrap()),
        ("greeting-amd64", b"hello from amd64\n"),
        ("greeting-arm64", b"hello from arm64\n"),
    ]);
    fs::set_permissions(
        context.join("busybox"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let platforms = "linux/amd64,linux/arm64";
    let build = [
        "buildx",
        "build",
        "--platform",
        platforms,
        "--provenance=true",
        "--quiet",
    ];
    engine.docker(
        &[
            &build[..],
            &["--tag", &reference, context.to_str().unwrap()],
        ]
        .concat(),
    );

    // Stored: the index with two images and an attestation for each.
    let images = engine.ctr(&["images", "ls"]);
    let row = images
        .lines()
        .find(|line| line.contains("multi:1"))
        .unwrap();
    let index_digest = row
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"))
        .unwrap();
    let index_bytes = engine.content(index_digest);
    let stored = manifests(&serde_json::from_slice(&index_bytes).unwrap());
    let of = |attestation| {
        stored
            .iter()
            .filter(move |(_, kind, _)| *kind == attestation)
    };
    let real: BTreeSet<&str> = of(false).map(|(platform, ..)| platform.as_str()).collect();
    assert_eq!(real, BTreeSet::from(["linux/amd64", "linux/arm64"]));
    assert_eq!(of(true).count(), 2, "{stored:?}");

    // Listed: Docker names the same manifests, with their kinds.
    let listed = get_unix(&engine.docker.socket(), "/images/json?manifests=true").unwrap();
    let listed: Value =
        serde_json::from_slice(&listed.expect("listing images", 200).unwrap().body).unwrap();
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
        .map(|(_, kind, digest)| (digest.as_str(), *kind));
    assert_eq!(found, expected.collect());
    let tree = engine.docker(&["image", "ls", "--tree"]);
    assert!(
        tree.contains("linux/amd64") && tree.contains("linux/arm64"),
        "{tree}"
    );

    let greeting = format!("hello from {}", image::architecture());
    let run = ["run", "--rm", "--network", "none", &reference];
    assert_eq!(engine.docker(&run), greeting);

    // Pushed: the registry has the index and all it names, byte for byte.
    engine.docker(&["push", "--quiet", &reference]);
    assert_eq!(
        engine.bench.registry.manifest("multi", "1").unwrap(),
        index_bytes
    );
    let host = format!("linux/{}", image::architecture());
    let mut host_blobs = Vec::new();
    for (platform, _, manifest_digest) in &stored {
        let bytes = engine
            .bench
            .registry
            .manifest("multi", manifest_digest)
            .unwrap();
        assert_eq!(bytes, engine.content(manifest_digest));
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        for part in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&manifest["config"]])
        {
            let blob_digest = part["digest"].as_str().unwrap().to_owned();
            let blob = engine.bench.registry.blob("multi", &blob_digest).unwrap();
            assert_eq!(digest::sha256(&blob), blob_digest);
            if *platform == host {
                host_blobs.push((blob_digest, blob));
            }
        }
    }

    // Pulled back into an empty engine: the same again.
    engine.docker(&["image", "rm", "--force", &reference]);
    engine.check_empties();
    engine.docker(&["pull", "--quiet", &reference]);
    assert_eq!(engine.content(index_digest), index_bytes);
    for (blob_digest, blob) in &host_blobs {
        assert_eq!(&engine.content(blob_digest), blob);
    }
    assert_eq!(engine.docker(&run), greeting);
    engine.docker(&["image", "rm", "--force", &reference]);
    engine.check_empties();
}
