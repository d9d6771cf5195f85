//! nydus images: small ones that were made once, and the images of other tests as our own command converts them.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::{Fault, Request};
use pontoon_rig::image::{Conversion, Layout, NydusImage, gzip_layers, nydus_image};
use pontoon_rig::wait;
use rustix::fs::Advice;

use crate::stage::{LIMIT, Setup, Stage};
use crate::{holder, life, trees};

/// A stage with one of the small images in its registry.
fn stage(setup: Setup, image: NydusImage) -> Option<(Stage, String)> {
    let stage = Stage::start(&setup.nydus());
    if stage.rival {
        // It takes none of these.
        return None;
    }
    let reference = publish(&stage, image);
    Some((stage, reference))
}

fn publish(stage: &Stage, image: NydusImage) -> String {
    published(stage, image).1
}

fn published(stage: &Stage, image: NydusImage) -> (Layout, String) {
    let name = format!("{image:?}").to_lowercase();
    let dir = stage.bench.cluster.sandbox.subdir(&name).unwrap();
    let layout = nydus_image(image, &dir).unwrap();
    let reference = stage.site.push(&layout, &name, "1").unwrap();
    (layout, reference)
}

/// Has a container read every file, and fails unless each is what it was made of.
fn check(stage: &Stage, id: &str, reference: &str, image: NydusImage) {
    let files = image.files().unwrap();
    assert!(!files.is_empty());
    let lines = files
        .iter()
        .map(|(path, digest)| format!("{digest}  /{path}\\n"));
    // As much as an argument may have.
    let lines: Vec<String> = lines.collect();
    for (part, lines) in lines.chunks(200).enumerate() {
        let script = format!("printf '{}' | sha256sum -c -s", lines.concat());
        stage.run(
            &format!("{id}-{part}"),
            reference,
            &["/bin/sh", "-c", &script],
        );
    }
}

fn runs(setup: Setup) {
    let Some((stage, reference)) = stage(setup, NydusImage::Merged) else {
        return;
    };
    let mark = stage.site.gate.mark();
    stage.pull(&reference);
    // The manifests, the configuration, the bootstrap and the ordinary layer on top: no data.
    let asked = mark.exchanges();
    let (_, layers) = published(&stage, NydusImage::Merged).0.parts().unwrap();
    for data in &layers[..2] {
        assert!(!asked.iter().any(|exchange| exchange.request.names(data)));
    }
    check(&stage, "merged", &reference, NydusImage::Merged);
    for image in [NydusImage::Tree, NydusImage::TreeLz4, NydusImage::TreePlain] {
        let reference = publish(&stage, image);
        stage.pull(&reference);
        check(&stage, &format!("{image:?}"), &reference, image);
    }
    let over = publish_over_gzip(&stage);
    stage.pull(&over);
    check(&stage, "over-gzip", &over, NydusImage::OverGzip);
    stage.finish();
}

/// An image over ordinary gzip layers, which are in its repository and not in its manifest.
fn publish_over_gzip(stage: &Stage) -> String {
    let dir = stage.bench.cluster.sandbox.subdir("gzip-layers").unwrap();
    let layers = gzip_layers(&dir).unwrap();
    stage.site.push(&layers, "overgzip", "ordinary").unwrap();
    publish(stage, NydusImage::OverGzip)
}

#[test]
fn nydus_images_run_on_containerd_2_3() {
    runs(Setup::new(Version::V2_3));
}

#[test]
fn nydus_images_run_on_containerd_1_7() {
    runs(Setup::new(Version::V1_7));
}

#[test]
fn nydus_images_run_on_fuse() {
    runs(Setup::on_fuse(Version::V2_3));
}

/// Readers that know what they read, while the daemon is killed again and again.
#[test]
fn readers_of_a_nydus_image_outlive_their_daemon() {
    let Some((mut stage, reference)) = stage(Setup::new(Version::V2_3), NydusImage::Tree) else {
        return;
    };
    stage.pull(&reference);
    stage.bench.start_container("sleeper", &reference).unwrap();
    let root = format!("/proc/{}/root", stage.pid("sleeper"));
    let files = NydusImage::Tree.files().unwrap();
    let files: Vec<_> = files
        .into_iter()
        .map(|(path, digest)| (format!("{root}/{path}"), digest))
        .collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                for (path, digest) in &files {
                    let file = File::open(path).unwrap();
                    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
                    let found = pontoon_rig::digest::sha256(&std::fs::read(path).unwrap());
                    assert_eq!(found["sha256:".len()..], **digest, "{path}");
                }
                rounds += 1;
            }
            rounds
        });
        for _ in 0..5 {
            stage.bench.cluster.plugin.kill().unwrap();
            stage.bench.cluster.plugin.resume().unwrap();
            let script = "sha256sum /usr/lib/* > /dev/null";
            stage.bench.exec("sleeper", script).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    stage.bench.cluster.wait_connected().unwrap();
    stage.bench.remove_containers().unwrap();
    stage.finish();
}

/// A restart needs no registry for what was read, and only its blobs for what was not.
#[test]
fn a_nydus_image_comes_back_without_its_registry() {
    let Some((mut stage, reference)) = stage(Setup::new(Version::V2_3), NydusImage::Merged) else {
        return;
    };
    stage.pull(&reference);
    let other = publish(&stage, NydusImage::Tree);
    stage.pull(&other);
    check(&stage, "before", &reference, NydusImage::Merged);
    assert!(stage.bench.cluster.plugin.terminate().unwrap().success());
    stage.site.gate.down().unwrap();
    stage.bench.cluster.plugin.resume().unwrap();
    stage.bench.cluster.wait_connected().unwrap();
    check(&stage, "after", &reference, NydusImage::Merged);
    stage.site.gate.up().unwrap();
    let mark = stage.site.gate.mark();
    check(&stage, "rest", &other, NydusImage::Tree);
    let asked = mark.exchanges();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|exchange| exchange.request.is_blob()));
    stage.finish();
}

/// Nobody can unpack these: the pull fails at once, says why, and leaves nothing.
#[test]
fn images_that_are_not_read_fail_with_the_reason() {
    for version in [Version::V2_3, Version::V1_7] {
        let Some((stage, five)) = stage(Setup::new(version), NydusImage::Five) else {
            return;
        };
        // Its layers are not there.
        let over = publish(&stage, NydusImage::OverGzip);
        for (reference, said) in [
            (five, "RAFS v5"),
            (over, "data of the nydus image is missing"),
        ] {
            let pull = stage.request(SNAPSHOTTER, &reference);
            let error = stage.bench.cluster.containerd.pull(&pull).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(stage.number("pontoon_layers_refused", "form") > 0);
        }
        // containerd 1.7 keeps the layers that a failed pull had unpacked before: those of data, which take nothing. 2.3
        // removes them itself, maybe at the same moment.
        let cluster = &stage.bench.cluster;
        let are_gone = || {
            let keys = cluster.snapshots()?;
            for key in &keys {
                let remove = ["snapshots", "--snapshotter", SNAPSHOTTER, "rm", key];
                let _ = cluster.containerd.ctr(remove).is_ok();
            }
            Ok(keys.is_empty().then_some(()))
        };
        wait::until("no layer is left", LIMIT, are_gone).unwrap();
        stage.finish();
    }
}

/// What fails on the bootstrap's way is asked for again; where that does not help the pull fails, and a later one works.
#[test]
fn a_pull_outlives_faults_of_its_bootstrap() {
    let stage = Stage::start(&Setup::new(Version::V2_3).nydus());
    if stage.rival {
        return;
    }
    let containerd = &stage.bench.cluster.containerd;
    let always = usize::MAX;
    let rows = [
        (NydusImage::Merged, Fault::status(503), 2),
        (NydusImage::Tree, Fault::Cut(300), 2),
        (NydusImage::TreeLz4, Fault::CorruptByte(300), always),
        (NydusImage::TreePlain, Fault::status(404), always),
    ];
    let pulled = rows.map(|(image, fault, times)| {
        let (layout, reference) = published(&stage, image);
        // On top of it is an ordinary layer.
        let (_, layers) = layout.parts().unwrap();
        let bootstrap = layers[layers.len() - 2].clone();
        let wanted = move |request: &Request| request.names(&bootstrap);
        let injection = stage.site.gate.inject(wanted, fault);
        injection.times(times);
        let pulled = containerd.pull(&stage.request(SNAPSHOTTER, &reference));
        assert!(injection.hits() > 0, "{image:?}: not disturbed");
        assert_eq!(pulled.is_ok(), times < always, "{image:?}: {pulled:?}");
        (image, reference)
    });
    for (image, reference) in pulled {
        let again = || {
            let pull = stage.request(SNAPSHOTTER, &reference);
            Ok(containerd.pull(&pull).is_ok().then_some(()))
        };
        wait::until("a pull that works", LIMIT, again).unwrap();
        check(&stage, &format!("{image:?}"), &reference, image);
    }
    stage.finish();
}

#[test]
fn the_other_plugin_says_which_one_it_takes() {
    let stage = Stage::start(&Setup::new(Version::V2_3));
    if stage.rival {
        return;
    }
    let reference = publish(&stage, NydusImage::Merged);
    let pull = stage.request(SNAPSHOTTER, &reference);
    let pulled = stage.bench.cluster.containerd.pull(&pull);
    let is_nydus = std::env::var("PONTOON_LAZY_PLUGIN").is_ok_and(|name| name.contains("nydus"));
    match pulled {
        Ok(_) => assert!(is_nydus),
        Err(error) => assert!(
            error.to_string().contains("install pontoon-nydus"),
            "{error}"
        ),
    }
    stage.finish();
}

/// Damaged on its way, it fails and is not kept.
#[test]
fn a_damaged_nydus_blob_is_never_read() {
    let Some((stage, reference)) = stage(
        Setup {
            patience_seconds: 3,
            ..Setup::new(Version::V2_3)
        },
        NydusImage::TreePlain,
    ) else {
        return;
    };
    stage.pull(&reference);
    let view = stage.view(&reference);
    let injection = stage
        .site
        .gate
        .inject(Request::is_blob, Fault::CorruptFirst);
    let error = view
        .read("usr/lib/noise")
        .expect_err("damaged bytes were read");
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error())
    );
    assert!(injection.hits() > 0);
    drop(injection);
    let read = || Ok(view.read("usr/lib/noise").is_ok().then_some(()));
    wait::until("right bytes", crate::stage::LIMIT, read).unwrap();
    let files = NydusImage::TreePlain.files().unwrap();
    let (_, digest) = files
        .iter()
        .find(|(path, _)| path == "usr/lib/noise")
        .unwrap();
    let found = pontoon_rig::digest::sha256(&view.read("usr/lib/noise").unwrap());
    assert_eq!(found["sha256:".len()..], **digest);
    drop(view);
    stage.finish();
}

#[test]
fn converted_images_are_what_containerd_unpacks() {
    let forms = [
        Conversion::Nydus,
        Conversion::NydusBase,
        Conversion::NydusSmallChunks,
    ];
    trees::check(&Setup::new(Version::V2_3).nydus(), &forms);
    trees::check(&Setup::on_fuse(Version::V2_3).nydus(), &forms[..1]);
    trees::check(&Setup::new(Version::V1_7).nydus(), &forms[2..]);
}

#[test]
fn converted_images_live() {
    life::lives(Setup::new(Version::V2_3).nydus(), Conversion::NydusBase);
    life::lives(Setup::new(Version::V1_7).nydus(), Conversion::Nydus);
}

#[test]
fn converted_images_come_back_without_a_registry() {
    life::comes_back(&Setup::new(Version::V2_3).nydus(), Conversion::Nydus);
}

#[test]
fn converted_images_outlive_daemons_and_holders() {
    holder::holders_are_killed(&Setup::new(Version::V2_3).nydus());
}
