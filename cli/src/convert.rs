//! `pontoon convert FROM TO`: makes a lazy image of an ordinary one.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use pontoon_convert::{
    ChunkCompression, ChunkDigest, Converted, Error, Format, Nydus, Options, Plan,
};
use serde::Serialize;

use crate::failure::{EXIT_LATER, Failure, chain};
use crate::interrupt::interrupted;
use crate::progress::Progress;
use crate::text;

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   the image is converted
  1   it is not, and nothing is left of it
  64  the command line is wrong
  75  interrupted, and nothing is left of it";

/// Convert an image so that it can be pulled lazily
///
/// Every layer of every platform becomes one with a table of contents, and whoever knows nothing of it pulls and runs the
/// image as before; a nydus image only those run who know it. The same image becomes the same bytes whatever the machine
/// and the number of threads. Attestations are kept as they are, and named if they speak of an image that has another
/// digest now.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Convert {
    /// The OCI layout directory with the image
    from: PathBuf,
    /// The directory for the new one, empty or not there yet
    to: PathBuf,
    /// What layers become
    #[arg(long = "to", value_name = "FORMAT", value_enum)]
    format: Target,
    /// Who is to read zstd:chunked lazily: no layer serves both
    #[arg(long, value_enum, default_value = "podman")]
    dialect: Dialect,
    /// How the chunks of a nydus image are compressed
    #[arg(long, value_enum, default_value = "zstd")]
    compression: Compression,
    /// Which digest the chunks of a nydus image have
    #[arg(long, value_enum, default_value = "sha256")]
    digest: Digest,
    /// How hard to compress: 1 to 12 for estargz, 1 to 19 for zstd
    #[arg(long)]
    level: Option<i32>,
    /// Decompressed bytes of a chunk, 65536 to 33554432 [default: 4194304]; for nydus a power of two up to 1048576, which
    /// is its default
    #[arg(long, value_name = "BYTES")]
    chunk_size: Option<u32>,
    /// How many threads compress; one for each processor unless said otherwise
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// eStargz: gzip, for stargz-snapshotter and Pontoon
    Estargz,
    /// zstd, for the readers of --dialect and for Pontoon
    #[value(name = "zstd:chunked")]
    ZstdChunked,
    /// RAFS v6, for nydus-snapshotter and Pontoon
    Nydus,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compression {
    /// Zstandard
    Zstd,
    /// LZ4: quick, and large
    #[value(name = "lz4_block")]
    Lz4Block,
    /// None
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Digest {
    /// As eStargz has it
    Sha256,
    /// nydus' own default
    Blake3,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dialect {
    /// Podman, Buildah, CRI-O
    Podman,
    /// stargz-snapshotter
    Stargz,
}

/// What `--json` prints. `docs/convert.md` documents it: names stay, more may come.
#[derive(Debug, Serialize)]
struct Answer {
    images: u64,
    layers: u64,
    bytes_before: u64,
    bytes_after: u64,
    /// Old digests and new ones.
    manifests: Vec<[String; 2]>,
    notes: Vec<String>,
}

impl Convert {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        let plan = Plan::read(&self.from).map_err(failure)?;
        let progress = Arc::new(Progress::new(plan.sizes()));
        let cancel = Arc::new(AtomicBool::new(false));
        let work = {
            let (progress, cancel) = (Arc::clone(&progress), Arc::clone(&cancel));
            let (to, options) = (self.to.clone(), self.options());
            tokio::task::spawn_blocking(move || {
                let options = Options {
                    cancel: Some(&cancel),
                    ..options
                };
                plan.run(&to, &options, &|blob, offset| progress.reach(blob, offset))
            })
        };
        tokio::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = progress.tell() => work.await,
            () = interrupted() => {
                cancel.store(true, Ordering::Relaxed);
                work.await
            }
        };
        progress.end();
        let done = done.map_err(|error| Failure::new(1, format!("it broke off: {error}")))?;
        let answer = Answer::of(done.map_err(failure)?);
        crate::show(&match self.json {
            true => crate::json(&answer)?,
            false => answer.text(),
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self) -> Options<'static> {
        let format = match (self.format, self.dialect) {
            (Target::Estargz, _) => Format::Estargz,
            (Target::ZstdChunked, Dialect::Podman) => {
                Format::ZstdChunked(pontoon_convert::Dialect::Podman)
            }
            (Target::ZstdChunked, Dialect::Stargz) => {
                Format::ZstdChunked(pontoon_convert::Dialect::Stargz)
            }
            (Target::Nydus, _) => Format::Nydus(Nydus {
                compression: match self.compression {
                    Compression::Zstd => ChunkCompression::Zstd,
                    Compression::Lz4Block => ChunkCompression::Lz4Block,
                    Compression::None => ChunkCompression::None,
                },
                digest: match self.digest {
                    Digest::Sha256 => ChunkDigest::Sha256,
                    Digest::Blake3 => ChunkDigest::Blake3,
                },
            }),
        };
        let usual = Options::new(format);
        Options {
            level: self.level.unwrap_or(usual.level),
            chunk_bytes: self.chunk_size.unwrap_or(usual.chunk_bytes),
            threads: self.threads.unwrap_or(usual.threads),
            ..usual
        }
    }
}

/// How an error of a conversion ends a verb.
pub(crate) fn failure(error: Error) -> Failure {
    match error {
        Error::Cancelled => Failure::new(EXIT_LATER, "interrupted; run it again"),
        Error::Option(_) => Failure::new(crate::EXIT_USAGE, chain(&error)),
        _ => Failure::new(1, chain(&error)),
    }
}

impl Answer {
    fn of(converted: Converted) -> Answer {
        let manifests = converted.manifests.iter();
        Answer {
            images: converted.images,
            layers: converted.layers,
            bytes_before: converted.bytes_before,
            bytes_after: converted.bytes_after,
            manifests: manifests
                .map(|(old, new)| [old.to_string(), new.to_string()])
                .collect(),
            notes: converted.notes,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for [old, new] in &self.manifests {
            text.push_str(&format!("{old} is now {new}\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("{note}\n"));
        }
        text.push_str(&format!(
            "{} and {} converted, {} before, {} now\n",
            text::count(self.images, "image"),
            text::count(self.layers, "layer"),
            text::bytes(self.bytes_before),
            text::bytes(self.bytes_after),
        ));
        text
    }
}
