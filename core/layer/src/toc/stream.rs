//! The JSON of a table of contents, as it comes out of its wrapping.

use std::io::{self, Read};

use super::TocKind;
use crate::error::FormatError;
use crate::inflate::Member;
use crate::limits::Limits;

/// The only file in the archive of a table of contents.
pub(super) const TOC_NAME: &str = "stargz.index.json";

/// Bytes of a block of a tar archive.
const TAR_BLOCK_BYTES: usize = 512;

/// Headers that say more about the next header than it can itself. Nobody writes more than one of a kind.
const EXTENDED_HEADERS_MAX: usize = 4;

/// The bytes that an extended header may have.
const EXTENDED_HEADER_BYTES_MAX: u64 = 64 << 10;

/// What was to be read, in errors.
pub(super) const WHAT: &str = "the table of contents";

/// The JSON in a packed table of contents. Reading it fails as soon as there is more of it than allowed.
pub(super) struct JsonStream<'a> {
    member: Member<'a>,
    /// How much may still come: of a tar, how much will.
    left: u64,
    /// Whether nothing may come after that.
    whole: bool,
}

impl<'a> JsonStream<'a> {
    pub(super) fn open(
        kind: TocKind,
        toc: &'a [u8],
        limits: &Limits,
    ) -> Result<JsonStream<'a>, FormatError> {
        let mut member = Member::new(kind.compression(), toc);
        match kind {
            TocKind::Zstd => Ok(JsonStream {
                member,
                left: limits.toc_json_bytes_max,
                whole: true,
            }),
            TocKind::TarGzip => {
                let left = tar_entry(&mut member)?;
                FormatError::check_limit(
                    "the size of the table of contents in bytes",
                    left,
                    limits.toc_json_bytes_max,
                )?;
                Ok(JsonStream {
                    member,
                    left,
                    whole: false,
                })
            }
        }
    }

    /// How much of it there is.
    pub(super) fn bytes(mut self) -> Result<u64, FormatError> {
        if !self.whole {
            return Ok(self.left);
        }
        io::copy(&mut self, &mut io::sink())
            .map_err(|error| FormatError::malformed(WHAT, error.to_string()))
    }

    fn is_over(&mut self) -> io::Result<usize> {
        if self.whole && self.member.read(&mut [0])? > 0 {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the table of contents is larger than the limit",
            ));
        }
        Ok(0)
    }
}

impl Read for JsonStream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX);
        let length = out.len().min(allowed);
        if length == 0 && !out.is_empty() {
            return self.is_over();
        }
        let read = self.member.read(&mut out[..length])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Goes to the content of the table of contents in a tar archive, which is its first file, and answers its size (POSIX
/// ustar; pax and GNU headers before it are skipped).
fn tar_entry(archive: &mut Member<'_>) -> Result<u64, FormatError> {
    let malformed = |reason: &str| FormatError::malformed(WHAT, reason);
    for _ in 0..=EXTENDED_HEADERS_MAX {
        let mut header = [0; TAR_BLOCK_BYTES];
        archive
            .read_exact(&mut header)
            .map_err(|error| FormatError::malformed(WHAT, error.to_string()))?;
        if !has_checksum(&header) {
            return Err(malformed(
                "it does not begin with the header of a tar archive",
            ));
        }
        let size = octal(&header[124..136]).ok_or_else(|| malformed("its size is no number"))?;
        match header[156] {
            b'0' | b'\0' => {
                let name = header[..100].split(|byte| *byte == 0).next();
                if name != Some(TOC_NAME.as_bytes()) {
                    return Err(malformed("the first file of its archive has another name"));
                }
                return Ok(size);
            }
            b'x' | b'g' | b'L' | b'K' if size <= EXTENDED_HEADER_BYTES_MAX => {
                let padded = size.next_multiple_of(TAR_BLOCK_BYTES as u64);
                io::copy(&mut archive.by_ref().take(padded), &mut io::sink())
                    .map_err(|error| FormatError::malformed(WHAT, error.to_string()))?;
            }
            _ => return Err(malformed("its archive does not begin with a regular file")),
        }
    }
    Err(malformed("its archive does not begin with a file"))
}

fn has_checksum(header: &[u8; TAR_BLOCK_BYTES]) -> bool {
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = header[148..156].iter().map(|byte| u64::from(*byte)).sum();
    let blanks = 8 * u64::from(b' ');
    octal(&header[148..156]) == Some(sum - own + blanks)
}

/// A number in octal digits, with blanks before it and blanks or NULs behind it.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(['\0', ' ']);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

/// Refuses JSON with strings that are too long before they are in memory.
pub(super) struct ShortStrings<R> {
    inner: R,
    max: usize,
    length: usize,
    inside: bool,
    escaped: bool,
}

impl<R: Read> ShortStrings<R> {
    pub(super) fn new(inner: R, max: usize) -> ShortStrings<R> {
        ShortStrings {
            inner,
            max,
            length: 0,
            inside: false,
            escaped: false,
        }
    }

    fn are_short(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            // Numbers and blanks count like strings: they are kept as a whole, too.
            self.length += 1;
            if self.length > self.max {
                return false;
            }
            if self.escaped {
                self.escaped = false;
                continue;
            }
            match byte {
                b'"' => {
                    self.inside = !self.inside;
                    self.length = 0;
                }
                b'\\' if self.inside => self.escaped = true,
                _ => {}
            }
        }
        true
    }
}

impl<R: Read> Read for ShortStrings<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        if !self.are_short(&out[..read]) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a string of more than {} bytes", self.max),
            ));
        }
        Ok(read)
    }
}
