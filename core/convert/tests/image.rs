//! Images in layout directories.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use pontoon_convert::{
    Converted, Dialect, Error, Format, NewLayout, Options, Plan, Selection, Source as _,
};
use pontoon_layer::Digest;
use serde_json::{Value, json};
use support::layout::{CONFIG, INDEX, Layout, MANIFEST, checked, index, plan, read};
use support::{Tar, noise};

fn convert(from: &Path, to: &Path, format: Format) -> Result<Converted, Error> {
    support::layout::convert(from, to, &Options::new(format))
}

fn archive(name: &str) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.directory("d/", 0o755);
    tar.file(name, &noise(100_000));
    tar.link("d/link", name);
    tar.finish()
}

/// Two platforms that share a layer, what is said of one of them, and an index inside the index.
fn sample() -> Layout {
    let layout = Layout::new();
    let (shared, own) = (archive("shared"), archive("own"));
    let amd64 = layout.image("amd64", &[&shared, &own]);
    let arm64 = layout.image("arm64", &[&shared]);
    let said = layout.attestation(&amd64);
    let inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [amd64, arm64, said]});
    let inner = layout.put(INDEX, inner.to_string().as_bytes());
    layout.index(&[inner]);
    layout
}

#[test]
fn every_platform_is_converted_and_every_file_kept() {
    let layout = sample();
    for format in [
        Format::Estargz,
        Format::ZstdChunked(Dialect::Podman),
        Format::ZstdChunked(Dialect::Stargz),
    ] {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("new");
        let converted = convert(layout.path(), &to, format).unwrap();
        assert_eq!((converted.images, converted.layers), (2, 2));
        let found = checked(layout.path(), &to);
        assert_eq!(found.findings, [""; 0]);
        assert_eq!((found.images, found.layers, found.lazy_layers), (2, 2, 2));
        assert_eq!((found.files, found.chunks), (6, 2));
        let inner = read(&to, &index(&to)["manifests"][0]);
        let manifest = read(&to, &inner["manifests"][0]);
        assert_eq!(inner["manifests"][0]["platform"]["architecture"], "amd64");
        assert_eq!(manifest["annotations"]["kept"], "yes");
        assert_eq!(manifest["layers"][0]["mediaType"], format.media_type());
        let config = read(&to, &manifest["config"]);
        assert_eq!(config["config"]["Env"][0], "A=b");
        let again = place.path().join("again");
        convert(layout.path(), &again, format).unwrap();
        assert_eq!(
            index(&again),
            index(&to),
            "the same image becomes the same bytes"
        );
    }
}

#[test]
fn zstd_chunked_keeps_the_configuration() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    convert(layout.path(), &to, Format::ZstdChunked(Dialect::Podman)).unwrap();
    let manifest = |layout: &Path| {
        let inner = read(layout, &index(layout)["manifests"][0]);
        read(layout, &inner["manifests"][0])
    };
    assert_eq!(manifest(&to)["config"], manifest(layout.path())["config"]);
}

#[test]
fn attestations_are_kept_and_named() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let converted = convert(layout.path(), &to, Format::Estargz).unwrap();
    assert_eq!(converted.notes.len(), 1, "{:?}", converted.notes);
    assert!(converted.notes[0].contains("attestation"));
    let old = read(layout.path(), &index(layout.path())["manifests"][0]);
    let new = read(&to, &index(&to)["manifests"][0]);
    let (old, new) = (&old["manifests"], &new["manifests"]);
    assert_eq!(new[2]["digest"], old[2]["digest"]);
    let named = &new[2]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(*named, new[0]["digest"]);
    let said = read(&to, &new[2]);
    let statement = read(&to, &said["layers"][0]);
    assert_eq!(statement["subject"][0]["digest"], old[0]["digest"]);
}

#[test]
fn dockers_types_become_oci_ones() {
    let layout = Layout::new();
    let archive = archive("file");
    let mut descriptor = layout.image("amd64", &[&archive]);
    let mut manifest = read(layout.path(), &descriptor);
    manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    manifest["layers"][0]["mediaType"] = json!(docker);
    manifest["layers"][0]["annotations"] = json!({
        "mine": "stays",
        "containerd.io/snapshot/stargz/toc.digest": "sha256:of another time",
    });
    let kind = manifest["mediaType"].as_str().unwrap().to_owned();
    let bytes = manifest.to_string();
    descriptor = layout.put(&kind, bytes.as_bytes());
    layout.index(&[descriptor]);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    convert(layout.path(), &to, Format::ZstdChunked(Dialect::Podman)).unwrap();
    let entry = &index(&to)["manifests"][0];
    assert_eq!(entry["mediaType"], MANIFEST);
    let manifest = read(&to, entry);
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    let layer = &manifest["layers"][0];
    assert_eq!(layer["annotations"]["mine"], "stays");
    let stale = layer["annotations"].get("containerd.io/snapshot/stargz/toc.digest");
    assert!(
        stale.is_none(),
        "containers/storage refuses a layer with both"
    );
    assert_eq!(checked(layout.path(), &to).findings, [""; 0]);
}

#[test]
fn damage_is_found_before_and_after() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    convert(layout.path(), &to, Format::Estargz).unwrap();
    let inner = read(&to, &index(&to)["manifests"][0]);
    let manifest = read(&to, &inner["manifests"][0]);
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let blob = to.join("blobs/sha256").join(&digest["sha256:".len()..]);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let said = support::layout::check(layout.path(), &to)
        .unwrap_err()
        .to_string();
    assert!(said.contains(digest), "{said}");
    let again = place.path().join("again");
    let said = convert(&to, &again, Format::Estargz)
        .unwrap_err()
        .to_string();
    assert!(said.contains(digest), "{said}");
    assert!(!again.exists(), "nothing is left");
}

#[test]
fn what_differs_is_told() {
    let (old, new) = (Layout::new(), Layout::new());
    let mut one = Tar::default();
    one.file("same", b"same");
    one.file("data", b"one");
    one.file("gone", b"");
    let mut other = Tar::default();
    other.file("same", b"same");
    other.pax(&[("SCHILY.xattr.user.a", b"b")]);
    other.file("data", b"two");
    other.file("new", b"");
    old.index(&[old.image("amd64", &[&one.finish()])]);
    new.index(&[new.image("arm64", &[&other.finish()])]);
    let found = checked(old.path(), new.path());
    let told = found.findings.join("\n");
    for expected in [
        "the configuration differs",
        "\"data\" differs: extended attributes, data",
        "\"gone\" is missing",
        "\"new\" was not there",
    ] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
    assert_eq!(found.findings.len(), 4, "{told}");
}

#[test]
fn chunks_that_lie_are_found() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    convert(layout.path(), &to, Format::Estargz).unwrap();
    // Another layer's table of contents: all blobs are sound, but what is said of one is not true.
    let inner_entry = &index(&to)["manifests"][0];
    let mut inner = read(&to, inner_entry);
    let mut manifest = read(&to, &inner["manifests"][0]);
    let other = manifest["layers"][1]["annotations"].clone();
    manifest["layers"][0]["annotations"] = other;
    let rewrite = |value: &Value, descriptor: &mut Value| {
        let bytes = value.to_string();
        let digest = Digest::of(bytes.as_bytes());
        fs::write(to.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
        descriptor["digest"] = json!(digest.to_string());
        descriptor["size"] = json!(bytes.len());
    };
    let mut entry = inner["manifests"][0].clone();
    rewrite(&manifest, &mut entry);
    inner["manifests"][0] = entry;
    let mut new_index = index(&to);
    let mut entry = new_index["manifests"][0].clone();
    rewrite(&inner, &mut entry);
    new_index["manifests"][0] = entry;
    fs::write(to.join("index.json"), new_index.to_string()).unwrap();
    let found = checked(layout.path(), &to);
    assert_eq!(found.findings.len(), 1, "{:?}", found.findings);
    assert!(
        found.findings[0].contains("table of contents"),
        "{:?}",
        found.findings
    );
}

#[test]
fn what_is_no_layout_is_refused_and_what_is_there_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let full = place.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "precious").unwrap();
    assert!(matches!(
        convert(&full, &place.path().join("to"), Format::Estargz),
        Err(Error::File { .. })
    ));
    let layout = sample();
    let said = convert(layout.path(), &full, Format::Estargz);
    assert!(matches!(said, Err(Error::Option(_))), "{said:?}");
    assert_eq!(fs::read_to_string(full.join("mine")).unwrap(), "precious");
    for (name, text) in [
        ("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#),
        ("oci-layout", "[]"),
        ("index.json", "{}"),
        (
            "index.json",
            r#"{"manifests":[{"digest":"sha256:../../etc/passwd","size":1}]}"#,
        ),
    ] {
        let layout = sample();
        fs::write(layout.path().join(name), text).unwrap();
        let said = convert(layout.path(), &place.path().join("to"), Format::Estargz);
        assert!(
            matches!(said, Err(Error::Malformed { .. })),
            "{text}: {said:?}"
        );
    }
}

#[test]
fn indexes_that_have_no_end_are_refused() {
    let layout = Layout::new();
    let mut entry = layout.image("amd64", &[&archive("file")]);
    for _ in 0..8 {
        let inner = json!({"manifests": [entry]});
        entry = layout.put(INDEX, inner.to_string().as_bytes());
    }
    layout.index(&[entry]);
    let said = convert(layout.path(), &layout.path().join("to"), Format::Estargz);
    assert!(matches!(said, Err(Error::Malformed { .. })), "{said:?}");
}

#[test]
fn it_tells_how_far_it_is_and_can_be_stopped() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let plan = plan(layout.path()).unwrap();
    let sizes: Vec<u64> = plan.sizes().collect();
    let reached = Mutex::new(vec![0; sizes.len()]);
    let options = Options::new(Format::ZstdChunked(Dialect::Podman));
    let watch = |blob: usize, offset: u64| reached.lock().unwrap()[blob] = offset;
    let target = NewLayout::create(&to, None).unwrap();
    plan.run(&target, &options, &watch).unwrap();
    assert_eq!(*reached.lock().unwrap(), sizes);
    let cancel = AtomicBool::new(true);
    let options = Options {
        cancel: Some(&cancel),
        ..options
    };
    let other = place.path().join("other");
    let target = NewLayout::create(&other, None).unwrap();
    let stopped = plan.run(&target, &options, &watch);
    drop(target);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert!(!other.exists());
}

#[test]
fn indexes_that_name_each_other_often_are_refused() {
    let layout = Layout::new();
    let mut entry = layout.image("amd64", &[&archive("file")]);
    for _ in 0..3 {
        let inner = json!({"manifests": vec![entry; 200]});
        entry = layout.put(INDEX, inner.to_string().as_bytes());
    }
    layout.index(&[entry]);
    let said = convert(layout.path(), &layout.path().join("to"), Format::Estargz);
    assert!(matches!(said, Err(Error::TooLarge { .. })), "{said:?}");
}

/// All of them are in memory at the same time, parsed.
#[test]
fn more_manifests_than_memory_has_room_for_are_refused() {
    let layout = Layout::new();
    let text = "x".repeat(3 << 20);
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"text": text}});
    let entry = layout.put(MANIFEST, manifest.to_string().as_bytes());
    layout.index(&vec![entry; 11]);
    let said = convert(layout.path(), &layout.path().join("to"), Format::Estargz);
    assert!(matches!(said, Err(Error::TooLarge { .. })), "{said:?}");
}

#[test]
fn a_blob_that_is_no_file_is_not_waited_for() {
    let layout = sample();
    let blobs = layout.path().join("blobs/sha256");
    for blob in fs::read_dir(&blobs).unwrap() {
        let blob = blob.unwrap().path();
        fs::remove_file(&blob).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&blob).status();
        assert!(made.unwrap().success());
    }
    let from = layout.path().to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let to = from.join("to");
        sender.send(convert(&from, &to, Format::Estargz))
    });
    let patience = std::time::Duration::from_secs(20);
    let said = receiver.recv_timeout(patience).expect("it waits for ever");
    assert!(matches!(said, Err(Error::File { .. })), "{said:?}");
}

#[test]
fn an_empty_directory_is_filled_and_stays_if_that_fails() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let cancel = AtomicBool::new(true);
    let options = Options {
        cancel: Some(&cancel),
        ..Options::new(Format::Estargz)
    };
    let plan = plan(layout.path()).unwrap();
    let target = NewLayout::create(place.path(), None).unwrap();
    assert!(plan.run(&target, &options, &|_, _| {}).is_err());
    drop(target);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    convert(layout.path(), place.path(), Format::Estargz).unwrap();
    assert!(place.path().join("index.json").exists());
}

#[test]
fn what_is_no_image_is_copied() {
    let layout = Layout::new();
    let image = layout.image("amd64", &[&archive("file")]);
    let chart = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.put("application/vnd.cncf.helm.config.v1+json", b"{}"),
        "layers": [layout.put("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart")],
    });
    let chart = layout.put(MANIFEST, chart.to_string().as_bytes());
    let bare = json!({"schemaVersion": 2, "mediaType": MANIFEST});
    let bare = layout.put(MANIFEST, bare.to_string().as_bytes());
    let text = layout.put("text/plain", b"no JSON");
    layout.index(&[image, chart.clone(), bare.clone(), text.clone()]);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let converted = convert(layout.path(), &to, Format::Estargz).unwrap();
    assert_eq!(converted.images, 1);
    assert!(
        converted.notes[0].contains("text/plain"),
        "{:?}",
        converted.notes
    );
    assert_eq!(
        index(&to)["manifests"].as_array().unwrap()[1..],
        [chart, bare, text]
    );
    let old = fs::read_dir(layout.path().join("blobs/sha256")).unwrap();
    let kept = old.filter(|blob| {
        let name = blob.as_ref().unwrap().file_name();
        to.join("blobs/sha256").join(name).exists()
    });
    assert_eq!(
        kept.count(),
        5,
        "the chart, its two blobs, the bare manifest and the text"
    );
    assert_eq!(checked(layout.path(), &to).findings, [""; 0]);
}

/// What `sample` has, by platforms.
fn platforms(layout: &Path) -> Vec<String> {
    let index = index(layout);
    let inner = read(layout, &index["manifests"][0]);
    let entries = inner["manifests"].as_array().unwrap();
    let platform = |entry: &Value| {
        entry["platform"]["architecture"]
            .as_str()
            .map(str::to_owned)
    };
    entries
        .iter()
        .map(|entry| platform(entry).unwrap())
        .collect()
}

fn select(from: &Path, to: &Path, selection: &Selection) -> Result<Converted, Error> {
    let source = Arc::new(pontoon_convert::Layout::open(from, None)?);
    let plan = Plan::read(source, selection)?;
    let target = NewLayout::create(to, None)?;
    plan.run(&target, &Options::new(Format::Estargz), &|_, _| {})
}

fn only(platforms: &[&str]) -> Selection {
    Selection {
        platforms: platforms.iter().map(|text| text.parse().unwrap()).collect(),
        complete: false,
    }
}

#[test]
fn platforms_are_chosen_with_what_is_said_of_them() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    for (number, (wanted, expected)) in [
        (&["linux/amd64"][..], &["amd64", "unknown"][..]),
        (&["linux/arm64"], &["arm64"]),
        (
            &["linux/arm64", "linux/amd64"],
            &["amd64", "arm64", "unknown"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let to = place.path().join(number.to_string());
        let done = select(layout.path(), &to, &only(wanted)).unwrap();
        assert_eq!(platforms(&to), expected);
        assert_eq!(done.images as usize, wanted.len());
    }
    let to = place.path().join("none");
    let refused = select(layout.path(), &to, &only(&["linux/riscv64"])).unwrap_err();
    let said = refused.to_string();
    assert!(
        said.contains("linux/riscv64; there are: linux/amd64, linux/arm64"),
        "{said}"
    );
    assert!(!to.exists());
}

#[test]
fn what_is_not_there_is_left_out_unless_it_is_asked_for() {
    let layout = sample();
    let top = index(layout.path());
    let inner = read(layout.path(), &top["manifests"][0]);
    let arm64 = inner["manifests"][1]["digest"].as_str().unwrap();
    fs::remove_file(layout.path().join("blobs").join(arm64.replace(':', "/"))).unwrap();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("to");
    let done = select(layout.path(), &to, &Selection::default()).unwrap();
    assert_eq!(platforms(&to), ["amd64", "unknown"]);
    let said = &done.notes[0];
    assert!(
        said.contains(arm64) && said.contains("linux/arm64"),
        "{said}"
    );
    let all = Selection {
        complete: true,
        ..Selection::default()
    };
    for selection in [all, only(&["linux/arm64"])] {
        let refused = select(layout.path(), &place.path().join("no"), &selection);
        assert!(refused.unwrap_err().to_string().contains(&arm64[7..]));
    }
    fs::remove_dir_all(layout.path().join("blobs")).unwrap();
    let refused = select(
        layout.path(),
        &place.path().join("no"),
        &Selection::default(),
    );
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("nothing of the image is there"), "{said}");
}

#[test]
fn images_of_a_layout_have_names() {
    let layout = Layout::new();
    let named = |name: &str, archive: &[u8]| {
        let mut image = layout.image("amd64", &[archive]);
        image["annotations"]["org.opencontainers.image.ref.name"] = json!(name);
        image
    };
    let (one, two) = (named("one", &archive("a")), named("two", &archive("b")));
    layout.index(&[one.clone(), two]);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("to");
    let source = pontoon_convert::Layout::open(layout.path(), Some("one")).unwrap();
    let plan = Plan::read(Arc::new(source), &Selection::default()).unwrap();
    assert_eq!(plan.targets(), 1);
    let target = NewLayout::create(&to, Some("new")).unwrap();
    let done = plan.run(&target, &Options::new(Format::Estargz), &|_, _| {});
    let entries = index(&to)["manifests"].clone();
    assert_eq!(entries.as_array().unwrap().len(), 1);
    assert_eq!(entries[0]["digest"], done.unwrap().targets[0].to_string());
    assert_eq!(
        entries[0]["annotations"]["org.opencontainers.image.ref.name"],
        "new"
    );
    let source = pontoon_convert::Layout::open(layout.path(), Some("three")).unwrap();
    let said = source.index().unwrap_err().to_string();
    assert!(said.contains(r#"["one", "two"]"#), "{said}");
    assert_eq!(plan_of_all(&layout), 2);
}

fn plan_of_all(layout: &Layout) -> usize {
    plan(layout.path()).unwrap().targets()
}
