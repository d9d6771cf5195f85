//! Files that are not what was written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::disk::names;
use super::fixture::{Random, Sample, open, temporary, wait_until};
use super::image::layer_file;
use crate::{Cache, Config, Error};

const FILES: [&str; 4] = ["meta", "chunks", "ready", "data"];

fn sample() -> Sample {
    Sample::new(7, 24, 5000)
}

/// A closed cache whose only layer is complete.
fn complete(dir: &Path) -> Sample {
    let sample = sample();
    let cache = open(dir);
    sample.put_all(&sample.create(&cache));
    sample
}

/// Opens the cache and checks that nothing wrong is read, and that the layer can be had again. What was ready.
fn recover(dir: &Path, sample: &Sample, at: &str) -> Option<Vec<usize>> {
    let cache = open(dir);
    let layer = cache.layer(&sample.key).unwrap();
    let ready = layer.as_ref().map(|layer| sample.ready(layer));
    drop(layer);
    let damaged = cache.stats().damaged_layers;
    assert_eq!(damaged, u64::from(ready.is_none()), "{at}");
    let layer = sample.create(&cache);
    sample.put_all(&layer);
    assert!(layer.is_complete(), "{at}");
    assert_eq!(layer.meta(), &sample.meta());
    drop((layer, cache));
    let cache = open(dir);
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(sample.ready(&layer).len(), sample.len(), "{at}");
    ready
}

#[test]
fn every_file_can_be_missing_or_something_else() {
    type Make = fn(&Path);
    let things: [(&str, Make); 5] = [
        ("missing", |_| {}),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a link", |path| symlink("/etc/passwd", path).unwrap()),
        ("a fifo", |path| {
            let mode = rustix::fs::Mode::from(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        }),
    ];
    for file in FILES {
        for (thing, make) in things {
            let dir = temporary();
            let sample = complete(dir.path());
            let path = layer_file(dir.path(), &sample.key, file);
            fs::remove_file(&path).unwrap();
            make(&path);
            let at = format!("{file} is {thing}");
            let ready = recover(dir.path(), &sample, &at);
            let zeros = sample.len() - sample.real().len();
            match (file, thing) {
                ("ready" | "data", "missing" | "empty") => {
                    assert_eq!(ready.map(|ready| ready.len()), Some(zeros), "{at}");
                }
                _ => assert_eq!(ready, None, "{at}"),
            }
        }
    }
    assert!(fs::metadata("/etc/passwd").unwrap().len() > 0);
}

#[test]
fn a_file_that_was_cut_off_gives_what_is_whole() {
    let mut random = Random::new(1);
    for file in FILES {
        for _ in 0..8 {
            let dir = temporary();
            let sample = complete(dir.path());
            let path = layer_file(dir.path(), &sample.key, file);
            let length = fs::metadata(&path).unwrap().len();
            let cut = random.below(length as usize) as u64;
            let options = OpenOptions::new().write(true).open(&path).unwrap();
            options.set_len(cut).unwrap();
            let at = format!("{file} was cut off at {cut} of {length}");
            let ready = recover(dir.path(), &sample, &at);
            match file {
                "data" => {
                    let whole = |index: &usize| {
                        sample.is_zeros(*index) || sample.table.chunks()[*index].data_end() <= cut
                    };
                    let whole: Vec<usize> = (0..sample.len()).filter(whole).collect();
                    assert_eq!(ready, Some(whole), "{at}");
                }
                "ready" => assert!(ready.is_some(), "{at}"),
                _ => assert_eq!(ready, None, "{at}"),
            }
        }
    }
}

#[test]
fn a_changed_byte_of_what_describes_the_data_is_found() {
    let mut random = Random::new(2);
    for file in ["meta", "chunks", "ready"] {
        for _ in 0..16 {
            let dir = temporary();
            let sample = complete(dir.path());
            let path = layer_file(dir.path(), &sample.key, file);
            let mut bytes = fs::read(&path).unwrap();
            let position = random.below(bytes.len());
            bytes[position] ^= 1 << random.below(8);
            fs::write(&path, &bytes).unwrap();
            let at = format!("{file} was changed at {position}");
            let ready = recover(dir.path(), &sample, &at);
            assert_eq!(ready.is_some(), file == "ready", "{at}");
        }
    }
}

#[test]
fn a_bit_that_should_not_be_set_is_not_believed() {
    let dir = temporary();
    let sample = sample();
    let cache = open(dir.path());
    let layer = sample.create(&cache);
    sample.put(&layer, 0);
    drop((layer, cache));
    let path = layer_file(dir.path(), &sample.key, "ready");
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] |= 0b10;
    fs::write(&path, bytes).unwrap();
    recover(dir.path(), &sample, "one bit more");
}

#[test]
fn another_layers_files_are_not_believed() {
    let dir = temporary();
    let sample = complete(dir.path());
    let other = Sample::new(8, 24, 5000);
    let cache = open(dir.path());
    other.create(&cache);
    drop(cache);
    for file in ["meta", "chunks", "ready"] {
        let from = layer_file(dir.path(), &sample.key, file);
        let to = layer_file(dir.path(), &other.key, file);
        fs::copy(from, to).unwrap();
        let ready = recover(dir.path(), &other, file);
        assert_eq!(ready.is_some(), file == "ready");
        let cache = open(dir.path());
        cache.remove(&other.key).unwrap();
        other.create(&cache);
    }
}

#[test]
fn a_newer_layout_is_refused_and_nothing_is_touched() {
    let dir = temporary();
    complete(dir.path());
    fs::write(dir.path().join("version"), "2\n").unwrap();
    fs::create_dir(dir.path().join("discard/5")).unwrap();
    let error = Cache::open(dir.path(), Config::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(names(&dir.path().join("discard")), ["5"]);
    for nonsense in ["", "one", "0", "99999999999999999999", "\u{1}"] {
        fs::write(dir.path().join("version"), nonsense).unwrap();
        let error = Cache::open(dir.path(), Config::default()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[test]
fn half_made_layers_are_deleted_and_strangers_are_left_alone() {
    let dir = temporary();
    let sample = complete(dir.path());
    fs::create_dir_all(dir.path().join("discard/12/deep")).unwrap();
    fs::write(dir.path().join("discard/12/deep/data"), "half").unwrap();
    fs::write(dir.path().join("discard/3"), "a file").unwrap();
    fs::write(dir.path().join("discard/README"), "a stranger").unwrap();
    fs::create_dir(dir.path().join("sha256/somebody")).unwrap();
    fs::write(dir.path().join("version.new"), "1").unwrap();
    let cache = open(dir.path());
    wait_until("half-made layers are gone", || {
        names(&dir.path().join("discard")) == ["README"]
    });
    assert!(dir.path().join("sha256/somebody").is_dir());
    assert!(cache.layer(&sample.key).unwrap().unwrap().is_complete());
}

#[test]
fn two_caches_do_not_share_a_directory() {
    let dir = temporary();
    let cache = open(dir.path());
    let error = Cache::open(dir.path(), Config::default()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop(cache);
    open(dir.path());
}
