//! Registries on bad days: nobody ever reads wrong bytes.

use std::os::unix::fs::FileExt;

use pontoon_rig::containerd::Version;
use pontoon_rig::gate::{Fault, Request};
use pontoon_rig::image::{Conversion, Converted, convert, lazy_fixture, noise};

use crate::stage::{LARGE, Setup, Stage};

/// How far apart reads are. Each brings along what follows, up to megabytes on a fast way, and nothing before it.
const APART: u64 = 700_000;

/// A byte of the large file's data in the blob of its layer, which is mostly that file.
fn damaged_byte(image: &Converted) -> (String, u64) {
    let (_, layers) = image.image.parts().unwrap();
    let size = image.image.blob(&layers[1]).unwrap().len() as u64;
    (layers[1].clone(), size / 2)
}

#[test]
fn damaged_bytes_are_never_read() {
    for conversion in [Conversion::Estargz, Conversion::ZstdChunkedMinChunk] {
        damaged(Setup::new(Version::V2_3), conversion);
    }
}

#[test]
fn damaged_bytes_of_a_nydus_image_are_never_read() {
    for conversion in [Conversion::Nydus, Conversion::NydusSmallChunks] {
        damaged(Setup::new(Version::V2_3).nydus(), conversion);
    }
}

pub(crate) fn damaged(setup: Setup, conversion: Conversion) {
    let stage = Stage::start(&Setup {
        patience_seconds: 3,
        ..setup
    });
    if stage.rival {
        // What it asks for along with a damaged byte fails too.
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), conversion).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull_lazily(&image.image, &reference);
    let view = stage.view(&reference);
    let content = noise(LARGE.1 as u64, LARGE.1);
    let (layer, byte) = damaged_byte(&image);
    let of_layer = move |request: &Request| request.names(&layer) && request.method == "GET";

    // For as long as it is damaged nothing is read, but the rest of the layer is.
    let damage = stage
        .site
        .gate
        .inject(of_layer.clone(), Fault::CorruptByte(byte));
    let error = view.read(LARGE.0).expect_err("damaged bytes were read");
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error())
    );
    assert!(damage.hits() > 0);
    assert_eq!(view.read("many/001").unwrap(), noise(1, 17));
    assert_eq!(view.read("odd/here/first").unwrap(), b"linked\n");
    drop(damage);
    // Nothing of it was kept.
    let read = view.read(LARGE.0).unwrap();
    assert!(read == content, "{conversion:?}: wrong bytes");
    drop(view);
    stage.finish();
}

#[test]
fn reads_succeed_on_bad_days() {
    bad_days(&Setup::new(Version::V2_3), Conversion::EstargzSmallChunks);
}

#[test]
fn reads_of_a_nydus_image_succeed_on_bad_days() {
    let setup = Setup::new(Version::V2_3).nydus();
    bad_days(&setup, Conversion::NydusSmallChunks);
}

/// Damage on the way that is gone when it is asked again.
fn bad_days(setup: &Setup, form: Conversion) {
    let stage = Stage::start(setup);
    if stage.rival && form.is_nydus() {
        return;
    }
    let image = convert(&lazy_fixture().unwrap(), form).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull_lazily(&image.image, &reference);
    let view = stage.view(&reference);
    let large = std::fs::File::open(view.path(LARGE.0)).unwrap();
    let content = noise(LARGE.1 as u64, LARGE.1);
    let days = [
        ("busy", Fault::status(503), 2),
        ("broken", Fault::status(500), 1),
        ("limited", Fault::retry_after(429, 1), 1),
        ("cut", Fault::Cut(1000), 2),
        ("refusing", Fault::Refuse, 2),
        ("damaging", Fault::CorruptFirst, 1),
        ("short", Fault::Shorten(1000), 1),
    ];
    for (number, (day, fault, times)) in days.into_iter().enumerate().rev() {
        if stage.rival && day != "busy" {
            // It answers some of these with EIO.
            continue;
        }
        let injected = stage.site.gate.inject(Request::is_blob, fault);
        injected.times(times);
        let at = number as u64 * APART;
        let mut buffer = vec![0; 20_000];
        let read = large.read_exact_at(&mut buffer, at);
        assert!(read.is_ok(), "{day}: {read:?}");
        assert!(
            buffer == content[at as usize..][..20_000],
            "{day}: wrong bytes"
        );
        assert_eq!(injected.hits(), times, "{day}: the read was not disturbed");
    }
    drop(large);
    drop(view);
    stage.finish();
}
