//! Every format, as other people's tools write it: the layers are lazy, and what is mounted is what containerd unpacks.

use std::os::unix::fs::MetadataExt;

use pontoon_integration::full;
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{self, Conversion, Program, UNLISTED, convert, lazy_fixture};

use crate::stage::{Setup, Stage, shown};

/// The modification time of what a fixture does not give another one, in seconds since 1970.
const FIXTURE_TIME: i64 = 1_700_000_000;

/// What stargz-snapshotter does not load lazily, or not without being told.
const BEYOND_RIVAL: [Conversion; 3] = [
    Conversion::PodmanZstdChunked,
    Conversion::ExternalToc,
    Conversion::ExternalTocLossless,
];

#[test]
fn estargz_is_what_containerd_2_3_unpacks() {
    check(
        &Setup::new(Version::V2_3),
        &[
            Conversion::Estargz,
            Conversion::EstargzSmallChunks,
            Conversion::EstargzMinChunk,
            Conversion::Stargz,
        ],
    );
}

#[test]
fn zstd_chunked_and_external_tables_are_what_containerd_2_3_unpacks() {
    check(
        &Setup::new(Version::V2_3),
        &[
            Conversion::ZstdChunked,
            Conversion::ZstdChunkedMinChunk,
            Conversion::PodmanZstdChunked,
            Conversion::ExternalToc,
            Conversion::ExternalTocLossless,
        ],
    );
}

#[test]
fn formats_are_what_containerd_1_7_unpacks() {
    let some = [Conversion::EstargzMinChunk, Conversion::PodmanZstdChunked];
    let all = Conversion::ALL;
    check(
        &Setup::new(Version::V1_7),
        if full() { &all } else { &some },
    );
}

#[test]
fn formats_on_fuse_are_what_containerd_2_3_unpacks() {
    check(
        &Setup::on_fuse(Version::V2_3),
        &[Conversion::Estargz, Conversion::PodmanZstdChunked],
    );
}

/// Root file systems of Debian packages, with whiteouts and opaque directories on top: each runs lazily, and then equals
/// what containerd unpacks.
#[test]
fn real_programs_run_lazily() {
    if !full() {
        return;
    }
    let stage = Stage::start(&Setup::new(Version::V2_3));
    for program in Program::ALL {
        let layout = image::program(program).unwrap();
        for conversion in [Conversion::Estargz, Conversion::PodmanZstdChunked] {
            let image = convert(&layout, conversion).unwrap();
            let name = format!("{}-{}", program.name(), conversion.name());
            let reference = stage.publish(&image, &name);
            let before = stage.blob_bytes();
            stage.pull_lazily(&image.image, &reference);
            let printed = stage.run(&name, &reference, &[]);
            assert_eq!(printed.lines().last(), Some(program.expected()), "{name}");
            let (read, size) = (stage.blob_bytes() - before, image.image.size().unwrap());
            println!("{name}: ran with {read} of {size} bytes");
            assert!(read < size, "{name}: {read} of {size} bytes");
            stage.pull_plainly(&reference);
            stage.check_parity(&reference);
            stage.remove(&reference);
        }
    }
    stage.finish();
}

pub(crate) fn check(setup: &Setup, conversions: &[Conversion]) {
    let stage = Stage::start(setup);
    let fixture = lazy_fixture().unwrap();
    for conversion in conversions {
        if stage.rival && BEYOND_RIVAL.contains(conversion) {
            continue;
        }
        let image = convert(&fixture, *conversion).unwrap();
        let size = image.image.size().unwrap();
        let reference = stage.publish(&image, conversion.name());
        let prepared = prepared(&stage);
        let before = stage.blob_bytes();
        stage.pull_lazily(&image.image, &reference);
        let layers = image.image.chain_ids().unwrap().len();
        assert_eq!(self::prepared(&stage) - prepared, layers, "{conversion:?}");
        if !stage.rival {
            check_times_of_unlisted(&stage, &reference);
        }

        // Everything is read, and comes once.
        let mut ours = stage.tree(pontoon_rig::cluster::SNAPSHOTTER, &reference);
        let read = stage.blob_bytes() - before;
        assert!(
            read > size / 2 && read < size + size / 4,
            "{conversion:?}: {read} of {size} bytes"
        );
        let plain = match conversion.is_nydus() {
            // containerd cannot unpack it.
            true => stage.site.push(&fixture, "plain", "1").unwrap(),
            false => reference.clone(),
        };
        stage.pull_plainly(&plain);
        let mut builtin = stage.tree(pontoon_integration::BUILTIN, &plain);
        if plain != reference {
            // A merged tree knows that the file's other name was removed.
            builtin.remove("odd/pair");
            ours.remove("odd/pair");
        }
        let differences = ours.differences(&builtin);
        assert!(ours.len() > 300, "{conversion:?}: {}", ours.len());
        assert_eq!(
            differences.len(),
            0,
            "{conversion:?}: {}",
            shown(&differences)
        );
        // Formats share diffIDs: the next one is not to find this one's snapshots.
        stage.remove(&reference);
        if plain != reference {
            stage.remove(&plain);
        }
    }
    stage.finish();
}

/// How many layers the plugin has brought: the line by which users of stargz-snapshotter look.
fn prepared(stage: &Stage) -> usize {
    let log = stage.bench.cluster.plugin.log();
    let lines = log.lines();
    lines
        .filter(|line| line.contains("remote-snapshot-prepared") && line.contains("true"))
        .count()
}

/// containerd gives directories that a layer does not list the time of the unpacking. Here they have that of the layer
/// below, as they have its mode and its owner.
fn check_times_of_unlisted(stage: &Stage, reference: &str) {
    let view = stage.view(reference);
    for path in UNLISTED.iter().filter(|path| !path.starts_with("made")) {
        let found = view.path(path).metadata().unwrap();
        assert_eq!(found.mtime(), FIXTURE_TIME, "{path}");
    }
}
