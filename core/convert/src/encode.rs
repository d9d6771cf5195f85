//! Compressors.

use std::io;

use libdeflater::{CompressionLvl, Compressor};
use pontoon_layer::Digest;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use crate::error::{Error, Result};
use crate::nydus::ChunkCompression;
use crate::options::{Dialect, Format};
use crate::unit::{Packed, Unit};

/// Compresses units. The same unit becomes the same bytes, whatever came before it.
pub(crate) struct Encoder {
    coder: Coder,
    /// Whether what follows a chunk is compressed apart from it: containers/storage takes a file for all that is between
    /// its offsets.
    apart: bool,
    /// Room for the largest unit so far, compressed.
    room: Vec<u8>,
}

enum Coder {
    /// libdeflate: units are in memory as a whole.
    Gzip(Compressor),
    Zstd(CCtx<'static>),
    /// One LZ4 block, without a frame.
    Lz4Block,
    None,
}

impl Encoder {
    pub(crate) fn new(format: Format, level: i32) -> Result<Encoder> {
        let coder = match format {
            Format::Estargz => {
                let level = CompressionLvl::new(level)
                    .map_err(|_| Error::Compress(format!("there is no level {level}")))?;
                Coder::Gzip(Compressor::new(level))
            }
            Format::ZstdChunked(_) => Coder::Zstd(zstd(level)?),
            Format::Nydus(nydus) => match nydus.compression {
                ChunkCompression::None => Coder::None,
                ChunkCompression::Lz4Block => Coder::Lz4Block,
                ChunkCompression::Zstd => Coder::Zstd(zstd(level)?),
            },
        };
        Ok(Encoder {
            coder,
            apart: format == Format::ZstdChunked(Dialect::Podman),
            room: Vec::new(),
        })
    }

    pub(crate) fn pack(&mut self, unit: Unit) -> Result<Packed> {
        let (chunk, rest) = (unit.bytes).split_at(unit.chunk_bytes.min(unit.bytes.len()));
        let digest = (!chunk.is_empty()).then(|| Digest::of(chunk));
        let mut bytes = Vec::new();
        let chunk_end = if self.apart && !chunk.is_empty() {
            self.stream(chunk, &mut bytes)?;
            let end = bytes.len();
            if !rest.is_empty() {
                self.stream(rest, &mut bytes)?;
            }
            end
        } else {
            self.stream(&unit.bytes, &mut bytes)?;
            bytes.len()
        };
        Ok(Packed {
            bytes,
            chunk_end,
            chunk_bytes: unit.chunk_bytes,
            digest,
            notes: unit.notes,
        })
    }

    /// Appends `bytes` to `out`, compressed if that makes them less. Answers whether it does.
    pub(crate) fn chunk(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let count = match self.coder {
            Coder::None => bytes.len(),
            _ => self.compress(bytes)?,
        };
        let compressed = count < bytes.len();
        out.extend_from_slice(match compressed {
            true => &self.room[..count],
            false => bytes,
        });
        Ok(compressed)
    }

    /// Appends `bytes` to `out`, as a gzip member or a zstd frame.
    pub(crate) fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let count = self.compress(bytes)?;
        out.extend_from_slice(&self.room[..count]);
        Ok(())
    }

    /// Compresses `bytes` into [`Encoder::room`], and answers how many they are there.
    fn compress(&mut self, bytes: &[u8]) -> Result<usize> {
        let bound = match &mut self.coder {
            Coder::Gzip(coder) => coder.gzip_compress_bound(bytes.len()),
            Coder::Zstd(_) => zstd_safe::compress_bound(bytes.len()),
            Coder::Lz4Block => lz4_flex::block::get_maximum_output_size(bytes.len()),
            Coder::None => bytes.len(),
        };
        if self.room.len() < bound {
            self.room.resize(bound, 0);
        }
        Ok(match &mut self.coder {
            Coder::Gzip(coder) => coder
                .gzip_compress(bytes, &mut self.room)
                .map_err(|error| Error::Compress(error.to_string()))?,
            Coder::Zstd(coder) => coder.compress2(&mut self.room[..], bytes).map_err(failed)?,
            Coder::Lz4Block => lz4_flex::block::compress_into(bytes, &mut self.room)
                .map_err(|error| Error::Compress(error.to_string()))?,
            Coder::None => {
                self.room[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
        })
    }
}

fn zstd(level: i32) -> Result<CCtx<'static>> {
    let mut context =
        CCtx::try_create().ok_or_else(|| Error::Compress("zstd has no memory".to_owned()))?;
    let level = CParameter::CompressionLevel(level);
    context.set_parameter(level).map_err(failed)?;
    Ok(context)
}

fn failed(code: zstd_safe::ErrorCode) -> Error {
    Error::Compress(zstd_safe::get_error_name(code).to_owned())
}

/// One zstd frame in memory, of what comes piece by piece.
pub(crate) struct Frame {
    context: CCtx<'static>,
    /// The frame, as far as it came out of the compressor.
    compressed: Vec<u8>,
    /// Bytes that went in.
    pub(crate) bytes: u64,
}

/// How much room a compressor is given at a time.
const ROOM_BYTES: usize = 64 << 10;

impl Frame {
    pub(crate) fn new(level: i32) -> Result<Frame> {
        Ok(Frame {
            context: zstd(level)?,
            compressed: Vec::new(),
            bytes: 0,
        })
    }

    /// Goes on with `bytes`.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let context = &mut self.context;
            append(&mut self.compressed, |out| {
                context.compress_stream(out, &mut input)
            })?;
        }
        Ok(())
    }

    /// The frame, complete.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        loop {
            let context = &mut self.context;
            if append(&mut self.compressed, |out| context.end_stream(out))? == 0 {
                return Ok(self.compressed);
            }
        }
    }

    /// Bytes that came out so far.
    pub(crate) fn compressed_bytes(&self) -> u64 {
        self.compressed.len() as u64
    }
}

/// Appends what `compress` writes to `bytes`, and answers what it answers.
fn append(
    bytes: &mut Vec<u8>,
    compress: impl FnOnce(&mut OutBuffer<'_, [u8]>) -> zstd_safe::SafeResult,
) -> Result<usize> {
    let before = bytes.len();
    bytes.resize(before + ROOM_BYTES, 0);
    let mut out = OutBuffer::around(&mut bytes[before..]);
    let hint = compress(&mut out).map_err(failed)?;
    let count = out.pos();
    bytes.truncate(before + count);
    Ok(hint)
}

/// Gives all that the zstd frame `compressed` inflates to to `take`, piece by piece.
pub(crate) fn inflate(
    compressed: &[u8],
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut member = pontoon_layer::Member::new(pontoon_layer::Compression::Zstd, compressed);
    let mut buffer = vec![0; ROOM_BYTES];
    loop {
        match io::Read::read(&mut member, &mut buffer)? {
            0 => return Ok(()),
            count => take(&buffer[..count])?,
        }
    }
}
