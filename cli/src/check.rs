//! `pontoon check OLD NEW`: whether a conversion has kept all files.

use std::process::ExitCode;
use std::sync::Arc;

use pontoon_convert::Comparison;
use serde::Serialize;

use crate::failure::Failure;
use crate::place::{Choice, Place, Ways};
use crate::progress::Progress;
use crate::text;
use crate::watched::{Stop, watched};

/// The places and the exit codes.
const AFTER_HELP: &str = "\
Places: as those of `pontoon convert`

Exit codes:
  0   both images have the same files, and all digests are true
  1   something differs, or is damaged, or cannot be read
  64  the command line or the daemon's configuration is wrong
  69  containerd does not answer
  75  interrupted, or a registry is not available: the same command may do better later";

/// Compare two images file by file, and verify all digests
///
/// Layer by layer, and nydus images as a whole: names, attributes, extended attributes and data of every file; digests of
/// every blob, every archive, every table of contents and every chunk in it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Check {
    /// Where the image is: docker://, containerd://, oci: or an OCI layout directory
    old: Place,
    /// Where the one is that was made of it
    new: Place,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    ways: Ways,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. `docs/convert.md` documents it: names stay, more may come.
#[derive(Debug, Serialize)]
struct Answer {
    images: u64,
    layers: u64,
    lazy_layers: u64,
    files: u64,
    chunks: u64,
    findings: Vec<String>,
}

impl Check {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        let stop = Stop::new();
        let old = self.ways.source(&self.old, &stop).await?;
        let new = self.ways.source(&self.new, &stop).await?;
        let selection = self.choice.selection();
        let read = move || Comparison::read(old, new, &selection);
        let comparison = watched(None, &stop, read).await?;
        let progress = Arc::new(Progress::new(comparison.sizes()));
        let work = {
            let (progress, stop) = (Arc::clone(&progress), Arc::clone(&stop));
            move || {
                let watch = |blob, offset| progress.reach(blob, offset);
                comparison.run(Some(stop.flag()), &watch)
            }
        };
        let done = watched(Some(&progress), &stop, work).await?;
        let answer = Answer {
            images: done.images,
            layers: done.layers,
            lazy_layers: done.lazy_layers,
            files: done.files,
            chunks: done.chunks,
            findings: done.findings,
        };
        crate::show(&match self.json {
            true => crate::json(&answer)?,
            false => answer.text(),
        })?;
        Ok(match answer.findings.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(1),
        })
    }
}

impl Answer {
    fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&format!("{finding}\n"));
        }
        text.push_str(&format!(
            "{}, {} ({} lazy), {} and {} verified, {}\n",
            text::count(self.images, "image"),
            text::count(self.layers, "layer"),
            self.lazy_layers,
            text::count(self.files, "file"),
            text::count(self.chunks, "chunk"),
            text::count(self.findings.len() as u64, "finding"),
        ));
        text
    }
}
