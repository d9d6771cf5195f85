//! A lazy image from its pull to the collection of its garbage, and over the daemon's end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pontoon_integration::full;
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::run;
use pontoon_rig::containerd::Version;
use pontoon_rig::digest::sha256;
use pontoon_rig::gate::{Mark, Request};
use pontoon_rig::http::get_unix;
use pontoon_rig::image::{
    Conversion, Layer, Layout, busybox, convert, convert_with_prefetch, lazy_fixture,
};
use pontoon_rig::wait;

use crate::json::parse;
use crate::stage::{LARGE, LIMIT, Setup, Stage, large_digest};

/// The media type of a layer that is not compressed.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

#[test]
fn runs_is_committed_pushed_and_removed_on_containerd_2_3() {
    lives(Setup::new(Version::V2_3), Conversion::Estargz);
}

#[test]
fn runs_is_committed_pushed_and_removed_on_fuse() {
    lives(Setup::on_fuse(Version::V2_3), Conversion::ZstdChunked);
}

#[test]
fn runs_is_committed_pushed_and_removed_on_containerd_1_7() {
    lives(Setup::new(Version::V1_7), Conversion::ZstdChunked);
}

pub(crate) fn lives(setup: Setup, conversion: Conversion) {
    let mut stage = Stage::start(&Setup {
        lazy: "image_seconds = 10\n".into(),
        ..setup
    });
    let image = convert(&lazy_fixture().unwrap(), conversion).unwrap();
    let reference = stage.publish(&image, "lazy");
    let held = stage.held_files();
    stage.pull_lazily(&image.image, &reference);
    let layers = image.image.chain_ids().unwrap().len();
    assert_eq!(stage.bench.cluster.snapshots().unwrap().len(), layers);
    stage.check_reads("reader", &reference);

    stage.bench.start_container("author", &reference).unwrap();
    let script = "cat /odd/here/first; echo mine > /odd/mine; rm -r /sizes/4096 /twice; \
                  echo more >> /sizes/100000; chmod 600 /many/001; mv /odd/same /odd/moved";
    assert_eq!(stage.bench.exec("author", script).unwrap(), "linked");
    let seen = "cat /odd/mine; [ ! -e /sizes/4096 ] && stat -c %s /sizes/100000";
    assert_eq!(stage.bench.exec("author", seen).unwrap(), "mine\n100005");
    // Nobody else sees it.
    let other = stage.run("other", &reference, &["/bin/ls", "/sizes/4096"]);
    assert_eq!(other, "/sizes/4096");

    let committed = commit(&stage, &image.image, "author");
    let name = stage.site.push(&committed, "committed", "1").unwrap();
    stage.pull_lazily(&committed, &name);
    let script = format!("{seen}; cat /odd/mine; [ ! -e /twice ] && stat -c %a /many/001");
    let printed = stage.run("committed", &name, &["/bin/sh", "-c", &script]);
    assert_eq!(printed, "mine\n100005\nmine\n600");
    push(&stage, &committed, &name);

    stage.bench.remove_container("author").unwrap();
    if !stage.rival {
        stage.bench.check_settles().unwrap();
        stage.bench.check_empties().unwrap();
        stage.check_nothing_held(&held);
    }
    stage.finish();
}

/// An image of what a container did on top of another one.
fn commit(stage: &Stage, image: &Layout, container: &str) -> Layout {
    let sandbox = &stage.bench.cluster.sandbox;
    let path = sandbox.path("committed.tar");
    let mut diff = stage.bench.cluster.containerd.ctr_command();
    diff.args(["snapshots", "--snapshotter", SNAPSHOTTER, "diff"]);
    diff.args(["--media-type", TAR, container]);
    diff.stdin(Stdio::null())
        .stdout(File::create(&path).unwrap());
    assert!(diff.status().unwrap().success(), "no diff of {container}");
    let blob = std::fs::read(&path).unwrap();
    // What was not changed is not in it.
    assert!(blob.len() < 400_000, "{} bytes", blob.len());
    let layer = Layer {
        diff_id: sha256(&blob),
        blob,
        media_type: TAR,
        annotations: Vec::new(),
    };
    let below = image.chain_ids().unwrap().len();
    let dir = sandbox.subdir("committed").unwrap();
    image.insert(&dir, below, &layer).unwrap()
}

/// Pushes an image whose layers are not in containerd's store, but in the registry already.
fn push(stage: &Stage, image: &Layout, reference: &str) {
    let containerd = &stage.bench.cluster.containerd;
    let target = format!("{}/committed:pushed", stage.site.host());
    let mut command: Command = containerd.ctr_command();
    command.args(["images", "push", "--hosts-dir"]);
    command
        .arg(stage.site.hosts_dir())
        .args([&target, reference]);
    run(&mut command, LIMIT).unwrap();
    let pushed = stage.site.store().manifest("committed", "pushed").unwrap();
    assert_eq!(pushed, image.manifest().unwrap());
}

#[test]
fn comes_back_without_a_registry_on_containerd_2_3() {
    comes_back(&Setup::new(Version::V2_3), Conversion::EstargzSmallChunks);
    if full() {
        for conversion in Conversion::ALL {
            comes_back(&Setup::new(Version::V1_7), conversion);
        }
    }
}

#[test]
fn comes_back_without_a_registry_on_fuse() {
    comes_back(&Setup::on_fuse(Version::V2_3), Conversion::Estargz);
}

pub(crate) fn comes_back(setup: &Setup, conversion: Conversion) {
    let mut stage = Stage::start(setup);
    if stage.rival {
        // It forgets what it fetched.
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), conversion).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull_lazily(&image.image, &reference);
    stage.check_reads("before", &reference);
    stage.bench.start_container("sleeper", &reference).unwrap();
    let script = "echo mine > /odd/mine; cat /odd/here/first";
    assert_eq!(stage.bench.exec("sleeper", script).unwrap(), "linked");
    let containerd = &stage.bench.cluster.containerd;
    containerd
        .ctr(["tasks", "rm", "--force", "sleeper"])
        .unwrap();
    let keys = stage.bench.cluster.snapshots().unwrap();
    let stored = || Ok((stage.durable_chunks() >= stage.stored_chunks()).then_some(()));
    wait::until("what was read on the disk", LIMIT, stored).unwrap();

    // Killed, with a container that is stopped.
    stage.bench.cluster.plugin.kill().unwrap();
    stage.bench.cluster.plugin.resume().unwrap();
    check_back(&stage, &reference, "killed", &keys);
    // Stopped, and the registry is gone.
    assert!(stage.bench.cluster.plugin.terminate().unwrap().success());
    // The holder has the one connection, for the container might be running; with what the kernel serves below it.
    let mounts = stage.bench.cluster.plugin.mounts().unwrap();
    let kept = stage.bench.cluster.plugin.root().join("lazy/mnt");
    assert!(mounts.contains(&kept), "{mounts:?}");
    assert!(
        mounts.iter().all(|mount| mount.starts_with(&kept)),
        "{mounts:?}"
    );
    // A restart of the machine puts nothing in doubt now, though the holder goes on.
    let trust = stage.bench.cluster.plugin.root().join("lazy/blobs/trust");
    let noted = std::fs::read_to_string(&trust).unwrap();
    assert!(noted.contains("state closed"), "{noted}");
    stage.site.gate.down().unwrap();
    stage.bench.cluster.plugin.resume().unwrap();
    check_back(&stage, &reference, "stopped", &keys);
    // As after a power cut: all that is here is checked, and is right.
    stage.bench.cluster.plugin.kill().unwrap();
    std::fs::remove_file(&trust).unwrap();
    stage.bench.cluster.plugin.resume().unwrap();
    check_back(&stage, &reference, "doubted", &keys);
    // containerd too.
    stage.bench.cluster.containerd.restart().unwrap();
    stage.bench.cluster.plugin.kill().unwrap();
    stage.bench.cluster.plugin.resume().unwrap();
    check_back(&stage, &reference, "both", &keys);

    // What was not read comes when the registry does.
    stage.site.gate.up().unwrap();
    let printed = stage.run(
        "rest",
        &reference,
        &["/bin/stat", "-c", "%s", "/zeros/large"],
    );
    assert_eq!(printed, (9 << 20).to_string());
    let mark = stage.site.gate.mark();
    let script = "cat /sizes/* /many/* > /dev/null";
    stage.run("everything", &reference, &["/bin/sh", "-c", script]);
    assert!(mark.requests() > 0, "nothing was left to be fetched");
    stage.bench.remove_containers().unwrap();
    stage.finish();
}

/// Everything that was there is there, and nothing of it is fetched again.
fn check_back(stage: &Stage, reference: &str, id: &str, keys: &[String]) {
    stage.bench.cluster.wait_connected().unwrap();
    let mark = stage.site.gate.mark();
    assert_eq!(stage.bench.cluster.snapshots().unwrap(), keys);
    stage.check_reads(id, reference);
    let containerd = &stage.bench.cluster.containerd;
    containerd
        .ctr(["tasks", "start", "--detach", "sleeper"])
        .unwrap();
    let script = "cat /odd/mine /odd/here/first";
    assert_eq!(stage.bench.exec("sleeper", script).unwrap(), "mine\nlinked");
    containerd
        .ctr(["tasks", "rm", "--force", "sleeper"])
        .unwrap();
    let asked = mark.exchanges();
    let asked = asked.iter().filter(|exchange| exchange.request.is_blob());
    assert_eq!(asked.count(), 0, "{id}: fetched again");
    assert_eq!(mark.bytes(), 0, "{id}");
}

/// What nobody has asked for comes by itself, and then the registry may go.
#[test]
fn the_rest_comes_in_the_background() {
    let stage = Stage::start(&Setup {
        background: true,
        ..Setup::new(Version::V2_3)
    });
    let image = convert(&lazy_fixture().unwrap(), Conversion::EstargzMinChunk).unwrap();
    let size = image.image.size().unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull(&reference);
    let ran = stage.run("first", &reference, &["/bin/cat", "/odd/here/first"]);
    assert_eq!(ran, "linked");
    let (_, layers) = image.image.parts().unwrap();
    let largest = layers
        .iter()
        .map(|layer| image.image.blob(layer).unwrap().len());
    let largest = largest.max().unwrap() as u64;
    let come = || Ok((stage.blob_bytes() > largest).then_some(()));
    wait::until("the layers", LIMIT, come).unwrap();
    // Bytes have gone through the gate before they are inflated.
    let quiet = || {
        let mark = stage.site.gate.mark();
        stage.run(
            "probe",
            &reference,
            &["/bin/sh", "-c", "cat /sizes/* /zeros/* /many/* > /dev/null"],
        );
        Ok((mark.requests() == 0).then_some(()))
    };
    wait::until("the end of fetching", LIMIT, quiet).unwrap();
    // Once, not twice.
    let fetched = stage.site.gate.bytes_of(Request::is_blob);
    assert!(fetched < size + size / 4, "{fetched} of {size} bytes");
    stage.site.gate.down().unwrap();
    stage.check_reads("alone", &reference);
    stage.finish();
}

/// What one image has fetched is there for every other that has the same layers: another tag, another repository, another
/// containerd namespace.
#[test]
fn names_share_what_was_fetched() {
    let stage = Stage::start(&Setup::new(Version::V2_3));
    if stage.rival {
        // It keeps what it fetched for each repository.
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull_lazily(&image.image, &reference);
    stage.check_reads("first", &reference);
    let containerd = &stage.bench.cluster.containerd;
    // Another repository has to deliver the tables of contents first: anybody can name a layer.
    let tables = 256 * 1024 * image.image.chain_ids().unwrap().len() as u64;
    for (name, tag, most) in [("lazy", "2", 0), ("other", "1", tables)] {
        let other = stage.site.push_converted(&image, name, tag).unwrap();
        // Only then does containerd ask the plugin.
        stage.remove(&reference);
        let mark = stage.site.gate.mark();
        stage.pull(&other);
        stage.check_reads(tag, &other);
        let got = got(&mark);
        assert!(got <= most, "{other}: {got} bytes");
        stage.pull(&reference);
        stage.remove(&other);
    }
    let mark = stage.site.gate.mark();
    let pull = [
        "--namespace",
        "elsewhere",
        "images",
        "pull",
        "--snapshotter",
    ];
    let hosts = stage.site.hosts_dir().to_str().unwrap();
    let rest = [SNAPSHOTTER, "--hosts-dir", hosts, &reference];
    containerd.ctr(pull.iter().chain(&rest)).unwrap();
    let view = stage.view_of("elsewhere", &reference);
    assert_eq!(
        sha256(&view.read(LARGE.0).unwrap())["sha256:".len()..],
        large_digest()
    );
    assert_eq!(got(&mark), 0, "elsewhere");
    drop(view);
    containerd
        .ctr([
            "--namespace",
            "elsewhere",
            "images",
            "rm",
            "--sync",
            &reference,
        ])
        .unwrap();
    stage.finish();
}

/// How many bytes of blobs have come since, but for the configuration, which containerd fetches.
fn got(mark: &Mark<'_>) -> u64 {
    let exchanges = mark.exchanges();
    let blobs = exchanges
        .iter()
        .filter(|exchange| exchange.request.is_blob());
    blobs
        .map(|exchange| exchange.bytes)
        .filter(|bytes| *bytes > 1000)
        .sum()
}

/// What an image names as needed at its start comes before anybody asks, also when nothing else does.
#[test]
fn what_an_image_needs_at_its_start_comes_at_once() {
    comes_at_once(&Setup::new(Version::V2_3));
}

/// And a container can read how much of it is here, as with stargz-snapshotter.
#[test]
fn what_an_image_needs_at_its_start_comes_at_once_on_fuse() {
    comes_at_once(&Setup::on_fuse(Version::V2_3));
}

fn comes_at_once(setup: &Setup) {
    let stage = Stage::start(setup);
    if stage.rival {
        // It is told not to.
        return;
    }
    let fixture = lazy_fixture().unwrap();
    let image = convert_with_prefetch(&fixture, &["bin/busybox", LARGE.0]).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull(&reference);
    let arrived = || Ok((stage.blob_bytes() > LARGE.1 as u64).then_some(()));
    // It begins when somebody mounts the image.
    let view = stage.view(&reference);
    wait::until("what is named", LIMIT, arrived).unwrap();
    let (_, layers) = image.image.parts().unwrap();
    let path = format!(".stargz-snapshotter/{}.json", layers[1]);
    let of_fuse = stage.is_on_fuse();
    let whole = || {
        let percent = match of_fuse {
            true => {
                let state = parse(&view.read(&path).unwrap());
                assert_eq!(state["digest"], layers[1].as_str());
                state["fetchedPercent"].as_f64()
            }
            false => stage.percent_of(&layers[1]),
        };
        Ok(percent.filter(|percent| *percent > 20.0))
    };
    wait::until("a good part of a layer", LIMIT, whole).unwrap();
    // The kernel's EROFS has no file whose content changes.
    assert_eq!(view.path(&path).exists(), of_fuse);
    stage.site.gate.down().unwrap();
    let content = view.read(LARGE.0).unwrap();
    assert_eq!(sha256(&content)["sha256:".len()..], large_digest());
    assert!(
        view.read("bin/busybox").unwrap() == busybox().unwrap(),
        "wrong bytes"
    );
    drop(view);
    stage.finish();
}

impl Stage {
    /// Files of lazy layers that the daemon has open.
    fn held_files(&mut self) -> Vec<String> {
        let lazy = self.bench.cluster.plugin.root().join("lazy");
        let lazy = lazy.to_string_lossy().into_owned();
        let fds = self.bench.cluster.plugin.process().unwrap().open_fds();
        let held = fds.unwrap().into_iter();
        held.filter(|target| target.starts_with(&lazy)).collect()
    }

    /// Waits until nothing of any layer is open or kept, but what was open before: the image is remembered for a while.
    fn check_nothing_held(&mut self, before: &[String]) {
        let lazy = self.bench.cluster.plugin.root().join("lazy");
        let mut left = Vec::new();
        let let_go = wait::until("layers that are let go", LIMIT, || {
            left = self.held_files();
            left.retain(|file| !before.contains(file));
            let kept = [files(&lazy.join("trees")), files(&lazy.join("tmp"))].concat();
            left.extend(kept.iter().map(|path| path.display().to_string()));
            if left.is_empty() {
                return Ok(Some(()));
            }
            self.bench.collect_garbage()?;
            Ok(None)
        });
        assert!(let_go.is_ok(), "left behind: {left:#?}");
    }

    /// How much of a layer is here, in percent, as the daemon says.
    fn percent_of(&self, layer: &str) -> Option<f64> {
        let socket = self.bench.cluster.sandbox.path("plugin-admin.sock");
        let report = parse(&get_unix(&socket, "/layers").unwrap().body);
        let layers = report["layers"].as_array()?;
        let found = layers.iter().find(|found| found["digest"] == layer)?;
        found["progress"]["percent"].as_f64()
    }

    /// How many chunks the daemon has stored since it was started.
    fn stored_chunks(&self) -> u32 {
        let socket = self.bench.cluster.sandbox.path("plugin-admin.sock");
        let answer = get_unix(&socket, "/metrics").unwrap();
        let text = String::from_utf8(answer.body).unwrap();
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("pontoon_cache_stored_chunks"));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.unwrap().parse::<f64>().unwrap() as u32
    }

    /// How many chunks are on the disk for good (crate cache, `ready.rs`: blocks of 512 bytes, the last 16 of which
    /// are a check).
    fn durable_chunks(&self) -> u32 {
        let blobs = self.bench.cluster.plugin.root().join("lazy/blobs");
        let ready = files(&blobs).into_iter();
        let ready = ready.filter(|path| path.ends_with("ready"));
        let bits = ready.map(|path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            let blocks = bytes
                .chunks(512)
                .map(|block| &block[..block.len().min(496)]);
            blocks.flatten().map(|byte| byte.count_ones()).sum::<u32>()
        });
        bits.sum()
    }
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
