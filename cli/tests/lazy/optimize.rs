//! Orders in images, and what a node without any knowledge of them fetches then. Nothing is fetched in the background that
//! an image does not name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_layer::{Limits, TAIL_BYTES, parse_tail};
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::Request;
use pontoon_rig::image::{Converted, Layout, busybox, lazy_fixture};
use pontoon_rig::wait;
use serde_json::Value;

use crate::stage::{Stage, json};

const LIMIT: Duration = Duration::from_mins(1);

/// A large file, in the second layer, and its size.
const LARGE: (&str, u64) = ("/sizes/5000001", 5_000_001);

/// What a start reads, beside busybox.
const START: [&str; 4] = ["/bin/busybox", "sha256sum", LARGE.0, "/odd/third"];

const ESTARGZ: &[&str] = &["--to", "estargz"];
const NYDUS: &[&str] = &["--to", "nydus"];

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open(dir: &Path) -> Converted {
    Converted {
        image: Layout::open(dir).unwrap(),
        tables: None,
    }
}

impl Stage {
    /// Has the command make a new image of the one in `from`.
    fn make(&self, verb: &str, from: &Path, name: &str, more: &[&str]) -> PathBuf {
        let to = self.cluster.sandbox.path(name);
        let arguments = [&[verb, path(from), path(&to)], more].concat();
        let (code, text) = match verb {
            "optimize" => self.pontoon(&arguments, &[]),
            _ => self.pontoon_alone(&arguments),
        };
        assert_eq!(code, 0, "{text}");
        to
    }

    /// What of `reference` is here, in bytes of its files, once nothing more of it is on its way.
    fn settled(&self, reference: &str) -> Option<u64> {
        let (code, text) = self.pontoon(&["inspect", reference, "--json"], &[]);
        assert_eq!(code, 0, "{text}");
        let mut bytes = 0;
        for layer in json(&text)["layers"].as_array().unwrap() {
            let progress = &layer["progress"];
            if !["idle", "done"].contains(&progress["background"].as_str()?) {
                return None;
            }
            bytes += progress["local_bytes"].as_u64().unwrap();
        }
        Some(bytes)
    }

    /// Uploads the image in `dir` and pulls it, and waits for what it names. Answers its name, and how many bytes came.
    fn fetch_first(&self, dir: &Path) -> (String, u64) {
        let reference = self.site.push_converted(&open(dir), "secret/first", "1");
        let reference = reference.unwrap();
        self.pull_reference(&reference);
        let wanted = LARGE.1 + busybox().unwrap().len() as u64;
        let came = wait::until("what is named", LIMIT, || {
            Ok(self.settled(&reference).filter(|bytes| *bytes >= wanted))
        });
        let came = came.unwrap();
        assert!(came < wanted + 100_000, "{came} bytes of files came");
        (reference, came)
    }

    /// A start of an image that the node knows nothing of, but what the image says itself.
    fn starts_alone(&self, dir: &Path) {
        let (reference, _) = self.fetch_first(dir);
        let mark = self.site.gate.mark();
        self.run(&reference, &START);
        let asked: Vec<_> = (mark.exchanges().into_iter())
            .map(|exchange| exchange.request)
            .filter(Request::is_blob)
            .map(|request| (request.path, request.range))
            .collect();
        assert!(asked.is_empty(), "{asked:?}");
    }
}

/// All that comes before anybody asks is what is before the landmark.
#[test]
fn what_is_before_a_landmark_comes_first() {
    for form in [
        ESTARGZ,
        &["--to", "zstd:chunked", "--dialect", "stargz"],
        &["--to", "zstd:chunked"],
    ] {
        let stage = Stage::start(Version::V2_3);
        let lazy = stage.make("convert", lazy_fixture().unwrap().dir(), "lazy", form);
        let list = stage.cluster.sandbox.path("list");
        fs::write(&list, format!("{}\n/bin/busybox\n", LARGE.0)).unwrap();
        let to = stage.make("optimize", &lazy, "to", &["--paths", path(&list)]);
        let mark = stage.site.gate.mark();
        stage.fetch_first(&to);
        let image = Layout::open(&to).unwrap();
        let (_, layers) = image.parts().unwrap();
        let asked = mark.exchanges();
        for layer in &layers {
            let rest = behind_the_landmark(&image, layer);
            let size = image.blob(layer).unwrap().len() as u64;
            let early: Vec<_> = (asked.iter())
                .map(|exchange| &exchange.request)
                .filter(|request| request.is_blob() && request.names(layer))
                // That brings the table of contents, and of a small blob all.
                .filter(|request| request.bytes().is_some_and(|(_, end)| end != Some(size)))
                .filter(|request| request.overlaps(&rest))
                .map(|request| &request.range)
                .collect();
            assert!(early.is_empty(), "{form:?}: {rest:?} of {layer}: {early:?}");
        }
    }
}

/// Where in the blob of a layer what nobody needs first is.
fn behind_the_landmark(image: &Layout, layer: &str) -> std::ops::Range<u64> {
    let blob = image.blob(layer).unwrap();
    let (size, limits) = (blob.len() as u64, Limits::default());
    let tail = &blob[blob.len().saturating_sub(TAIL_BYTES)..];
    let tail = parse_tail(tail, size, &limits).unwrap().unwrap();
    let place = tail.place().unwrap();
    let toc = &blob[place.range.start as usize..place.range.end as usize];
    let mut json = Vec::new();
    let compression = tail.toc_kind().compression();
    let mut member = pontoon_layer::Member::new(compression, toc);
    std::io::Read::read_to_end(&mut member, &mut json).unwrap();
    // In eStargz it is in an archive.
    let start = json.iter().position(|byte| *byte == b'{').unwrap();
    let toc = serde_json::Deserializer::from_slice(&json[start..]);
    let toc: Value = toc.into_iter().next().unwrap().unwrap();
    let entries = toc["entries"].as_array().unwrap();
    let landmark = entries.iter().find(|entry| {
        let name = entry["name"].as_str().unwrap();
        name == ".prefetch.landmark" || name == ".no.prefetch.landmark"
    });
    // Podman's layers with nothing to come first have none.
    let start = landmark.map_or(0, |entry| entry["offset"].as_u64().unwrap());
    start..place.payload_end
}

/// With files by themselves: under EROFS the kernel reads on behind the end of a file, which is another one's beginning.
const ON_FUSE: &str = "front_end = \"fuse\"\n";

/// What one node has seen of a start is in the image, in whatever form, and another node needs no more.
#[test]
fn what_a_start_has_read_comes_first_on_every_node() {
    let node = |plugin: Option<&str>| Stage::open(Version::V2_3, plugin, ON_FUSE);
    let stage = node(None);
    let fixture = lazy_fixture().unwrap();
    let lazy = stage.make("convert", fixture.dir(), "lazy", ESTARGZ);
    let reference = stage.pull("secret/lazy", &open(&lazy));
    stage.run(&reference, &START);
    let exported = ["profile", "export", &*reference];
    let profile = wait::until("a profile", LIMIT, || {
        let (code, text) = stage.pontoon(&exported, &[]);
        Ok((code == 0).then_some(text))
    });
    let profile = profile.unwrap();
    let file = stage.cluster.sandbox.path("profile.json");
    fs::write(&file, &profile).unwrap();
    // That of this node, and one that was handed on for another form.
    let config = stage.cluster.sandbox.path("plugin.toml");
    let own = ["--image", &*reference, "--config", path(&config)];
    let remote = PathBuf::from(format!("docker://{reference}"));
    let first = stage.make("optimize", &remote, "first", &own);
    let nydus = stage.make("convert", fixture.dir(), "nydus", NYDUS);
    let (profile, started) = (path(&file), path(&lazy));
    let handed = ["--profile", profile, "--recorded-on", started];
    let other = stage.make("optimize", &nydus, "other", &handed);
    let (code, text) = stage.pontoon_alone(&["check", path(fixture.dir()), path(&other)]);
    assert_eq!(code, 0, "{text}");
    node(None).starts_alone(&first);
    node(Some("pontoon-nydus")).starts_alone(&other);
}
