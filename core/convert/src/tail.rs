//! What is behind the data of a blob: the table of contents, and a footer that says where it is.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::{Compression, GzBuilder};
use pontoon_layer::{
    ANNOTATION_TOC_DIGEST, Digest, Landmark, Limits, OpaqueXattr, TocDigest, TocKind, parse_toc,
};

use crate::cut::Seen;
use crate::encode;
use crate::error::{Error, Result};
use crate::{tarsplit, toc};

/// Bytes of a block of an archive.
pub(crate) const BLOCK_BYTES: usize = 512;

/// The name of the table of contents in an eStargz archive, and of what marks how much to fetch at once
/// (stargz-snapshotter's docs/estargz.md).
const TOC_NAME: &[u8] = b"stargz.index.json";
pub(crate) const PREFETCH_LANDMARK: &[u8] = b".prefetch.landmark";
pub(crate) const NO_PREFETCH_LANDMARK: &[u8] = b".no.prefetch.landmark";

/// What a landmark has in it.
pub(crate) const LANDMARK_CONTENT: u8 = 0x0f;

/// What stargz-snapshotter tells of a layer beside the digest of its table of contents: bytes of the archive.
const ANNOTATION_UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// containers/storage's pkg/chunked/internal/minimal/compression.go.
const PODMAN_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
const PODMAN_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
const PODMAN_TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";

/// The same, as stargz-snapshotter's estargz/zstdchunked writes it.
const STARGZ_CHECKSUM: &str = "io.containers.zstd-chunked.manifest-checksum";
const STARGZ_POSITION: &str = "io.containers.zstd-chunked.manifest-position";

/// All annotations that say where a table of contents is: a converted layer has those of its own only.
pub(crate) const ANNOTATIONS: [&str; 8] = [
    ANNOTATION_TOC_DIGEST,
    ANNOTATION_UNCOMPRESSED_SIZE,
    PODMAN_CHECKSUM,
    PODMAN_POSITION,
    PODMAN_TAR_SPLIT,
    // What containers/storage wrote before.
    "io.github.containers.zstd-chunked.tarsplit-checksum",
    STARGZ_CHECKSUM,
    STARGZ_POSITION,
];

/// The only type of table there is.
const TOC_TYPE: u64 = 1;

/// A skippable frame's header (RFC 8878, 3.1.2): magic number and length.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const SKIPPABLE_BYTES: u64 = 8;

/// What comes behind the data, and what the descriptor says of it.
pub(crate) struct Tail {
    pub(crate) bytes: Vec<u8>,
    /// Where in them the table is.
    toc: std::ops::Range<usize>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Whether the entry at `path` is no file of the image, but eStargz's.
pub(crate) fn is_special(path: &[u8]) -> bool {
    let mut names = (path.split(|byte| *byte == b'/')).filter(|name| !matches!(*name, b"" | b"."));
    let (name, more) = (names.next().unwrap_or_default(), names.next());
    more.is_none() && [TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK].contains(&name)
}

/// The header of something of root's of the year 1970, with the typeflag `kind` (POSIX.1-2017, `pax`, "ustar Interchange
/// Format"). Sizes of more than eleven octal digits do not occur.
pub(crate) fn own_header(name: &[u8], kind: u8, mode: u16, size: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name);
    put(100, format!("{mode:07o}").as_bytes());
    for at in [108, 116] {
        put(at, b"0000000");
    }
    put(124, format!("{:011o}", size & 0o77_777_777_777).as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// eStargz: the table as the archive's last file, in a gzip member of its own, and an empty member as the footer.
/// Answers the digest of the archive too, the beginning of which is `seen`.
pub(crate) fn estargz(
    offset: u64,
    written: &toc::Written,
    mut seen: Seen,
) -> Result<(Tail, Digest)> {
    let mut gzip = GzBuilder::new()
        .operating_system(255)
        .write(Vec::new(), Compression::best());
    let mut put = |bytes: &[u8]| {
        seen.see(bytes);
        gzip.write_all(bytes)
    };
    let padding = written.json_bytes.wrapping_neg() % BLOCK_BYTES as u64;
    let end = usize::try_from(padding).unwrap_or_default() + 2 * BLOCK_BYTES;
    let failed = |error: std::io::Error| Error::Compress(error.to_string());
    put(&own_header(TOC_NAME, b'0', 0, written.json_bytes)).map_err(failed)?;
    encode::inflate(&written.frame, &mut put).map_err(failed)?;
    put(&vec![0; end]).map_err(failed)?;
    let mut bytes = gzip.finish().map_err(failed)?;
    let toc = 0..bytes.len();
    bytes.extend(estargz_footer(offset));
    let (diff_id, size) = seen.finish();
    let annotations = annotations([
        (ANNOTATION_TOC_DIGEST, written.json_digest.to_string()),
        (ANNOTATION_UNCOMPRESSED_SIZE, size.to_string()),
    ]);
    let tail = Tail {
        bytes,
        toc,
        annotations,
    };
    Ok((tail, diff_id))
}

/// 51 bytes: an empty gzip member whose extra field has the offset (stargz-snapshotter's docs/estargz.md).
fn estargz_footer(offset: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    footer.extend([26, 0, b'S', b'G', 22, 0]);
    footer.extend(format!("{offset:016x}STARGZ").as_bytes());
    // A stored block of nothing, no CRC, no length.
    footer.extend([1, 0, 0, 0xff, 0xff]);
    footer.extend([0; 8]);
    footer
}

/// zstd:chunked as containers/storage has it: the table, what makes the archive again, and the footer, each in a frame
/// that decompressors skip.
pub(crate) fn podman(
    offset: u64,
    toc: &toc::Written,
    tar_split: &tarsplit::Written,
) -> Result<Tail> {
    let toc_offset = offset + SKIPPABLE_BYTES;
    let toc_bytes = toc.frame.len() as u64;
    let split_offset = toc_offset + toc_bytes + SKIPPABLE_BYTES;
    let split_bytes = tar_split.frame.len() as u64;
    let mut bytes = Vec::new();
    skippable(&mut bytes, &toc.frame)?;
    skippable(&mut bytes, &tar_split.frame)?;
    let words = [
        toc_offset,
        toc_bytes,
        toc.json_bytes,
        TOC_TYPE,
        split_offset,
        split_bytes,
        tar_split.bytes,
    ];
    skippable(&mut bytes, &zstd_footer(&words, b"GNUlInUx"))?;
    Ok(Tail {
        bytes,
        toc: in_frame(toc),
        annotations: annotations([
            (PODMAN_CHECKSUM, Digest::of(&toc.frame).to_string()),
            (PODMAN_POSITION, position(toc_offset, toc)),
            (
                PODMAN_TAR_SPLIT,
                format!("{split_offset}:{split_bytes}:{}", tar_split.bytes),
            ),
        ]),
    })
}

/// zstd:chunked as stargz-snapshotter has it: the table and the footer.
pub(crate) fn stargz(offset: u64, toc: &toc::Written, archive_bytes: u64) -> Result<Tail> {
    let toc_offset = offset + SKIPPABLE_BYTES;
    let mut bytes = Vec::new();
    skippable(&mut bytes, &toc.frame)?;
    let words = [toc_offset, toc.frame.len() as u64, toc.json_bytes, TOC_TYPE];
    skippable(&mut bytes, &zstd_footer(&words, b"GnUlInUx"))?;
    Ok(Tail {
        bytes,
        toc: in_frame(toc),
        annotations: annotations([
            (ANNOTATION_TOC_DIGEST, toc.json_digest.to_string()),
            (ANNOTATION_UNCOMPRESSED_SIZE, archive_bytes.to_string()),
            (STARGZ_CHECKSUM, Digest::of(&toc.frame).to_string()),
            (STARGZ_POSITION, position(toc_offset, toc)),
        ]),
    })
}

/// Where the table is in a tail that begins with it.
fn in_frame(toc: &toc::Written) -> std::ops::Range<usize> {
    let start = SKIPPABLE_BYTES as usize;
    start..start + toc.frame.len()
}

impl Tail {
    /// Reads the table of contents as whoever serves the layer does: what nobody can read is not written. Answers what is
    /// to be fetched first.
    pub(crate) fn verify(
        &self,
        kind: TocKind,
        payload_end: u64,
        json: &Digest,
    ) -> Result<Landmark> {
        let toc = self.bytes.get(self.toc.clone()).unwrap_or_default();
        let digest = TocDigest::Json(json.clone());
        let (opaque, limits) = (OpaqueXattr::Trusted, Limits::default());
        parse_toc(kind, toc, payload_end, &digest, opaque, &limits)
            .map(|layer| layer.landmark)
            .map_err(Error::Unreadable)
    }
}

fn position(offset: u64, toc: &toc::Written) -> String {
    let (compressed, bytes) = (toc.frame.len(), toc.json_bytes);
    format!("{offset}:{compressed}:{bytes}:{TOC_TYPE}")
}

fn annotations<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value));
    BTreeMap::from(pairs)
}

fn zstd_footer(words: &[u64], magic: &[u8; 8]) -> Vec<u8> {
    let mut footer: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    footer.extend(magic);
    footer
}

fn skippable(bytes: &mut Vec<u8>, content: &[u8]) -> Result<()> {
    let length = u32::try_from(content.len()).map_err(|_| Error::TooLarge {
        what: "the bytes of a table of contents",
        limit: u64::from(u32::MAX),
    })?;
    bytes.extend(SKIPPABLE);
    bytes.extend(length.to_le_bytes());
    bytes.extend(content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_at_the_root_is_special() {
        for path in [
            "stargz.index.json",
            "./.prefetch.landmark",
            "/.no.prefetch.landmark",
        ] {
            assert!(is_special(path.as_bytes()), "{path}");
        }
        for path in [
            "a/stargz.index.json",
            "stargz.index.json/a",
            "",
            "prefetch.landmark",
        ] {
            assert!(!is_special(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn footers_are_found_again() {
        let limits = pontoon_layer::Limits::default();
        let footer = estargz_footer(0x1234);
        let tail = [&[0; 100][..], &footer].concat();
        let found = pontoon_layer::parse_tail(&tail, 0x2000, &limits)
            .unwrap()
            .unwrap();
        let place = found.place().unwrap();
        assert_eq!((place.payload_end, place.range.end), (0x1234, 0x2000 - 51));
    }
}
