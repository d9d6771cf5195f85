//! `pontoon inspect IMAGE`: what became of each layer of an image, and why.

use std::path::PathBuf;
use std::process::ExitCode;

use pontoon_containerd::Client;
use pontoon_source::Reference;
use serde::Serialize;

use crate::admin::Admin;
use crate::failure::Failure;
use crate::hydrate;
use crate::layers::{Layer, Report};
use crate::text;

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   the layers are shown
  1   the daemon knows no layer of that image, or containerd does not know the image
  64  the command line is wrong
  69  no daemon or no containerd answers";

/// Show what became of each layer of an image: lazy, or why not, how much of it is here, and errors
///
/// The daemon tells what it knows under that image's name: of lazy layers always, of others since its start. With
/// --containerd, the image's manifest says which layers there are, in which order, and layers are found that were pulled
/// with another image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Inspect {
    /// The image, as it was pulled
    image: String,
    #[command(flatten)]
    admin: Admin,
    /// Read the image's manifest from the containerd on this socket
    #[arg(long, value_name = "SOCKET")]
    containerd: Option<PathBuf>,
    /// The namespace of containerd that the image is in: k8s.io for Kubernetes, moby for Docker
    #[arg(long, default_value = "default", requires = "containerd")]
    namespace: String,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. `docs/stargz.md` documents it: names stay, more may come.
#[derive(Debug, Serialize)]
struct Answer {
    image: String,
    /// The lowest first, if the manifest was read.
    layers: Vec<Layer>,
}

impl Inspect {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        let report = self.admin.report().await?;
        let answer = match &self.containerd {
            None => named(&self.image, report)?,
            Some(socket) => {
                let client = Client::new(socket, &self.namespace).map_err(hydrate::failure)?;
                let (image, digests) = hydrate::layers(&client, &self.image).await?;
                listed(image, digests, &report)
            }
        };
        crate::show(&match self.json {
            true => crate::json(&answer)?,
            false => answer.text(),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The layers that the daemon knows under the name of the image.
fn named(image: &str, report: Report) -> Result<Answer, Failure> {
    let wrong = |error| Failure::new(1, crate::failure::chain(&error));
    let image = Reference::parse(image).map_err(wrong)?.to_string();
    let mut layers = report.layers;
    layers.retain(|layer| layer.image == image);
    if layers.is_empty() {
        return Err(Failure::new(
            1,
            format!(
                "the daemon knows no layer of {image}; `pontoon status` shows the images that it knows, and with --containerd SOCKET the layers of an image are found that were pulled under another name"
            ),
        ));
    }
    Ok(Answer { image, layers })
}

/// What the daemon knows of the layers of a manifest.
fn listed(image: String, digests: Vec<String>, report: &Report) -> Answer {
    let layer = |digest: String| {
        let mut known = report.layers.iter().filter(|layer| layer.digest == digest);
        // What is known of it under this name says more than what is known of it elsewhere.
        let here = known.clone().find(|layer| layer.image == image);
        let found = here.or_else(|| known.next()).cloned();
        found.unwrap_or_else(|| Layer::unknown(&image, digest))
    };
    Answer {
        layers: digests.into_iter().map(layer).collect(),
        image,
    }
}

impl Answer {
    fn text(&self) -> String {
        let rows = self.layers.iter().map(|layer| {
            [
                layer.short_digest(),
                layer.state().to_owned(),
                layer.local(),
                layer.background(),
                layer.remark(),
            ]
        });
        let rows: Vec<[String; 5]> = rows.collect();
        let heads = ["LAYER", "STATE", "LOCAL", "BACKGROUND", "REMARKS"];
        format!("{}\n{}", self.image, text::table(heads, &rows))
    }
}
