//! Orders put into images as users do it.

use std::fs;
use std::path::Path;
use std::process::Output;

use pontoon_rig::image;
use serde_json::{Value, json};

use crate::convert::{check, convert};
use crate::pontoon;

/// What a start is said to read: files of four layers, one of them by another name, and three that are not there.
const PATHS: &str = "\
/sizes/5000001
bin/busybox
./odd/third
odd/same
many/007
text
odd/opaque/hidden
no/where
sizes/5000001
";

/// What comes first of each layer then, and its landmark.
const FIRST: [&str; 5] = [
    "bin/busybox,.prefetch.landmark",
    "sizes/5000001,many/007,.prefetch.landmark",
    "odd/here/first,.prefetch.landmark",
    "odd/same,.prefetch.landmark",
    ".no.prefetch.landmark",
];

fn optimize(from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["optimize", from.to_str().unwrap(), to.to_str().unwrap()];
    arguments.extend(more);
    pontoon(&arguments)
}

fn said(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[test]
fn an_image_with_every_oddity_gets_an_order() {
    let image = image::lazy_fixture().unwrap();
    let place = tempfile::tempdir().unwrap();
    let list = place.path().join("paths");
    fs::write(&list, PATHS).unwrap();
    let list = list.to_str().unwrap();
    for (number, form) in [
        &["--to", "estargz"][..],
        &["--to", "zstd:chunked", "--dialect", "stargz"],
        &["--to", "zstd:chunked"],
        &["--to", "nydus"],
    ]
    .into_iter()
    .enumerate()
    {
        let dir = |name: &str| place.path().join(format!("{name}-{number}"));
        let (lazy, to, twin) = (dir("lazy"), dir("to"), dir("twin"));
        let output = convert(image.dir(), &lazy, form);
        assert!(output.status.success(), "{}", said(&output));
        let output = optimize(&lazy, &to, &["--paths", list, "--json"]);
        assert!(output.status.success(), "{}", said(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["files"], 5, "{answer}");
        assert_eq!(answer["images"], 1);
        let (code, checked) = check(image.dir(), &to);
        assert_eq!(checked["findings"], json!([]), "{form:?}");
        assert_eq!(code, 0);
        if form.contains(&"estargz") || form.contains(&"stargz") {
            // As stargz-snapshotter's library reads it.
            let read = image::verify(&to).unwrap();
            let first: Vec<&str> = (read.lines())
                .map(|line| line.split(' ').nth(2).unwrap())
                .collect();
            assert_eq!(first, FIRST, "{form:?}");
            assert!(answer["first_bytes"].as_u64().unwrap() > 5_000_000);
        }
        if number == 0 {
            let one = ["--paths", list, "--threads", "1"];
            let output = optimize(&lazy, &twin, &one);
            let said = said(&output);
            assert!(said.contains("5 files come first, 6.0 MB"), "{said}");
            let index = |dir: &Path| fs::read(dir.join("index.json")).unwrap();
            assert!(index(&to) == index(&twin), "the same bytes each time");
        }
    }
}

/// The archive is another one then, and what makes it again is too.
#[test]
fn containers_storage_makes_the_archives_of_an_order() {
    let image = image::lazy_fixture().unwrap();
    let place = tempfile::tempdir().unwrap();
    let dir = |name: &str| place.path().join(name);
    let (lazy, to, root, list) = (dir("lazy"), dir("to"), dir("root"), dir("paths"));
    fs::create_dir(&root).unwrap();
    fs::write(&list, PATHS).unwrap();
    let output = convert(image.dir(), &lazy, &["--to", "zstd:chunked"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = optimize(&lazy, &to, &["--paths", list.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let made = image::store(&to, &root).unwrap();
    let made: Vec<&str> = made
        .lines()
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    let ids = |dir: &Path| -> Vec<String> {
        let image = image::Layout::open(dir).unwrap();
        let (config, _) = image.parts().unwrap();
        let config: Value = serde_json::from_slice(&image.blob(&config).unwrap()).unwrap();
        let ids = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
        ids.map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(made, ids(&to));
    // Only the layer of which nothing comes first is the one that it was.
    let old = ids(&lazy);
    let same = made
        .iter()
        .zip(&old)
        .filter(|(new, old)| **new == old.as_str());
    assert_eq!(same.count(), 1);
}

#[test]
fn an_order_that_is_none_leaves_nothing() {
    let image = image::lazy_fixture().unwrap();
    let place = tempfile::tempdir().unwrap();
    let dir = |name: &str| place.path().join(name);
    let (lazy, to, list, profile) = (dir("lazy"), dir("to"), dir("paths"), dir("profile"));
    let output = convert(image.dir(), &lazy, &["--to", "estargz"]);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(&list, "no/where\n").unwrap();
    fs::write(&profile, "{}").unwrap();
    let (list, profile) = (list.to_str().unwrap(), profile.to_str().unwrap());
    let digest = pontoon_layer::Digest::of(b"another image").to_string();
    let foreign = json!({
        "version": 1,
        "image": "localhost/other:1",
        "layers": [{"blob": digest, "toc": digest}],
        "order": [[0, 0, 1]],
    });
    let other = place.path().join("other");
    fs::write(&other, foreign.to_string()).unwrap();
    let other = other.to_str().unwrap();
    for (more, code, what) in [
        (&[][..], 64, "--profile"),
        (
            &["--paths", list, "--profile", profile],
            64,
            "cannot be used",
        ),
        (
            &["--paths", list, "--recorded-on", "."],
            64,
            "cannot be used",
        ),
        (
            &["--paths", list, "--level", "99"],
            1,
            "none of the 1 files",
        ),
        (&["--paths", list], 1, "none of the 1 files"),
        (&["--paths", "/no/where"], 1, "/no/where"),
        (&["--profile", profile], 1, "is no profile"),
        (&["--profile", other], 1, "--recorded-on"),
        (
            &["--image", "localhost/app:1", "--admin", "/no/where"],
            69,
            "/no/where",
        ),
    ] {
        let output = optimize(&lazy, &to, more);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {said}");
        assert!(said.contains(what), "{more:?}: {said}");
        assert!(!to.exists());
    }
    // What is not lazy yet.
    fs::write(list, "bin/busybox\n").unwrap();
    let output = optimize(image.dir(), &to, &["--paths", list]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("convert the image first"));
    let output = optimize(&lazy, &to, &["--paths", list, "--level", "99"]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(!to.exists());
}
