//! nydus images of ours in the real nydusd: what it serves is what containerd unpacks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command::run;
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{UNLISTED, lazy_fixture};
use pontoon_rig::process::Process;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::tree::Tree;
use pontoon_rig::wait;
use serde_json::{Value, json};

use crate::stage::Stage;

const LIMIT: Duration = Duration::from_mins(1);

/// What nydusd has no time for, and shows with today's: it was modified in the first moment of 1970.
const OLD: &str = "odd/old";

#[test]
#[ignore = "needs nydus-image and nydusd 2.2 in the folder PONTOON_RIVALS"]
fn it_serves_what_containerd_unpacks() {
    let programs = PathBuf::from(std::env::var_os("PONTOON_RIVALS").unwrap());
    let image = lazy_fixture().unwrap();
    let stage = Stage::start(Version::V2_3);
    let reference = stage.site.push(&image, "secret/ordinary", "1").unwrap();
    stage.pull_reference_onto("overlayfs", &reference);
    let sandbox = &stage.cluster.sandbox;
    let unpacked = sandbox.subdir("unpacked").unwrap();
    let at = unpacked.to_str().unwrap();
    let containerd = &stage.cluster.containerd;
    let mount = ["images", "mount", "--snapshotter", "overlayfs"];
    let mount = mount.into_iter().chain([&*reference, at]);
    containerd.ctr(mount).unwrap();
    let mut expected = Tree::read(&unpacked).unwrap();
    let unmount = [
        "images",
        "unmount",
        "--rm",
        "--snapshotter",
        "overlayfs",
        at,
    ];
    containerd.ctr(unmount).unwrap();
    forget(&mut expected);
    for (number, more) in [
        &[][..],
        &["--digest", "blake3", "--chunk-size", "65536"],
        &["--compression", "lz4_block", "--chunk-size", "131072"],
        &["--compression", "none"],
    ]
    .into_iter()
    .enumerate()
    {
        let to = sandbox.path(&format!("nydus-{number}"));
        let paths = [image.dir(), &to].map(|path| path.to_str().unwrap());
        let convert = ["convert", "--to", "nydus", paths[0], paths[1]];
        let (code, text) = stage.pontoon_alone(&[&convert[..], more].concat());
        assert_eq!(code, 0, "{text}");
        let mut served = serve(sandbox, &programs, &to, 0);
        forget(&mut served);
        let mut differences = served.differences(&expected);
        differences.retain(|line| !is_hidden_name(line));
        assert_eq!(differences, [""; 0], "{more:?}");
        // The same with an order, of which nydusd has everything before anybody reads.
        let (list, first) = (
            sandbox.path("order"),
            sandbox.path(&format!("first-{number}")),
        );
        fs::write(&list, format!("{}\nbin/busybox\nodd/third\n", LARGE.0)).unwrap();
        let paths = [&to, &first, &list].map(|path| path.to_str().unwrap());
        let optimize = ["optimize", paths[0], paths[1], "--paths", paths[2]];
        let (code, text) = stage.pontoon_alone(&optimize);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("3 files come first"), "{text}");
        let mut again = serve(sandbox, &programs, &first, LARGE.1);
        forget(&mut again);
        assert_eq!(again.differences(&served), [""; 0], "{more:?}");
    }
}

/// A large file of the fixture, and its size.
const LARGE: (&str, u64) = ("sizes/5000001", 5_000_001);

/// What is not to be compared: the root directory, which nobody takes from an image, and times that nydusd or who unpacks
/// has to make up.
fn forget(tree: &mut Tree) {
    tree.remove("");
    tree.forget_time(OLD);
    for path in UNLISTED {
        for path in Path::new(path).ancestors() {
            tree.forget_time(path);
        }
    }
}

/// Whether all that differs is a name that an upper layer has replaced: overlayfs goes on counting it, and in a merged tree
/// it is gone.
fn is_hidden_name(line: &str) -> bool {
    let sides = line
        .strip_prefix("odd/pair: ")
        .and_then(|rest| rest.split_once(" != "));
    sides.is_some_and(|(one, two)| one == two.replace("links: 2", "links: 1"))
}

/// What nydusd serves of the nydus image in the layout `dir`, once nydus-image has found nothing wrong. Before anybody reads,
/// it has at least `first` bytes of it, and not all.
fn serve(sandbox: &Sandbox, programs: &Path, dir: &Path, first: u64) -> Tree {
    let place = dir.with_extension("nydusd");
    let (mount, cache) = (place.join("mount"), place.join("cache"));
    fs::create_dir_all(&mount).unwrap();
    fs::create_dir_all(&cache).unwrap();
    let bootstrap = bootstrap(dir, &place);
    let mut check = Command::new(programs.join("nydus-image"));
    run(check.args(["check", "-B"]).arg(&bootstrap), LIMIT).unwrap();
    let config = json!({
        "device": {
            "backend": {"type": "localfs", "config": {"dir": dir.join("blobs/sha256")}},
            "cache": {"type": "blobcache", "cache_validate": true, "config": {"work_dir": cache}},
        },
        "mode": "direct",
        "digest_validate": false,
        "enable_xattr": true,
        "fs_prefetch": {"enable": first > 0, "threads_count": 2, "prefetch_all": false},
    });
    let config_path = place.join("config.json");
    fs::write(&config_path, config.to_string()).unwrap();
    let mut command = Command::new(programs.join("nydusd"));
    command.arg("--config").arg(&config_path);
    command.arg("--bootstrap").arg(&bootstrap);
    command.arg("--mountpoint").arg(&mount);
    command.arg("--apisock").arg(place.join("api.sock"));
    // It may not raise the limit everywhere.
    command.args(["--log-level", "warn", "--rlimit-nofile", "0"]);
    let mut daemon = Process::start("nydusd", &mut command, &place.join("log")).unwrap();
    let mounted = || {
        let mounts = pontoon_rig::sandbox::mounts_below(sandbox.dir()).ok()?;
        mounts.contains(&mount).then_some(())
    };
    daemon.wait_ready(LIMIT, mounted).unwrap();
    if first > 0 {
        let came = || Ok((cached_bytes(&cache) >= first).then_some(()));
        wait::until("what comes first", LIMIT, came).unwrap();
        let bytes = cached_bytes(&cache);
        assert!(bytes < 2 * first, "{bytes} bytes came");
    }
    let tree = Tree::read(&mount).unwrap();
    daemon.terminate(LIMIT).unwrap();
    tree
}

/// Bytes of data in nydusd's cache, whose files are sparse.
fn cached_bytes(cache: &Path) -> u64 {
    let files = fs::read_dir(cache).unwrap().flatten();
    let data = files.filter(|file| file.file_name().to_string_lossy().ends_with(".blob.data"));
    data.map(|file| file.metadata().unwrap().blocks() * 512)
        .sum()
}

/// Takes the bootstrap out of the last layer.
fn bootstrap(dir: &Path, place: &Path) -> PathBuf {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        dir.join("blobs").join(digest.replace(':', "/"))
    };
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(dir.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]));
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-xzf"]).arg(blob(layer)).arg("-C").arg(place);
    run(&mut tar, LIMIT).unwrap();
    place.join("image/image.boot")
}
