//! Images converted by other people's tools into what can be loaded lazily.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Layout, nydus, pontoon};
use crate::checkout;
use crate::command::run;
use crate::error::{At, Result};
use crate::registry::Registry;
use crate::tools::{self, Tool};

const LIMIT: Duration = Duration::from_mins(15);

/// What the reference of an image with external tables of contents ends in
/// (stargz-snapshotter's docs/estargz.md, "External TOC").
const TABLES_SUFFIX: &str = "-esgztoc";

/// All that our command writes otherwise if it is told to.
const SMALL_CHUNKS: [&str; 6] = [
    "--chunk-size",
    "65536",
    "--digest",
    "blake3",
    "--compression",
    "lz4_block",
];

/// The files that formats add to the root of an image, and that a plain unpack shows.
pub const ADDED_BY_FORMATS: [&str; 3] = [
    "stargz.index.json",
    ".prefetch.landmark",
    ".no.prefetch.landmark",
];

/// Into what an image is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conversion {
    /// eStargz with the library's defaults.
    Estargz,
    /// eStargz with chunks of 64 KiB: many chunks in one file.
    EstargzSmallChunks,
    /// eStargz with members of at least 50,000 bytes: many files in one member.
    EstargzMinChunk,
    /// eStargz with the 47-byte footer of its predecessor.
    Stargz,
    /// eStargz with its tables of contents in another image.
    ExternalToc,
    /// The same, with the diffIDs of the original image.
    ExternalTocLossless,
    /// zstd:chunked as stargz-snapshotter writes it.
    ZstdChunked,
    /// zstd:chunked as stargz-snapshotter writes it, with frames of at least 50,000
    /// bytes.
    ZstdChunkedMinChunk,
    /// zstd:chunked as skopeo, Buildah and Podman write it.
    PodmanZstdChunked,
    /// nydus as our own command writes it, all layers.
    Nydus,
    /// nydus as our own command writes it but for the topmost layer, as when somebody builds on such an image.
    NydusBase,
    /// nydus as our own command writes it, with chunks of 64 KiB, LZ4 and BLAKE3.
    NydusSmallChunks,
    /// nydus as `nydus-image` writes it, all layers. Needs that [rival](crate::tools::rival).
    RivalNydus,
    /// nydus as `nydus-image` writes it but for the topmost layer. Needs that [rival](crate::tools::rival).
    RivalNydusBase,
}

impl Conversion {
    /// Every one that our converter and skopeo make.
    pub const ALL: [Self; 9] = [
        Self::Estargz,
        Self::EstargzSmallChunks,
        Self::EstargzMinChunk,
        Self::Stargz,
        Self::ExternalToc,
        Self::ExternalTocLossless,
        Self::ZstdChunked,
        Self::ZstdChunkedMinChunk,
        Self::PodmanZstdChunked,
    ];

    /// A name for files and tags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Estargz => "estargz",
            Self::EstargzSmallChunks => "estargz-small-chunks",
            Self::EstargzMinChunk => "estargz-min-chunk",
            Self::Stargz => "stargz",
            Self::ExternalToc => "external-toc",
            Self::ExternalTocLossless => "external-toc-lossless",
            Self::ZstdChunked => "zstd-chunked",
            Self::ZstdChunkedMinChunk => "zstd-chunked-min-chunk",
            Self::PodmanZstdChunked => "podman-zstd-chunked",
            Self::Nydus => "nydus",
            Self::NydusBase => "nydus-base",
            Self::NydusSmallChunks => "nydus-small-chunks",
            Self::RivalNydus => "rival-nydus",
            Self::RivalNydusBase => "rival-nydus-base",
        }
    }

    /// The arguments of our converter; `None` where others convert.
    fn arguments(self) -> Option<&'static [&'static str]> {
        Some(match self {
            Self::Estargz => &["-format=estargz"],
            Self::EstargzSmallChunks => &["-format=estargz", "-chunk-size=65536"],
            Self::EstargzMinChunk => &["-format=estargz", "-min-chunk-size=50000"],
            Self::Stargz => &["-format=stargz"],
            Self::ExternalToc => &["-format=external-toc"],
            Self::ExternalTocLossless => &["-format=external-toc-lossless"],
            Self::ZstdChunked => &["-format=zstd-chunked"],
            Self::ZstdChunkedMinChunk => &["-format=zstd-chunked", "-min-chunk-size=50000"],
            Self::PodmanZstdChunked
            | Self::Nydus
            | Self::NydusBase
            | Self::NydusSmallChunks
            | Self::RivalNydus
            | Self::RivalNydusBase => return None,
        })
    }

    /// Whether only those can unpack it who know nydus.
    pub fn is_nydus(self) -> bool {
        matches!(
            self,
            Self::Nydus
                | Self::NydusBase
                | Self::NydusSmallChunks
                | Self::RivalNydus
                | Self::RivalNydusBase
        )
    }

    fn has_tables(self) -> bool {
        matches!(self, Self::ExternalToc | Self::ExternalTocLossless)
    }
}

/// A converted image.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The image.
    pub image: Layout,
    /// The image that has the tables of contents of its layers, where they are outside.
    pub tables: Option<Layout>,
}

impl Converted {
    /// Uploads it, and its tables of contents, and returns its reference.
    pub fn push(&self, registry: &Registry, name: &str, tag: &str) -> Result<String> {
        if let Some(tables) = &self.tables {
            registry.push(tables, name, &format!("{tag}{TABLES_SUFFIX}"))?;
        }
        registry.push(&self.image, name, tag)
    }
}

/// Converts `image`, unless that was done before: the result is kept in `target/rig`.
pub fn convert(image: &Layout, conversion: Conversion) -> Result<Converted> {
    if conversion.is_nydus() {
        return convert_to_nydus(image, conversion);
    }
    let arguments = conversion.arguments();
    let tool = if arguments.is_some() {
        Tool::Images
    } else {
        Tool::Forky
    };
    let arguments = arguments.unwrap_or_default();
    let version = tool.version()?;
    kept(image, conversion.name(), &version, arguments, |into| {
        if conversion == Conversion::PodmanZstdChunked {
            return podman(image, into);
        }
        let mut command = Command::new(tool.dir()?.join("images"));
        command.args(arguments);
        if conversion.has_tables() {
            command.arg("-toc").arg(into.join("tables"));
        }
        command.arg(image.dir()).arg(into.join("image"));
        run(&mut command, LIMIT).map(drop)
    })
}

fn convert_to_nydus(image: &Layout, conversion: Conversion) -> Result<Converted> {
    let version = match conversion {
        Conversion::RivalNydus | Conversion::RivalNydusBase => nydus::version()?,
        _ => pontoon::version()?,
    };
    let arguments: &[&str] = match conversion {
        Conversion::NydusSmallChunks => &SMALL_CHUNKS,
        _ => &[],
    };
    kept(
        image,
        conversion.name(),
        &version,
        arguments,
        |into| match conversion {
            Conversion::RivalNydus => nydus::convert(image, 0, into),
            Conversion::RivalNydusBase => nydus::convert(image, 1, into),
            Conversion::NydusBase => pontoon::convert_base(image, into),
            _ => pontoon::convert(image, arguments, into),
        },
    )
}

/// Converts `image` to eStargz in which `paths` come first, before a landmark, in this
/// order; each layer has those that are in it.
pub fn convert_with_prefetch(image: &Layout, paths: &[&str]) -> Result<Converted> {
    let list = paths.join(",");
    let arguments = ["-format=estargz", "-prefetch", &list];
    kept(
        image,
        "estargz-prefetch",
        &Tool::Images.version()?,
        &arguments,
        |into| {
            let mut command = Command::new(Tool::Images.dir()?.join("images"));
            command.args(arguments);
            command.arg(image.dir()).arg(into.join("image"));
            run(&mut command, LIMIT).map(drop)
        },
    )
}

/// Has stargz-snapshotter's library verify the table of contents of every layer of the image in the layout `image`, and
/// read every chunk. Answers a line for each layer: its digest, how many chunks, and the files up to its landmark, with
/// commas between them and `-` if it has none.
pub fn verify(image: &Path) -> Result<String> {
    let mut command = Command::new(Tool::Images.dir()?.join("verify"));
    Ok(run(command.arg(image), LIMIT)?.stdout)
}

/// Has containers/storage pull the layers of the image in the layout `image` by their tables of contents, below the
/// empty directory `root`, and make their archives again. Answers a line for each layer: its digest, and that of the
/// archive. Needs root's capabilities.
pub fn store(image: &Path, root: &Path) -> Result<String> {
    let mut command = Command::new(Tool::Images.dir()?.join("podman"));
    Ok(run(command.arg(image).arg(root), LIMIT)?.stdout)
}

/// Has `make` fill a directory once for each image and each way to convert it.
fn kept(
    image: &Layout,
    name: &str,
    version: &str,
    arguments: &[&str],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<Converted> {
    let digest = image.manifest_digest()?;
    // Enough of it that two images never meet.
    let short = digest.split(':').nth(1).unwrap_or_default();
    let short = short.get(..16).unwrap_or(short);
    let base = checkout::rig_dir().join("images/converted");
    fs::create_dir_all(&base).at("create", &base)?;
    let dir = base.join(format!("{short}-{name}"));
    let recipe = format!("{digest} {version} {arguments:?}");
    tools::once(&dir, &recipe, || make(&dir))?;
    let tables = dir.join("tables");
    let tables = tables.exists().then(|| Layout::open(&tables)).transpose()?;
    Ok(Converted {
        image: Layout::open(&dir.join("image"))?,
        tables,
    })
}

/// The command that converts `image` as Podman does, to zstd:chunked in the layout `to`. What it remembers of blobs, and what
/// it asks a policy for, is kept off the machine: in the directory `state`.
pub fn skopeo(image: &Layout, state: &Path, to: &Path) -> Result<Command> {
    let mut command = Command::new(Tool::Forky.dir()?.join("skopeo"));
    command
        .env("_CONTAINERS_ROOTLESS_UID", "1000")
        .env("XDG_DATA_HOME", state)
        .env("HOME", state)
        .args(["--insecure-policy", "--tmpdir"])
        .arg(state)
        .args(["copy", "--quiet"])
        .args(["--dest-compress-format", "zstd:chunked"])
        .arg("--dest-force-compress-format")
        .arg(format!("oci:{}", image.dir().display()))
        .arg(format!("oci:{}", to.display()));
    Ok(command)
}

fn podman(image: &Layout, into: &Path) -> Result<()> {
    let state: PathBuf = into.join("state");
    fs::create_dir_all(&state).at("create", &state)?;
    let mut command = skopeo(image, &state, &into.join("image"))?;
    run(&mut command, LIMIT)?;
    fs::remove_dir_all(&state).at("delete", &state)
}
