//! Converting from and to registries and containerd, and what comes of it.

use std::fs;
use std::time::Duration;

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::{Fault, Link, Request};
use pontoon_rig::image::{
    Conversion, Layout, architecture, buildkit, convert as convert_image, lazy_fixture,
};
use pontoon_rig::process::Process;
use pontoon_rig::{digest, wait};
use serde_json::Value;

use crate::SUMS;
use crate::stage::{Stage, json};

/// The formats, and whether `pontoon-nydus` is who loads it lazily.
const FORMATS: [(&[&str], bool); 4] = [
    (&["--to", "estargz"], false),
    (&["--to", "zstd:chunked"], false),
    (&["--to", "zstd:chunked", "--dialect", "stargz"], false),
    (&["--to", "nydus"], true),
];

/// What a container on the image sees of its files.
fn sums(stage: &Stage, snapshotter: &str, reference: &str) -> String {
    let containerd = &stage.cluster.containerd;
    let seen = containerd.run(snapshotter, &[], reference, snapshotter, SUMS);
    seen.unwrap().stdout
}

/// Uploads the image that is converted.
fn upload(stage: &Stage) -> (Layout, String) {
    let directory = stage.cluster.sandbox.subdir("image").unwrap();
    let image = buildkit(&directory).unwrap();
    let reference = stage.site.push_index(&image, "secret/app", "1").unwrap();
    (image, reference)
}

fn convert(stage: &Stage, from: &str, to: &str, more: &[&str]) -> (i32, String) {
    let mut arguments = vec!["convert", from, to];
    arguments.extend(more);
    stage.pontoon_there(&arguments)
}

/// Converts, and answers what `--json` says.
fn converted(stage: &Stage, from: &str, to: &str, more: &[&str]) -> Value {
    let (code, text) = convert(stage, from, to, &[more, &["--json"]].concat());
    assert_eq!(code, 0, "{more:?}: {text}");
    json(&text)
}

fn checked(stage: &Stage, old: &str, new: &str) -> Value {
    let (code, text) = stage.pontoon_there(&["check", "--json", old, new]);
    assert_eq!(code, 0, "{text}");
    json(&text)
}

fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Where `name` is in the registry.
fn at(stage: &Stage, name: &str) -> (String, String) {
    let reference = format!("{}/{name}", stage.site.host());
    (format!("docker://{reference}"), reference)
}

#[test]
fn from_a_registry_to_another_repository_of_it() {
    for (more, is_nydus) in FORMATS {
        let stage = match is_nydus {
            false => Stage::start(Version::V2_3),
            true => Stage::with("pontoon-nydus", Version::V2_3),
        };
        let (image, original) = upload(&stage);
        let from = format!("docker://{original}");
        let (to, reference) = at(&stage, "secret/lazy:1");
        let mark = stage.site.gate.mark();
        let answer = converted(&stage, &from, &to, more);
        assert_eq!(answer["place"], to);
        assert_eq!(answer["images"], 2);
        // What is kept as it is was not sent.
        let mounted = |one: &pontoon_rig::gate::Exchange| {
            one.request.query.contains("mount=") && one.status == Some(201)
        };
        let exchanges = mark.exchanges();
        assert!(
            exchanges.iter().filter(|one| mounted(one)).count() >= 2,
            "{more:?}"
        );
        // Each layer came once, whoever has it.
        let base = &image_layers(&image, 0)[0];
        let is_base = |one: &&pontoon_rig::gate::Exchange| {
            one.request.method == "GET" && one.request.names(base) && one.status == Some(200)
        };
        assert_eq!(exchanges.iter().filter(is_base).count(), 1, "{more:?}");
        look_at(&stage, &image, &answer);
        // The same again is the same, and nothing is sent.
        let (again, _) = at(&stage, "secret/lazy:2");
        let second = converted(&stage, &from, &again, more);
        assert_eq!(second["digests"], answer["digests"], "{more:?}");
        let checked = checked(&stage, &from, &to);
        assert_eq!(checked["images"], 2);
        assert_eq!(checked["findings"], Value::Array(Vec::new()));

        stage.pull_reference(&reference);
        let seen = sums(&stage, SNAPSHOTTER, &reference);
        assert!(seen.lines().count() > 10, "{seen}");
        let (code, text) = stage.pontoon(&["inspect", &reference, "--json"], &[]);
        assert_eq!(code, 0, "{text}");
        let layers = json(&text)["layers"].as_array().unwrap().clone();
        assert!(
            !layers.is_empty() && layers.iter().all(|l| l["state"] != "declined"),
            "{text}"
        );
        assert!(
            layers.iter().any(|layer| layer["state"] == "lazy"),
            "{text}"
        );
        // Layers that keep their diff IDs would be there already.
        stage.pull_reference_onto("overlayfs", &original);
        assert_eq!(sums(&stage, "overlayfs", &original), seen, "{more:?}");
    }
}

/// The layers of one image of the index.
fn image_layers(image: &Layout, number: usize) -> Vec<String> {
    let index = document(&image.manifest().unwrap());
    let digest = index["manifests"][number]["digest"].as_str().unwrap();
    let manifest = document(&image.blob(digest).unwrap());
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// The index in the registry: both platforms, and what is attested, untouched.
fn look_at(stage: &Stage, image: &Layout, answer: &Value) {
    let stored = stage.site.store().manifest("secret/lazy", "1").unwrap();
    assert_eq!(answer["digests"][0], digest::sha256(&stored));
    let (old, new) = (document(&image.manifest().unwrap()), document(&stored));
    let entries = new["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    for number in 0..3 {
        assert_eq!(
            entries[number]["platform"],
            old["manifests"][number]["platform"]
        );
    }
    assert_eq!(entries[2]["digest"], old["manifests"][2]["digest"]);
    let attested = &entries[2]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(*attested, entries[0]["digest"]);
    let said = answer["notes"].to_string();
    let before = old["manifests"][0]["digest"].as_str().unwrap();
    assert!(
        said.contains(before) && said.contains(attested.as_str().unwrap()),
        "{said}"
    );
    let digest = entries[2]["digest"].as_str().unwrap();
    let attestation = stage.site.store().manifest("secret/lazy", digest).unwrap();
    assert_eq!(attestation, image.blob(digest).unwrap());
}

#[test]
fn from_and_to_containerd() {
    let stage = Stage::start(Version::V2_3);
    let (_, original) = upload(&stage);
    stage.pull_reference_onto("overlayfs", &original);
    let expected = sums(&stage, "overlayfs", &original);
    let namespace = stage.cluster.containerd.namespace();
    let from = format!("containerd://{namespace}/{original}");
    for (number, (more, is_nydus)) in FORMATS.into_iter().enumerate() {
        let name = format!("localhost/new:{number}");
        let to = format!("containerd://{namespace}/{name}");
        let answer = converted(&stage, &from, &to, more);
        // The other platform was not pulled.
        assert_eq!(answer["images"], 1);
        let said = answer["notes"].to_string();
        assert!(said.contains("it is left out"), "{said}");
        let again = converted(&stage, &from, &to, more);
        assert_eq!(again["digests"], answer["digests"], "{more:?}");
        assert_eq!(
            checked(&stage, &from, &to)["findings"],
            Value::Array(Vec::new())
        );
        // Nothing but its name keeps it.
        let containerd = &stage.cluster.containerd;
        assert_eq!(containerd.ctr(["leases", "ls", "-q"]).unwrap().stdout, "");
        containerd
            .ctr(["images", "tag", &name, "localhost/other:1"])
            .unwrap();
        containerd
            .ctr(["images", "rm", "--sync", "localhost/other:1"])
            .unwrap();
        if !is_nydus {
            assert_eq!(sums(&stage, "overlayfs", &name), expected, "{more:?}");
        }
        // And on to a registry, and to a directory.
        let (away, _) = at(&stage, &format!("secret/from-containerd:{number}"));
        let copied = converted(&stage, &from, &away, more);
        assert_eq!(copied["digests"], answer["digests"]);
        let layout = stage.cluster.sandbox.path(&format!("layout-{number}"));
        let layout = format!("oci:{}:new", layout.display());
        let written = converted(&stage, &from, &layout, more);
        assert_eq!(written["digests"], answer["digests"]);
        assert_eq!(
            checked(&stage, &away, &layout)["findings"],
            Value::Array(Vec::new())
        );
    }
    // Pulled lazily, it is not there.
    let lazy = convert_image(&lazy_fixture().unwrap(), Conversion::Estargz);
    let lazy = stage.pull("secret/fixture", &lazy.unwrap());
    let of_lazy = format!("containerd://{namespace}/{lazy}");
    let (to, _) = at(&stage, "secret/none:1");
    for wanted in [&["--all-platforms"][..], &["--platform", other_platform()]] {
        let (code, text) = convert(&stage, &from, &to, &[&["--to", "estargz"], wanted].concat());
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("pontoon hydrate"), "{text}");
    }
    let (code, text) = convert(&stage, &of_lazy, &to, &["--to", "nydus"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("pontoon hydrate"), "{text}");
    let (code, text) = stage.hydrate(&lazy);
    assert_eq!(code, 0, "{text}");
    converted(&stage, &of_lazy, &to, &["--to", "nydus"]);
    let absent = format!("containerd://{namespace}/localhost/absent:1");
    let (code, text) = convert(&stage, &absent, &to, &["--to", "nydus"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("right name and namespace"), "{text}");
    let more = ["--to", "nydus", "--containerd", "/none.sock"];
    let (code, text) = stage.pontoon_alone(&[&["convert", &absent, &to][..], &more].concat());
    assert_eq!(code, 69, "{text}");
}

fn other_platform() -> &'static str {
    match architecture() {
        "arm64" => "linux/amd64",
        _ => "linux/arm64",
    }
}

#[test]
fn one_platform_of_a_registry() {
    let stage = Stage::start(Version::V2_3);
    let (image, original) = upload(&stage);
    let from = format!("docker://{original}");
    let (to, _) = at(&stage, "secret/lazy:1");
    let mine = format!("linux/{}", architecture());
    let wanted = ["--to", "estargz", "--platform", &mine];
    assert_eq!(converted(&stage, &from, &to, &wanted)["images"], 1);
    let index = document(&stage.site.store().manifest("secret/lazy", "1").unwrap());
    let entries = index["manifests"].as_array().unwrap();
    let platform = |entry: &Value| {
        entry["platform"]["architecture"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let platforms: Vec<String> = entries.iter().map(platform).collect();
    assert_eq!(platforms, [architecture(), "unknown"]);
    let of_other = image_layers(&image, 1);
    let asked = |request: &Request| request.names(&of_other[1]);
    assert_eq!(stage.site.gate.count(asked), 0);
    let (code, text) = stage.pontoon_there(&["check", &from, &to, "--platform", &mine]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = stage.pontoon_there(&["check", &from, &to]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("there were 2 images, and there are 1"),
        "{text}"
    );
}

#[test]
fn who_has_logged_in_to_docker_may_push() {
    let stage = Stage::start(Version::V2_3);
    let (_, original) = upload(&stage);
    let (from, (to, _)) = (format!("docker://{original}"), at(&stage, "secret/lazy:1"));
    let docker = stage.cluster.sandbox.subdir("docker").unwrap();
    let config = docker.join("pontoon.toml");
    let hosts = stage.site.hosts_dir();
    fs::write(&config, format!("[registry]\nconfig_path = {hosts:?}\n")).unwrap();
    let wanted = format!("linux/{}", architecture());
    let arguments = [
        "convert",
        "--to",
        "nydus",
        "--platform",
        &wanted,
        &from,
        &to,
    ];
    fs::write(docker.join("config.json"), "{}").unwrap();
    let (code, text) = stage.pontoon_with(&config, &docker, &arguments);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not let us read"), "{text}");
    // `pilot:ferry`.
    let auth = serde_json::json!({"auth": "cGlsb3Q6ZmVycnk="});
    let login = serde_json::json!({"auths": {stage.site.host(): auth}});
    fs::write(docker.join("config.json"), login.to_string()).unwrap();
    let (code, text) = stage.pontoon_with(&config, &docker, &arguments);
    assert_eq!(code, 0, "{text}");
    assert!(stage.site.store().manifest("secret/lazy", "1").is_ok());
}

#[test]
fn a_bad_day_of_the_registry_is_survived() {
    let stage = Stage::start(Version::V2_3);
    let (_, original) = upload(&stage);
    let from = format!("docker://{original}");
    let (to, _) = at(&stage, "secret/lazy:1");
    let gate = &stage.site.gate;
    let is_upload = |request: &Request| request.path.contains("/blobs/uploads/");
    let of = move |method: &'static str| {
        move |request: &Request| is_upload(request) && request.method == method
    };
    let faults = [
        gate.inject(of("POST"), Fault::retry_after(503, 0)),
        gate.inject(of("PUT"), Fault::Refuse),
        gate.inject(
            move |request| request.method == "PUT" && !is_upload(request),
            Fault::status(502),
        ),
        gate.inject(
            |request| request.is_blob() && request.method == "GET",
            Fault::Cut(100_000),
        ),
    ];
    for fault in &faults {
        fault.times(1);
    }
    // Every token ends before the conversion does.
    let tokens = stage.site.tokens.as_ref().unwrap();
    tokens.set_lifetime(Duration::from_secs(1));
    converted(&stage, &from, &to, &["--to", "estargz"]);
    for (number, fault) in faults.iter().enumerate() {
        assert_eq!(fault.hits(), 1, "fault {number}");
    }
    drop(faults);
    tokens.set_lifetime(Duration::from_secs(60));
    assert_eq!(
        checked(&stage, &from, &to)["findings"],
        Value::Array(Vec::new())
    );

    // What is damaged on its way is not converted.
    let wrong = gate.inject(|request| request.is_blob(), Fault::CorruptByte(5000));
    let (other, _) = at(&stage, "secret/other:1");
    let (code, text) = convert(&stage, &from, &other, &["--to", "estargz"]);
    assert_eq!(code, 1, "{text}");
    drop(wrong);
    assert!(stage.site.store().manifest("secret/other", "1").is_err());
    gate.down().unwrap();
    let (code, text) = convert(&stage, &from, &other, &["--to", "estargz"]);
    assert_eq!(code, 75, "{text}");
    gate.up().unwrap();
    tokens.set_password("barge");
    let (code, text) = convert(&stage, &from, &other, &["--to", "estargz"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not let us read"), "{text}");
    let open = stage
        .site
        .push_index(&upload(&stage).0, "public/app", "1")
        .unwrap();
    let (code, text) = convert(
        &stage,
        &format!("docker://{open}"),
        &other,
        &["--to", "estargz"],
    );
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("who may push there"), "{text}");
}

#[test]
fn an_interrupted_conversion_leaves_no_image() {
    let stage = Stage::start(Version::V2_3);
    let (_, original) = upload(&stage);
    let from = format!("docker://{original}");
    stage.site.gate.link(Link::new(4, 1));
    let mark = stage.site.gate.mark();
    let namespace = stage.cluster.containerd.namespace();
    let (registry, _) = at(&stage, "secret/lazy:1");
    let in_containerd = format!("containerd://{namespace}/localhost/new:1");
    for to in [&registry, &in_containerd] {
        let log = stage.cluster.sandbox.path("convert.log");
        let mut command = stage.command_there(&["convert", "--to", "nydus", &from, to]);
        let before = mark.bytes();
        let mut process = Process::start("convert", &mut command, &log).unwrap();
        wait::until("some of the image", Duration::from_secs(30), || {
            Ok((mark.bytes() > before + 300_000).then_some(()))
        })
        .unwrap();
        let status = process.terminate(Duration::from_secs(10)).unwrap();
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(75), "{text}");
        assert!(text.contains("run it again"), "{text}");
    }
    assert!(stage.site.store().manifest("secret/lazy", "1").is_err());
    let containerd = &stage.cluster.containerd;
    assert_eq!(containerd.ctr(["leases", "ls", "-q"]).unwrap().stdout, "");
    assert_eq!(containerd.ctr(["images", "ls", "-q"]).unwrap().stdout, "");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_asked() {
    let stage = Stage::start(Version::V2_3);
    let (image, original) = upload(&stage);
    let (from, (to, _)) = (format!("docker://{original}"), at(&stage, "secret/new:1"));
    let pinned = format!("docker://{original}@{}", image.manifest_digest().unwrap());
    let mark = stage.site.gate.mark();
    for (from, to, more, said) in [
        (&*from, &*pinned, &[][..], "name a tag"),
        (&from, "oci-archive:x.tar", &[], "skopeo copy"),
        (&from, "ftp://x/y", &[], "docker://"),
        (&from, &to, &["--platform", "linux"], "linux/arm64"),
        (&from, &to, &["--level", "99"], "level"),
    ] {
        let (code, text) = convert(&stage, from, to, &[&["--to", "estargz"], more].concat());
        assert_eq!(code, 64, "{text}");
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(mark.requests(), 0);
    let (code, text) = convert(&stage, &original, &to, &["--to", "estargz"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&from), "{text}");
    let absent = format!("{from}-absent");
    let (code, text) = convert(&stage, &absent, &to, &["--to", "estargz"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not have"), "{text}");
}
