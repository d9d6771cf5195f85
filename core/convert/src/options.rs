//! What the caller wants.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_layer::TocKind;

use crate::error::{Error, Result};
use crate::nydus::{ChunkCompression, Nydus};

/// The smallest size of a chunk, in bytes.
pub const CHUNK_BYTES_MIN: u32 = 64 << 10;

/// What a layer becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// eStargz: what knows nothing of it takes it for a gzipped archive.
    Estargz,
    /// zstd:chunked: what knows nothing of it takes it for an archive compressed with zstd.
    ZstdChunked(Dialect),
    /// nydus, RAFS v6: a blob of chunks, and one bootstrap for the whole image. Nobody else can read it.
    Nydus(Nydus),
}

/// Who is to read a table of contents of zstd:chunked. One layer cannot serve both: containers/storage refuses a layer
/// that has both annotations, and stargz-snapshotter refuses one without its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// containers/storage: Podman, Buildah, CRI-O. Has what is needed to make the archive again, byte by byte.
    Podman,
    /// stargz-snapshotter.
    Stargz,
}

impl Format {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Format::Estargz => "eStargz",
            Format::ZstdChunked(Dialect::Podman) => "zstd:chunked",
            Format::ZstdChunked(Dialect::Stargz) => "zstd:chunked as stargz-snapshotter has it",
            Format::Nydus(_) => "nydus",
        }
    }

    /// How hard to compress, unless something else is asked for. Of a Debian layer of 152 MB, libdeflate's 6 makes less
    /// than Go's 9 does, in a ninth of its time, and its 9 takes twice as long for 0.8 % less; zstd's 7 makes less than
    /// what Skopeo and stargz-snapshotter do, and its 9 takes a fifth longer for 0.7 % less.
    pub fn default_level(self) -> i32 {
        match self {
            Format::Estargz => 6,
            Format::ZstdChunked(_) => 7,
            Format::Nydus(nydus) => match nydus.compression {
                // As nydus-image does: what is wanted of it is to be quick.
                ChunkCompression::Zstd => 3,
                ChunkCompression::None | ChunkCompression::Lz4Block => 1,
            },
        }
    }

    /// How hard one can compress: libdeflate's levels, and zstd's. Where there is one level, there is no choice.
    pub fn levels(self) -> RangeInclusive<i32> {
        match self {
            Format::Estargz => 1..=12,
            Format::ZstdChunked(_) => 1..=19,
            Format::Nydus(nydus) => match nydus.compression {
                ChunkCompression::Zstd => 1..=19,
                ChunkCompression::None | ChunkCompression::Lz4Block => 1..=1,
            },
        }
    }

    /// Decompressed bytes of a chunk, unless others are asked for: what stargz-snapshotter's tools and nydus' take.
    pub fn default_chunk_bytes(self) -> u32 {
        match self {
            Format::Estargz | Format::ZstdChunked(_) => 4 << 20,
            Format::Nydus(_) => 1 << 20,
        }
    }

    /// The largest size of a chunk, in bytes; of the smallest, see [`CHUNK_BYTES_MIN`].
    pub fn chunk_bytes_max(self) -> u32 {
        match self {
            Format::Estargz | Format::ZstdChunked(_) => 32 << 20,
            Format::Nydus(_) => 1 << 20,
        }
    }

    /// What its layers have as table of contents, if they have any.
    pub(crate) fn toc_kind(self) -> Option<TocKind> {
        match self {
            Format::Estargz => Some(TocKind::TarGzip),
            Format::ZstdChunked(_) => Some(TocKind::Zstd),
            Format::Nydus(_) => None,
        }
    }

    /// The media type of a layer (OCI image specification, `layer.md`), of a blob of nydus' (nydus-snapshotter,
    /// `pkg/converter/constant.go`).
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Estargz => "application/vnd.oci.image.layer.v1.tar+gzip",
            Format::ZstdChunked(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
            Format::Nydus(_) => "application/vnd.oci.image.layer.nydus.blob.v1",
        }
    }
}

/// How layers are converted.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// What they become.
    pub format: Format,
    /// How hard to compress, in [`Format::levels`].
    pub level: i32,
    /// Decompressed bytes of a chunk, [`CHUNK_BYTES_MIN`] to [`Format::chunk_bytes_max`]; for nydus a power of two.
    pub chunk_bytes: u32,
    /// How many threads compress.
    pub threads: NonZeroUsize,
    /// What a layer may ask of us at most.
    pub limits: pontoon_unpack::Limits,
    /// Set by another thread to stop.
    pub cancel: Option<&'a AtomicBool>,
}

impl Options<'_> {
    /// `format` with what is usual for it, and a thread for each processor.
    pub fn new(format: Format) -> Options<'static> {
        Options {
            format,
            level: format.default_level(),
            chunk_bytes: format.default_chunk_bytes(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: pontoon_unpack::Limits::default(),
            cancel: None,
        }
    }

    /// Fails if they make no sense together.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn validate(&self) -> Result<()> {
        let levels = self.format.levels();
        if !levels.contains(&self.level) {
            return Err(Error::Option(format!(
                "the level {} is none of {}, which has {} to {}",
                self.level,
                self.format.name(),
                levels.start(),
                levels.end()
            )));
        }
        let most = self.format.chunk_bytes_max();
        let power = matches!(self.format, Format::Nydus(_));
        if !(CHUNK_BYTES_MIN..=most).contains(&self.chunk_bytes)
            || power && !self.chunk_bytes.is_power_of_two()
        {
            return Err(Error::Option(format!(
                "chunks of {} bytes are not possible; {} has {}{CHUNK_BYTES_MIN} to {most}",
                self.chunk_bytes,
                self.format.name(),
                if power { "powers of two, " } else { "" },
            )));
        }
        Ok(())
    }

    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}
