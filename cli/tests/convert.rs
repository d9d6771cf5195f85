//! Converting and checking as users call it.

use std::fs;
use std::path::Path;
use std::process::Output;

use pontoon_rig::image;

use crate::pontoon;

pub(crate) fn convert(from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["convert", from.to_str().unwrap(), to.to_str().unwrap()];
    arguments.extend(more);
    pontoon(&arguments)
}

pub(crate) fn check(old: &Path, new: &Path) -> (i32, serde_json::Value) {
    let output = pontoon(&[
        "check",
        "--json",
        old.to_str().unwrap(),
        new.to_str().unwrap(),
    ]);
    let said = [&output.stdout[..], &output.stderr].concat();
    let answer = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&said)));
    (output.status.code().unwrap(), answer)
}

#[test]
fn an_image_with_every_oddity_is_converted_and_checked() {
    let image = image::lazy_fixture().unwrap();
    let place = tempfile::tempdir().unwrap();
    for (number, more) in [
        &["--to", "estargz"][..],
        &[
            "--to",
            "estargz",
            "--chunk-size",
            "65536",
            "--threads",
            "1",
            "--level",
            "1",
        ],
        &["--to", "zstd:chunked"],
        &["--to", "zstd:chunked", "--dialect", "stargz", "--json"],
    ]
    .into_iter()
    .enumerate()
    {
        let to = place.path().join(number.to_string());
        let output = convert(image.dir(), &to, more);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(output.status.success(), "{more:?}: {said}");
        assert!(
            said.contains(if more.contains(&"--json") {
                "\"bytes_after\":"
            } else {
                "1 image and "
            }),
            "{said}"
        );
        let (code, answer) = check(image.dir(), &to);
        assert_eq!(answer["findings"], serde_json::json!([]), "{more:?}");
        assert_eq!(code, 0);
        assert_eq!(answer["lazy_layers"], answer["layers"]);
        let chunks = answer["chunks"].as_u64().unwrap();
        assert!(chunks > 10, "{answer}");
        // The library of stargz-snapshotter reads its own formats; another name of a file is read once more.
        if !more.contains(&"zstd:chunked") || more.contains(&"stargz") {
            let said = image::verify(&to).unwrap();
            let read = (said.lines())
                .map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap())
                .sum::<u64>();
            assert!(read >= chunks, "{read} chunks of {chunks}");
        }
    }
}

#[test]
fn a_nydus_image_of_every_oddity_is_the_image_that_it_was() {
    let image = image::lazy_fixture().unwrap();
    let place = tempfile::tempdir().unwrap();
    for (number, more) in [
        &["--to", "nydus"][..],
        &[
            "--to",
            "nydus",
            "--compression",
            "lz4_block",
            "--digest",
            "blake3",
        ],
        &[
            "--to",
            "nydus",
            "--compression",
            "none",
            "--chunk-size",
            "65536",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let to = place.path().join(number.to_string());
        let output = convert(image.dir(), &to, more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{more:?}: {said}");
        let (code, answer) = check(image.dir(), &to);
        assert_eq!(answer["findings"], serde_json::json!([]), "{more:?}");
        assert_eq!(code, 0);
        let (lazy, all) = (&answer["lazy_layers"], &answer["layers"]);
        let bootstraps = all.as_u64().unwrap() - lazy.as_u64().unwrap();
        assert_eq!(bootstraps, 1, "{answer}");
        assert!(answer["chunks"].as_u64().unwrap() > 100, "{answer}");
    }
    // What the format cannot have, and what it has one of.
    for wrong in [
        &["--to", "nydus", "--chunk-size", "100000"][..],
        &["--to", "nydus", "--compression", "none", "--level", "3"],
    ] {
        let output = convert(image.dir(), &place.path().join("none"), wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
    }
}

#[test]
fn containers_storage_makes_the_same_archives_of_it() {
    let image = image::lazy_fixture().unwrap();
    let place = tempfile::tempdir().unwrap();
    let (to, root) = (place.path().join("to"), place.path().join("root"));
    fs::create_dir(&root).unwrap();
    let output = convert(
        image.dir(),
        &to,
        &["--to", "zstd:chunked", "--chunk-size", "65536"],
    );
    assert!(output.status.success(), "{output:?}");
    let said = image::store(&to, &root).unwrap();
    let made: Vec<&str> = said
        .lines()
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    let (config, _) = image.parts().unwrap();
    let config: serde_json::Value = serde_json::from_slice(&image.blob(&config).unwrap()).unwrap();
    let expected: Vec<&str> = (config["rootfs"]["diff_ids"].as_array().unwrap().iter())
        .map(|id| id.as_str().unwrap())
        .collect();
    assert_eq!(made, expected);
}

#[test]
fn what_differs_is_found() {
    let place = tempfile::tempdir().unwrap();
    let one = image::lazy_fixture().unwrap();
    let other = image::many_layers(place.path(), 2).unwrap();
    let (code, answer) = check(one.dir(), other.dir());
    assert_eq!(code, 1);
    assert!(
        !answer["findings"].as_array().unwrap().is_empty(),
        "{answer}"
    );
}

#[test]
fn what_cannot_be_converted_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("to");
    let output = convert(place.path(), &to, &["--to", "estargz"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("oci-layout"));
    assert!(!to.exists());
    let image = image::lazy_fixture().unwrap();
    for more in [
        &["--to", "squashfs"][..],
        &["--to", "estargz", "--level", "99"],
        &["--to", "estargz", "--chunk-size", "1"],
        &["--to", "estargz", "--threads", "0"],
        &[],
    ] {
        let output = convert(image.dir(), &to, more);
        assert_eq!(output.status.code(), Some(64), "{more:?}");
        assert!(!to.exists());
    }
    fs::create_dir(&to).unwrap();
    fs::write(to.join("mine"), "precious").unwrap();
    let output = convert(image.dir(), &to, &["--to", "estargz"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(to.join("mine").exists());
}
