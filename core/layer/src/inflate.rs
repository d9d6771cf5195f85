//! Decompression with bounded output.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// How the parts of a blob are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip members.
    Gzip,
    /// Zstandard frames.
    Zstd,
    /// An LZ4 block, without a frame and without its length: only who knows that can inflate it, and as a whole.
    Lz4Block,
}

impl Compression {
    pub(crate) fn code(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
            Compression::Lz4Block => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Compression> {
        match code {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Zstd),
            3 => Some(Compression::Lz4Block),
            _ => None,
        }
    }
}

/// Why compressed data cannot be inflated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// Not of the format, or damaged.
    #[error("damaged {compression:?} data: {reason}")]
    Damaged {
        /// The format it should have.
        compression: Compression,
        /// What is wrong.
        reason: String,
    },
    /// It ends before what was asked for.
    #[error("the compressed data ends after {have} bytes, {want} were expected")]
    Short {
        /// Bytes that came out.
        have: u64,
        /// Bytes that were wanted.
        want: u64,
    },
}

thread_local! {
    /// For frames that are inflated at once: some 160 KB that need not be made for each of them.
    static ZSTD: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// How much of a stream is thrown away at a time.
const SKIP_BYTES: usize = 64 << 10;

/// The largest window of a zstd frame, as a power of two: zstd's own default. A frame that wants more is refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A compressed stream, out of which chunks are taken in one pass.
///
/// [`Member::chunk`] takes one chunk; reading it ([`Read`]) gives all that it inflates to, and whoever reads sets the
/// bounds.
pub struct Member<'a> {
    compression: Compression,
    bytes: &'a [u8],
    /// What of the bytes is not yet inflated.
    rest: &'a [u8],
    /// How many bytes came out so far.
    position: u64,
    /// The decoder of the member or frame in whose middle the stream is.
    decoder: Option<Decoder>,
}

enum Decoder {
    Gzip(Decompress),
    Zstd(DCtx<'static>),
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("compression", &self.compression)
            .field("bytes", &self.bytes.len())
            .field("rest", &self.rest.len())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<'a> Member<'a> {
    /// The stream that `bytes` begin with: one or more gzip members or zstd frames.
    pub fn new(compression: Compression, bytes: &'a [u8]) -> Member<'a> {
        Member {
            compression,
            bytes,
            rest: bytes,
            position: 0,
            decoder: None,
        }
    }

    /// The `length` bytes from `offset` on of what the stream inflates to. What is before them is inflated and thrown
    /// away, nothing behind them is inflated; so ask in ascending order. Going back begins again. An LZ4 block is one
    /// chunk: all of it, and nothing else.
    ///
    /// Memory is taken for `length` bytes, whatever the stream is.
    pub fn chunk(&mut self, offset: u64, length: u32) -> Result<Bytes, InflateError> {
        if offset < self.position {
            *self = Member::new(self.compression, self.bytes);
        }
        let want = offset.saturating_add(u64::from(length));
        if self.compression == Compression::Lz4Block {
            return self.unlz4(offset, length as usize);
        }
        let mut out = vec![0; length as usize];
        if self.position == offset && self.one_frame(&mut out) {
            return Ok(out.into());
        }
        self.skip_to(offset, want)?;
        if self.fill(&mut out)? < out.len() {
            return Err(self.short(want));
        }
        Ok(out.into())
    }

    fn skip_to(&mut self, offset: u64, want: u64) -> Result<(), InflateError> {
        if self.compression == Compression::None {
            let skip = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            self.rest = self.rest.get(skip..).ok_or_else(|| self.short(want))?;
            self.position = offset;
            return Ok(());
        }
        let mut scratch = Vec::new();
        while self.position < offset {
            let left = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            scratch.resize(left.min(SKIP_BYTES), 0);
            if self.fill(&mut scratch)? < scratch.len() {
                return Err(self.short(want));
            }
        }
        Ok(())
    }

    fn short(&self, want: u64) -> InflateError {
        InflateError::Short {
            have: self.position,
            want,
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> InflateError {
        InflateError::Damaged {
            compression: self.compression,
            reason: reason.into(),
        }
    }

    /// Inflates into `out` until it is full or the bytes end, and answers how much of it is full.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, InflateError> {
        let mut filled = 0;
        while filled < out.len() && !self.rest.is_empty() {
            let out = &mut out[filled..];
            let (taken, given) = match self.compression {
                Compression::None => self.copy(out),
                Compression::Gzip => self.gunzip(out)?,
                Compression::Zstd => self.unzstd(out)?,
                Compression::Lz4Block => return Err(self.damaged("its length is not known")),
            };
            if taken == 0 && given == 0 {
                return Err(self.damaged("it cannot be decoded any further"));
            }
            self.rest = self.rest.get(taken..).unwrap_or_default();
            self.position = self.position.saturating_add(given as u64);
            filled += given;
        }
        // The decoder may hold output back for which there was no room.
        while filled < out.len() && self.decoder.is_some() {
            let out = &mut out[filled..];
            let (_, given) = match self.compression {
                Compression::None | Compression::Lz4Block => (0, 0),
                Compression::Gzip => self.gunzip(out)?,
                Compression::Zstd => self.unzstd(out)?,
            };
            if given == 0 {
                break;
            }
            self.position = self.position.saturating_add(given as u64);
            filled += given;
        }
        Ok(filled)
    }

    fn copy(&self, out: &mut [u8]) -> (usize, usize) {
        let length = out.len().min(self.rest.len());
        out[..length].copy_from_slice(&self.rest[..length]);
        (length, length)
    }

    fn gunzip(&mut self, out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        let mut decoder = match self.decoder.take() {
            Some(Decoder::Gzip(decoder)) => decoder,
            _ => Decompress::new_gzip(15),
        };
        let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
        let status = decoder
            .decompress(self.rest, out, FlushDecompress::None)
            .map_err(|error| self.damaged(error.to_string()))?;
        let taken = decoder.total_in() - before_in;
        let given = decoder.total_out() - before_out;
        if status != Status::StreamEnd {
            self.decoder = Some(Decoder::Gzip(decoder));
        }
        let length = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok((length(taken), length(given)))
    }

    fn unlz4(&self, offset: u64, length: usize) -> Result<Bytes, InflateError> {
        if offset != 0 {
            return Err(self.damaged("it is one chunk, and was to be several"));
        }
        let mut out = vec![0; length];
        let have = lz4_flex::block::decompress_into(self.bytes, &mut out);
        match have.map_err(|error| self.damaged(error.to_string()))? {
            have if have == length => Ok(out.into()),
            have => Err(InflateError::Short {
                have: have as u64,
                want: length as u64,
            }),
        }
    }

    /// Fills `out` with the next frame at once if it says that it is as long: there is no stream to be kept then, and no
    /// window. Whether it did; what is wrong with the frame the stream will tell.
    fn one_frame(&mut self, out: &mut [u8]) -> bool {
        if self.compression != Compression::Zstd || self.decoder.is_some() {
            return false;
        }
        let length = out.len() as u64;
        let says = zstd_safe::get_frame_content_size(self.rest).ok();
        let is_it = says.flatten() == Some(length);
        let frame = zstd_safe::find_frame_compressed_size(self.rest).ok();
        let Some(frame) = frame.and_then(|frame| self.rest.get(..frame)) else {
            return false;
        };
        let is_done = is_it
            && ZSTD.with_borrow_mut(|zstd| {
                let zstd = zstd.as_mut();
                zstd.and_then(|zstd| zstd.decompress(out, frame).ok()) == Some(out.len())
            });
        if is_done {
            self.rest = self.rest.get(frame.len()..).unwrap_or_default();
            self.position = self.position.saturating_add(length);
        }
        is_done
    }

    fn unzstd(&mut self, out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        let mut decoder = match self.decoder.take() {
            Some(Decoder::Zstd(decoder)) => decoder,
            _ => self.new_zstd()?,
        };
        let mut input = InBuffer::around(self.rest);
        let mut output = OutBuffer::around(out);
        let hint = decoder
            .decompress_stream(&mut output, &mut input)
            .map_err(|code| self.damaged(zstd_safe::get_error_name(code)))?;
        if hint != 0 {
            self.decoder = Some(Decoder::Zstd(decoder));
        }
        Ok((input.pos, output.pos()))
    }

    fn new_zstd(&self) -> Result<DCtx<'static>, InflateError> {
        let mut decoder =
            DCtx::try_create().ok_or_else(|| self.damaged("no memory for a decoder"))?;
        decoder
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
            .map_err(|code| self.damaged(zstd_safe::get_error_name(code)))?;
        Ok(decoder)
    }
}

impl Read for Member<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let filled = self.fill(out).map_err(io::Error::other)?;
        if filled == 0 && !out.is_empty() && self.decoder.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                self.damaged("it ends in the middle"),
            ));
        }
        Ok(filled)
    }
}

/// The `length` bytes from `inner_offset` on of what `member` inflates to.
pub fn inflate(
    compression: Compression,
    member: &[u8],
    inner_offset: u64,
    length: u32,
) -> Result<Bytes, InflateError> {
    Member::new(compression, member).chunk(inner_offset, length)
}
