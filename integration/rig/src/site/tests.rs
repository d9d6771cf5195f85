//! Real clients at every kind of site: they pull what they may, and no more.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::process::Command;
use std::time::Duration;

use super::*;
use crate::cluster::{self, Cluster, SNAPSHOTTER};
use crate::command::{attempt, run};
use crate::containerd::{Pull, Version};
use crate::docker::Docker;
use crate::gate::{Fault, Request};
use crate::image::{ADDED_BY_FORMATS, Conversion, UNLISTED, convert, lazy_fixture};
use crate::plugin::{Kind, find_binary};
use crate::token::{PASSWORD, USER};
use crate::tools::Tool;
use crate::tree::Tree;

const LIMIT: Duration = Duration::from_mins(1);

/// A cluster that is set up for lazy loading, on a plugin that loads nothing lazily.
fn cluster(sandbox: Sandbox, version: Version, site: &Site) -> Cluster {
    let mut setup = cluster::Setup::lazy(version, "");
    // Whichever is built; what containerd tells it is what counts here.
    setup.plugin.kind = match find_binary("pontoon-overlayfs") {
        Ok(_) => Kind::Pontoon("pontoon-overlayfs".into()),
        Err(_) => Kind::Oracle,
    };
    setup.cri_hosts = (version == Version::V1_7).then(|| site.hosts_dir().clone());
    Cluster::start_in(sandbox, setup).unwrap()
}

/// What containerd told the plugin of where the lowest layer is.
fn labels(cluster: &Cluster, image: &Layout) -> serde_json::Value {
    let chain = image.chain_ids().unwrap();
    let containerd = &cluster.containerd;
    let info = containerd.snapshot_info(SNAPSHOTTER, &chain[0]).unwrap();
    info["Labels"].clone()
}

fn check_labels(cluster: &Cluster, image: &Layout, reference: &str) {
    let labels = labels(cluster, image);
    assert_eq!(labels["containerd.io/snapshot/cri.image-ref"], reference);
    let (_, layers) = image.parts().unwrap();
    assert_eq!(labels["containerd.io/snapshot/cri.layer-digest"], layers[0]);
    assert!(
        labels["containerd.io/snapshot/stargz/toc.digest"].is_string(),
        "{labels}"
    );
}

#[test]
fn containerd_1_7_pulls_with_labels_as_a_client_and_through_the_cri() {
    let sandbox = Sandbox::new().unwrap();
    let setup = Setup {
        users: Users::Bearer,
        tls: false,
        ..Setup::default()
    };
    let site = Site::start(&sandbox, setup).unwrap();
    let cluster = cluster(sandbox, Version::V1_7, &site);
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = site.push_converted(&image, "secret/lazy", "1").unwrap();
    let user = format!("{USER}:{PASSWORD}");
    let containerd = &cluster.containerd;
    let mut pull = Pull {
        reference: &reference,
        snapshotter: SNAPSHOTTER,
        hosts: Some(site.hosts_dir()),
        user: None,
    };
    assert!(containerd.pull(&pull).is_err(), "a stranger got in");
    pull.user = Some(&user);
    containerd.pull(&pull).unwrap();
    check_labels(&cluster, &image.image, &reference);
    let tokens = site.tokens.as_ref().unwrap();
    assert!(tokens.issued() > 0);
    assert!(site.gate.count(Request::is_token) > 0);

    let socket = containerd.socket();
    let mut stranger = containerd
        .cri_pull_command(&socket, &reference, None)
        .unwrap();
    assert!(!attempt(&mut stranger, LIMIT).unwrap().status.success());
    let mut known = containerd
        .cri_pull_command(&socket, &reference, Some(&user))
        .unwrap();
    run(&mut known, LIMIT).unwrap();
    let listed = containerd.ctr(["--namespace", "k8s.io", "images", "ls", "--quiet"]);
    assert!(listed.unwrap().stdout.contains(&reference));

    // The password changes, and tokens that are over before they are used.
    tokens.set_password("barge");
    containerd
        .ctr(["images", "rm", "--sync", &reference])
        .unwrap();
    assert!(containerd.pull(&pull).is_err(), "the old password is good");
    pull.user = Some("pilot:barge");
    containerd.pull(&pull).unwrap();
    tokens.set_lifetime(Duration::ZERO);
    assert!(containerd.pull(&pull).is_err(), "a token never ends");
}

#[test]
fn containerd_2_3_pulls_with_labels_through_the_transfer_service() {
    let sandbox = Sandbox::new().unwrap();
    let setup = Setup {
        users: Users::Basic,
        tls: true,
        ..Setup::default()
    };
    let site = Site::start(&sandbox, setup).unwrap();
    let cluster = cluster(sandbox, Version::V2_3, &site);
    let fixture = lazy_fixture().unwrap();
    let user = format!("{USER}:{PASSWORD}");
    let containerd = &cluster.containerd;
    for conversion in [Conversion::ZstdChunked, Conversion::EstargzMinChunk] {
        let image = convert(&fixture, conversion).unwrap();
        let reference = site.push_converted(&image, conversion.name(), "1").unwrap();
        let mut pull = Pull {
            reference: &reference,
            snapshotter: SNAPSHOTTER,
            hosts: Some(site.hosts_dir()),
            user: None,
        };
        assert!(containerd.pull(&pull).is_err(), "a stranger got in");
        pull.user = Some(&user);
        let mark = site.gate.mark();
        containerd.pull(&pull).unwrap();
        assert!(mark.bytes() > 1_000_000);
        check_labels(&cluster, &image.image, &reference);
    }
    // The same containerd, as Docker and nerdctl use it.
    let image = convert(&fixture, Conversion::EstargzSmallChunks).unwrap();
    let reference = site.push_converted(&image, "client", "1").unwrap();
    let pull = Pull {
        reference: &reference,
        snapshotter: SNAPSHOTTER,
        hosts: Some(site.hosts_dir()),
        user: Some(&user),
    };
    run(&mut containerd.client_pull_command(&pull).unwrap(), LIMIT).unwrap();
    check_labels(&cluster, &image.image, &reference);
}

/// containerd does not verify the certificates of loopback; skopeo does.
#[test]
fn tls_lets_in_who_trusts_and_is_trusted() {
    let sandbox = Sandbox::new().unwrap();
    let setup = Setup {
        users: Users::All,
        tls: true,
        ..Setup::default()
    };
    let site = Site::start(&sandbox, setup).unwrap();
    let image = crate::image::odd(&sandbox.subdir("odd").unwrap()).unwrap();
    site.push(&image, "odd", "1").unwrap();
    let authority = site.authority.as_ref().unwrap();
    let front = Front {
        tls: Some(&authority.server().unwrap()),
        clients: Some(authority),
        ..Front::default()
    };
    let strict = site.store().front(&sandbox, &front).unwrap();
    let certificates = sandbox.subdir("certificates").unwrap();
    let inspect = |host: &str| {
        let mut command = Command::new(Tool::Forky.dir().unwrap().join("skopeo"));
        command.env("HOME", sandbox.dir()).arg("--insecure-policy");
        command.args(["inspect", "--raw", "--cert-dir"]);
        command
            .arg(&certificates)
            .arg(format!("docker://{host}/odd:1"));
        attempt(&mut command, LIMIT).unwrap()
    };
    assert!(!inspect(site.host()).status.success(), "trusts anybody");
    authority.write(&certificates.join("ca.crt")).unwrap();
    assert_eq!(
        inspect(site.host()).stdout.as_bytes(),
        image.manifest().unwrap()
    );
    assert!(!inspect(strict.host()).status.success(), "lets anybody in");
    let (cert, key) = authority
        .client()
        .unwrap()
        .write(&certificates, "client")
        .unwrap();
    std::fs::rename(cert, certificates.join("client.cert")).unwrap();
    assert!(key.ends_with("client.key"));
    assert_eq!(
        inspect(strict.host()).stdout.as_bytes(),
        image.manifest().unwrap()
    );
    assert!(site.gate.requests() > 0);
}

#[test]
fn anybody_pulls_what_is_public_through_redirects_and_busy_answers() {
    let sandbox = Sandbox::new().unwrap();
    let setup = Setup {
        users: Users::Bearer,
        tls: true,
        ..Setup::default()
    };
    let site = Site::start(&sandbox, setup).unwrap();
    let cluster = cluster(sandbox, Version::V2_3, &site);
    let image = crate::image::odd(&cluster.sandbox.subdir("odd").unwrap()).unwrap();
    let reference = site.push(&image, "public/odd", "1").unwrap();
    let redirects = site.gate.inject(Request::is_blob, Fault::Redirect(LIMIT));
    let busy = site.gate.inject(Request::is_manifest, Fault::status(503));
    busy.times(1);
    let pull = Pull {
        reference: &reference,
        snapshotter: SNAPSHOTTER,
        hosts: Some(site.hosts_dir()),
        user: None,
    };
    cluster.containerd.pull(&pull).unwrap();
    assert_eq!(busy.hits(), 1);
    assert!(redirects.hits() > 0 && site.gate.count(Request::is_signed) > 0);
    // The token is for the registry alone.
    let exchanges = site.gate.exchanges();
    let mut signed = exchanges
        .iter()
        .filter(|exchange| exchange.request.is_signed());
    assert!(signed.all(|exchange| exchange.request.authorization.is_none()));
}

/// Other people's converters did not lose anything: containerd unpacks the same.
#[test]
fn conversions_unpack_to_the_same_tree() {
    let sandbox = Sandbox::new().unwrap();
    let site = Site::start(&sandbox, Setup::default()).unwrap();
    let cluster = cluster(sandbox, Version::V2_3, &site);
    let fixture = lazy_fixture().unwrap();
    let reference = site.push(&fixture, "fixture", "1").unwrap();
    let original = tree(&cluster, &site, &reference);
    assert!(original.len() > 300, "{}", original.len());
    for conversion in Conversion::ALL {
        let image = convert(&fixture, conversion).unwrap();
        let reference = site.push_converted(&image, conversion.name(), "1").unwrap();
        let differences = original.differences(&tree(&cluster, &site, &reference));
        assert!(differences.is_empty(), "{conversion:?}: {differences:#?}");
    }
}

/// The unpacked image, without what formats add and what has a time of its own.
fn tree(cluster: &Cluster, site: &Site, reference: &str) -> Tree {
    let pull = Pull {
        reference,
        snapshotter: SNAPSHOTTER,
        hosts: Some(site.hosts_dir()),
        user: None,
    };
    let containerd = &cluster.containerd;
    containerd.pull(&pull).unwrap();
    let name = reference.rsplit('/').next().unwrap();
    let target = cluster.sandbox.subdir(&format!("view/{name}")).unwrap();
    let target = target.to_string_lossy().into_owned();
    let options = ["--snapshotter", SNAPSHOTTER];
    let mount = ["images", "mount"].iter().chain(&options);
    containerd
        .ctr(mount.chain(&[reference, target.as_str()]))
        .unwrap();
    let mut tree = Tree::read(std::path::Path::new(&target)).unwrap();
    let unmount = ["images", "unmount", "--rm"].iter().chain(&options);
    containerd.ctr(unmount.chain(&[target.as_str()])).unwrap();
    for path in ADDED_BY_FORMATS {
        tree.remove(path);
    }
    for path in UNLISTED {
        tree.forget_time(path);
    }
    tree
}

/// The whole arrangement on the lazily loading plugin that there is: layers are loaded
/// lazily with either containerd, and the gate shows it.
#[test]
fn stargz_snapshotter_is_lazy_here() {
    let fixture = lazy_fixture().unwrap();
    let image = convert(&fixture, Conversion::Estargz).unwrap();
    let size = image.image.size().unwrap();
    for version in Version::ALL {
        let sandbox = Sandbox::new().unwrap();
        let site = Site::start(&sandbox, Setup::default()).unwrap();
        let mut setup = cluster::Setup::lazy(version, "");
        setup.plugin.kind = Kind::Stargz;
        // It fetches everything in the background otherwise.
        setup.plugin.config = r#"{"no_background_fetch": true, "noprefetch": true}"#.into();
        let mut cluster = Cluster::start_in(sandbox, setup).unwrap();
        let reference = site.push_converted(&image, "lazy", "1").unwrap();
        let pull = Pull {
            reference: &reference,
            snapshotter: SNAPSHOTTER,
            hosts: Some(site.hosts_dir()),
            user: None,
        };
        cluster.containerd.pull(&pull).unwrap();
        let log = cluster.plugin.log();
        assert!(
            log.contains("remote-snapshot-prepared"),
            "{version:?}: {log}"
        );
        let pulled = site.gate.bytes_of(Request::is_blob);
        assert!(pulled < size / 4, "{version:?}: {pulled} of {size} bytes");
        let mark = site.gate.mark();
        let ran = cluster.containerd.run(
            SNAPSHOTTER,
            &[],
            &reference,
            "reader",
            &["/bin/sha256sum", "/sizes/5000001"],
        );
        let digest = crate::digest::sha256(&crate::image::noise(5_000_001, 5_000_001));
        assert_eq!(ran.unwrap().stdout[..64], digest["sha256:".len()..]);
        assert!(mark.bytes() > 5_000_000, "{version:?}: {}", mark.bytes());
        cluster.containerd.terminate().unwrap();
        cluster.plugin.terminate().unwrap();
    }
}

/// Docker is lazy when the plugin is in the containerd that it uses.
#[test]
fn docker_is_lazy_here() {
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let sandbox = Sandbox::new().unwrap();
    let site = Site::start(&sandbox, Setup::default()).unwrap();
    let mut setup = cluster::Setup::lazy(Version::V2_3, "");
    setup.plugin.kind = Kind::Stargz;
    setup.plugin.config = r#"{"no_background_fetch": true, "noprefetch": true}"#.into();
    let cluster = Cluster::start_in(sandbox, setup).unwrap();
    let mut docker = Docker::start(&cluster.sandbox, &cluster.containerd, site.host()).unwrap();
    let reference = site.push_converted(&image, "lazy", "1").unwrap();
    docker.docker(["pull", "--quiet", &reference]).unwrap();
    let pulled = site.gate.bytes_of(Request::is_blob);
    let size = image.image.size().unwrap();
    assert!(pulled < size / 4, "{pulled} of {size} bytes");
    let run = ["run", "--rm", "--network", "none", &reference];
    let ran = docker.docker(run.iter().chain(&["/bin/cat", "/odd/here/first"]));
    assert_eq!(ran.unwrap().stdout, "linked");
    docker.terminate().unwrap();
}
