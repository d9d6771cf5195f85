//! Registries that want to know who asks, over TLS and without.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::run;
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::{Fault, Request};
use pontoon_rig::http::request;
use pontoon_rig::image::{Conversion, convert, lazy_fixture, noise};
use pontoon_rig::site::{self, Users};
use pontoon_rig::token::{PASSWORD, USER};
use pontoon_rig::wait;

use crate::stage::{Known, LARGE, LIMIT, Setup, Stage};

/// How far apart reads are. Each brings along what follows, up to megabytes on a fast way, and nothing before it.
const APART: u64 = 1_300_000;

fn setup(version: Version, users: Users, tls: bool, known: Known) -> Setup {
    Setup {
        site: site::Setup {
            users,
            tls,
            ..site::Setup::default()
        },
        known,
        ..Setup::new(version)
    }
}

#[test]
fn basic_authentication_over_tls() {
    let stage = Stage::start(&setup(
        Version::V2_3,
        Users::Basic,
        true,
        Known::Configuration,
    ));
    if stage.rival {
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), Conversion::PodmanZstdChunked).unwrap();
    let reference = stage.publish(&image, "secret/lazy");
    stage.pull_lazily(&image.image, &reference);
    stage.check_reads("reader", &reference);
    let exchanges = stage.site.gate.exchanges();
    let mut blobs = exchanges.iter().filter(|e| e.request.is_blob());
    assert!(blobs.all(|e| e.status != Some(200) || e.request.authorization.is_some()));
    stage.finish();
}

/// Tokens end, and are taken back before they end; redirects end too. Whoever reads does not notice.
#[test]
fn tokens_and_redirects_run_out_between_reads() {
    let stage = Stage::start(&setup(
        Version::V2_3,
        Users::Bearer,
        true,
        Known::DockerConfig,
    ));
    if stage.rival {
        return;
    }
    let tokens = stage.site.tokens.as_ref().unwrap();
    tokens.set_lifetime(Duration::from_secs(2));
    let image = convert(&lazy_fixture().unwrap(), Conversion::EstargzSmallChunks).unwrap();
    let reference = stage.publish(&image, "secret/lazy");
    stage.pull_lazily(&image.image, &reference);

    let view = stage.view(&reference);
    let large = std::fs::File::open(view.path(LARGE.0)).unwrap();
    let content = noise(LARGE.1 as u64, LARGE.1);
    let read = |piece: u64| {
        let at = piece * APART;
        let mut buffer = vec![0; 4096];
        large.read_exact_at(&mut buffer, at).unwrap();
        assert_eq!(buffer, content[at as usize..][..4096], "piece {piece}");
    };
    read(3);
    let last = last_token(&stage);
    wait::until("the end of a token", LIMIT, || {
        let path = format!(
            "/v2/secret/lazy/manifests/{}",
            image.image.manifest_digest()?
        );
        let header = [("Authorization", last.as_str())];
        let answer = request(stage.site.registry.host(), "HEAD", &path, &header, b"")?;
        Ok((answer.status == 401).then_some(()))
    })
    .unwrap();
    let issued = tokens.issued();
    read(2);
    assert!(tokens.issued() > issued, "read with a token that is over");

    tokens.set_lifetime(Duration::from_mins(5));
    let refused = stage
        .site
        .gate
        .inject(Request::is_blob, refusal(&stage, "secret/lazy"));
    refused.times(1);
    read(1);
    assert_eq!(refused.hits(), 1);
    drop(refused);

    let redirects = stage
        .site
        .gate
        .inject(Request::is_blob, Fault::Redirect(LIMIT));
    read(0);
    assert!(redirects.hits() > 0);
    drop(redirects);
    stage.site.gate.expire_redirects();
    let rest = view.read("many/001").unwrap();
    assert_eq!(rest, noise(1, 17));
    // The token is for the registry alone.
    let exchanges = stage.site.gate.exchanges();
    let mut signed = exchanges.iter().filter(|e| e.request.is_signed());
    assert!(signed.all(|e| e.request.authorization.is_none()));
    drop(large);
    drop(view);
    stage.finish();
}

/// What a registry answers to a token that it does not take any more.
pub(crate) fn refusal(stage: &Stage, name: &str) -> Fault {
    let (scheme, host) = (stage.site.gate.scheme(), stage.site.host());
    let challenge = format!(
        "Bearer realm=\"{scheme}://{host}/token\",service=\"pontoon-rig\",\
         scope=\"repository:{name}:pull\""
    );
    Fault::Answer {
        status: 401,
        headers: vec![("WWW-Authenticate".into(), challenge)],
        body: Vec::new(),
    }
}

/// The newest token that the plugin has shown.
fn last_token(stage: &Stage) -> String {
    let exchanges = stage.site.gate.exchanges();
    let shown = exchanges
        .iter()
        .rev()
        .filter(|e| e.request.is_blob())
        .find_map(|e| e.request.authorization.clone());
    shown.expect("no token was shown")
}

/// What a kubelet told the runtime is known for as long as the image is there, over the daemon's end.
#[test]
fn credentials_of_the_kubelet_survive_a_kill() {
    let mut stage = Stage::start(&Setup {
        cri: true,
        ..setup(Version::V1_7, Users::Bearer, false, Known::ImageService)
    });
    if stage.rival {
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), Conversion::EstargzSmallChunks).unwrap();
    let reference = stage.publish(&image, "secret/lazy");
    let user = format!("{USER}:{PASSWORD}");
    let containerd = &stage.bench.cluster.containerd;
    let socket = stage.image_service();
    let mut pull = containerd
        .cri_pull_command(&socket, &reference, Some(&user))
        .unwrap();
    run(&mut pull, LIMIT).unwrap();
    let (pulled, size) = (stage.blob_bytes(), image.image.size().unwrap());
    assert!(pulled < size / 4, "pulled {pulled} of {size} bytes");

    stage.bench.cluster.plugin.kill().unwrap();
    let kept = stage
        .bench
        .cluster
        .plugin
        .root()
        .join("lazy/credentials.json");
    let mode = kept.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "{mode:o}");
    stage.bench.cluster.plugin.resume().unwrap();
    stage.bench.cluster.wait_connected().unwrap();
    let mark = stage.site.gate.mark();
    let view = stage.view_of("k8s.io", &reference);
    let content = view.read(LARGE.0).unwrap();
    assert!(content == noise(LARGE.1 as u64, LARGE.1), "wrong bytes");
    assert!(mark.bytes() > 4_000_000, "{}", mark.bytes());
    drop(view);
    let remove = ["--namespace", "k8s.io", "images", "rm", "--sync"];
    let containerd = &stage.bench.cluster.containerd;
    let listed = containerd
        .ctr(["--namespace", "k8s.io", "images", "ls", "--quiet"])
        .unwrap();
    let names = listed.stdout.lines();
    containerd.ctr(remove.into_iter().chain(names)).unwrap();
    stage.finish();
}

/// Who may no longer read gets an error, soon, and never another one's bytes.
#[test]
fn a_changed_password_ends_reading() {
    let stage = Stage::start(&setup(
        Version::V2_3,
        Users::Bearer,
        false,
        Known::DockerConfig,
    ));
    if stage.rival {
        return;
    }
    let tokens = stage.site.tokens.as_ref().unwrap();
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.publish(&image, "secret/lazy");
    tokens.set_lifetime(Duration::from_secs(1));
    stage.pull_lazily(&image.image, &reference);
    tokens.set_password("barge");
    let view = stage.view(&reference);
    let refused = || {
        // Tokens that were given out are good until they end.
        let read = view.read(LARGE.0);
        let error = read.err().and_then(|error| error.raw_os_error());
        Ok((error == Some(rustix::io::Errno::IO.raw_os_error())).then_some(()))
    };
    let denied = stage.site.gate.inject(Request::is_blob, Fault::status(401));
    wait::until("a refusal", LIMIT, refused).unwrap();
    drop(denied);
    tokens.set_password(PASSWORD);
    let again = || Ok(view.read(LARGE.0).ok());
    let content = wait::until("reading again", LIMIT, again).unwrap();
    assert!(content == noise(LARGE.1 as u64, LARGE.1), "wrong bytes");
    drop(view);
    stage.finish();
}

/// What is here already is for who may read it: an image that names another one's layers, in a repository that does not
/// have them, does not get them.
#[test]
fn naming_a_layer_is_no_proof_that_it_may_be_read() {
    let stage = Stage::start(&Setup::new(Version::V2_3));
    if stage.rival {
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.publish(&image, "victim/lazy");
    stage.pull_lazily(&image.image, &reference);
    stage.check_reads("victim", &reference);
    // Its snapshots go, so that containerd asks for the layers again; what was fetched stays.
    stage.remove(&reference);
    let thief = stage.publish(&image, "thief/lazy");
    let (_, layers) = image.image.parts().unwrap();
    let missing = stage.site.gate.inject(
        move |request| {
            let layer = layers.iter().any(|layer| request.names(layer));
            layer && request.path.starts_with("/v2/thief/")
        },
        Fault::status(404),
    );
    let pull = stage.request(SNAPSHOTTER, &thief);
    let pulled = stage.bench.cluster.containerd.pull(&pull);
    assert!(missing.hits() > 0, "nobody asked for the layers");
    assert!(
        pulled.is_err(),
        "the layers of another image were given away"
    );
    stage.finish();
}
