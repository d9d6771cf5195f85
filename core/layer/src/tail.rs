//! The end of a blob: a footer says where the table of contents is.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::error::FormatError;
use crate::inflate::Compression;
use crate::limits::Limits;
use crate::toc::TocKind;

/// How many bytes at the end of a blob [`parse_tail`] needs to see: the longest footer in its skippable frame. It takes
/// more, too, and a table of contents is usually among the last hundreds of kibibytes.
pub const TAIL_BYTES: usize = 72;

/// The header of a zstd skippable frame (RFC 8878, 3.1.2): magic number and length.
const SKIPPABLE_BYTES: u64 = 8;

/// What was to be read, in errors.
const WHAT: &str = "the footer of the layer";

/// Where a table of contents is in its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocPlace {
    /// Its compressed bytes.
    pub range: Range<u64>,
    /// Where files' data ends in the blob.
    pub payload_end: u64,
}

/// What the end of a blob says. Sources: stargz-snapshotter's docs/estargz.md, and its packages estargz, externaltoc and
/// zstdchunked; containers/storage's pkg/chunked/internal/minimal/compression.go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// eStargz: a footer of 51 bytes.
    Estargz(TocPlace),
    /// stargz, as CRFS wrote it: a footer of 47 bytes.
    Stargz(TocPlace),
    /// eStargz whose table of contents is in another blob: a footer of 46 bytes.
    ExternalToc {
        /// Where files' data ends in the blob.
        payload_end: u64,
    },
    /// zstd:chunked as stargz-snapshotter writes it: a footer of 40 bytes.
    ZstdChunked(TocPlace),
    /// zstd:chunked as containers/storage (Podman, Buildah, Skopeo) writes it: a footer of 64 bytes.
    Podman(TocPlace),
}

impl Tail {
    /// Where the table of contents is, unless it is in another blob.
    pub fn place(&self) -> Option<&TocPlace> {
        match self {
            Tail::Estargz(place)
            | Tail::Stargz(place)
            | Tail::ZstdChunked(place)
            | Tail::Podman(place) => Some(place),
            Tail::ExternalToc { .. } => None,
        }
    }

    /// Where files' data ends in the blob.
    pub fn payload_end(&self) -> u64 {
        match self {
            Tail::ExternalToc { payload_end } => *payload_end,
            Tail::Estargz(place)
            | Tail::Stargz(place)
            | Tail::ZstdChunked(place)
            | Tail::Podman(place) => place.payload_end,
        }
    }

    /// How the table of contents is packed.
    pub fn toc_kind(&self) -> TocKind {
        match self {
            Tail::Estargz(_) | Tail::Stargz(_) | Tail::ExternalToc { .. } => TocKind::TarGzip,
            Tail::ZstdChunked(_) | Tail::Podman(_) => TocKind::Zstd,
        }
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> Compression {
        self.toc_kind().compression()
    }
}

/// Reads the footer at the end of `tail`, the last bytes of a blob of `blob_size` bytes: at least [`TAIL_BYTES`] of
/// them, or all. `None` if there is no footer: the layer is an ordinary one.
pub fn parse_tail(
    tail: &[u8],
    blob_size: u64,
    limits: &Limits,
) -> Result<Option<Tail>, FormatError> {
    let seen = tail.len() as u64;
    if seen > blob_size || (seen < blob_size && tail.len() < TAIL_BYTES) {
        return Err(FormatError::malformed(
            WHAT,
            format!("{seen} bytes were read of {blob_size}"),
        ));
    }
    if let Some(gzip) = tail.last_chunk().and_then(extra::<51, 26>)
        && let Some(text) = gzip.strip_prefix(b"SG\x16\x00")
        && let Some(offset) = text.strip_suffix(b"STARGZ")
    {
        let place = gzip_place(offset, blob_size, 51, limits)?;
        return Ok(Some(Tail::Estargz(place)));
    }
    if let Some(gzip) = tail.last_chunk().and_then(extra::<47, 22>)
        && let Some(offset) = gzip.strip_suffix(b"STARGZ")
    {
        let place = gzip_place(offset, blob_size, 47, limits)?;
        return Ok(Some(Tail::Stargz(place)));
    }
    if let Some(gzip) = tail.last_chunk().and_then(extra::<46, 21>)
        && gzip == b"SG\x11\x00STARGZEXTERNALTOC"
    {
        let payload_end = blob_size.saturating_sub(46);
        return Ok(Some(Tail::ExternalToc { payload_end }));
    }
    if let Some(words) = tail.last_chunk().and_then(frame::<48, 5>) {
        let place = zstd_place(&words, blob_size, 48, limits)?;
        return Ok(Some(Tail::ZstdChunked(place)));
    }
    if let Some(words) = tail.last_chunk().and_then(frame::<72, 8>) {
        let place = zstd_place(&words, blob_size, 72, limits)?;
        return Ok(Some(Tail::Podman(place)));
    }
    Ok(None)
}

/// The extra field of `EXTRA` bytes of the empty gzip member that `footer` is (RFC 1952, 2.3.1.1).
fn extra<const FOOTER: usize, const EXTRA: usize>(footer: &[u8; FOOTER]) -> Option<&[u8]> {
    let after = footer.strip_prefix(b"\x1f\x8b\x08\x04")?.get(6..)?;
    let (length, extra) = after.split_first_chunk::<2>()?;
    if usize::from(u16::from_le_bytes(*length)) != EXTRA {
        return None;
    }
    extra.get(..EXTRA)
}

fn gzip_place(
    offset: &[u8],
    blob_size: u64,
    footer: u64,
    limits: &Limits,
) -> Result<TocPlace, FormatError> {
    let offset = hexadecimal(offset)
        .ok_or_else(|| FormatError::malformed(WHAT, "an offset is no hexadecimal number"))?;
    toc_place(offset, offset..blob_size.saturating_sub(footer), limits)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.len() != 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The `WORDS` numbers in the skippable frame of `FRAME` bytes that `bytes` are, if the last one is the magic number:
/// `GnUlInUx` in stargz-snapshotter's tools, `GNUlInUx` in containers/storage's.
fn frame<const FRAME: usize, const WORDS: usize>(bytes: &[u8; FRAME]) -> Option<[u64; WORDS]> {
    let (length, content) = bytes
        .strip_prefix(b"\x50\x2a\x4d\x18")?
        .split_first_chunk::<4>()?;
    if u32::from_le_bytes(*length) as usize != content.len() {
        return None;
    }
    let magic = content.last_chunk::<8>()?;
    if magic != b"GnUlInUx" && magic != b"GNUlInUx" {
        return None;
    }
    let (words, []) = content.as_chunks::<8>() else {
        return None;
    };
    let words: &[[u8; 8]; WORDS] = words.try_into().ok()?;
    Some(words.map(u64::from_le_bytes))
}

fn zstd_place(
    words: &[u64],
    blob_size: u64,
    footer: u64,
    limits: &Limits,
) -> Result<TocPlace, FormatError> {
    let [offset, compressed, inflated, kind, ..] = *words else {
        return Err(FormatError::malformed(WHAT, "it is too short"));
    };
    zstd_toc_place(
        [offset, compressed, inflated, kind],
        blob_size.saturating_sub(footer),
        limits,
    )
}

/// Where the zstd:chunked table of contents is that is `position`: offset, compressed bytes, decompressed bytes, and the
/// type, which is 1. It has to end before `end`.
pub(crate) fn zstd_toc_place(
    position: [u64; 4],
    end: u64,
    limits: &Limits,
) -> Result<TocPlace, FormatError> {
    let [offset, compressed, inflated, kind] = position;
    if kind != 1 {
        return Err(FormatError::malformed(
            WHAT,
            format!("its table of contents has the unknown type {kind}"),
        ));
    }
    FormatError::check_limit(
        "the size of the table of contents in bytes",
        inflated,
        limits.toc_json_bytes_max,
    )?;
    let outside = || {
        let reason = format!("{compressed} bytes at {offset} are not inside the blob");
        FormatError::malformed(WHAT, reason)
    };
    let toc_end = offset.checked_add(compressed).ok_or_else(outside)?;
    let payload_end = offset.checked_sub(SKIPPABLE_BYTES).ok_or_else(outside)?;
    if toc_end > end {
        return Err(outside());
    }
    toc_place(payload_end, offset..toc_end, limits)
}

fn toc_place(
    payload_end: u64,
    range: Range<u64>,
    limits: &Limits,
) -> Result<TocPlace, FormatError> {
    if range.is_empty() {
        return Err(FormatError::malformed(
            WHAT,
            format!("there is no table of contents at {}", range.start),
        ));
    }
    FormatError::check_limit(
        "the compressed size of the table of contents in bytes",
        range.end - range.start,
        limits.toc_bytes_max,
    )?;
    Ok(TocPlace { range, payload_end })
}
