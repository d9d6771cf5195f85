//! Every way in which a registry can fail while a container reads: right bytes or, after a bounded wait, EIO; counted
//! with its reason; and nothing wrong is kept.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pontoon_integration::full;
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::{Fault, Injection, Request};
use pontoon_rig::image::{Conversion, Converted, convert, heavy, heavy_content, heavy_part};
use pontoon_rig::site::{self, Users};
use pontoon_rig::wait;
use rustix::fs::Advice;

use crate::registries::refusal;
use crate::stage::{Known, LIMIT, Setup, Stage};

/// The image with a layer for each row, and its large file in MiB.
const MEGABYTES: usize = 60;
const NAME: &str = "secret/faults";
const CONTAINER: &str = "faults";

/// The first part that a row reads. All of them have two digits, so that they follow each other in a tree.
const FIRST: usize = 12;

/// The part that is read while the registry is away, and one that nobody reads before. They are at the end of a tree, so far
/// behind the others that nothing brings them along.
const COLD: usize = 9;
const NEVER: usize = 5;

/// How long the daemon waits, in seconds.
const PATIENCE: u32 = 3;

/// How long a registry is away in the long form.
const OUTAGE: Duration = Duration::from_secs(60);

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

/// A fault: what is done to how many requests, and how the read ends.
struct Row {
    name: &'static str,
    fault: Fault,
    times: usize,
    end: End,
    /// What counts it, and with which reason.
    metric: &'static str,
    reason: &'static str,
}

const ALWAYS: usize = usize::MAX;

/// It passes after so many requests.
fn passes(name: &'static str, fault: Fault, times: usize, reason: &'static str) -> Row {
    Row {
        name,
        fault,
        times,
        end: End::Right,
        metric: FAILURES,
        reason,
    }
}

/// It does not pass.
fn stays(name: &'static str, fault: Fault, reason: &'static str) -> Row {
    Row {
        end: End::Error(reason),
        ..passes(name, fault, ALWAYS, reason)
    }
}

/// The bytes that come are wrong.
fn lies(row: Row) -> Row {
    Row {
        metric: WRONG,
        reason: "",
        ..row
    }
}

fn rows(stage: &Stage) -> Vec<Row> {
    let (away, status) = ("unavailable", Fault::status);
    let refusal = refusal(stage, NAME);
    vec![
        passes("token over", refusal.clone(), 1, "unauthorized"),
        stays("401", refusal, "unauthorized"),
        stays("403", status(403), "unauthorized"),
        stays("404", status(404), "not-found"),
        stays("416", status(416), "mismatch"),
        passes("429", Fault::retry_after(429, 1), 1, away),
        passes("500", status(500), 2, away),
        passes("502", status(502), 2, away),
        passes("503", status(503), 2, away),
        stays("503 always", status(503), away),
        stays("other range", Fault::OtherRange, "malformed"),
        lies(stays(
            "other range, unsaid",
            Fault::OtherRangeUnsaid,
            "wrong-bytes",
        )),
        stays("false range", Fault::FalseRange, "malformed"),
        passes("short", Fault::Shorten(1000), 1, away),
        passes("cut", Fault::Cut(100_000), 2, away),
        passes("reset", Fault::Reset(100_000), 2, away),
        lies(passes("bit flip", Fault::CorruptByte(500_000), 1, "")),
        lies(stays(
            "bit flips",
            Fault::CorruptByte(500_000),
            "wrong-bytes",
        )),
        passes("drip", Fault::Trickle(10), 1, away),
        stays("drip always", Fault::Trickle(10), away),
        passes("refused", Fault::Refuse, 2, away),
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

/// The long form of an outage: nobody gets an error who waits no longer than the daemon's patience.
#[test]
fn a_minute_without_a_registry_is_waited_for() {
    if !full() {
        return;
    }
    for setup in [Setup::new(Version::V2_3), Setup::on_fuse(Version::V2_3)] {
        outage(&Setup {
            patience_seconds: 2 * OUTAGE.as_secs() as u32,
            ..setup
        });
    }
}

fn outage(setup: &Setup) {
    let stage = Stage::start(setup);
    if stage.rival {
        return;
    }
    let image = convert(&heavy(MEGABYTES).unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.publish(&image, NAME);
    stage.pull_lazily(&image.image, &reference);
    stage.bench.start_container(CONTAINER, &reference).unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", stage.pid(CONTAINER)));
    let read = part(&root, 2).unwrap();
    assert!(read == heavy_part(2), "wrong bytes");
    stage.site.gate.down().unwrap();
    let (sender, receiver) = mpsc::channel();
    let readers = 3..11;
    for number in readers.clone() {
        let (sender, path) = (sender.clone(), part_path(&root, number));
        thread::spawn(move || sender.send((number, read_cold(&path))));
    }
    let early = receiver.recv_timeout(OUTAGE);
    assert!(early.is_err(), "a read ended without a registry");
    // What is here is read meanwhile.
    let read = part(&root, 2).unwrap();
    assert!(read == heavy_part(2), "wrong bytes");
    stage.site.gate.up().unwrap();
    for _ in readers {
        let (number, read) = receiver.recv_timeout(2 * LIMIT).expect("a read hangs");
        let read = read.unwrap_or_else(|error| panic!("part {number}: {error}"));
        assert!(read == heavy_part(number), "wrong bytes in {number}");
    }
    assert_eq!(stage.number(FAILED_READS, "unavailable"), 0);
    stage.bench.remove_container(CONTAINER).unwrap();
    stage.finish();
}

pub(crate) fn all_rows(setup: Setup) {
    let form = setup.form;
    let mut stage = Stage::start(&Setup {
        site: site::Setup {
            users: Users::Bearer,
            tls: false,
            ..site::Setup::default()
        },
        known: Known::DockerConfig,
        patience_seconds: PATIENCE,
        registry: "stall_seconds = 1\n".into(),
        ..setup
    });
    if stage.rival {
        return;
    }
    let image = convert(&heavy(MEGABYTES).unwrap(), form).unwrap();
    let reference = stage.publish(&image, NAME);
    stage.pull_lazily(&image.image, &reference);
    stage.bench.start_container(CONTAINER, &reference).unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", stage.pid(CONTAINER)));
    let mut rows = rows(&stage);
    if form == Conversion::Nydus {
        // Its blobs begin with data, so no range before it can come instead.
        let is_before =
            |fault: &Fault| matches!(fault, Fault::OtherRange | Fault::OtherRangeUnsaid);
        rows.retain(|row| !is_before(&row.fault));
    }
    // From the topmost layer down: a read brings along what follows, in the next blob of a nydus image too.
    let numbers = FIRST..FIRST + rows.len();
    for (number, row) in numbers.clone().zip(&rows).rev() {
        check(&stage, &image, &root, number, row);
    }
    large_rows(&stage, &image, &root);
    gone(&mut stage, &root, numbers);
    stage.bench.remove_container(CONTAINER).unwrap();
    stage.finish();
}

/// One row, on a layer of its own.
fn check(stage: &Stage, image: &Converted, root: &Path, number: usize, row: &Row) {
    let Row {
        name,
        fault,
        times,
        end,
        metric,
        reason,
    } = row;
    let before = stage.number(metric, reason);
    let failed = failed_reads(stage, *end);
    let injection = inject(stage, image, number, fault.clone());
    injection.times(*times);
    let read = part(root, number);
    println!(
        "{name}: {:?}, {} requests",
        read.as_ref().map(Vec::len),
        injection.hits()
    );
    check_end(stage, name, read, &heavy_part(number), *end, failed);
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

/// How many reads have failed so far as one is to that ends so.
fn failed_reads(stage: &Stage, end: End) -> u64 {
    match end {
        End::Right => 0,
        End::Error(reason) => stage.number(FAILED_READS, reason),
    }
}

/// Fails unless a read ended so; `failed` is what [`failed_reads`] said before.
fn check_end(
    stage: &Stage,
    name: &str,
    read: io::Result<Vec<u8>>,
    content: &[u8],
    end: End,
    failed: u64,
) {
    match (end, read) {
        (End::Right, Ok(read)) => assert!(read == content, "{name}: wrong bytes"),
        (End::Error(_), Err(error)) => {
            assert!(is_io(&error), "{name}: {error}");
            assert!(failed_reads(stage, end) > failed, "{name}: not counted");
        }
        (_, read) => panic!("{name}: {:?}", read.map(|read| read.len())),
    }
}

/// What needs a layer of many requests: it is read from the back, because a read brings along what follows.
fn large_rows(stage: &Stage, image: &Converted, root: &Path) {
    let content = heavy_content(MEGABYTES);
    let read = |at: usize| {
        let path = root.join("large");
        let expected = content[at << 20..][..4096].to_vec();
        let read = bounded(move || {
            let mut buffer = vec![0; 4096];
            File::open(path)?.read_exact_at(&mut buffer, (at as u64) << 20)?;
            Ok(buffer)
        });
        (read, expected)
    };
    let whole = inject(stage, image, 1, Fault::IgnoreRange);
    let end = End::Error("range-unsupported");
    let failed = failed_reads(stage, end);
    let (bytes, expected) = read(48);
    check_end(stage, "no ranges", bytes, &expected, end, failed);
    assert!(whole.hits() > 0);
    assert!(stage.number(FAILURES, "range-unsupported") > 0);
    drop(whole);
    let right = |at| {
        let (bytes, expected) = read(at);
        Ok(bytes.is_ok_and(|bytes| bytes == expected).then_some(()))
    };
    wait::until("ranges again", LIMIT, || right(48)).unwrap();

    let redirects = inject(stage, image, 1, Fault::Redirect(LIMIT));
    assert!(right(36).unwrap().is_some(), "redirected");
    stage.site.gate.expire_redirects();
    let before = stage.number(FAILURES, "unavailable");
    let known = redirects.hits();
    assert!(right(20).unwrap().is_some(), "the address has expired");
    assert!(redirects.hits() > known, "nobody asked for another address");
    assert!(
        stage.number(FAILURES, "unavailable") > before,
        "not counted"
    );
}

/// A registry that is gone for a while, then for good, with another daemon.
fn gone(stage: &mut Stage, root: &Path, read: Range<usize>) {
    let cold = COLD;
    stage.site.gate.down().unwrap();
    let before = stage.number(FAILURES, "unavailable");
    thread::scope(|scope| {
        let reader = scope.spawn(|| part(root, cold));
        wait::until("a failure", LIMIT, || {
            Ok((stage.number(FAILURES, "unavailable") > before).then_some(()))
        })
        .unwrap();
        stage.site.gate.up().unwrap();
        let read = reader.join().unwrap();
        let content = heavy_part(cold);
        check_end(stage, "gone for a while", read, &content, End::Right, 0);
    });
    stage.site.gate.down().unwrap();
    let never = NEVER;
    let all_right = |when: &str| {
        for number in read.clone().chain([cold]) {
            assert!(is_right(root, number, when), "{when}: part {number}");
        }
    };
    all_right("gone for good");
    let end = End::Error("unavailable");
    let failed = failed_reads(stage, end);
    let read = part(root, never);
    check_end(stage, "gone for good", read, &[], end, failed);
    stage.bench.cluster.plugin.restart().unwrap();
    stage.bench.cluster.wait_connected().unwrap();
    all_right("another daemon");
    stage.site.gate.up().unwrap();
    let back = || Ok(is_right(root, never, "back").then_some(()));
    wait::until("the registry is back", LIMIT, back).unwrap();
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
    let path = part_path(root, number);
    bounded(move || read_cold(&path))
}

fn part_path(root: &Path, number: usize) -> PathBuf {
    root.join(format!("part/{number}"))
}

fn read_cold(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    std::fs::read(path)
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
