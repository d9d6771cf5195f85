//! What a blob is compressed with, and what comes out.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

/// A decompressed blob. flate2 with zlib-rs inflates gzip about as fast as zlib-ng without any C; libdeflate is faster
/// still, but needs a whole member in memory, and a layer is one member.
pub(crate) enum Inflater<R> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Zstd<R>),
}

/// gzip's magic number (RFC 1952, 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// zstd's magic number (RFC 8878, 3.1.1).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The last three bytes of the magic number of a skippable frame; the first is 0x50 to 0x5f (RFC 8878, 3.1.2).
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

impl<R: BufRead> Inflater<R> {
    /// The first buffer of `source` has to have at least four bytes if the blob has.
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let start = source.fill_buf()?;
        if start.starts_with(GZIP) {
            return Ok(Inflater::Gzip(Box::new(MultiGzDecoder::new(source))));
        }
        let skippable =
            matches!(start, [0x50..=0x5f, rest @ ..] if rest.starts_with(ZSTD_SKIPPABLE));
        if start.starts_with(ZSTD) || skippable {
            return Zstd::new(source).map(Inflater::Zstd);
        }
        Ok(Inflater::Plain(source))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Inflater::Plain(_) => "plain tar",
            Inflater::Gzip(_) => "gzip",
            Inflater::Zstd(_) => "zstd",
        }
    }

    pub(crate) fn source(&mut self) -> &mut R {
        match self {
            Inflater::Plain(source) => source,
            Inflater::Gzip(decoder) => decoder.get_mut(),
            Inflater::Zstd(decoder) => &mut decoder.source,
        }
    }
}

impl<R: BufRead> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Inflater::Plain(source) => source.read(buffer),
            Inflater::Gzip(decoder) => decoder.read(buffer),
            Inflater::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Any number of zstd frames, skippable ones among them.
pub(crate) struct Zstd<R> {
    source: R,
    context: DCtx<'static>,
    /// Whether the last frame is complete.
    complete: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> io::Result<Self> {
        let mut context =
            DCtx::try_create().ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        context.init().map_err(damaged)?;
        Ok(Zstd {
            source,
            context,
            complete: true,
        })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.source.fill_buf()?;
            let at_end = input.is_empty();
            if at_end && self.complete {
                return Ok(0);
            }
            let mut from = InBuffer::around(input);
            let mut to = OutBuffer::around(&mut *buffer);
            let hint = self
                .context
                .decompress_stream(&mut to, &mut from)
                .map_err(damaged)?;
            let (consumed, produced) = (from.pos(), to.pos());
            self.source.consume(consumed);
            self.complete = hint == 0;
            if produced > 0 {
                return Ok(produced);
            }
            // Without input, what is left inside comes out, or there is nothing left.
            if at_end && !self.complete {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    }
}

fn damaged(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
}
