use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Blob, Sealed, gzip, layer_of, layer_with, noise, tar, tar_header, zstd};
use crate::{Chunk, ChunkTableRef, Kind, NodeId, Time, parse_annotations};

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

type Seal = fn(&Blob) -> Sealed;

const SEALS: [(TocKind, Seal); 5] = [
    (TocKind::TarGzip, Blob::estargz),
    (TocKind::TarGzip, Blob::stargz),
    (TocKind::TarGzip, Blob::external),
    (TocKind::Zstd, Blob::zstd_chunked),
    (TocKind::Zstd, Blob::podman),
];

fn parse(
    kind: TocKind,
    toc: &[u8],
    digest: &TocDigest,
    limits: &Limits,
) -> Result<Layer, FormatError> {
    parse_toc(kind, toc, 1 << 26, digest, OpaqueXattr::Trusted, limits)
}

/// A blob with a file of every type.
fn blob_of_everything(kind: TocKind, small: &[u8], large: &[u8]) -> Blob {
    let mut blob = Blob::new(kind);
    blob.entry(
        json!({"name": "dir/", "type": "dir", "mode": 0o1777, "uid": 5, "gid": 6,
        "modtime": "2026-11-24T00:00:00Z", "userName": "u", "groupName": "g",
        "xattrs": {"user.x": "AAEC", "user.empty": ""}}),
    );
    blob.file("dir/small", small, 4096);
    blob.file("dir/large", large, 4096);
    blob.file("empty", b"", 4096);
    blob.shared(&[("one", b"1"), ("two", small), ("three", b"333")]);
    blob.entry(json!({"name": "hard", "type": "hardlink", "linkName": "./dir/large"}));
    blob.entry(json!({"name": "sym", "type": "symlink", "linkName": "dir/small", "mode": 0o777}));
    blob.entry(json!({"name": "char", "type": "char", "devMajor": 1, "devMinor": 3}));
    blob.entry(json!({"name": "block", "type": "block", "devMajor": 8, "devMinor": 300}));
    blob.entry(json!({"name": "fifo", "type": "fifo", "mode": 0o600}));
    blob.entry(json!({"name": "dir/.wh.gone", "type": "reg"}));
    blob.entry(json!({"name": "stargz.index.json", "type": "reg"}));
    blob
}

#[test]
fn every_format_reads_the_same() {
    let (small, large) = (noise(1, 100), noise(2, 50_000));
    for (kind, seal) in SEALS {
        let blob = blob_of_everything(kind, &small, &large);
        let sealed = seal(&blob);
        let layer = sealed.layer().unwrap();
        assert_eq!(layer.entries as usize, blob.entries.len());
        for (path, content) in [
            ("dir/small", &small[..]),
            ("dir/large", &large),
            ("hard", &large),
            ("empty", b""),
            ("one", b"1"),
            ("two", &small),
            ("three", b"333"),
        ] {
            assert_eq!(
                sealed.content(&layer, path),
                content,
                "{path} of {:?}",
                sealed.tail()
            );
        }
        let tree = &layer.tree;
        let node = |path: &str| tree.node(tree.find(path.as_bytes()).unwrap());
        let dir = node("dir");
        assert_eq!((dir.mode, dir.uid, dir.gid), (0o1777, 5, 6));
        assert_eq!(
            dir.mtime,
            Time {
                seconds: 1_795_478_400,
                nanoseconds: 0
            }
        );
        let xattrs = [
            (b"user.empty".to_vec(), vec![]),
            (b"user.x".to_vec(), vec![0, 1, 2]),
        ];
        assert_eq!(dir.xattrs(), xattrs);
        assert_eq!(node("hard").links, 2);
        assert_eq!(node("sym").kind, Kind::Symlink(b"dir/small"));
        assert_eq!(node("char").kind, Kind::CharDevice { major: 1, minor: 3 });
        assert_eq!(
            node("block").kind,
            Kind::BlockDevice {
                major: 8,
                minor: 300
            }
        );
        assert_eq!(node("fifo").kind, Kind::Fifo);
        assert_eq!(
            node("dir/gone").kind,
            Kind::CharDevice { major: 0, minor: 0 }
        );
        assert_eq!(tree.find(b"stargz.index.json"), None);
        assert_eq!(tree.implied(), [(vec![], NodeId::ROOT)]);
        assert_eq!(layer.landmark, Landmark::None);
    }
}

#[test]
fn annotations_lead_to_the_same_table_as_the_footer() {
    for seal in [Blob::zstd_chunked, Blob::podman] {
        let mut blob = Blob::new(TocKind::Zstd);
        blob.file("a", b"content", 100);
        let sealed = seal(&blob);
        let annotated =
            parse_annotations(&sealed.annotations, sealed.size(), &Limits::default()).unwrap();
        let place = annotated.place.unwrap();
        assert_eq!(Some(&place), sealed.tail().place());
        let toc = &sealed.bytes[place.range.start as usize..place.range.end as usize];
        let digest = annotated.digest.unwrap();
        assert!(matches!(digest, TocDigest::Compressed(_)));
        assert!(parse(TocKind::Zstd, toc, &digest, &Limits::default()).is_ok());
    }
}

#[test]
fn one_inflation_yields_all_that_share_a_member() {
    let files = [
        ("a", noise(1, 5000)),
        ("b", noise(2, 3)),
        ("c", noise(3, 9000)),
    ];
    let mut blob = Blob::new(TocKind::TarGzip);
    blob.file("before", b"x", 10);
    let shared: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, data)| (*name, &data[..]))
        .collect();
    blob.shared(&shared);
    let sealed = blob.estargz();
    let table = sealed.layer().unwrap().chunks.encode();
    let table = ChunkTableRef::open(&table).unwrap();
    assert_eq!(table.same_member(0), 0..1);
    assert_eq!(table.same_member(2), 1..4);
    let chunk = table.get(2).unwrap();
    let bytes = &sealed.bytes[chunk.blob_offset as usize..chunk.blob_end() as usize];
    assert_eq!(chunk.blob_end(), sealed.tail().payload_end());
    let mut member = crate::Member::new(table.compression(), bytes);
    for (index, (_, content)) in (1..4).zip(&files) {
        let chunk = table.get(index).unwrap();
        assert_eq!(
            member.chunk(chunk.inner_offset, chunk.length).unwrap(),
            content
        );
    }
}

#[test]
fn data_is_laid_out_in_the_order_of_the_table() {
    let reg = |name: &str, offset: u64, size: u64| json!({"name": name, "type": "reg", "offset": offset, "size": size, "digest": SHA});
    let layer = layer_with(json!([
        reg("z", 100, 4097),
        reg("replaced", 200, 5000),
        reg(".prefetch.landmark", 300, 1),
        reg("a", 400, 1),
        {"name": "replaced", "type": "fifo"},
        reg("b", 600, 4096),
        {"name": "c", "type": "hardlink", "linkName": "z"},
    ]))
    .unwrap();
    let places: Vec<(u64, u32, u64, u32)> = layer
        .chunks
        .chunks()
        .iter()
        .map(|chunk| {
            (
                chunk.data_offset,
                chunk.length,
                chunk.blob_offset,
                chunk.blob_length.min(1000),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (0, 4097, 100, 100),
            (8192, 1, 400, 200),
            (12288, 4096, 600, 1000)
        ]
    );
    assert_eq!(layer.chunks.data_size(), 16384);
    let offset = |path: &[u8]| layer.tree.node(layer.tree.find(path).unwrap()).kind;
    assert_eq!(offset(b"b"), Kind::File { data_offset: 12288 });
    assert_eq!(offset(b"c"), Kind::File { data_offset: 0 });
    let prefetch = Landmark::Prefetch {
        blob_offset: 300,
        data_offset: 8192,
    };
    assert_eq!(layer.landmark, prefetch);
    assert_eq!(layer.tree.find(b".prefetch.landmark"), None);
}

#[test]
fn landmarks_count_only_in_the_root() {
    let layer = |name: &str| {
        layer_with(json!([{"name": name, "type": "reg", "size": 1, "offset": 5, "digest": SHA}]))
            .unwrap()
    };
    assert_eq!(
        layer("./.no.prefetch.landmark").landmark,
        Landmark::NoPrefetch
    );
    assert_eq!(
        layer("/.prefetch.landmark").landmark,
        Landmark::Prefetch {
            blob_offset: 5,
            data_offset: 0
        }
    );
    let deep = layer("a/.no.prefetch.landmark");
    assert_eq!((deep.landmark, deep.chunks.len()), (Landmark::None, 1));
    let both = layer_with(json!([
        {"name": ".no.prefetch.landmark", "type": "reg"},
        {"name": ".prefetch.landmark", "type": "reg"},
    ]));
    assert_eq!(both.unwrap().landmark, Landmark::NoPrefetch);
}

/// containers/storage: zeros are chunks of their own, and a file says where its data ends.
#[test]
fn zeros_are_not_fetched() {
    let layer = layer_with(json!([
        {"name": "a", "type": "reg", "size": 200_000_010_u64, "offset": 100, "endOffset": 400,
            "chunkSize": 5, "chunkDigest": SHA},
        {"name": "a", "type": "chunk", "offset": 200, "chunkOffset": 5, "chunkSize": 200_000_000,
            "chunkType": "zeros", "chunkDigest": SHA},
        {"name": "a", "type": "chunk", "offset": 300, "chunkOffset": 200_000_005_u64, "chunkSize": 5,
            "chunkDigest": SHA},
    ]))
    .unwrap();
    let chunks = layer.chunks.chunks();
    let of = |chunk: &Chunk| (chunk.data_offset, chunk.length, chunk.blob_length);
    assert_eq!(of(&chunks[0]), (0, 5, 100));
    assert_eq!(of(&chunks[4]), (200_000_005, 5, 100));
    let max = Limits::default().chunk_bytes_max;
    assert_eq!(of(&chunks[1]), (5, max, 0));
    assert_eq!(
        of(&chunks[3]),
        (5 + 2 * u64::from(max), 200_000_000 - 2 * max, 0)
    );
    let unknown = layer_with(json!([
        {"name": "a", "type": "reg", "size": 5, "offset": 100, "digest": SHA, "chunkType": "ones"},
    ]));
    assert!(matches!(unknown, Err(FormatError::Entry { .. })));
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let sha512 = format!("sha512:{}", "0".repeat(128));
    for (chunk, file) in [
        ("", ""),
        (&sha512, SHA),
        ("", &sha512),
        ("x", SHA),
        ("sha256:", SHA),
    ] {
        let layer = layer_with(json!([
            {"name": "a", "type": "reg", "size": 5, "offset": 9, "digest": file, "chunkDigest": chunk},
        ]));
        assert!(
            matches!(layer, Err(FormatError::Unverifiable { .. })),
            "{chunk} {file}"
        );
    }
    // The digest of a file is not that of its first chunk.
    let layer = layer_with(json!([
        {"name": "a", "type": "reg", "size": 5, "offset": 9, "digest": SHA, "chunkSize": 3},
        {"type": "chunk", "offset": 99, "chunkOffset": 3, "digest": SHA},
    ]));
    assert!(matches!(layer, Err(FormatError::Unverifiable { .. })));
}

#[test]
fn what_would_come_out_wrong_is_refused() {
    let reg = |name: &str, offset: u64, inner: u64| {
        json!({"name": name, "type": "reg", "size": 10, "offset": offset, "innerOffset": inner,
            "digest": SHA})
    };
    let kept = json!([reg("a", 100, 0), reg("b", 100, 10), reg("c", 200, 0)]);
    assert!(layer_with(kept).is_ok());
    // Two members in turn: each would be inflated again for each chunk.
    let turns = json!([reg("a", 100, 0), reg("b", 200, 0), reg("c", 100, 10)]);
    assert!(layer_with(turns).is_err());
    // chown takes it for "as it is".
    let nobody = json!([{"name": "a", "type": "dir", "uid": u32::MAX}]);
    assert!(layer_with(nobody).is_err());
    // What Go's encoder makes of Latin-1.
    assert!(layer_with(json!([reg("caf\u{e9}", 100, 0)])).is_ok());
    assert!(layer_with(json!([reg("caf\u{fffd}", 100, 0)])).is_err());
    let link = json!([{"name": "a", "type": "symlink", "linkName": "caf\u{fffd}"}]);
    assert!(layer_with(link).is_err());
}

#[test]
fn entries_that_lie_are_refused() {
    let max = u64::MAX;
    let reg = |more: Value| {
        let mut entry = json!({"name": "a", "type": "reg", "size": 10, "offset": 100, "digest": SHA,
            "chunkDigest": SHA});
        for (key, value) in more.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    };
    let chunk = |offset: u64, chunk_offset: u64, size: u64| {
        json!({"type": "chunk", "offset": offset, "chunkOffset": chunk_offset, "chunkSize": size,
            "chunkDigest": SHA})
    };
    let first = || reg(json!({"chunkSize": 4}));
    for entries in [
        // Sizes.
        json!([reg(json!({"size": max}))]),
        json!([reg(json!({"size": 1_u64 << 41}))]),
        json!([reg(json!({"size": (64 << 20) + 1}))]),
        json!([reg(json!({"chunkSize": 11}))]),
        json!([reg(json!({"chunkSize": max}))]),
        json!([reg(json!({"size": -1}))]),
        json!([reg(json!({"size": 1.5}))]),
        // Offsets beyond the blob, and in a stream that is too long.
        json!([reg(json!({"offset": 1_u64 << 40}))]),
        json!([reg(json!({"offset": max}))]),
        json!([reg(json!({"innerOffset": max}))]),
        json!([reg(json!({"innerOffset": 256 << 20}))]),
        // Chunks that overlap, leave something out, or are too much.
        json!([first()]),
        json!([first(), chunk(200, 4, 5)]),
        json!([first(), chunk(200, 3, 7)]),
        json!([first(), chunk(200, 5, 5)]),
        json!([first(), chunk(200, 4, 7)]),
        json!([first(), chunk(200, 4, max)]),
        json!([first(), chunk(200, max, 1)]),
        json!([first(), chunk(200, 4, 6), chunk(300, 10, 0)]),
        json!([reg(json!({"chunkOffset": 1}))]),
        json!([chunk(100, 0, 5)]),
        json!([{"name": "a", "type": "dir"}, chunk(100, 0, 5)]),
        json!([reg(json!({"size": 0})), chunk(100, 0, 5)]),
        json!([first(), {"name": "b", "type": "dir"}, chunk(200, 4, 6)]),
        // Two chunks at the same place.
        json!([first(), chunk(100, 4, 6)]),
        json!([reg(json!({})), reg(json!({"name": "b"}))]),
        json!([reg(json!({})), reg(json!({"name": "b", "innerOffset": 9}))]),
        json!([
            reg(json!({"innerOffset": 20})),
            reg(json!({"name": "b", "innerOffset": 5}))
        ]),
        // Attributes.
        json!([reg(json!({"uid": 1_u64 << 32}))]),
        json!([reg(json!({"gid": -1}))]),
        json!([reg(json!({"xattrs": {"": "AA=="}}))]),
        json!([reg(json!({"xattrs": {"user.\u{0}": "AA=="}}))]),
        json!([reg(json!({"xattrs": {"user.a": "?"}}))]),
        json!([reg(json!({"xattrs": {"user.a": "A".repeat(100_000)}}))]),
        json!([{"name": "a", "type": "char", "devMajor": max}]),
        // Types.
        json!([{"name": "a", "type": "socket"}]),
        json!([{"name": "a", "type": ""}]),
        json!([{"name": "a"}]),
        json!([{"name": "a", "type": "symlink"}]),
        json!([{"name": "a", "type": "hardlink", "linkName": "a"}]),
        json!([{"name": "a", "type": "hardlink", "linkName": "none"}]),
        json!([[]]),
        json!([null]),
        json!({}),
        json!("x"),
    ] {
        let layer = layer_with(entries.clone());
        assert!(layer.is_err(), "{entries}");
    }
    assert!(layer_with(json!([first(), chunk(200, 4, 6)])).is_ok());
    let siblings = json!([reg(json!({})), reg(json!({"name": "b", "innerOffset": 10}))]);
    assert!(layer_with(siblings).is_ok());
}

#[test]
fn the_table_as_a_whole_must_make_sense() {
    for (json, good) in [
        ("{}", true),
        (r#"{"version":1,"entries":null}"#, true),
        (
            r#" {"other":[{"a":[1,2]}],"entries":[],"version":1,"tarSplitDigest":"x"} "#,
            true,
        ),
        ("", false),
        ("[]", false),
        ("null", false),
        (r#"{"version":2,"entries":[]}"#, false),
        (r#"{"version":"1","entries":[]}"#, false),
        (r#"{"entries":[],"entries":[]}"#, false),
        (r#"{"entries":[]"#, false),
        (r#"{"entries":[]}{}"#, false),
        (
            r#"{"entries":[{"name":"a","type":"dir","name":"b"}]}"#,
            false,
        ),
        ("{\"entries\":[{\"name\":\"\u{0}\"}]}", false),
    ] {
        assert_eq!(layer_of(json.as_bytes(), 0).is_ok(), good, "{json}");
    }
    assert!(layer_of(b"{\"entries\":[{\"name\":\"\xff\",\"type\":\"dir\"}]}", 0).is_err());
    let deep = format!("{}{}", r#"{"x":"#, "[".repeat(1_000_000));
    assert!(layer_of(deep.as_bytes(), 0).is_err());
}

#[test]
fn another_table_than_the_manifests_is_refused_before_it_is_parsed() {
    for (kind, seal) in SEALS {
        let mut blob = Blob::new(kind);
        blob.entry(json!({"name": "a", "type": "nonsense"}));
        let mut sealed = seal(&blob);
        assert!(matches!(sealed.layer(), Err(FormatError::Entry { .. })));
        let wrong = Digest::of(b"something else");
        for digest in [TocDigest::Json(wrong.clone()), TocDigest::Compressed(wrong)] {
            sealed.digest = digest;
            assert!(matches!(sealed.layer(), Err(FormatError::Digest(_))));
        }
    }
}

#[test]
fn a_table_that_is_wrapped_wrongly_is_refused() {
    let json = br#"{"version":1,"entries":[]}"#;
    let digest = TocDigest::Json(Digest::of(json));
    let good = tar("stargz.index.json", json);
    let mut checksum = good.clone();
    checksum[150] ^= 1;
    let mut size = good.clone();
    size[124] = b'x';
    let mut extended = tar_header("pax", b'x', 700).to_vec();
    extended.resize(512 + 1024, b'p');
    let limits = Limits::default();
    let with_pax = gzip(&[&extended, good.as_slice()].concat());
    assert!(parse(TocKind::TarGzip, &with_pax, &digest, &limits).is_ok());
    assert!(parse(TocKind::TarGzip, &gzip(&good), &digest, &limits).is_ok());
    for archive in [
        vec![],
        good[..500].to_vec(),
        good[..520].to_vec(),
        vec![0; 1024],
        tar("other.json", json),
        tar_header("stargz.index.json", b'5', 0).to_vec(),
        tar_header("stargz.index.json", b'0', 1 << 31).to_vec(),
        extended.repeat(6),
        checksum,
        size,
    ] {
        assert!(parse(TocKind::TarGzip, &gzip(&archive), &digest, &limits).is_err());
    }
    let packed = gzip(&good);
    assert!(parse(TocKind::TarGzip, &good, &digest, &limits).is_err());
    assert!(
        parse(
            TocKind::TarGzip,
            &packed[..packed.len() / 2],
            &digest,
            &limits
        )
        .is_err()
    );
    assert!(parse(TocKind::Zstd, &packed, &digest, &limits).is_err());
    assert!(parse(TocKind::TarGzip, &zstd(&good), &digest, &limits).is_err());
    assert!(parse(TocKind::Zstd, &zstd(json), &digest, &limits).is_ok());
    let cut = zstd(json);
    assert!(parse(TocKind::Zstd, &cut[..cut.len() - 1], &digest, &limits).is_err());
}

#[test]
fn a_bomb_is_not_inflated() {
    let limits = Limits {
        toc_json_bytes_max: 1 << 20,
        ..Limits::default()
    };
    let mut json = br#"{"version":1,"entries":[]}"#.to_vec();
    json.resize((1 << 20) + 1, b' ');
    let json_digest = TocDigest::Json(Digest::of(&json));
    let in_tar = gzip(&tar("stargz.index.json", &json));
    let error = parse(TocKind::TarGzip, &in_tar, &json_digest, &limits).unwrap_err();
    assert!(matches!(error, FormatError::TooLarge { .. }), "{error}");
    let packed = zstd(&json);
    for digest in [json_digest, TocDigest::Compressed(Digest::of(&packed))] {
        assert!(parse(TocKind::Zstd, &packed, &digest, &limits).is_err());
        assert!(parse(TocKind::Zstd, &packed, &digest, &Limits::default()).is_ok());
    }
    let bomb = zstd(&vec![b' '; 64 << 20]);
    let digest = TocDigest::Compressed(Digest::of(&bomb));
    assert!(parse(TocKind::Zstd, &bomb, &digest, &limits).is_err());
    let small = Limits {
        toc_bytes_max: 10,
        ..Limits::default()
    };
    assert!(matches!(
        parse(TocKind::Zstd, &packed, &digest, &small),
        Err(FormatError::TooLarge { .. })
    ));
}

#[test]
fn what_parsing_will_take_is_known_before() {
    let json = br#"{"version":1,"entries":[]}"#;
    let bytes = json.len() as u64;
    let tables = [
        (TocKind::TarGzip, gzip(&tar("stargz.index.json", json))),
        (TocKind::Zstd, zstd(json)),
    ];
    for (kind, toc) in tables {
        let count = |limits: &Limits| toc_json_bytes(kind, &toc, limits);
        assert_eq!(count(&Limits::default()).unwrap(), bytes);
        let packed = Limits {
            toc_bytes_max: toc.len() as u64 - 1,
            ..Limits::default()
        };
        assert!(count(&packed).is_err());
        let inflated = Limits {
            toc_json_bytes_max: bytes - 1,
            ..Limits::default()
        };
        assert!(count(&inflated).is_err());
        assert!(toc_json_bytes(kind, &toc[..toc.len() / 2], &Limits::default()).is_err());
    }
}

/// Large tables are not kept in memory, but parsed as they are inflated.
#[test]
fn a_large_table_reads_as_a_small_one() {
    let entry = |number: usize| {
        json!({"name": format!("d{}/{number}", number % 100), "type": "reg", "size": 1,
            "offset": number + 1, "digest": SHA, "userName": "\\\""})
    };
    let entries: Vec<Value> = (0..2000).map(entry).collect();
    let json = json!({"version": 1, "entries": entries}).to_string();
    let limits = Limits {
        toc_held_bytes_max: 1000,
        ..Limits::default()
    };
    let parse = |json: &str, limits: &Limits| {
        let packed = zstd(json.as_bytes());
        let digest = TocDigest::Compressed(Digest::of(&packed));
        let layer = parse(TocKind::Zstd, &packed, &digest, limits)?;
        let digest = TocDigest::Json(Digest::of(json.as_bytes()));
        let other = super::tests::parse(TocKind::Zstd, &packed, &digest, limits)?;
        assert_eq!(layer.chunks, other.chunks);
        Ok::<Layer, FormatError>(layer)
    };
    let layer = parse(&json, &limits).unwrap();
    assert_eq!(
        (layer.entries, layer.chunks.len(), layer.tree.len()),
        (2000, 2000, 2101)
    );
    let held = parse(&json, &Limits::default()).unwrap();
    assert_eq!(layer.chunks, held.chunks);
    let few = Limits {
        entries_max: 1999,
        ..limits.clone()
    };
    let error = parse(&json, &few).unwrap_err();
    assert!(
        matches!(error, FormatError::TooLarge { limit: 1999, .. }),
        "{error}"
    );
    let more = format!(r#",{{"name":"{}"}}],"version""#, "x".repeat(200_000));
    let long = json.replace(r#"],"version""#, &more);
    let error = parse(&long, &limits).unwrap_err();
    assert!(
        error.to_string().contains("a string of more than"),
        "{error}"
    );
    assert!(parse(&json[..json.len() - 1], &limits).is_err());
}

fn any_entry() -> impl Strategy<Value = Value> {
    let number = prop_oneof![Just(0_u64), 1..50_u64, any::<u64>()];
    let kind = prop_oneof![
        4 => Just("reg"), 3 => Just("chunk"), 1 => Just("dir"), 1 => Just("hardlink"),
        1 => Just("symlink"), 1 => Just("char"), 1 => Just("fifo"), 1 => Just("?"),
    ];
    let name = r"(a|b|\.\.|/|\.wh\.|\.prefetch\.landmark){0,4}";
    let digest = prop_oneof![4 => Just(SHA), 1 => Just(""), 1 => Just("sha512:00")];
    let numbers = prop::collection::vec((0_usize..10, number), 0..6);
    (name, kind, name, digest, numbers).prop_map(|(name, kind, link, digest, numbers)| {
        let mut entry =
            json!({"name": name, "type": kind, "linkName": link, "chunkDigest": digest});
        const KEYS: [&str; 10] = [
            "size",
            "offset",
            "innerOffset",
            "chunkOffset",
            "chunkSize",
            "endOffset",
            "uid",
            "mode",
            "devMajor",
            "devMinor",
        ];
        for (key, number) in numbers {
            entry[KEYS[key]] = number.into();
        }
        entry
    })
}

proptest! {
    #[test]
    fn no_entries_make_it_panic(
        entries in prop::collection::vec(any_entry(), 0..12),
        payload_end in prop_oneof![0_u64..100, any::<u64>()],
    ) {
        let json = json!({"version": 1, "entries": entries}).to_string();
        if let Ok(layer) = layer_of(json.as_bytes(), payload_end) {
            let table = layer.chunks.encode();
            let table = ChunkTableRef::open(&table).unwrap();
            for chunk in table.iter() {
                prop_assert!(chunk.blob_end() <= payload_end || chunk.is_zeros());
            }
            for id in layer.tree.ids() {
                let node = layer.tree.node(id);
                if let Kind::File { data_offset } = node.kind {
                    let found = table.find(data_offset..data_offset + node.size);
                    let length: u64 = found.filter_map(|index| table.get(index)).map(|chunk| u64::from(chunk.length)).sum();
                    prop_assert_eq!(length, node.size);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let digest = TocDigest::Compressed(Digest::of(&bytes));
        for kind in [TocKind::TarGzip, TocKind::Zstd] {
            let _ = parse(kind, &bytes, &digest, &Limits::default());
        }
        let _ = layer_of(&bytes, 1000);
    }

    #[test]
    fn files_of_every_size_read_as_they_were(
        files in prop::collection::vec((0_usize..20_000, 1_usize..9000), 1..8),
        format in 0_usize..5,
        share in 0_usize..4,
    ) {
        let (kind, seal) = SEALS[format];
        let mut blob = Blob::new(kind);
        let contents: Vec<(String, Vec<u8>, usize)> = files
            .iter()
            .enumerate()
            .map(|(number, (length, chunk))| (format!("f{number}"), noise(number as u64, *length), *chunk))
            .collect();
        for (number, (name, content, chunk)) in contents.iter().enumerate() {
            if share > 0 && number % (share + 1) == 0 && !content.is_empty() {
                blob.shared(&[(name, content), (&format!("{name}+"), content)]);
            } else {
                blob.file(name, content, *chunk);
            }
        }
        let sealed = seal(&blob);
        let layer = sealed.layer().unwrap();
        for (name, content, _) in &contents {
            prop_assert_eq!(&sealed.content(&layer, name), content);
        }
    }
}
