//! A registry that does not answer holds up nobody but who waits for its image.
//!
//! containerd holds a lock of the snapshotter while Prepare runs, and its garbage collector waits for it: every other
//! call waits behind the collector (containerd 2.3.4, `core/metadata/snapshot.go`).

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use pontoon_proto::snapshots as v1;
use pontoon_proto::snapshots::snapshots_client::SnapshotsClient;
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::Request;
use pontoon_rig::image::{Conversion, Layout, convert, lazy_fixture};
use pontoon_rig::site::{self, Users};
use pontoon_rig::wait;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::compose::parse;
use crate::stage::{Known, LIMIT, Setup, Stage};

/// How long a Prepare may take whatever the registry does. The only limits of this kind in the tests: they are what is
/// promised. What a call takes on a quiet machine comes on top.
const PREPARE: Duration = Duration::from_secs(2);

/// How long every other call may take meanwhile.
const OTHERS: Duration = Duration::from_secs(3);

/// What a busy machine adds to either.
const SLACK: Duration = Duration::from_millis(500);

#[test]
fn a_registry_that_stalls_holds_up_nobody() {
    holds_up_nobody(Setup::new(Version::V2_3));
}

#[test]
fn a_registry_that_stalls_holds_up_nobody_on_fuse() {
    holds_up_nobody(Setup::on_fuse(Version::V2_3));
}

fn holds_up_nobody(setup: Setup) {
    let stage = Stage::start(&Setup {
        site: site::Setup {
            users: Users::Bearer,
            tls: false,
            ..site::Setup::default()
        },
        known: Known::DockerConfig,
        ..setup
    });
    if stage.rival {
        return;
    }
    let fixture = lazy_fixture().unwrap();
    let running = convert(&fixture, Conversion::Estargz).unwrap();
    let running = stage.publish(&running, "public/running");
    stage.pull(&running);
    let calm = Calls::meanwhile(&stage, &running, "calm");
    let containerd = Containerd::of(&stage);

    type Wanted = fn(&Request) -> bool;
    let stalls: [(&str, Conversion, Wanted); 3] = [
        ("tail", Conversion::ZstdChunked, Request::is_blob),
        (
            "manifest",
            Conversion::EstargzMinChunk,
            Request::is_manifest,
        ),
        ("token", Conversion::EstargzSmallChunks, Request::is_token),
    ];
    for (what, conversion, wanted) in stalls {
        let image = convert(&fixture, conversion).unwrap().image;
        // Each has a token of its own.
        let name = format!("secret/{what}");
        let reference = stage.site.push(&image, &name, "1").unwrap();
        let hold = stage.site.gate.hold(wanted);
        let (prepared, calls) = thread::scope(|scope| {
            let prepare = scope.spawn(|| containerd.prepare(&reference, &image, what));
            hold.wait(1).unwrap();
            let calls = Calls::meanwhile(&stage, &running, what);
            (prepare.join().unwrap(), calls)
        });
        assert_eq!(
            prepared.answer,
            Code::Ok,
            "{what}: mounts were not answered"
        );
        assert!(
            prepared.elapsed <= PREPARE + calm.info + SLACK,
            "{what}: Prepare took {:?}",
            prepared.elapsed
        );
        calls.check(&calm, what);
        hold.release();
        containerd.remove(what);
        // What was on its way arrives.
        let arrived = || {
            let again = containerd.prepare(&reference, &image, what);
            if again.answer == Code::AlreadyExists {
                return Ok(Some(()));
            }
            containerd.remove(what);
            Ok(None)
        };
        wait::until("a layer that is lazy after all", LIMIT, arrived).unwrap();
    }
    stage.finish();
}

/// How long calls took that have nothing to do with the stalled image.
#[derive(Debug, Clone, Copy)]
struct Calls {
    collection: Duration,
    container: Duration,
    info: Duration,
}

impl Calls {
    /// containerd's garbage collector runs; behind it another container starts, and a snapshot is looked at.
    fn meanwhile(stage: &Stage, image: &str, id: &str) -> Self {
        let timed = |call: &dyn Fn()| {
            let started = Instant::now();
            call();
            started.elapsed()
        };
        thread::scope(|scope| {
            let collection = scope.spawn(|| timed(&|| stage.bench.collect_garbage().unwrap()));
            let container = scope.spawn(|| {
                timed(&|| {
                    let id = format!("beside-{id}");
                    let printed = stage.run(&id, image, &["/bin/cat", "/odd/here/first"]);
                    assert_eq!(printed, "linked");
                })
            });
            let info = timed(&|| drop(stage.bench.cluster.snapshots().unwrap()));
            Self {
                collection: collection.join().unwrap(),
                container: container.join().unwrap(),
                info,
            }
        })
    }

    /// Fails if any took much longer than when all is calm.
    fn check(&self, calm: &Self, what: &str) {
        for (name, took, calm) in [
            ("the garbage collector", self.collection, calm.collection),
            ("another container", self.container, calm.container),
            ("looking at snapshots", self.info, calm.info),
        ] {
            let limit = OTHERS + calm + SLACK;
            assert!(took <= limit, "{what}: {name} took {took:?}, calm {calm:?}");
        }
    }
}

/// containerd's own snapshots service.
struct Containerd {
    runtime: Runtime,
    service: SnapshotsClient<Channel>,
    namespace: String,
}

#[derive(Debug)]
struct Prepared {
    answer: Code,
    elapsed: Duration,
}

impl Containerd {
    fn of(stage: &Stage) -> Self {
        let runtime = Runtime::new().unwrap();
        let containerd = &stage.bench.cluster.containerd;
        let address = format!("unix:{}", containerd.socket().display());
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_shared(address).unwrap().connect_lazy()
        };
        Self {
            runtime,
            service: SnapshotsClient::new(channel),
            namespace: containerd.namespace().into(),
        }
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let namespace = self.namespace.parse().unwrap();
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        request
    }

    /// What containerd's unpacker asks for the lowest layer of an image.
    fn prepare(&self, reference: &str, image: &Layout, key: &str) -> Prepared {
        let request = self.request(v1::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.into(),
            parent: String::new(),
            labels: labels(reference, image),
        });
        let mut service = self.service.clone();
        let started = Instant::now();
        let answer = self.runtime.block_on(service.prepare(request));
        Prepared {
            elapsed: started.elapsed(),
            answer: answer.err().map_or(Code::Ok, |status| status.code()),
        }
    }

    fn remove(&self, key: &str) {
        let request = self.request(v1::RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.into(),
        });
        let mut service = self.service.clone();
        // The collector may have been quicker: nothing refers to it.
        if let Err(status) = self.runtime.block_on(service.remove(request)) {
            assert_eq!(status.code(), Code::NotFound, "{status}");
        }
    }
}

/// The labels of the lowest layer (containerd, `pkg/snapshotters/annotations.go`).
fn labels(reference: &str, image: &Layout) -> BTreeMap<String, String> {
    let manifest = parse(&image.manifest().unwrap());
    let layer = &manifest["layers"][0];
    let (_, layers) = image.parts().unwrap();
    let mut labels: BTreeMap<String, String> = [
        (
            "containerd.io/snapshot.ref",
            image.chain_ids().unwrap()[0].clone(),
        ),
        ("containerd.io/snapshot/cri.image-ref", reference.into()),
        (
            "containerd.io/snapshot/cri.manifest-digest",
            image.manifest_digest().unwrap(),
        ),
        ("containerd.io/snapshot/cri.layer-digest", layers[0].clone()),
        ("containerd.io/snapshot/cri.image-layers", layers.join(",")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (name, value) in layer["annotations"].as_object().into_iter().flatten() {
        if name.starts_with("containerd.io/snapshot/") {
            labels.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
    }
    labels
}
