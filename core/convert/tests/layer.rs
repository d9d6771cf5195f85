//! Layers through the converter and back through the reader that serves them.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};

use pontoon_convert::{Dialect, Error, Format, LayerConverted, Options, convert_layer};
use pontoon_layer::{Digest, Kind, Landmark};
use pontoon_unpack::Expected;
use support::{Tar, gunzip, noise, open, read_back, unzstd};

const FORMATS: [Format; 3] = [
    Format::Estargz,
    Format::ZstdChunked(Dialect::Podman),
    Format::ZstdChunked(Dialect::Stargz),
];

/// Longer than a header's field, and not ASCII.
const PAX_PATH: &str =
    "ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/ü/leaf";

fn options(format: Format) -> Options<'static> {
    Options {
        chunk_bytes: 64 << 10,
        threads: NonZeroUsize::new(2).unwrap(),
        ..Options::new(format)
    }
}

fn convert_with(archive: &[u8], options: &Options<'_>) -> Result<(LayerConverted, Vec<u8>), Error> {
    let mut blob = Vec::new();
    let converted = convert_layer(archive, &mut blob, &Expected::default(), options)?;
    assert_eq!(converted.bytes, blob.len() as u64);
    assert_eq!(converted.digest, Digest::of(&blob));
    assert_eq!(converted.from.digest, Digest::of(archive));
    Ok((converted, blob))
}

fn convert(archive: &[u8], format: Format) -> (LayerConverted, Vec<u8>) {
    convert_with(archive, &options(format)).unwrap()
}

/// One of everything.
fn everything() -> Tar {
    let mut tar = Tar::default();
    tar.directory("etc/", 0o755);
    tar.file("etc/empty", b"");
    tar.file("etc/small", b"small\n");
    tar.file("large", &noise(3 * (64 << 10) + 1234));
    tar.file("even", &noise(2 * (64 << 10)));
    tar.file("zeros", &vec![0; 200_000]);
    tar.link("etc/again", "etc/small");
    tar.symlink("etc/soft", "../etc/small");
    tar.symlink("etc/dangling", &"x".repeat(150));
    tar.device("dev/null", b'3', 1, 3);
    tar.device("dev/sda", b'4', 8, 0);
    tar.device("dev/pipe", b'6', 0, 0);
    tar.file("etc/.wh.gone", b"");
    tar.directory("opaque/", 0o1777);
    tar.file("opaque/.wh..wh..opq", b"");
    tar.pax(&[
        ("mtime", b"1700000000.123456789"),
        ("atime", b"1700000001.5"),
        ("SCHILY.xattr.user.name", b"a\0value=\n"),
        (
            "SCHILY.xattr.security.capability",
            &[1, 0, 0, 2, 0, 4, 0, 0],
        ),
    ]);
    tar.file("etc/attributes", b"capable");
    tar.pax(&[("path", PAX_PATH.as_bytes()), ("uid", b"3000000")]);
    tar.file("cut", b"by pax");
    tar.gnu_long_name(&format!("{}/leaf", "long".repeat(60)));
    tar.file("cut", b"by gnu");
    tar.pax(&[("size", b"70000")]);
    tar.sized("sized by pax", 0, &noise(70_000));
    tar
}

/// What a tree says of each name.
fn listing(layer: &pontoon_layer::Layer) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    layer.tree.walk(|path, id| {
        let node = layer.tree.node(id);
        let xattrs: Vec<(String, &Vec<u8>)> = (node.xattrs().iter())
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value))
            .collect();
        let kind = match node.kind {
            Kind::File { .. } => "file".to_owned(),
            other => format!("{other:?}"),
        };
        lines.insert(
            String::from_utf8(path.to_vec()).unwrap(),
            format!(
                "{kind} {:o} {}:{} {:?} {} {} {xattrs:?}",
                node.mode, node.uid, node.gid, node.mtime, node.size, node.links
            ),
        );
        true
    });
    lines
}

#[test]
fn our_own_reader_reads_everything_back() {
    let tar = everything();
    let archive = tar.finish();
    for format in FORMATS {
        let (converted, blob) = convert(&archive, format);
        let layer = open(&converted, &blob);
        let files = read_back(&layer, &blob);
        for (path, data) in &tar.files {
            let path = path.trim_end_matches('/');
            if path.contains(".wh.") {
                continue;
            }
            assert_eq!(files.get(path), Some(data), "{format:?} {path}");
        }
        let lines = listing(&layer);
        let line = |path: &str| {
            lines
                .get(path)
                .unwrap_or_else(|| panic!("{path} in {lines:#?}"))
        };
        assert!(line("etc/again").contains("file 644 0:0"), "{lines:#?}");
        assert!(line("etc/small").ends_with("6 2 []"), "{lines:#?}");
        assert!(line("opaque").contains("1777"));
        assert!(line("dev/null").contains("CharDevice { major: 1, minor: 3 }"));
        assert!(line("etc/gone").contains("CharDevice { major: 0, minor: 0 }"));
        assert!(line("dev/pipe").contains("Fifo"));
        assert!(line("etc/soft").contains("Symlink"));
        let attributes = line("etc/attributes");
        assert!(
            attributes.contains("nanoseconds: 123456789"),
            "{attributes}"
        );
        assert!(attributes.contains("user.name") && attributes.contains("capability"));
        assert!(line(PAX_PATH).contains("3000000:0"));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let archive = everything().finish();
    for format in FORMATS {
        let blobs = [1, 4].map(|threads| {
            let options = Options {
                threads: NonZeroUsize::new(threads).unwrap(),
                ..options(format)
            };
            convert_with(&archive, &options).unwrap()
        });
        assert_eq!(blobs[0], blobs[1], "{format:?}");
    }
}

#[test]
fn a_chunk_is_as_large_as_asked_for() {
    let mut tar = Tar::default();
    tar.file("large", &noise(1_000_000));
    let archive = tar.finish();
    for format in FORMATS {
        for chunk_bytes in [64 << 10, 256 << 10, 4 << 20] {
            let options = Options {
                chunk_bytes,
                ..options(format)
            };
            let (converted, blob) = convert_with(&archive, &options).unwrap();
            let layer = open(&converted, &blob);
            let table = layer.chunks.encode();
            let table = pontoon_layer::ChunkTableRef::open(&table).unwrap();
            assert_eq!(table.len(), 1_000_000_usize.div_ceil(chunk_bytes as usize));
            assert_eq!(read_back(&layer, &blob)["large"], noise(1_000_000));
        }
    }
}

#[test]
fn zstd_chunked_is_the_archive_that_it_was() {
    let mut archive = everything().finish();
    // GNU tar fills records of 10 KiB, others leave anything there.
    archive.extend(vec![0; 7168]);
    archive.extend(b"behind the end");
    for dialect in [Dialect::Podman, Dialect::Stargz] {
        let (converted, blob) = convert(&archive, Format::ZstdChunked(dialect));
        assert_eq!(unzstd(&blob), archive);
        assert_eq!(converted.diff_id, Digest::of(&archive));
        assert_eq!(converted.diff_id, converted.from.diff_id);
    }
}

#[test]
fn podman_gets_what_makes_the_archive_again() {
    let tar = everything();
    let archive = tar.finish();
    let (converted, blob) = convert(&archive, Format::ZstdChunked(Dialect::Podman));
    let numbers = |key: &str| -> Vec<usize> {
        let key = format!("io.github.containers.zstd-chunked.{key}");
        let numbers = converted.annotations[&key].split(':');
        numbers.map(|number| number.parse().unwrap()).collect()
    };
    let [offset, compressed, bytes] = numbers("tarsplit-position")[..] else {
        panic!("three numbers");
    };
    let frame = &blob[offset..offset + compressed];
    let lines = unzstd(frame);
    assert_eq!(lines.len(), bytes);
    let toc_at = numbers("manifest-position");
    let toc = unzstd(&blob[toc_at[0]..toc_at[0] + toc_at[1]]);
    assert_eq!(toc.len(), toc_at[2]);
    let toc: serde_json::Value = serde_json::from_slice(&toc).unwrap();
    assert_eq!(toc["tarSplitDigest"], Digest::of(frame).to_string());
    // The lines and the files' data, put together, are the archive.
    let mut again = Vec::new();
    for (position, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["position"], position);
        if line["type"] == 2 {
            again.extend(support::unbase64(line["payload"].as_str().unwrap()));
        } else if line["size"].as_u64().is_some() {
            let name = line["name"].as_str().unwrap();
            again.extend(&tar.files[name.trim_end_matches('/')]);
        }
    }
    assert!(
        again == archive,
        "{} bytes of {}",
        again.len(),
        archive.len()
    );
}

#[test]
fn tar_reads_estargz() {
    let tar = everything();
    let (converted, blob) = convert(&tar.finish(), Format::Estargz);
    assert_eq!(converted.diff_id, Digest::of(&gunzip(&blob)));
    let size = &converted.annotations["io.containers.estargz.uncompressed-size"];
    assert_eq!(*size, gunzip(&blob).len().to_string());
    let place = tempfile::tempdir().unwrap();
    let mut child = Command::new("tar")
        .args(["xzf", "-", "--exclude=dev", "-C"])
        .arg(place.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&blob).unwrap();
    assert!(child.wait().unwrap().success());
    for (path, data) in &tar.files {
        assert_eq!(
            std::fs::read(place.path().join(path)).unwrap(),
            *data,
            "{path}"
        );
    }
    let landmark = std::fs::read(place.path().join(".no.prefetch.landmark")).unwrap();
    assert_eq!(landmark, [0x0f]);
    assert!(place.path().join("stargz.index.json").exists());
}

#[test]
fn what_estargz_put_in_is_taken_out_again() {
    let tar = everything();
    let (first, first_blob) = convert(&tar.finish(), Format::Estargz);
    let (second, second_blob) = convert(&first_blob, Format::Estargz);
    assert_eq!(second_blob, first_blob);
    assert_eq!(second.diff_id, first.diff_id);
    let layer = open(&second, &second_blob);
    assert_eq!(layer.landmark, Landmark::NoPrefetch);
    // zstd:chunked keeps it: the archive stays what it was.
    let (podman, blob) = convert(&first_blob, Format::ZstdChunked(Dialect::Podman));
    assert_eq!(podman.diff_id, first.diff_id);
    assert_eq!(
        read_back(&open(&podman, &blob), &blob)["large"],
        tar.files["large"]
    );
}

#[test]
fn an_archive_that_ends_early_is_padded_for_what_follows() {
    let mut tar = Tar::default();
    tar.file("last", &noise(700));
    let whole = tar.finish();
    // Without the padding of the last entry, and without an end.
    let archive = &whole[..512 + 700];
    for format in FORMATS {
        let (converted, blob) = convert(archive, format);
        assert_eq!(
            read_back(&open(&converted, &blob), &blob)["last"],
            noise(700)
        );
        if format == Format::Estargz {
            let again = gunzip(&blob);
            assert_eq!(again.len() % 512, 0);
            let mut names = Vec::new();
            for entry in tar::Archive::new(&again[..]).entries().unwrap() {
                names.push(entry.unwrap().path().unwrap().display().to_string());
            }
            assert_eq!(
                names,
                [".no.prefetch.landmark", "last", "stargz.index.json"]
            );
        }
    }
}

#[test]
fn nothing_at_all_is_a_layer_too() {
    for format in FORMATS {
        for archive in [&[0_u8; 1024][..], &[0; 10240]] {
            let (converted, blob) = convert(archive, format);
            assert!(read_back(&open(&converted, &blob), &blob).is_empty());
        }
    }
}

#[test]
fn many_headers_without_data_are_cut_too() {
    let mut tar = Tar::default();
    for number in 0..9000 {
        tar.directory(&format!("d{number}/"), 0o755);
    }
    tar.file("last", b"one");
    let archive = tar.finish();
    for format in FORMATS {
        let (converted, blob) = convert(&archive, format);
        let layer = open(&converted, &blob);
        assert_eq!(listing(&layer).len(), 9002);
        assert_eq!(read_back(&layer, &blob)["last"], b"one");
    }
}

fn refusal(archive: &[u8], format: Format) -> String {
    convert_with(archive, &options(format))
        .unwrap_err()
        .to_string()
}

#[test]
fn what_no_format_can_hold_is_refused_by_name() {
    let mut sparse = Tar::default();
    sparse.pax(&[("GNU.sparse.major", b"1")]);
    sparse.file("holes", b"data");
    let mut latin = Tar::default();
    latin.pax(&[("path", b"caf\xe9")]);
    latin.file("cut", b"data");
    for format in FORMATS {
        let said = refusal(&sparse.finish(), format);
        assert!(said.contains("sparse") && said.contains("holes"), "{said}");
        let said = refusal(&latin.finish(), format);
        assert!(said.contains("not UTF-8"), "{said}");
        let cut = &everything().finish()[..100_000];
        assert!(convert_with(cut, &options(format)).is_err());
        assert!(convert_with(b"no archive at all", &options(format)).is_err());
    }
}

#[test]
fn podman_gets_no_name_twice() {
    let mut tar = Tar::default();
    tar.file("twice", b"one");
    tar.file("./twice", b"two");
    let archive = tar.finish();
    let said = refusal(&archive, Format::ZstdChunked(Dialect::Podman));
    assert!(
        said.contains("same name") && said.contains("twice"),
        "{said}"
    );
    for format in [Format::Estargz, Format::ZstdChunked(Dialect::Stargz)] {
        let (converted, blob) = convert(&archive, format);
        assert_eq!(read_back(&open(&converted, &blob), &blob)["twice"], b"two");
    }
}

#[test]
fn global_headers_are_kept_where_they_may_be() {
    let mut tar = Tar::default();
    tar.global(&[("comment", b"of nobody's interest")]);
    tar.file("file", b"data");
    let archive = tar.finish();
    let said = refusal(&archive, Format::ZstdChunked(Dialect::Podman));
    assert!(said.contains("global"), "{said}");
    let (_, blob) = convert(&archive, Format::ZstdChunked(Dialect::Stargz));
    assert_eq!(unzstd(&blob), archive);
    let (converted, blob) = convert(&archive, Format::Estargz);
    assert_eq!(read_back(&open(&converted, &blob), &blob)["file"], b"data");
}

#[test]
fn options_are_checked() {
    let archive = [0; 1024];
    let format = Format::Estargz;
    for wrong in [
        Options {
            level: 0,
            ..options(format)
        },
        Options {
            level: 13,
            ..options(format)
        },
        Options {
            chunk_bytes: 0,
            ..options(format)
        },
        Options {
            chunk_bytes: u32::MAX,
            ..options(format)
        },
    ] {
        let converted = convert_with(&archive, &wrong);
        assert!(matches!(converted, Err(Error::Option(_))), "{wrong:?}");
    }
}

#[test]
fn a_layer_that_is_not_the_expected_one_is_refused() {
    let archive = everything().finish();
    for expected in [
        Expected {
            digest: Some(Digest::of(b"")),
            ..Expected::default()
        },
        Expected {
            diff_id: Some(Digest::of(b"")),
            ..Expected::default()
        },
        Expected {
            size: Some(archive.len() as u64 + 1),
            ..Expected::default()
        },
    ] {
        let converted = convert_layer(
            &archive[..],
            Vec::new(),
            &expected,
            &options(Format::Estargz),
        );
        let said = converted.unwrap_err().to_string();
        assert!(said.contains("instead of"), "{said}");
    }
}

/// A disk that is full after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = (self.0.checked_sub(bytes.len()))
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::StorageFull))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_it() {
    let archive = everything().finish();
    for room in [0, 10_000, 100_000] {
        let expected = Expected::default();
        let converted = convert_layer(
            &archive[..],
            Full(room),
            &expected,
            &options(Format::Estargz),
        );
        assert!(matches!(converted, Err(Error::Write(_))), "{converted:?}");
    }
}

#[test]
fn a_layer_that_nobody_could_read_is_not_made() {
    let mut tar = Tar::default();
    tar.link("link", "nowhere");
    for format in FORMATS {
        let said = refusal(&tar.finish(), format);
        assert!(said.contains("link"), "{said}");
    }
}

/// Whatever is wrong with an archive: it is refused, or what is made of it can be read.
#[test]
fn no_damage_makes_it_panic_or_write_nonsense() {
    let mut tar = Tar::default();
    tar.directory("d/", 0o755);
    tar.pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")]);
    tar.file("d/file", &noise(700));
    tar.gnu_long_name(&"n".repeat(120));
    tar.symlink("cut", "d/file");
    tar.link("hard", "d/file");
    tar.device("dev", b'3', 1, 3);
    let archive = tar.finish();
    let mut random = noise(4 * 600).into_iter();
    let mut next = || usize::from(random.next().unwrap());
    let mut readable = 0;
    for number in 0..600 {
        let mut bytes = archive.clone();
        let place = (next() << 8 | next()) % bytes.len();
        let block = place / 512 * 512;
        bytes[place] ^= 1 << (next() % 8);
        // Most damage is in headers that are right otherwise, or nobody would look further.
        let sum: u32 = (0..512)
            .map(|at| match at {
                148..156 => 32,
                _ => u32::from(bytes[block + at]),
            })
            .sum();
        if next() % 2 == 0 {
            bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let format = FORMATS[number % 3];
        if let Ok((converted, blob)) = convert_with(&bytes, &options(format)) {
            read_back(&open(&converted, &blob), &blob);
            readable += 1;
        }
    }
    assert!(
        (50..600).contains(&readable),
        "{readable} of 600 could be read"
    );
}
