//! `pontoon convert FROM TO`: makes a lazy image of an ordinary one.

use std::error::Error as StdError;
use std::io;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use pontoon_convert::{
    ChunkCompression, ChunkDigest, Converted, Error, Format, Nydus, Options, Plan,
};
use serde::Serialize;

use crate::failure::{EXIT_LATER, Failure, chain};
use crate::place::{Choice, Destination, Place, Ways};
use crate::progress::Progress;
use crate::watched::{Stop, stopped, watched};
use crate::{hydrate, text};

/// The places and the exit codes.
const AFTER_HELP: &str = "\
Places:
  docker://REGISTRY/REPOSITORY[:TAG][@DIGEST]   an image in a registry
  containerd://[NAMESPACE/]IMAGE                an image in containerd
  oci:DIRECTORY[:NAME], or DIRECTORY            an OCI layout: the image of that name, or all

Exit codes:
  0   the image is converted
  1   it is not, and nobody sees anything of it
  64  the command line or the daemon's configuration is wrong
  69  containerd does not answer
  75  interrupted, or a registry is not available: the same command may do better later";

/// Convert an image so that it can be pulled lazily
///
/// Every layer of every platform becomes one with a table of contents, and whoever knows nothing of it pulls and runs the
/// image as before; a nydus image only those run who know it. The same image becomes the same bytes whatever the machine
/// and the number of threads. Attestations are kept as they are, and named if they speak of an image that has another
/// digest now.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Convert {
    /// Where the image is: docker://, containerd://, oci: or an OCI layout directory
    from: Place,
    /// Where the new one goes: likewise, a directory that is empty or not there yet
    to: Place,
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
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    ways: Ways,
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
    /// Where the new image is.
    place: String,
    /// What is there now: one digest, unless a layout had several images.
    digests: Vec<String>,
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
        let options = self.options();
        options.validate().map_err(failure)?;
        if let Place::Registry(reference) = &self.to
            && (reference.tag().is_none() || reference.digest().is_some())
        {
            let message = format!("{}: name a tag, and no digest, to push to", self.to);
            return Err(Failure::new(crate::EXIT_USAGE, message));
        }
        let stop = Stop::new();
        let source = self.ways.source(&self.from, &stop).await?;
        let selection = self.choice.selection();
        let plan = watched(None, &stop, move || Plan::read(source, &selection)).await?;
        if plan.targets() != 1 && !matches!(self.to, Place::Layout { .. }) {
            let (from, count) = (&self.from, plan.targets());
            let message = format!("{from} has {count} images; name one: oci:DIRECTORY:NAME");
            return Err(Failure::new(crate::EXIT_USAGE, message));
        }
        let progress = Arc::new(Progress::new(plan.sizes()));
        let ways = &self.ways;
        let destination = ways.destination(&self.to, &self.from, &progress, &stop);
        let destination = Arc::new(destination.await?);
        let work = {
            let (progress, stop) = (Arc::clone(&progress), Arc::clone(&stop));
            let destination = Arc::clone(&destination);
            move || {
                let options = Options {
                    cancel: Some(stop.flag()),
                    ..options
                };
                let watch = |blob, offset| progress.reach(blob, offset);
                plan.run(destination.target(), &options, &watch)
            }
        };
        let done = watched(Some(&progress), &stop, work).await;
        let ended = match &*destination {
            Destination::Layout(_) => Ok(()),
            Destination::Push(push) => push.end().await,
        };
        // What went wrong first is what counts.
        let answer = Answer::of(&self.to, done?);
        ended?;
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
        Error::Cancelled => stopped(),
        Error::Option(_) => Failure::new(crate::EXIT_USAGE, chain(&error)),
        _ => Failure::new(code(&error), chain(&error)),
    }
}

/// With which code it does: a registry or containerd may be what failed.
fn code(error: &Error) -> u8 {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<pontoon_source::Error>()
            && !matches!(error, pontoon_source::Error::Unreadable { .. })
        {
            return if error.is_transient() { EXIT_LATER } else { 1 };
        }
        if let Some(error) = error.downcast_ref::<pontoon_containerd::Error>() {
            return hydrate::code(error);
        }
        // These pass on what lies below their content, not the content.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let cause = error.downcast_ref::<pontoon_source::Cause>();
        next = match (inner, cause) {
            (Some(inner), _) => Some(inner),
            (_, Some(cause)) => Some(cause.get()),
            _ => error.source(),
        };
    }
    1
}

impl Answer {
    fn of(to: &Place, converted: Converted) -> Answer {
        let manifests = converted.manifests.iter();
        Answer {
            place: to.to_string(),
            digests: converted.targets.iter().map(ToString::to_string).collect(),
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
        for digest in &self.digests {
            text.push_str(&format!("{} has {digest}\n", self.place));
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
