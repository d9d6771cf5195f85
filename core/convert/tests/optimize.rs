//! Orders in images: what comes first, and that all else is as it was.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use pontoon_convert::{
    ChunkCompression, Converted, Dialect, Error, Format, NewLayout, Nydus, Optimize, Optimized,
    Options, Order, Recorded,
};
use pontoon_layer::rafs::{Bootstrap, Image};
use pontoon_layer::{
    Digest, Kind, Landmark, Layer, Limits, OpaqueXattr, TAIL_BYTES, Tree, parse_annotations,
    parse_tail, parse_toc,
};
use serde_json::Value;
use support::layout::{Layout, checked, index, plan, read};
use support::{Tar, gunzip, noise, unzstd};

const TABLES: [Format; 3] = [
    Format::Estargz,
    Format::ZstdChunked(Dialect::Podman),
    Format::ZstdChunked(Dialect::Stargz),
];

const CHUNK_BYTES: u32 = 64 << 10;

fn lower() -> Tar {
    let mut tar = Tar::default();
    tar.directory("usr/", 0o755);
    tar.directory("usr/bin/", 0o755);
    tar.file("usr/bin/first", &noise(200_000));
    tar.file("usr/bin/tool", &noise(70_000));
    tar.link("usr/bin/alias", "usr/bin/tool");
    tar.symlink("bin", "usr/bin");
    tar.directory("usr/lib/", 0o711);
    tar.file("usr/lib/a.so", &noise(10_000));
    tar.file("usr/lib/b.so", &noise(11_000));
    tar.file("usr/lib/replaced", b"old");
    tar.file("usr/lib/hidden", b"hidden");
    tar.file("usr/lib/empty", b"");
    tar.directory("opt/", 0o755);
    tar.file("opt/below", b"below an opaque directory");
    tar
}

fn upper() -> Tar {
    let mut tar = Tar::default();
    tar.directory("usr/", 0o755);
    tar.directory("usr/lib/", 0o700);
    tar.file("usr/lib/replaced", b"new");
    tar.file("usr/lib/.wh.hidden", b"");
    tar.directory("opt/", 0o755);
    tar.file("opt/.wh..wh..opq", b"");
    tar.file("opt/own", &noise(5_000));
    tar
}

/// The same, and what is to stay where it is.
fn odd() -> Tar {
    let mut tar = upper();
    // Whatever of these were moved, somebody would unpack something else.
    tar.file("twice", b"one");
    tar.file("twice", b"two");
    tar.file(".wh.again", b"");
    tar.file("again", b"again");
    tar.symlink("way", "usr/lib");
    tar.file("way/through", b"through a link");
    tar
}

fn sample() -> Layout {
    let layout = Layout::new();
    let (lower, upper) = (lower().finish(), upper().finish());
    layout.index(&[layout.image("amd64", &[&lower, &upper])]);
    layout
}

fn convert(from: &Path, to: &Path, format: Format) -> Converted {
    let options = Options {
        chunk_bytes: CHUNK_BYTES,
        ..Options::new(format)
    };
    support::layout::convert(from, to, &options).unwrap()
}

fn order(paths: &[&str]) -> Order {
    Order::of_paths(paths.iter().map(|path| path.as_bytes().to_vec())).unwrap()
}

fn optimize(from: &Path, to: &Path, order: &Order) -> Result<Optimized, Error> {
    optimize_as(from, to, order, &Optimize::default())
}

fn optimize_as(
    from: &Path,
    to: &Path,
    order: &Order,
    how: &Optimize<'_>,
) -> Result<Optimized, Error> {
    let target = NewLayout::create(to, None)?;
    plan(from)?.optimize(&target, order, how, &|_, _| {})
}

fn of_recorded(recorded: &Recorded, started: &Path) -> Result<Order, Error> {
    let source = pontoon_convert::Layout::open(started, None)?;
    Order::of_recorded(recorded, &source, "the place")
}

fn manifest(layout: &Path) -> Value {
    read(layout, &index(layout)["manifests"][0])
}

fn blob(layout: &Path, layer: &Value) -> Vec<u8> {
    let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
    fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap()
}

/// The table of contents of a layer, as the one who serves it reads it.
fn table(layout: &Path, layer: &Value) -> Layer {
    let blob = blob(layout, layer);
    let size = blob.len() as u64;
    let annotations: BTreeMap<String, String> =
        serde_json::from_value(layer["annotations"].clone()).unwrap();
    let limits = Limits::default();
    let digest = parse_annotations(&annotations, size, &limits)
        .unwrap()
        .digest;
    let tail = &blob[blob.len().saturating_sub(TAIL_BYTES)..];
    let tail = parse_tail(tail, size, &limits).unwrap().unwrap();
    let place = tail.place().unwrap();
    let toc = &blob[place.range.start as usize..place.range.end as usize];
    parse_toc(
        tail.toc_kind(),
        toc,
        place.payload_end,
        &digest.unwrap(),
        OpaqueXattr::Trusted,
        &limits,
    )
    .unwrap()
}

/// The bootstrap of a nydus image.
fn bootstrap(layout: &Path) -> Vec<u8> {
    let manifest = manifest(layout);
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let archive = gunzip(&blob(layout, layer));
    let mut archive = tar::Archive::new(&archive[..]);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if *entry.path_bytes() == b"image/image.boot"[..] {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("there is no bootstrap");
}

fn nydus_image(layout: &Path) -> Image {
    let bytes = bootstrap(layout);
    let opened = Bootstrap::open(&bytes, &Limits::default()).unwrap();
    opened.image(&[], OpaqueXattr::Trusted).unwrap()
}

fn path_of(tree: &Tree, wanted: usize) -> String {
    let mut found = String::new();
    tree.walk(|path, id| {
        if id.index() == wanted && found.is_empty() {
            found = String::from_utf8(path.to_vec()).unwrap();
        }
        true
    });
    found
}

/// The files of a layer by where their data is, and whether each is to be fetched first.
fn by_place(layer: &Layer) -> Vec<(String, bool)> {
    let mut files = BTreeMap::new();
    layer.tree.walk(|path, id| {
        let node = layer.tree.node(id);
        if let Kind::File { data_offset } = node.kind
            && node.size > 0
        {
            let path = String::from_utf8(path.to_vec()).unwrap();
            files.entry(data_offset).or_insert(path);
        }
        true
    });
    let first = match layer.landmark {
        Landmark::Prefetch { data_offset, .. } => data_offset,
        _ => 0,
    };
    let files = files.into_iter();
    files.map(|(offset, path)| (path, offset < first)).collect()
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    let name = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        entry.unwrap().path().unwrap().display().to_string()
    };
    entries.map(name).collect()
}

const WANTED: [&str; 7] = [
    "/usr/lib/b.so",
    "usr/bin/alias",
    "usr/lib/hidden",
    "./usr/lib/replaced",
    "opt/below",
    "usr/lib/b.so",
    "nowhere",
];

#[test]
fn the_files_of_an_order_come_first_and_all_else_stays() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    for (number, format) in TABLES.into_iter().enumerate() {
        let dir = |name: &str| place.path().join(format!("{name}-{number}"));
        let (from, to) = (dir("from"), dir("to"));
        convert(layout.path(), &from, format);
        let done = optimize(&from, &to, &order(&WANTED)).unwrap();
        assert_eq!((done.written.images, done.written.layers), (1, 2));
        assert_eq!(done.files, 3, "{:?}", done.written.notes);
        for old in [layout.path(), &from] {
            let found = checked(old, &to);
            assert_eq!(found.findings, [""; 0], "{format:?}");
            assert_eq!((found.layers, found.lazy_layers), (2, 2));
        }
        let new = manifest(&to);
        let lower = table(&to, &new["layers"][0]);
        let files: Vec<(String, bool)> = by_place(&lower);
        let files: Vec<(&str, bool)> = files.iter().map(|(path, is)| (&**path, *is)).collect();
        assert_eq!(
            files,
            [
                ("usr/lib/b.so", true),
                ("usr/bin/alias", true),
                ("usr/bin/first", false),
                ("usr/lib/a.so", false),
                ("usr/lib/replaced", false),
                ("usr/lib/hidden", false),
                ("opt/below", false),
            ],
            "{format:?}"
        );
        let upper = by_place(&table(&to, &new["layers"][1]));
        assert_eq!(upper[0], ("usr/lib/replaced".to_owned(), true));
        assert!(upper[1..].iter().all(|(_, first)| !first), "{upper:?}");
        // The landmark is where the blob of what comes first ends.
        let Landmark::Prefetch { blob_offset, .. } = lower.landmark else {
            panic!("{:?}", lower.landmark);
        };
        let chunks = lower.chunks.chunks().iter();
        let before = chunks.filter(|chunk| chunk.blob_end() <= blob_offset);
        assert_eq!(before.count(), 3, "two small files, and one of two chunks");
        let archive = match format {
            Format::Estargz => gunzip(&blob(&to, &new["layers"][0])),
            _ => unzstd(&blob(&to, &new["layers"][0])),
        };
        let (config, id) = (read(&to, &new["config"]), Digest::of(&archive));
        assert_eq!(config["rootfs"]["diff_ids"][0], id.to_string());
        // Directories and targets come before what needs them.
        assert_eq!(
            names(&archive)[..8],
            [
                "usr/",
                "usr/lib/",
                "usr/lib/b.so",
                "usr/bin/",
                "usr/bin/tool",
                "usr/bin/alias",
                ".prefetch.landmark",
                "usr/bin/first"
            ]
        );
    }
}

#[test]
fn it_is_the_same_each_time_and_again() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    for (number, format) in (TABLES.into_iter())
        .chain([Format::Nydus(Nydus::default())])
        .enumerate()
    {
        let dir = |name: &str| place.path().join(format!("{name}-{number}"));
        let order = order(&WANTED);
        convert(layout.path(), &dir("from"), format);
        optimize(&dir("from"), &dir("to"), &order).unwrap();
        optimize(&dir("from"), &dir("twin"), &order).unwrap();
        assert_eq!(index(&dir("twin")), index(&dir("to")));
        optimize(&dir("to"), &dir("again"), &order).unwrap();
        assert_eq!(index(&dir("again")), index(&dir("to")), "{format:?}");
        // Without it, all is as it was: the order of the archive too, but for what was moved.
        convert(layout.path(), &dir("other"), format);
        assert_eq!(index(&dir("other")), index(&dir("from")));
        assert_ne!(index(&dir("to")), index(&dir("from")));
    }
}

#[test]
fn a_layer_without_a_file_of_the_order_says_so() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    for (number, format) in TABLES.into_iter().enumerate() {
        let dir = |name: &str| place.path().join(format!("{name}-{number}"));
        convert(layout.path(), &dir("from"), format);
        let done = optimize(&dir("from"), &dir("to"), &order(&["usr/bin/first"])).unwrap();
        let (old, new) = (manifest(&dir("from")), manifest(&dir("to")));
        let upper = table(&dir("to"), &new["layers"][1]);
        let (landmark, layers) = match format {
            // Podman knows no landmarks: there is nothing to say.
            Format::ZstdChunked(Dialect::Podman) => (Landmark::None, 1),
            Format::Estargz => (Landmark::NoPrefetch, 1),
            _ => (Landmark::NoPrefetch, 2),
        };
        assert_eq!(upper.landmark, landmark, "{format:?}");
        assert_eq!(done.written.layers, layers);
        let stays = new["layers"][1] == old["layers"][1];
        assert_eq!(stays, layers == 1, "{format:?}");
        // Another order takes the place of the first one.
        optimize(&dir("to"), &dir("next"), &order(&["opt/own"])).unwrap();
        let next = manifest(&dir("next"));
        let lower = table(&dir("next"), &next["layers"][0]);
        assert_eq!(lower.landmark, Landmark::NoPrefetch);
        let upper = by_place(&table(&dir("next"), &next["layers"][1]));
        assert_eq!(upper[0], ("opt/own".to_owned(), true));
        assert_eq!(checked(layout.path(), &dir("next")).findings, [""; 0]);
    }
}

#[test]
fn what_cannot_be_moved_stays() {
    let layout = Layout::new();
    let (lower, upper) = (lower().finish(), odd().finish());
    layout.index(&[layout.image("amd64", &[&lower, &upper])]);
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    convert(layout.path(), &from, Format::Estargz);
    let paths = ["twice", "again", "usr/lib/through", "opt/own"];
    let done = optimize(&from, &to, &order(&paths)).unwrap();
    assert_eq!(done.files, 1);
    let notes = done.written.notes.join("\n");
    assert!(notes.contains("3 files of the order stay"), "{notes}");
    assert_eq!(checked(&from, &to).findings, [""; 0]);
    let new = manifest(&to);
    let archive = gunzip(&blob(&to, &new["layers"][1]));
    assert_eq!(
        names(&archive),
        [
            "opt/",
            "opt/own",
            ".prefetch.landmark",
            "usr/",
            "usr/lib/",
            "usr/lib/replaced",
            "usr/lib/.wh.hidden",
            "opt/.wh..wh..opq",
            "twice",
            "twice",
            ".wh.again",
            "again",
            "way",
            "way/through",
            "stargz.index.json",
        ]
    );
}

#[test]
fn global_headers_keep_the_order() {
    let layout = Layout::new();
    let mut tar = Tar::default();
    tar.file("before", &noise(1000));
    tar.global(&[("comment", b"for all that comes")]);
    tar.file("behind", &noise(1000));
    layout.index(&[layout.image("amd64", &[&tar.finish()])]);
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    convert(layout.path(), &from, Format::Estargz);
    let done = optimize(&from, &to, &order(&["behind"])).unwrap();
    assert_eq!((done.files, done.written.images), (0, 1));
    let new = manifest(&to);
    assert_eq!(table(&to, &new["layers"][0]).landmark, Landmark::NoPrefetch);
    assert_eq!(checked(&from, &to).findings, [""; 0]);
}

#[test]
fn a_nydus_image_gets_a_table_and_keeps_its_blobs() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    for (number, compression) in [ChunkCompression::Zstd, ChunkCompression::None]
        .into_iter()
        .enumerate()
    {
        let dir = |name: &str| place.path().join(format!("{name}-{number}"));
        let (from, to) = (dir("from"), dir("to"));
        let format = Format::Nydus(Nydus {
            compression,
            ..Nydus::default()
        });
        convert(layout.path(), &from, format);
        let paths = [
            &WANTED[..],
            &["usr/bin/tool", "bin/first", "usr", "opt/own"],
        ]
        .concat();
        let done = optimize(&from, &to, &order(&paths)).unwrap();
        assert_eq!((done.written.images, done.written.layers), (1, 1));
        // One of them has two names in the order.
        assert_eq!(done.files, 5);
        for old in [layout.path(), &from] {
            assert_eq!(checked(old, &to).findings, [""; 0]);
        }
        let (before, image) = (nydus_image(&from), nydus_image(&to));
        assert!(before.prefetch.is_empty());
        let first = image.prefetch.iter();
        let first = first.map(|id| path_of(&image.tree, id.index()));
        let first: Vec<String> = first.collect();
        assert_eq!(
            first,
            [
                "usr/lib/b.so",
                "usr/bin/alias",
                "usr/lib/replaced",
                "opt/own"
            ]
        );
        assert_eq!(image.chunks, before.chunks);
        // Nothing but the table and where it is.
        let (mut old, mut new) = (bootstrap(&from), bootstrap(&to));
        assert_eq!(new.len(), old.len() + 4096);
        new.truncate(old.len());
        for bytes in [&mut old, &mut new] {
            bytes[1024 + 128 + 40..1024 + 128 + 52].fill(0);
        }
        assert!(old == new);
        let (old, new) = (manifest(&from), manifest(&to));
        let layers = |manifest: &Value| manifest["layers"].as_array().unwrap().clone();
        let (old, new) = (layers(&old), layers(&new));
        assert_eq!(old[..old.len() - 1], new[..new.len() - 1]);
        assert_ne!(old.last(), new.last());
        assert_eq!(
            old.last().unwrap()["annotations"],
            new.last().unwrap()["annotations"]
        );
    }
    // They cannot get chunks of another size.
    let how = Optimize {
        chunk_bytes: Some(1 << 20),
        ..Optimize::default()
    };
    let (from, to) = (place.path().join("from-0"), place.path().join("none"));
    let refused = optimize_as(&from, &to, &order(&WANTED), &how);
    assert!(matches!(refused, Err(Error::Option(_))), "{refused:?}");
}

/// Chunks of the layer `number` of an image with tables, those of each file together.
fn chunks_of(layout: &Path, number: usize, path: &str) -> Vec<(u32, u32)> {
    let layer = table(layout, &manifest(layout)["layers"][number]);
    let node = layer.tree.node(layer.tree.find(path.as_bytes()).unwrap());
    let Kind::File { data_offset } = node.kind else {
        panic!("{path} is no file");
    };
    let chunks = layer.chunks.chunks().iter().zip(0..);
    let own = chunks
        .filter(|(chunk, _)| (data_offset..data_offset + node.size).contains(&chunk.data_offset));
    own.map(|(_, index)| (number as u32, index)).collect()
}

/// What the daemon would have recorded of the image in `layout`.
fn recorded(layout: &Path, chunks: Vec<(u32, u32)>) -> Recorded {
    let manifest = manifest(layout);
    let layers = manifest["layers"].as_array().unwrap();
    let digest = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let keys = layers.iter().map(|layer| {
        let annotations = &layer["annotations"];
        let toc = [
            "containerd.io/snapshot/stargz/toc.digest",
            "io.github.containers.zstd-chunked.manifest-checksum",
        ];
        let toc = toc.iter().find_map(|key| annotations.get(key)).unwrap();
        (digest(&layer["digest"]), digest(toc))
    });
    Recorded {
        image: "localhost/app:1".to_owned(),
        layers: keys.collect(),
        chunks,
    }
}

#[test]
fn a_recording_of_one_form_is_good_for_every_other() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let started = place.path().join("started");
    convert(layout.path(), &started, Format::Estargz);
    let chunks = [
        chunks_of(&started, 0, "usr/lib/b.so"),
        chunks_of(&started, 1, "opt/own"),
        // One of its two.
        chunks_of(&started, 0, "usr/bin/tool")[..1].to_vec(),
        chunks_of(&started, 0, "usr/lib/b.so"),
        // What is not there.
        vec![(0, 10_000), (7, 0)],
    ];
    let recorded = recorded(&started, chunks.concat());
    let order = of_recorded(&recorded, &started).unwrap();
    let expected = self::order(&["usr/lib/b.so", "opt/own", "usr/bin/alias"]);
    assert_eq!(order, expected);
    for (number, format) in (TABLES.into_iter())
        .chain([Format::Nydus(Nydus::default())])
        .enumerate()
    {
        let dir = |name: &str| place.path().join(format!("{name}-{number}"));
        convert(layout.path(), &dir("from"), format);
        let done = optimize(&dir("from"), &dir("to"), &order).unwrap();
        assert_eq!(done.files, 3, "{format:?}");
    }
    // And the other way round.
    let nydus = place.path().join("from-3");
    let image = nydus_image(&nydus);
    let node = image.tree.node(image.tree.find(b"usr/lib/b.so").unwrap());
    let Kind::File { data_offset } = node.kind else {
        panic!("it is no file");
    };
    let chunk = (image.chunks.iter()).position(|chunk| chunk.data_offset == data_offset);
    let last = manifest(&nydus)["layers"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()["digest"]
        .clone();
    let recorded = Recorded {
        image: String::new(),
        layers: vec![(
            last.as_str().unwrap().parse().unwrap(),
            Digest::of(b"blobs"),
        )],
        chunks: vec![(0, chunk.unwrap() as u32)],
    };
    let order = of_recorded(&recorded, &nydus).unwrap();
    assert_eq!(order, self::order(&["usr/lib/b.so"]));
}

#[test]
fn a_recording_of_another_image_is_refused() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let started = place.path().join("started");
    convert(layout.path(), &started, Format::Estargz);
    let good = recorded(&started, vec![(0, 0)]);
    let refused = of_recorded(&good, layout.path()).unwrap_err();
    assert!(matches!(refused, Error::Order(_)), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("--recorded-on"), "{said}");
    // The same blob with another table of contents.
    let mut other = good.clone();
    other.layers[0].1 = Digest::of(b"another");
    let said = of_recorded(&other, &started).unwrap_err().to_string();
    assert!(said.contains("table of contents"), "{said}");
    // Layers that are gone are named.
    let mut partly = good;
    partly.layers[1].0 = Digest::of(b"gone");
    let order = of_recorded(&partly, &started).unwrap();
    let to = place.path().join("to");
    let done = optimize(&started, &to, &order).unwrap();
    let notes = done.written.notes.join("\n");
    assert!(notes.contains("1 of the 2 layers"), "{notes}");
}

#[test]
fn large_files_of_which_little_was_read_do_not_come_first() {
    let layout = Layout::new();
    let mut tar = Tar::default();
    tar.file("small", &noise(4 << 20));
    tar.file("large", &noise(5 << 20));
    layout.index(&[layout.image("amd64", &[&tar.finish()])]);
    let place = tempfile::tempdir().unwrap();
    let started = place.path().join("started");
    convert(layout.path(), &started, Format::Estargz);
    let (small, large) = (
        chunks_of(&started, 0, "small"),
        chunks_of(&started, 0, "large"),
    );
    let read = |large: &[(u32, u32)]| {
        let chunks = [large, &small[..1]].concat();
        let recorded = recorded(&started, chunks);
        of_recorded(&recorded, &started).unwrap()
    };
    let order = read(&large[..1]);
    assert_eq!(order.len(), 1);
    let done = optimize(&started, &place.path().join("to"), &order).unwrap();
    let notes = done.written.notes.join("\n");
    assert!(notes.contains("1 large files are left out"), "{notes}");
    // More than half of it, or but 4 MiB.
    assert_eq!(read(&large[..17]).len(), 2);
    assert_eq!(read(&large).len(), 2);
}

#[test]
fn what_has_nothing_of_the_order_stays_as_it_is() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("to");
    // No layer of it is lazy.
    let refused = optimize(layout.path(), &to, &order(&["usr/bin/first"])).unwrap_err();
    assert!(
        refused.to_string().contains("convert the image first"),
        "{refused}"
    );
    assert!(!to.exists(), "nothing is left");
    for (number, format) in [Format::Estargz, Format::Nydus(Nydus::default())]
        .into_iter()
        .enumerate()
    {
        let from = place.path().join(format!("from-{number}"));
        convert(layout.path(), &from, format);
        let refused = optimize(&from, &to, &order(&["usr/lib/hidden", "bin/first"]));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Order(_)), "{refused:?}");
        assert!(
            refused.to_string().contains("none of the 2 files"),
            "{refused}"
        );
        assert!(!to.exists());
    }
    // Of two images, one has it: the other one is copied, and stays what it was.
    let both = Layout::new();
    let other = {
        let mut tar = Tar::default();
        tar.file("other", b"other");
        tar.finish()
    };
    let (lower, upper) = (lower().finish(), upper().finish());
    both.index(&[
        both.image("amd64", &[&lower, &upper]),
        both.image("arm64", &[&other]),
    ]);
    let from = place.path().join("both");
    convert(both.path(), &from, Format::Estargz);
    let done = optimize(&from, &to, &order(&["usr/bin/first"])).unwrap();
    assert_eq!((done.written.images, done.written.notes.len()), (1, 1));
    assert_eq!(index(&to)["manifests"][1], index(&from)["manifests"][1]);
    assert_eq!(checked(&from, &to).findings, [""; 0]);
}

#[test]
fn chunks_have_the_size_that_they_had_unless_another_is_asked_for() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    convert(layout.path(), &from, Format::Estargz);
    let order = order(&["usr/bin/first"]);
    optimize(&from, &to, &order).unwrap();
    let chunks = |layout: &Path| {
        let layer = table(layout, &manifest(layout)["layers"][0]);
        let mut digests: Vec<String> = (layer.chunks.chunks().iter())
            .map(|chunk| chunk.digest().to_string())
            .collect();
        digests.sort();
        digests
    };
    assert_eq!(chunks(&to), chunks(&from));
    let large = place.path().join("large");
    let how = Optimize {
        chunk_bytes: Some(1 << 20),
        ..Optimize::default()
    };
    optimize_as(&from, &large, &order, &how).unwrap();
    assert!(chunks(&large).len() < chunks(&from).len());
    let how = Optimize {
        level: Some(99),
        ..Optimize::default()
    };
    let none = place.path().join("none");
    let refused = optimize_as(&from, &none, &order, &how).unwrap_err();
    assert!(refused.to_string().contains("level 99"), "{refused}");
    assert!(!none.exists());
}

#[test]
fn it_tells_how_far_it_is_and_can_be_stopped() {
    let layout = sample();
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    convert(layout.path(), &from, Format::Estargz);
    let plan = plan(&from).unwrap();
    let sizes: Vec<u64> = plan.sizes().collect();
    let reached = Mutex::new(vec![0; sizes.len()]);
    let watch = |blob: usize, offset: u64| {
        let mut reached = reached.lock().unwrap();
        assert!(offset >= reached[blob], "it never goes back");
        reached[blob] = offset;
    };
    let order = order(&["usr/bin/first", "opt/own"]);
    let target = NewLayout::create(&to, None).unwrap();
    plan.optimize(&target, &order, &Optimize::default(), &watch)
        .unwrap();
    // The configuration is another one, and was read before.
    assert_eq!(reached.lock().unwrap()[1..], sizes[1..]);
    let cancel = AtomicBool::new(true);
    let how = Optimize {
        cancel: Some(&cancel),
        ..Optimize::default()
    };
    let other = place.path().join("other");
    let stopped = optimize_as(&from, &other, &order, &how);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert!(!other.exists());
}
