//! Every way in which a registry can fail while a container reads: right bytes or, after a bounded wait, EIO; counted
//! with its reason; and nothing wrong is kept.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pontoon_rig::containerd::Version;
use pontoon_rig::gate::{Fault, Injection, Request};
use pontoon_rig::image::{Conversion, Converted, convert, heavy, heavy_part};
use pontoon_rig::site::{self, Users};
use pontoon_rig::wait;
use rustix::fs::Advice;

use crate::registries::refusal;
use crate::stage::{Known, LIMIT, Setup, Stage};

/// The image with a layer for each row, and its large file in MiB.
const MEGABYTES: usize = 60;
const NAME: &str = "secret/faults";
const CONTAINER: &str = "faults";

/// How long the daemon waits, in seconds.
const PATIENCE: u32 = 3;

const FAILURES: &str = "pontoon_registry_failures";
const FAILED_READS: &str = "pontoon_lazy_read_failures";
const WRONG: &str = "pontoon_lazy_wrong_members";

/// How the read ends that meets a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Right,
    /// EIO, counted with this reason.
    Error(&'static str),
}

/// A fault: its name, what is done to how many requests, how the read ends, and the metric and the reason that count it.
type Row = (&'static str, Fault, usize, End, &'static str, &'static str);

const ALWAYS: usize = usize::MAX;

fn rows(stage: &Stage) -> Vec<Row> {
    use End::{Error, Right};
    let away = "unavailable";
    let status = Fault::status;
    let refusal = refusal(stage, NAME);
    let denied = Error("unauthorized");
    vec![
        (
            "token over",
            refusal.clone(),
            1,
            Right,
            FAILURES,
            "unauthorized",
        ),
        ("401", refusal, ALWAYS, denied, FAILURES, "unauthorized"),
        ("403", status(403), ALWAYS, denied, FAILURES, "unauthorized"),
        (
            "404",
            status(404),
            ALWAYS,
            Error("not-found"),
            FAILURES,
            "not-found",
        ),
        (
            "416",
            status(416),
            ALWAYS,
            Error("mismatch"),
            FAILURES,
            "mismatch",
        ),
        ("429", Fault::retry_after(429, 1), 1, Right, FAILURES, away),
        ("500", status(500), 2, Right, FAILURES, away),
        ("502", status(502), 2, Right, FAILURES, away),
        ("503", status(503), 2, Right, FAILURES, away),
        (
            "503 always",
            status(503),
            ALWAYS,
            Error(away),
            FAILURES,
            away,
        ),
        (
            "other range",
            Fault::OtherRange,
            ALWAYS,
            Error("malformed"),
            FAILURES,
            "malformed",
        ),
        (
            "other range, unsaid",
            Fault::OtherRangeUnsaid,
            ALWAYS,
            Error("wrong-bytes"),
            WRONG,
            "",
        ),
        (
            "false range",
            Fault::FalseRange,
            ALWAYS,
            Error("malformed"),
            FAILURES,
            "malformed",
        ),
        ("short", Fault::Shorten(1000), 1, Right, FAILURES, away),
        ("cut", Fault::Cut(100_000), 2, Right, FAILURES, away),
        ("reset", Fault::Reset(100_000), 2, Right, FAILURES, away),
        ("bit flip", Fault::CorruptByte(500_000), 1, Right, WRONG, ""),
        (
            "bit flips",
            Fault::CorruptByte(500_000),
            ALWAYS,
            Error("wrong-bytes"),
            WRONG,
            "",
        ),
        ("drip", Fault::Trickle(10), 1, Right, FAILURES, away),
    ]
}

#[test]
fn every_fault_ends_in_right_bytes_or_an_error() {
    all_rows(Setup::new(Version::V2_3));
}

#[test]
fn every_fault_ends_in_right_bytes_or_an_error_on_fuse() {
    all_rows(Setup::on_fuse(Version::V2_3));
}

fn all_rows(setup: Setup) {
    let stage = Stage::start(&Setup {
        site: site::Setup {
            users: Users::Bearer,
            tls: false,
        },
        known: Known::DockerConfig,
        patience_seconds: PATIENCE,
        registry: "stall_seconds = 1\n".into(),
        ..setup
    });
    if stage.rival {
        return;
    }
    let image = convert(&heavy(MEGABYTES).unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.publish(&image, NAME);
    stage.pull_lazily(&image.image, &reference);
    stage.bench.start_container(CONTAINER, &reference).unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", stage.pid(CONTAINER)));
    let rows = rows(&stage);
    for (number, row) in (2..).zip(&rows) {
        check(&stage, &image, &root, number, row);
    }
    stage.bench.remove_container(CONTAINER).unwrap();
    stage.finish();
}

/// One row, on a layer of its own.
fn check(stage: &Stage, image: &Converted, root: &Path, number: usize, row: &Row) {
    let (name, fault, times, end, metric, reason) = row;
    let before = stage.number(metric, reason);
    let injection = inject(stage, image, number, fault.clone());
    injection.times(*times);
    let read = part(root, number);
    println!(
        "{name}: {:?}, {} requests",
        read.as_ref().map(Vec::len),
        injection.hits()
    );
    check_end(stage, name, read, &heavy_part(number), *end);
    assert!(injection.hits() > 0, "{name}: the read was not disturbed");
    assert!(
        stage.number(metric, reason) > before,
        "{name}: not counted as {metric} {reason}"
    );
    drop(injection);
    wait::until(name, LIMIT, || {
        Ok(is_right(root, number, name).then_some(()))
    })
    .unwrap();
    assert!(is_right(root, number, name), "{name}: read again");
}

fn check_end(stage: &Stage, name: &str, read: io::Result<Vec<u8>>, content: &[u8], end: End) {
    match (end, read) {
        (End::Right, Ok(read)) => assert!(read == content, "{name}: wrong bytes"),
        (End::Error(reason), Err(error)) => {
            assert!(is_io(&error), "{name}: {error}");
            assert!(
                stage.number(FAILED_READS, reason) > 0,
                "{name}: not counted"
            );
        }
        (_, read) => panic!("{name}: {:?}", read.map(|read| read.len())),
    }
}

/// Does `fault` to the requests for a layer.
fn inject(stage: &Stage, image: &Converted, layer: usize, fault: Fault) -> Injection {
    let (_, layers) = image.image.parts().unwrap();
    let digest = layers[layer].clone();
    let wanted = move |request: &Request| request.names(&digest) && request.is_blob();
    stage.site.gate.inject(wanted, fault)
}

/// Reads a part as the container sees it, past what the kernel keeps.
fn part(root: &Path, number: usize) -> io::Result<Vec<u8>> {
    let path = root.join(format!("part/{number}"));
    bounded(move || {
        let file = File::open(&path)?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        std::fs::read(path)
    })
}

/// Whether a part can be read; wrong bytes, and errors other than EIO, are failures.
fn is_right(root: &Path, number: usize, when: &str) -> bool {
    match part(root, number) {
        Ok(read) => {
            assert!(
                read == heavy_part(number),
                "{when}: wrong bytes in {number}"
            );
            true
        }
        Err(error) => {
            assert!(is_io(&error), "{when}: {error}");
            false
        }
    }
}

/// A read that must end.
fn bounded(read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> io::Result<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(read()));
    let limit = LIMIT + Duration::from_secs(PATIENCE.into());
    receiver.recv_timeout(limit).expect("a read hangs")
}

fn is_io(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
