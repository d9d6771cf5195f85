//! Docker Engine with `pontoon-nydus` as its storage driver, and nydus images.

use std::fs;

use pontoon_rig::containerd::Version;
use pontoon_rig::image::{Conversion, convert, lazy_fixture};

use crate::docker::Engine;
use crate::stage::Setup;

/// An engine that has pulled a nydus image, the image's name and its size in bytes.
fn pulled() -> Option<(Engine, String, u64)> {
    let engine = Engine::start(&Setup::new(Version::V2_3).nydus());
    if engine.stage.rival {
        return None;
    }
    let image = convert(&lazy_fixture().unwrap(), Conversion::Nydus).unwrap();
    let reference = engine.stage.publish(&image, "lazy");
    engine.docker(&format!("pull --quiet {reference}"));
    Some((engine, reference, image.image.size().unwrap()))
}

/// dockerd pulls through containerd's client, which tells the plugin where each layer is (moby 28.5,
/// `daemon/containerd/image_pull.go`): nydus images are lazy there as eStargz ones are.
#[test]
fn docker_pulls_runs_commits_and_pushes_nydus_images() {
    let Some((mut engine, reference, size)) = pulled() else {
        return;
    };
    let run = format!("run --rm --network none {reference}");
    let printed = engine.docker(&format!("{run} cat /odd/here/first"));
    assert_eq!(printed, "linked");
    let came = engine.stage.blob_bytes();
    assert!(came < size / 4, "{came} of {size} bytes came");
    // What it takes is that of its whole tree.
    let layers = engine.api("/system/df")["LayersSize"].as_u64().unwrap();
    assert!(layers > 20_000_000, "{layers} bytes");

    let script = "echo mine > /odd/mine; rm -r /twice";
    let options = format!("run --name one --network none {reference}");
    engine.shell(&options, script);
    assert_eq!(engine.docker("diff one").lines().count(), 3);
    let name = format!("{}/lazy:committed", engine.stage.site.host());
    engine.docker(&format!("commit one {name}"));
    engine.docker(&format!("push --quiet {name}"));
    engine.docker("rm --force one");

    survives(&mut engine, &reference);

    // What was pushed is a nydus image with an ordinary layer on top.
    engine.docker(&format!("image rm --force {name} {reference}"));
    engine.docker(&format!("pull --quiet {name}"));
    let script = "cat /odd/mine; [ ! -e /twice ] && stat -c %s /sizes/5000001";
    let printed = engine.shell(&format!("run --rm --network none {name}"), script);
    assert_eq!(printed, "mine\n5000001");

    engine.docker(&format!("image rm --force {name}"));
    engine.check_empties();
    engine.docker.terminate().unwrap();
}

/// A stopped container and its image survive everybody.
fn survives(engine: &mut Engine, reference: &str) {
    let options = format!("run --detach --name two --network none {reference}");
    engine.shell(&options, "sleep 3600");
    engine.docker("kill two");
    engine.docker.terminate().unwrap();
    let cluster = &mut engine.stage.bench.cluster;
    cluster.plugin.kill().unwrap();
    cluster.plugin.resume().unwrap();
    cluster.wait_connected().unwrap();
    engine.docker.resume().unwrap();
    engine.docker("start two");
    let printed = engine.docker("exec two cat /odd/here/first");
    assert_eq!(printed, "linked");
    engine.docker("rm --force two");
}

/// BuildKit takes the base image as it is mounted and hands its blobs on as they are: what comes out is a nydus image with an
/// ordinary layer on top.
#[test]
fn docker_builds_on_a_nydus_image() {
    let Some((mut engine, reference, size)) = pulled() else {
        return;
    };
    let name = format!("{}/lazy:built", engine.stage.site.host());
    let before = engine.stage.blob_bytes();
    build(&engine, &reference, &name);
    let run = format!("run --rm --network none {name}");
    assert_eq!(engine.docker(&run), "built\nlinked");
    let came = engine.stage.blob_bytes() - before;
    println!("{came} of {size} bytes came for a build");

    engine.docker(&format!("push --quiet {name}"));
    engine.docker(&format!("image rm --force {name} {reference}"));
    engine.check_empties();
    engine.docker(&format!("pull --quiet {name}"));
    assert_eq!(engine.docker(&run), "built\nlinked");
    engine.docker(&format!("image rm --force {name}"));
    engine.check_empties();
    engine.docker.terminate().unwrap();
}

fn build(engine: &Engine, base: &str, name: &str) {
    let sandbox = &engine.stage.bench.cluster.sandbox;
    let dir = sandbox.subdir("context").unwrap();
    let dockerfile = format!(
        "FROM {base}\nRUN --network=none echo built > /built && cat /odd/here/first >> /built\n\
         CMD [\"/bin/cat\", \"/built\"]\n"
    );
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    engine.docker(&format!("build --quiet --tag {name} {}", dir.display()));
}
