//! The next version of an image: what of it is here already does not come again, although no large layer is the same.

use pontoon_rig::containerd::Version;
use pontoon_rig::digest::sha256;
use pontoon_rig::image::{Conversion, ImageVersion, convert};

use crate::stage::{Setup, Stage};

/// The end of a layer, which comes with its table of contents.
const TAIL_BYTES: u64 = 256 << 10;

/// What else containerd fetches as a blob: the configuration.
const CONFIGURATION_BYTES: u64 = 4096;

#[test]
fn an_update_of_a_nydus_image_fetches_what_is_new() {
    updates(&Setup::new(Version::V2_3).nydus(), Conversion::Nydus);
}

#[test]
fn an_update_of_a_nydus_image_fetches_what_is_new_on_fuse() {
    let setup = Setup::on_fuse(Version::V2_3).nydus();
    updates(&setup, Conversion::NydusSmallChunks);
}

#[test]
fn an_update_of_an_estargz_image_fetches_what_is_new() {
    updates(&Setup::new(Version::V2_3), Conversion::Estargz);
}

fn updates(setup: &Setup, form: Conversion) {
    let stage = Stage::start(setup);
    if stage.rival {
        // It takes nothing from other layers.
        return;
    }
    let (chunk_bytes, beside) = match form {
        Conversion::Nydus => (1 << 20, 0),
        Conversion::NydusSmallChunks => (64 << 10, 0),
        _ => (4 << 20, TAIL_BYTES),
    };
    let mut names = Vec::new();
    for (version, tag) in [(ImageVersion::First, "1"), (ImageVersion::Next, "2")] {
        let dir = stage.bench.cluster.sandbox.subdir(tag).unwrap();
        let image = convert(&version.write(&dir).unwrap(), form).unwrap();
        let reference = stage.site.push_converted(&image, "app", tag).unwrap();
        let (_, layers) = image.image.parts().unwrap();
        let bootstrap = image.image.blob(layers.last().unwrap()).unwrap();
        let bootstrap_bytes = bootstrap.len() as u64 * u64::from(form.is_nydus());
        names.push((version, reference, bootstrap_bytes + beside));
    }
    let [first, next] = names.try_into().unwrap();
    stage.pull(&first.1);
    check(&stage, "first", &first.1, first.0);
    // A small file that is there twice may be taken from the image itself, if the first one is here in time.
    let own = taken(&stage);
    assert!(own < 4096, "{own} bytes from nowhere");

    let before = stage.blob_bytes();
    stage.pull(&next.1);
    check(&stage, "next", &next.1, next.0);
    let fetched = stage.blob_bytes() - before;
    let new = ImageVersion::new_bytes(chunk_bytes);
    let files = next.0.files();
    let all: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    let taken = taken(&stage) - own;
    println!("{form:?}: fetched {fetched} bytes, {new} of {all} are new; taken {taken}");
    let most = new + new / 10 + next.2 + CONFIGURATION_BYTES;
    assert!(
        (new..=most).contains(&fetched),
        "{form:?}: fetched {fetched} bytes for {new} new ones"
    );
    assert!(
        taken >= (all - new) / 10 * 9,
        "{form:?}: took {taken} bytes of {}",
        all - new
    );
    stage.finish();
}

/// Bytes that came from other layers.
fn taken(stage: &Stage) -> u64 {
    stage.number("pontoon_lazy_taken_bytes", "")
}

/// Has a container read every file, and fails unless each is what it should be.
fn check(stage: &Stage, id: &str, reference: &str, version: ImageVersion) {
    let lines = version.files().into_iter().map(|(name, content)| {
        let digest = sha256(&content);
        format!("{}  /data/{name}\\n", &digest["sha256:".len()..])
    });
    let script = format!("printf '{}' | sha256sum -c -s", lines.collect::<String>());
    stage.run(id, reference, &["/bin/sh", "-c", &script]);
}
