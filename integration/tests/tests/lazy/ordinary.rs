//! What cannot be lazy is unpacked, by containerd or by us, and is the same.

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::run;
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{self, Conversion, LayerBuilder, Layout, convert, lazy_fixture};
use pontoon_rig::site::{self, Users};

use crate::compose::{GZIP, Part, insert};
use crate::stage::{Known, LIMIT, Setup, Stage};

/// Whether containerd's store has all layers of an image.
fn has_layers(stage: &Stage, image: &Layout) -> Vec<bool> {
    let containerd = &stage.bench.cluster.containerd;
    let listed = containerd.ctr(["content", "ls", "--quiet"]).unwrap().stdout;
    let (_, layers) = image.parts().unwrap();
    layers
        .iter()
        .map(|layer| listed.lines().any(|line| line == layer))
        .collect()
}

/// containerd downloads an ordinary image once, unpacks it, and keeps it.
#[test]
fn an_ordinary_image_is_left_to_containerd() {
    let stage = Stage::start(&Setup::new(Version::V2_3));
    let dir = stage.bench.cluster.sandbox.subdir("odd").unwrap();
    let odd = image::odd(&dir).unwrap();
    let reference = stage.site.push(&odd, "odd", "1").unwrap();
    stage.pull(&reference);
    assert_eq!(has_layers(&stage, &odd), [true; 3]);
    let (fetched, size) = (stage.blob_bytes(), odd.size().unwrap());
    // stargz-snapshotter looks for footers.
    let more = if stage.rival { size / 10 } else { 0 };
    assert!(fetched <= size + more, "{fetched} of {size} bytes");
    stage.pull_plainly(&reference);
    stage.bench.check_parity(&reference).unwrap();
    let found = stage.run("find", &reference, &["/bin/cat", "/data/kept"]);
    assert_eq!(found, "kept");
    stage.remove(&reference);

    // What is imported has no labels, whatever its layers are.
    let lazy = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let name = "imported.invalid/lazy:1";
    let archive = stage.bench.cluster.sandbox.path("image.tar");
    lazy.image.archive(name, &archive).unwrap();
    let mark = stage.site.gate.mark();
    let containerd = &stage.bench.cluster.containerd;
    for snapshotter in [SNAPSHOTTER, pontoon_integration::BUILTIN] {
        let mut import = containerd.ctr_command();
        import.args(["images", "import", "--snapshotter", snapshotter]);
        run(import.arg(&archive), LIMIT).unwrap();
    }
    assert_eq!(mark.requests(), 0);
    stage.check_parity(name);
    stage.finish();
}

/// Without labels, as 1.7's own `ctr` pulls, containerd does everything.
#[test]
fn a_pull_without_labels_is_left_to_containerd() {
    let stage = Stage::start(&Setup::new(Version::V1_7));
    let image = convert(&lazy_fixture().unwrap(), Conversion::Estargz).unwrap();
    let reference = stage.publish(&image, "lazy");
    let containerd = &stage.bench.cluster.containerd;
    let pull = stage.request(SNAPSHOTTER, &reference);
    run(&mut containerd.transfer_pull_command(&pull), LIMIT).unwrap();
    assert_eq!(has_layers(&stage, &image.image), [true; 5]);
    stage.pull_plainly(&reference);
    stage.check_parity(&reference);
    stage.check_reads("reader", &reference);
    stage.finish();
}

/// containerd has credentials that the plugin has not.
#[test]
fn what_the_plugin_may_not_read_is_left_to_containerd() {
    let stage = Stage::start(&Setup {
        site: site::Setup {
            users: Users::Basic,
            tls: false,
            ..site::Setup::default()
        },
        known: Known::Nobody,
        ..Setup::new(Version::V2_3)
    });
    let image = convert(&lazy_fixture().unwrap(), Conversion::ZstdChunked).unwrap();
    let reference = stage.publish(&image, "secret/lazy");
    stage.pull(&reference);
    assert_eq!(has_layers(&stage, &image.image), [true; 5]);
    stage.pull_plainly(&reference);
    stage.check_parity(&reference);
    stage.check_reads("reader", &reference);
    stage.finish();
}

/// An ordinary layer between lazy ones: what lies above it stays lazy, and directories that a lazy layer does not list
/// are those of the ordinary one.
#[test]
fn an_ordinary_layer_of_a_lazy_image_is_unpacked_here() {
    let stage = Stage::start(&Setup::new(Version::V2_3));
    if stage.rival {
        // It leaves the layer, and so all that lie above it, to containerd.
        return;
    }
    let lazy = convert(&lazy_fixture().unwrap(), Conversion::EstargzMinChunk).unwrap();
    let dir = stage.bench.cluster.sandbox.subdir("mixed").unwrap();
    let mixed = insert(&lazy.image, &dir, 4, &ordinary_layer());
    let reference = stage.site.push(&mixed, "mixed", "1").unwrap();
    stage.pull_lazily(&mixed, &reference);
    assert_eq!(has_layers(&stage, &mixed), [false; 6]);
    let script =
        "stat -c '%a %u:%g' /tmp /tmp/left /odd/there; cat /odd/replaced; [ ! -e /zeros/large ]";
    let printed = stage.run("reader", &reference, &["/bin/sh", "-c", script]);
    assert_eq!(printed, "1733 9:10\n644 0:0\n2775 7:8\nreplaced");
    stage.pull_plainly(&reference);
    stage.check_parity(&reference);
    stage.finish();
}

fn ordinary_layer() -> Part {
    let mut layer = LayerBuilder::new();
    layer.dir("tmp", 0o1733, 9, 10).unwrap();
    layer.dir("odd", 0o755, 0, 0).unwrap();
    layer
        .file("odd/replaced", 0o644, 0, 0, b"replaced\n")
        .unwrap();
    layer.whiteout("zeros/large").unwrap();
    layer.dir("odd/opaque", 0o701, 1, 1).unwrap();
    layer.opaque("odd/opaque").unwrap();
    layer.xattrs(&[("user.ordinary", b"yes")]).unwrap();
    layer.dir("odd/sticky", 0o1700, 3, 3).unwrap();
    let layer = layer.finish().unwrap();
    Part {
        blob: layer.blob,
        diff_id: layer.diff_id,
        media_type: GZIP,
    }
}

/// Where the operator wants it, wholly ordinary images are unpacked here.
#[test]
fn an_ordinary_image_is_unpacked_here_where_that_is_wanted() {
    let stage = Stage::start(&Setup {
        config: "[unpack]\nself = true\n".into(),
        ..Setup::new(Version::V2_3)
    });
    if stage.rival {
        return;
    }
    let dir = stage.bench.cluster.sandbox.subdir("odd").unwrap();
    let odd = image::odd(&dir).unwrap();
    let reference = stage.site.push(&odd, "odd", "1").unwrap();
    stage.pull(&reference);
    assert_eq!(has_layers(&stage, &odd), [false; 3]);
    let (fetched, size) = (stage.blob_bytes(), odd.size().unwrap());
    // Both ask for the configuration.
    assert!(fetched < size + 10_000, "{fetched} of {size} bytes");
    stage.pull_plainly(&reference);
    stage.bench.check_parity(&reference).unwrap();
    stage.finish();
}
