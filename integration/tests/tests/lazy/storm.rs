//! The daemon is killed again and again under a container that reads.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_integration::full;
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::attempt;
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{Conversion, convert, lazy_fixture};

use crate::readers::{Dice, Readers};
use crate::stage::{LIMIT, Setup, Stage};

/// How long the daemon is killed for.
fn duration() -> Duration {
    Duration::from_secs(if full() { 600 } else { 25 })
}

/// What a container that reads everything exits with if a read fails.
const READ_FAILED: i32 = 7;

/// When it is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Whatever it does.
    Any,
    /// While containerd mounts an image.
    Mount,
    /// While it goes on with what the one before it left.
    Adoption,
    /// While another image comes in, and is fetched before anybody asks.
    Prefetch,
    /// While a container reads an image for which something else has to go.
    Eviction,
    /// It is not: it is told to end, as in an upgrade.
    Stop,
}

const MOMENTS: [Moment; 8] = [
    Moment::Any,
    Moment::Mount,
    Moment::Adoption,
    Moment::Eviction,
    Moment::Stop,
    Moment::Prefetch,
    Moment::Adoption,
    Moment::Eviction,
];

/// The layers of the three images.
const LAYERS_MAX: usize = 3 * 5;

#[test]
fn containers_read_on_while_the_daemon_is_killed_again_and_again() {
    let forms = [
        Conversion::EstargzMinChunk,
        Conversion::Estargz,
        Conversion::ZstdChunked,
    ];
    kills_again_and_again(Setup::new(Version::V2_3), forms, duration());
}

#[test]
fn containers_of_nydus_images_read_on_while_the_daemon_is_killed_again_and_again() {
    let forms = [
        Conversion::NydusSmallChunks,
        Conversion::Nydus,
        Conversion::NydusBase,
    ];
    let setup = Setup::new(Version::V2_3).nydus();
    kills_again_and_again(setup, forms, duration() / 2);
}

/// The first image runs, the others come and go.
fn kills_again_and_again(setup: Setup, forms: [Conversion; 3], duration: Duration) {
    let mut stage = Stage::start(&Setup {
        lazy: "image_seconds = 10\n".into(),
        background: true,
        // Beside what is running there is room for one other image, so it evicts.
        cache_max: "\"64MiB\"",
        ..setup
    });
    if stage.rival {
        return;
    }
    let fixture = lazy_fixture().unwrap();
    let [running, others @ ..] = forms;
    let image = convert(&fixture, running).unwrap();
    let running = stage.publish(&image, "running");
    stage.pull(&running);
    stage.bench.start_container("reader", &running).unwrap();
    let others: Vec<String> = others
        .into_iter()
        .map(|conversion| {
            let image = convert(&fixture, conversion).unwrap();
            stage.publish(&image, &format!("other/{}", conversion.name()))
        })
        .collect();
    let builds = builds(&stage);
    let readers = Readers::start(&stage, "reader", 3);
    let mut storm = Storm {
        dice: Dice::new(1),
        kills: 0,
        round: 0,
    };
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let build = &builds[storm.round % builds.len()];
        stage.bench.cluster.plugin.set_binary(build.clone());
        storm.strike(&mut stage, &running, &others);
        storm.round += 1;
    }
    // So that a failure of the last start is seen too.
    let before = readers.reads();
    while readers.reads() < before + 100 {
        thread::sleep(Duration::from_millis(10));
    }
    let (outside, inside) = readers.finish(&stage);
    eprintln!(
        "{} kills in {:?}, {} builds: {outside} reads outside, {inside} rounds inside, none failed, none wrong",
        storm.kills,
        begun.elapsed(),
        builds.len()
    );
    assert!(outside > 100 && inside > 0 && storm.kills > 4);
    check_nothing_leaks(&mut stage);
    stage.bench.cluster.wait_connected().unwrap();
    stage.bench.remove_containers().unwrap();
    stage.finish();
}

/// One connection, one FUSE mount, at most one EROFS mount for each layer, and one holder, however many daemons there
/// were.
fn check_nothing_leaks(stage: &mut Stage) {
    let plugin = &mut stage.bench.cluster.plugin;
    let mounts = plugin.mounts().unwrap();
    let kept = plugin.root().join("lazy/mnt");
    let all: BTreeSet<&PathBuf> = mounts.iter().collect();
    assert!(
        all.contains(&kept) && all.len() == mounts.len(),
        "{mounts:?}"
    );
    let layers = all.iter().filter(|mount| mount.parent() == Some(&kept));
    let layers = layers.count();
    assert!(
        layers == all.len() - 1 && layers <= LAYERS_MAX,
        "{mounts:?}"
    );
    let fds = plugin.process().unwrap().open_fds().unwrap();
    let devices = |fds: Vec<String>| fds.iter().filter(|fd| *fd == "/dev/fuse").count();
    // The one it serves, and the one it would give to another holder.
    assert_eq!(devices(fds.clone()), 2, "{fds:#?}");
    assert!(fds.len() < 200, "{} descriptors: {fds:#?}", fds.len());
    let holders = stage.holders();
    assert_eq!(holders.len(), 1, "{holders:?}");
    let pid = holders[0].as_raw_nonzero();
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let links: Vec<String> = links.map(|link| link.display().to_string()).collect();
    assert_eq!(devices(links.clone()), 1, "{links:#?}");
    assert!(links.len() < 12, "{links:#?}");
}

/// The builds that take turns: this one, and those that are named or there. Another profile is another build.
fn builds(stage: &Stage) -> Vec<PathBuf> {
    let this = stage.bench.cluster.plugin.binary().to_owned();
    let named = std::env::var_os("PONTOON_OTHER_BUILD").map(PathBuf::from);
    let mut builds = vec![this];
    builds.extend(named);
    builds
}

struct Storm {
    dice: Dice,
    kills: u32,
    round: usize,
}

impl Storm {
    /// Kills the daemon once or more and starts it again.
    fn strike(&mut self, stage: &mut Stage, running: &str, others: &[String]) {
        let moment = MOMENTS[self.round % MOMENTS.len()];
        let other = &others[self.round / 2 % others.len()];
        let id = format!("extra-{}", self.round);
        let meanwhile = match moment {
            Moment::Any | Moment::Adoption | Moment::Stop => None,
            Moment::Mount => {
                let target = stage.bench.cluster.sandbox.subdir(&format!("look/{id}"));
                let target = target.unwrap();
                let mut mount: Command = stage.bench.cluster.containerd.ctr_command();
                mount.args(["images", "mount", "--snapshotter", SNAPSHOTTER, running]);
                Some(spawn(mount.arg(target)))
            }
            Moment::Prefetch => {
                let pull = stage.request(SNAPSHOTTER, other);
                let pull = stage.bench.cluster.containerd.pull_command(&pull);
                Some(spawn(&mut pull.unwrap()))
            }
            Moment::Eviction => {
                self.connect(stage);
                let pull = stage.request(SNAPSHOTTER, other);
                let _ = stage.bench.cluster.containerd.pull(&pull);
                let mut run: Command = stage.bench.cluster.containerd.ctr_command();
                run.args(["run", "--rm", "--snapshotter", SNAPSHOTTER, other, &id]);
                let script = format!(
                    "cat /sizes/* /many/* /twice/* /zeros/* > /dev/null || exit {READ_FAILED}"
                );
                Some(spawn(run.args(["/bin/sh", "-c", &script])))
            }
        };
        self.pause(match moment {
            Moment::Mount => 120,
            Moment::Adoption => 300,
            _ => 1000,
        });
        let plugin = &mut stage.bench.cluster.plugin;
        match moment {
            Moment::Stop => assert!(plugin.terminate().unwrap().success()),
            _ => plugin.kill().unwrap(),
        }
        self.kills += 1;
        if let Moment::Adoption = moment {
            for _ in 0..3 {
                let time = Duration::from_millis(self.dice.below(150));
                plugin.resume_for(time).unwrap();
                self.kills += 1;
            }
        }
        self.pause(200);
        stage.bench.cluster.plugin.resume().unwrap();
        if let Some(mut child) = meanwhile {
            let status = child.wait().unwrap();
            // Whatever containerd's calls say, what runs reads.
            assert_ne!(status.code(), Some(READ_FAILED), "{id} read errors");
            self.tidy(stage, &id, others);
        }
    }

    fn pause(&mut self, most_ms: u64) {
        thread::sleep(Duration::from_millis(self.dice.below(most_ms)));
    }

    fn connect(&self, stage: &Stage) {
        stage.bench.cluster.wait_connected().unwrap();
    }

    /// Removes what a strike has left half done.
    fn tidy(&self, stage: &Stage, id: &str, others: &[String]) {
        self.connect(stage);
        let containerd = &stage.bench.cluster.containerd;
        let try_ctr = |args: &[&str]| {
            let mut command = containerd.ctr_command();
            // Not everything is there each time.
            let _ = attempt(command.args(args), LIMIT);
        };
        try_ctr(&["tasks", "rm", "--force", id]);
        try_ctr(&["containers", "rm", id]);
        let target = stage.bench.cluster.sandbox.path(&format!("look/{id}"));
        let target = target.to_string_lossy();
        if target.ends_with(id) && std::path::Path::new(&*target).is_dir() {
            try_ctr(&[
                "images",
                "unmount",
                "--rm",
                "--snapshotter",
                SNAPSHOTTER,
                &target,
            ]);
        }
        if self.round.is_multiple_of(4) {
            for other in others {
                try_ctr(&["images", "rm", "--sync", other]);
            }
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
