//! Status, inspect and hydrate with a real daemon, containerd and registry.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod nydusd;
mod places;
mod stage;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::docker::Docker;
use pontoon_rig::gate::{Fault, Link, Request};
use pontoon_rig::image::{Conversion, Converted, Layout, convert, lazy_fixture, odd};
use pontoon_rig::process::Process;
use pontoon_rig::registry::Registry;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::{digest, wait};

use stage::{Stage, json};

#[test]
fn what_a_daemon_has_is_shown() {
    let stage = Stage::start(Version::V2_3);
    let (code, text) = stage.pontoon(&["status"], &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("0 lazy"), "{text}");
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.pull("secret/lazy", &image);
    let (_, layers) = image.image.parts().unwrap();

    let (code, text) = stage.pontoon(&["status", "--json"], &[]);
    assert_eq!(code, 0, "{text}");
    let status = json(&text);
    assert_eq!(status["ready"], true);
    let known = status["layers"].as_array().unwrap();
    assert_eq!(known.len(), layers.len(), "{text}");
    assert!(known.iter().all(|layer| layer["state"] == "lazy"), "{text}");
    assert!(status["registry"]["requests"].as_u64().unwrap() > 0);
    assert_eq!(status["reads"]["failed"], 0);

    stage.run(&reference, &["/bin/sha256sum", "/sizes/5000001"]);
    let containerd = stage.containerd();
    for more in [&[][..], &containerd] {
        let (code, text) = stage.pontoon(&["inspect", &reference, "--json"], more);
        assert_eq!(code, 0, "{text}");
        let shown = json(&text);
        assert_eq!(shown["image"], reference);
        let shown = shown["layers"].as_array().unwrap();
        let digests: Vec<&str> = shown
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap())
            .collect();
        if more.is_empty() {
            let sorted = |digests: &[&str]| digests.iter().map(|d| d.to_string()).collect();
            let digests: BTreeSet<String> = sorted(&digests);
            assert_eq!(digests, layers.iter().cloned().collect());
        } else {
            assert_eq!(digests, layers);
        }
        // The file is in the second layer.
        let read = shown.iter().find(|layer| layer["digest"] == layers[1]);
        let progress = &read.unwrap()["progress"];
        assert!(progress["local_bytes"].as_u64().unwrap() >= 5_000_001);
        assert!(progress["percent"].as_f64().unwrap() > 1.0);
    }
    let (code, text) = stage.pontoon(&["inspect", &reference], &containerd);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.lines().count(), 2 + layers.len(), "{text}");
    assert!(text.contains("lazy"), "{text}");
    let (_, text) = stage.pontoon(&["status"], &[]);
    assert!(text.contains(&reference), "{text}");
    assert!(text.contains("5 lazy"), "{text}");

    let (code, text) = stage.pontoon(&["inspect", "localhost/none:1"], &[]);
    assert_eq!(code, 1);
    assert!(
        text.contains("knows no layer of localhost/none:1"),
        "{text}"
    );
}

/// What the fixture has in files, as a container on it sees them.
const SUMS: &[&str] = &[
    "/bin/busybox",
    "sh",
    "-c",
    "busybox find / -xdev -type f ! -name '*.landmark' ! -name stargz.index.json -exec busybox sha256sum {} + | busybox sort",
];

#[test]
fn what_was_converted_is_lazy_and_runs_everywhere() {
    let image = lazy_fixture().unwrap();
    let sums = |stage: &Stage, snapshotter: &str, reference: &str| {
        let containerd = &stage.cluster.containerd;
        let seen = containerd.run(snapshotter, &[], reference, snapshotter, SUMS);
        seen.unwrap().stdout
    };
    let stage = Stage::start(Version::V2_3);
    let ordinary = stage.site.push(&image, "secret/ordinary", "1").unwrap();
    stage.pull_reference_onto("overlayfs", &ordinary);
    let expected = sums(&stage, "overlayfs", &ordinary);
    assert!(expected.lines().count() > 50, "{expected}");
    drop(stage);
    for more in [
        &["--to", "estargz"][..],
        &["--to", "zstd:chunked"],
        &["--to", "zstd:chunked", "--dialect", "stargz"],
    ] {
        // Layers that keep their diff IDs would be there already.
        let stage = Stage::start(Version::V2_3);
        let to = stage.cluster.sandbox.path("converted");
        let mut arguments = vec![
            "convert",
            image.dir().to_str().unwrap(),
            to.to_str().unwrap(),
        ];
        arguments.extend(more);
        let (code, text) = stage.pontoon_alone(&arguments);
        assert_eq!(code, 0, "{text}");
        let converted = Converted {
            image: Layout::open(&to).unwrap(),
            tables: None,
        };
        let reference = stage.pull("secret/converted", &converted);
        assert_eq!(sums(&stage, SNAPSHOTTER, &reference), expected, "{more:?}");
        let (code, text) = stage.pontoon(&["inspect", &reference, "--json"], &[]);
        assert_eq!(code, 0, "{text}");
        let shown = json(&text);
        let layers = shown["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 5, "{text}");
        assert!(
            layers.iter().all(|layer| layer["state"] == "lazy"),
            "{text}"
        );
        // Who knows nothing of tables of contents.
        stage.pull_reference_onto("overlayfs", &reference);
        assert_eq!(sums(&stage, "overlayfs", &reference), expected, "{more:?}");
    }
}

#[test]
fn layers_that_are_not_lazy_say_why() {
    let stage = Stage::start(Version::V2_3);
    let directory = stage.cluster.sandbox.subdir("odd").unwrap();
    let image = odd(&directory).unwrap();
    let reference = stage.site.push(&image, "public/ordinary", "1").unwrap();
    stage.pull_reference(&reference);
    let (code, text) = stage.pontoon(&["inspect", &reference], &stage.containerd());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("containerd  all"), "{text}");
    assert!(text.contains("no layer of the image can be lazy"), "{text}");
    let (_, text) = stage.pontoon(&["status"], &[]);
    assert!(
        text.contains("left to containerd, since the start:"),
        "{text}"
    );
    // It is whole already.
    let mark = stage.site.gate.mark();
    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("0 blobs and 0 B written"), "{text}");
    assert_eq!(mark.requests(), 0);
}

#[test]
fn a_hydrated_image_can_be_exported_and_is_collected_with_its_name() {
    for (version, conversion) in [
        (Version::V1_7, Conversion::ExternalToc),
        (Version::V2_3, Conversion::Estargz),
    ] {
        let stage = Stage::start(version);
        let image = convert(&lazy_fixture().unwrap(), conversion).unwrap();
        let reference = stage.pull("secret/lazy", &image);
        let archive = stage.cluster.sandbox.path("image.tar");
        let archive = archive.to_str().unwrap();
        let containerd = &stage.cluster.containerd;
        let export = ["images", "export", archive, &reference];
        assert!(!containerd.try_ctr(export).unwrap().status.success());

        let (code, text) = stage.hydrate(&reference);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("5 blobs and"), "{text}");
        containerd.ctr(export).unwrap();
        let (config, layers) = image.image.parts().unwrap();
        for blob in layers.iter().chain([&config]) {
            let path = stage.cluster.sandbox.path("blob");
            let get = containerd
                .ctr_command()
                .args(["content", "get", blob])
                .output();
            fs::write(&path, get.unwrap().stdout).unwrap();
            assert_eq!(digest::sha256(&fs::read(&path).unwrap()), *blob);
        }

        let mark = stage.site.gate.mark();
        let (code, text) = stage.hydrate(&reference);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("0 blobs and 0 B written, 6 blobs there"),
            "{text}"
        );
        assert_eq!(mark.requests(), 0);

        // Without the lease, what refers to it keeps it, and nothing else does.
        assert_eq!(containerd.ctr(["leases", "ls", "-q"]).unwrap().stdout, "");
        containerd
            .ctr(["images", "tag", &reference, "localhost/kept:1"])
            .unwrap();
        containerd
            .ctr(["images", "rm", "--sync", &reference])
            .unwrap();
        let kept = stage.content();
        assert!(layers.iter().all(|layer| kept.contains(layer)), "{kept}");
        // containerd has noted where it came from, but not the port there.
        containerd.ctr(["content", "rm", &layers[1]]).unwrap();
        let (code, text) = stage.hydrate_from("localhost/kept:1", &reference);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("1 blob and"), "{text}");
        containerd
            .ctr(["images", "rm", "--sync", "localhost/kept:1"])
            .unwrap();
        assert_eq!(stage.content(), "");
    }
}

#[test]
fn docker_saves_and_pushes_elsewhere_what_was_hydrated() {
    let stage = Stage::start(Version::V2_3);
    let apart = Sandbox::new().unwrap();
    let elsewhere = Registry::start(&apart).unwrap();
    let (cluster, site) = (&stage.cluster, &stage.site);
    let docker = Docker::start(&cluster.sandbox, &cluster.containerd, site.host());
    let mut docker = docker.unwrap();
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = site.push_converted(&image, "public/lazy", "1").unwrap();
    docker.docker(["pull", "--quiet", &reference]).unwrap();
    let other = format!("{}/copy:1", elsewhere.host());
    docker.docker(["tag", &reference, &other]).unwrap();
    let archive = cluster.sandbox.path("image.tar");
    let save = ["save", "--output", archive.to_str().unwrap(), &reference];
    let push = ["push", "--quiet", &other];
    // Without a word, and without the layers.
    docker.docker(save).unwrap();
    assert!(fs::metadata(&archive).unwrap().len() < image.image.size().unwrap() / 4);
    assert!(
        docker.docker(push).is_err(),
        "Docker pushes what is not here"
    );

    // Named as Docker's users name it.
    let (code, text) = stage.hydrate_in("moby", &reference);
    assert_eq!(code, 0, "{text}");
    docker.docker(save).unwrap();
    let (_, layers) = image.image.parts().unwrap();
    assert!(fs::metadata(&archive).unwrap().len() > image.image.size().unwrap());
    docker.docker(push).unwrap();
    for layer in &layers {
        let pushed = elsewhere.blob("copy", layer).unwrap();
        assert_eq!(digest::sha256(&pushed), *layer);
    }
    docker.terminate().unwrap();
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let stage = Stage::start(Version::V2_3);
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let size = image.image.size().unwrap();
    let reference = stage.pull("secret/lazy", &image);
    stage.site.gate.link(Link::new(16, 1));
    let mark = stage.site.gate.mark();
    let log = stage.cluster.sandbox.path("hydrate.log");
    let mut process =
        Process::start("hydrate", &mut stage.hydrate_command(&reference), &log).unwrap();
    wait::until("half of the image", Duration::from_secs(30), || {
        Ok((mark.bytes() > size / 2).then_some(()))
    })
    .unwrap();
    let status = process.terminate(Duration::from_secs(10)).unwrap();
    assert_eq!(
        status.code(),
        Some(75),
        "{}",
        fs::read_to_string(&log).unwrap()
    );

    stage.site.gate.link(Link::default());
    let mark = stage.site.gate.mark();
    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 0, "{text}");
    let again = mark.bytes();
    assert!(again < size * 3 / 4, "{again} of {size} bytes came again");
}

/// The lease ends early and the image is deleted, or somebody takes a blob away: what came is not there at the end.
#[test]
fn what_is_lost_meanwhile_is_named() {
    let stage = Stage::start(Version::V2_3);
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.pull("secret/lazy", &image);
    let (_, layers) = image.image.parts().unwrap();
    let last = layers.last().unwrap().clone();
    let is_last = move |request: &Request| request.path.ends_with(&last);
    let held = stage.site.gate.hold(is_last);
    let log = stage.cluster.sandbox.path("hydrate.log");
    let mut process =
        Process::start("hydrate", &mut stage.hydrate_command(&reference), &log).unwrap();
    let lost = &layers[0];
    wait::until("a blob that came", Duration::from_secs(30), || {
        Ok(stage.content().contains(lost).then_some(()))
    })
    .unwrap();
    held.wait(1).unwrap();
    let containerd = &stage.cluster.containerd;
    containerd.ctr(["content", "rm", lost]).unwrap();
    held.release();
    let status = process.wait(Duration::from_secs(30)).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(75), "{text}");
    assert!(text.contains(lost), "{text}");
    for kept in &layers[1..] {
        assert!(!text.contains(kept), "{text}");
    }

    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 0, "{text}");
    let content = stage.content();
    assert!(layers.iter().all(|l| content.contains(l)), "{content}");
}

#[test]
fn what_cannot_be_had_ends_it_with_what_to_do() {
    let stage = Stage::start(Version::V2_3);
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.pull("secret/lazy", &image);
    let (_, layers) = image.image.parts().unwrap();

    let wrong = stage
        .site
        .gate
        .inject(|request| request.is_blob(), Fault::CorruptByte(5000));
    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is not what its descriptor says"), "{text}");
    let content = stage.content();
    let large = layers
        .iter()
        .filter(|layer| image.image.blob(layer).unwrap().len() > 5000);
    for layer in large {
        assert!(!content.contains(layer), "{layer} was taken\n{content}");
    }
    drop(wrong);

    stage.site.gate.down().unwrap();
    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 75, "{text}");
    stage.site.gate.up().unwrap();
    assert!(stage.site.gate.count(Request::is_blob) > 0);
    stage.site.tokens.as_ref().unwrap().set_password("barge");
    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not let us read"), "{text}");
    stage.site.tokens.as_ref().unwrap().set_password("ferry");
    let (code, text) = stage.hydrate(&reference);
    assert_eq!(code, 0, "{text}");

    let (code, text) = stage.hydrate("localhost/none:1");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("right name and namespace"), "{text}");
    let (code, text) = stage.pontoon_alone(&["hydrate", "x", "--containerd", "/none.sock"]);
    assert_eq!(code, 69, "{text}");
}
