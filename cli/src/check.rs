//! `pontoon check OLD NEW`: whether a conversion has kept all files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::convert::failure;
use crate::failure::Failure;
use crate::interrupt::interrupted;
use crate::text;

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   both images have the same files, and all digests are true
  1   something differs, or is damaged, or cannot be read
  64  the command line is wrong
  75  interrupted";

/// Compare two images file by file, and verify all digests
///
/// Layer by layer, and nydus images as a whole: names, attributes, extended attributes and data of every file; digests of
/// every blob, every archive, every table of contents and every chunk in it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Check {
    /// The OCI layout directory with the image
    old: PathBuf,
    /// The one with the image that was made of it
    new: PathBuf,
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
        let cancel = Arc::new(AtomicBool::new(false));
        let work = {
            let cancel = Arc::clone(&cancel);
            let (old, new) = (self.old.clone(), self.new.clone());
            tokio::task::spawn_blocking(move || pontoon_convert::check(&old, &new, Some(&cancel)))
        };
        tokio::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = interrupted() => {
                cancel.store(true, Ordering::Relaxed);
                work.await
            }
        };
        let done = done.map_err(|error| Failure::new(1, format!("it broke off: {error}")))?;
        let done = done.map_err(failure)?;
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
