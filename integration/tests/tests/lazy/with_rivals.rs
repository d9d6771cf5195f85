//! What needs programs that only their makers build: nydus' own builder, and nerdctl.

use std::process::Command;

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::{Output, attempt};
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{Conversion, convert, lazy_fixture};
use pontoon_rig::tools::rival;

use crate::stage::{LIMIT, NYDUS, Setup, Stage};
use crate::{damage, faults, holder, life, trees};

fn nydus(version: Version) -> Setup {
    Setup {
        form: Conversion::RivalNydusBase,
        ..Setup::new(version).nydus()
    }
}

#[test]
#[ignore = "needs nydus-image 2.2 in the folder PONTOON_RIVALS"]
fn images_of_nydus_image_are_what_containerd_unpacks() {
    let forms = [Conversion::RivalNydusBase];
    trees::check(&nydus(Version::V2_3), &forms);
    trees::check(&Setup::on_fuse(Version::V2_3).nydus(), &forms);
    trees::check(&nydus(Version::V1_7), &forms);
}

#[test]
#[ignore = "needs nydus-image 2.2 in the folder PONTOON_RIVALS"]
fn images_of_nydus_image_live_and_come_back() {
    let form = Conversion::RivalNydusBase;
    life::lives(nydus(Version::V2_3), form);
    life::comes_back(&nydus(Version::V2_3), form);
}

#[test]
#[ignore = "needs nydus-image 2.2 in the folder PONTOON_RIVALS"]
fn images_of_nydus_image_outlive_daemons_and_holders() {
    holder::holders_are_killed(&nydus(Version::V2_3));
}

#[test]
#[ignore = "needs nydus-image 2.2 in the folder PONTOON_RIVALS"]
fn faults_of_a_registry_with_images_of_nydus_image() {
    faults::all_rows(Setup {
        form: Conversion::RivalNydus,
        ..nydus(Version::V2_3)
    });
    damage::damaged(nydus(Version::V2_3), Conversion::RivalNydusBase);
}

/// The name by which nerdctl knows that a snapshotter is nydus' (nerdctl 2.3, `pkg/imgutil/snapshotter.go`).
const NAME: &str = "nydus";

/// nerdctl for the stage's containerd, to be completed.
fn nerdctl(stage: &Stage, snapshotter: &str) -> Command {
    let cluster = &stage.bench.cluster;
    let containerd = &cluster.containerd;
    let mut command = Command::new(rival("nerdctl").unwrap());
    command.arg("--address").arg(containerd.socket());
    command.args(["--namespace", containerd.namespace()]);
    command.args(["--snapshotter", snapshotter]);
    command.arg("--hosts-dir").arg(stage.site.hosts_dir());
    for (option, name) in [("--data-root", "nerdctl"), ("--cni-netconfpath", "cni")] {
        command
            .arg(option)
            .arg(cluster.sandbox.subdir(name).unwrap());
    }
    command.args(["--cgroup-manager", "cgroupfs"]);
    let home = cluster.sandbox.subdir("home").unwrap();
    command.env("PATH", containerd.path());
    command.env("TMPDIR", cluster.sandbox.path("tmp"));
    // Never the ones of who runs the tests.
    command.env("NERDCTL_TOML", home.join("nerdctl.toml"));
    command.env("DOCKER_CONFIG", &home).env("HOME", &home);
    command
}

fn try_pull(stage: &Stage, snapshotter: &str, reference: &str) -> Output {
    let mut pull = nerdctl(stage, snapshotter);
    attempt(pull.args(["pull", "--quiet", reference]), LIMIT).unwrap()
}

/// What the plugin for nydus images runs.
const FORMS: [Conversion; 2] = [Conversion::Nydus, Conversion::Estargz];

/// Pulls and runs an image in each of these forms, and fails unless that is lazy.
fn runs(stage: &Stage, snapshotter: &str, forms: &[Conversion]) {
    let fixture = lazy_fixture().unwrap();
    for form in forms {
        let image = convert(&fixture, *form).unwrap();
        let reference = stage.publish(&image, form.name());
        let before = stage.blob_bytes();
        let pulled = try_pull(stage, snapshotter, &reference);
        assert!(pulled.status.success(), "{form:?}: {}", pulled.stderr);
        let mut run = nerdctl(stage, snapshotter);
        run.args(["run", "--rm", "--pull", "never", "--network", "none"]);
        let parent = format!("/{}", stage.bench.cluster.sandbox.name());
        run.args(["--cgroup-parent", &parent, &reference]);
        let script = "cat /odd/here/first; stat -c %s /sizes/5000001";
        let ran = attempt(run.args(["/bin/sh", "-c", script]), LIMIT).unwrap();
        assert_eq!(ran.stdout, "linked\n5000001", "{form:?}: {}", ran.stderr);
        let (came, size) = (stage.blob_bytes() - before, image.image.size().unwrap());
        assert!(came < size / 4, "{form:?}: {came} of {size} bytes");
        let removed = attempt(nerdctl(stage, snapshotter).args(["rmi", &reference]), LIMIT);
        assert!(removed.unwrap().status.success());
    }
}

/// Since containerd 2.0 nerdctl asks its transfer service, which tells every snapshotter that wants to know.
#[test]
#[ignore = "needs nerdctl 2.3 in the folder PONTOON_RIVALS"]
fn nerdctl_pulls_and_runs_on_containerd_2_3_under_every_name() {
    let stage = Stage::start(&Setup {
        other_names: vec![NAME, NYDUS],
        ..Setup::new(Version::V2_3).nydus()
    });
    for name in [SNAPSHOTTER, NYDUS, NAME] {
        runs(&stage, name, &FORMS);
    }
    stage.finish();
}

/// With containerd 1.7 it tells snapshotters itself, those that it knows by their names.
#[test]
#[ignore = "needs nerdctl 2.3 in the folder PONTOON_RIVALS"]
fn nerdctl_pulls_and_runs_on_containerd_1_7_under_the_name_that_it_knows() {
    let stage = Stage::start(&Setup {
        other_names: vec![NAME],
        ..Setup::new(Version::V1_7).nydus()
    });
    runs(&stage, NAME, &FORMS);
    stage.finish();
    let stage = Stage::start(&Setup {
        other_names: vec!["stargz"],
        ..Setup::new(Version::V1_7)
    });
    runs(&stage, "stargz", &[Conversion::Estargz]);
    stage.finish();
}

/// Of a name that holds one which it knows it makes that one.
#[test]
#[ignore = "needs nerdctl 2.3 in the folder PONTOON_RIVALS"]
fn nerdctl_pulls_no_nydus_image_on_containerd_1_7_under_other_names() {
    let stage = Stage::start(&Setup {
        other_names: vec![NYDUS],
        ..Setup::new(Version::V1_7).nydus()
    });
    let image = convert(&lazy_fixture().unwrap(), Conversion::Nydus).unwrap();
    let reference = stage.publish(&image, "lazy");
    for (name, said) in [
        (SNAPSHOTTER, "labels do not say where the layer is"),
        (NYDUS, "could not find snapshotter nydus"),
    ] {
        let pulled = try_pull(&stage, name, &reference);
        assert!(!pulled.status.success(), "{name}: it was pulled");
        assert!(pulled.stderr.contains(said), "{name}: {}", pulled.stderr);
    }
    stage.finish();
}
