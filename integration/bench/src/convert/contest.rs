//! Who converts into what, and how.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pontoon_rig::image::{Layout, skopeo};
use pontoon_rig::tools::Tool;
use serde::Serialize;
use serde_json::Value;

use super::nerdctl::Nerdctl;

/// A format, and a rival that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contest {
    /// eStargz; stargz-snapshotter's library, which ctr-remote, nerdctl and BuildKit use.
    Estargz,
    /// zstd:chunked for Podman; skopeo.
    ZstdChunked,
    /// zstd:chunked for stargz-snapshotter; its library.
    ZstdChunkedStargz,
    /// nydus; nerdctl, with nydus-image. What containerd does for it is not counted.
    Nydus,
    /// nydus; nydus-image alone, for all layers at once, and the merging of what comes out. It makes no image of that.
    NydusImage,
}

/// Who converts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Who {
    Pontoon,
    Rival,
}

/// The rivals that have to be given to us.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    /// The folder with their programs.
    pub(super) programs: Option<PathBuf>,
    pub(super) nerdctl: Option<Nerdctl>,
}

/// Programs that run at once.
type Phase = Vec<Command>;

impl Contest {
    /// The format, for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Contest::Estargz => "eStargz",
            Contest::ZstdChunked => "zstd:chunked",
            Contest::ZstdChunkedStargz => "zstd:chunked (stargz)",
            Contest::Nydus | Contest::NydusImage => "nydus",
        }
    }

    /// Who converts, for people.
    pub(super) fn name(self, who: Who) -> &'static str {
        match (who, self) {
            (Who::Pontoon, _) => "pontoon convert",
            (Who::Rival, Contest::Estargz | Contest::ZstdChunkedStargz) => "stargz-snapshotter",
            (Who::Rival, Contest::ZstdChunked) => "skopeo",
            (Who::Rival, Contest::Nydus) => "nerdctl",
            (Who::Rival, Contest::NydusImage) => "nydus-image alone",
        }
    }

    /// What is to be run to convert `image` into something in `place`, one phase after the other. Nothing, if the rival is
    /// not there.
    pub(super) fn phases(
        self,
        who: Who,
        image: &Layout,
        place: &Path,
        rivals: &mut Rivals,
    ) -> Result<Option<Vec<Phase>>, Box<dyn Error>> {
        let to = place.join("image");
        let stargz = |format: &str| -> Result<Vec<Phase>, Box<dyn Error>> {
            let mut command = Command::new(Tool::Images.dir()?.join("images"));
            command.arg(format!("-format={format}"));
            command.arg(image.dir()).arg(&to);
            Ok(vec![vec![command]])
        };
        Ok(Some(match (who, self) {
            (Who::Pontoon, _) => vec![vec![self.ours(image, &to)?]],
            (Who::Rival, Contest::Estargz) => stargz("estargz")?,
            (Who::Rival, Contest::ZstdChunkedStargz) => stargz("zstd-chunked")?,
            (Who::Rival, Contest::ZstdChunked) => {
                let state = place.join("state");
                fs::create_dir_all(&state)?;
                vec![vec![skopeo(image, &state, &to)?]]
            }
            (Who::Rival, Contest::Nydus) => match &mut rivals.nerdctl {
                Some(nerdctl) => vec![vec![nerdctl.command(image)?]],
                None => return Ok(None),
            },
            (Who::Rival, Contest::NydusImage) => {
                let programs = rivals.programs.as_ref();
                let program = programs.map(|programs| programs.join("nydus-image"));
                match program.filter(|program| program.is_file()) {
                    Some(program) => nydus(&program, image, &to)?,
                    None => return Ok(None),
                }
            }
        }))
    }

    fn ours(self, image: &Layout, to: &Path) -> Result<Command, Box<dyn Error>> {
        let bin = std::env::current_exe()?;
        let bin = bin.parent().ok_or("this program is nowhere")?;
        let mut command = Command::new(bin.join("pontoon"));
        command.arg("convert").arg(image.dir()).arg(to);
        command.stdout(Stdio::null());
        match self {
            Contest::Estargz => command.args(["--to", "estargz"]),
            Contest::ZstdChunked => command.args(["--to", "zstd:chunked"]),
            Contest::ZstdChunkedStargz => {
                command.args(["--to", "zstd:chunked", "--dialect", "stargz"])
            }
            Contest::Nydus | Contest::NydusImage => command.args(["--to", "nydus"]),
        };
        Ok(command)
    }

    /// Bytes of the layers that came out.
    pub(super) fn bytes(
        self,
        who: Who,
        place: &Path,
        rivals: &Rivals,
    ) -> Result<u64, Box<dyn Error>> {
        let to = place.join("image");
        match (who, self, &rivals.nerdctl) {
            (Who::Rival, Contest::Nydus, Some(nerdctl)) => return nerdctl.bytes(),
            (Who::Rival, Contest::NydusImage, _) => {}
            _ => {
                let layers = layers(&to)?;
                return Ok(layers.iter().map(|layer| layer.1).sum());
            }
        }
        let mut bytes = fs::metadata(to.join(MERGED_GZIP))?.len();
        for entry in fs::read_dir(to.join("blobs"))? {
            bytes += entry?.metadata()?.len();
        }
        Ok(bytes)
    }
}

/// What nydus-image makes of all layers, and that compressed.
const MERGED: &str = "bootstrap";
const MERGED_GZIP: &str = "bootstrap.gz";

/// A bootstrap and a blob of every layer, then one bootstrap of all, then what is pushed of it.
fn nydus(program: &Path, image: &Layout, to: &Path) -> Result<Vec<Phase>, Box<dyn Error>> {
    let blobs = to.join("blobs");
    fs::create_dir_all(&blobs)?;
    let tool = |verb: &str, bootstrap: &Path| {
        let mut command = Command::new(program);
        command.args([verb, "--log-level", "warn", "--bootstrap"]);
        command.arg(bootstrap).stdout(Stdio::null());
        command
    };
    let (mut creates, mut bootstraps) = (Vec::new(), Vec::new());
    for (number, (layer, _)) in layers(image.dir())?.into_iter().enumerate() {
        let bootstrap = to.join(format!("{number}.boot"));
        let mut create = tool("create", &bootstrap);
        create.args(["--type", "targz-rafs", "--fs-version", "6"]);
        create.args(["--compressor", "zstd", "--blob-dir"]);
        create.arg(&blobs).arg(layer);
        creates.push(create);
        bootstraps.push(bootstrap);
    }
    let mut merge = tool("merge", &to.join(MERGED));
    merge.args(bootstraps);
    let mut gzip = Command::new("gzip");
    gzip.arg("--stdout").arg(to.join(MERGED));
    gzip.stdout(File::create(to.join(MERGED_GZIP))?);
    Ok(vec![creates, vec![merge], vec![gzip]])
}

/// The layers of the only image of the layout `dir`: where they are, and how many bytes they have.
fn layers(dir: &Path) -> Result<Vec<(PathBuf, u64)>, Box<dyn Error>> {
    let blob = |descriptor: &Value| -> Result<PathBuf, Box<dyn Error>> {
        let digest = descriptor["digest"].as_str().ok_or("no digest")?;
        let (algorithm, hex) = digest.split_once(':').ok_or("no digest")?;
        Ok(dir.join("blobs").join(algorithm).join(hex))
    };
    let read = |path: PathBuf| -> Result<Value, Box<dyn Error>> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    let index = read(dir.join("index.json"))?;
    let manifest = read(blob(&index["manifests"][0])?)?;
    let layers = manifest["layers"]
        .as_array()
        .ok_or("an image without layers")?;
    let layers = layers.iter().map(|layer| {
        let size = layer["size"].as_u64().ok_or("a layer without a size")?;
        Ok((blob(layer)?, size))
    });
    layers.collect()
}
