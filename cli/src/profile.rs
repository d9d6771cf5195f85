//! `pontoon profile`: in which order starts of images read, to be looked at and handed to other nodes.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;
use pontoon_source::Reference;
use serde::{Deserialize, Serialize};

use crate::admin::Admin;
use crate::failure::Failure;
use crate::text;

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   there is no profile of that image, or it is no profile, or a file cannot be read
  64  the command line is wrong
  69  no daemon answers";

/// The largest profile that is read from a file, in bytes.
const BYTES_MAX: u64 = 4 << 20;

/// Show, export and import in which order starts of lazy images read
///
/// The daemon learns it at every start, and has the next cold start of the same layers fetched in that order. Another node
/// that is given the profile need not learn it. A profile is advice: a wrong one costs bandwidth, nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Profile {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show which profiles the daemon has
    Show {
        #[command(flatten)]
        admin: Admin,
        /// Only that of this image, as it was pulled
        image: Option<String>,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print the profile of an image, for import elsewhere
    Export {
        #[command(flatten)]
        admin: Admin,
        /// The image, as it was pulled
        image: String,
    },
    /// Give a profile to the daemon, in place of what it has for the same layers
    Import {
        #[command(flatten)]
        admin: Admin,
        /// The file; `-` is the standard input
        file: PathBuf,
    },
}

/// What the daemon says of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    name: String,
    image: String,
    layers: u64,
    chunks: u64,
    /// In seconds since 1970.
    written: u64,
}

/// What `show --json` prints. `docs/stargz.md` documents it: names stay, more may come.
#[derive(Debug, Serialize)]
struct Answer {
    profiles: Vec<Entry>,
}

impl Profile {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        match &self.verb {
            Verb::Show { admin, image, json } => {
                let entries = match image {
                    Some(image) => of_image(admin, image).await?,
                    None => entries(admin).await?,
                };
                crate::show(&match json {
                    true => crate::json(&Answer { profiles: entries })?,
                    false => table(&entries),
                })?;
            }
            Verb::Export { admin, image } => {
                let profile = newest(admin, image).await?;
                crate::show(&String::from_utf8_lossy(&profile))?;
            }
            Verb::Import { admin, file } => {
                let name = admin.import_profile(read(file)?).await?;
                crate::show(&format!("{name}\n"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The profile of `image` that the daemon has, in the form in which it is handed on.
pub(crate) async fn newest(admin: &Admin, image: &str) -> Result<Bytes, Failure> {
    let entries = of_image(admin, image).await?;
    // The last one that was written comes first.
    let name = entries.first().map_or("", |entry| entry.name.as_str());
    admin.profile(name).await
}

async fn entries(admin: &Admin) -> Result<Vec<Entry>, Failure> {
    let body = admin.profiles().await?;
    serde_json::from_slice(&body)
        .map_err(|error| admin.broken(&format!("its answer makes no sense ({error})")))
}

async fn of_image(admin: &Admin, image: &str) -> Result<Vec<Entry>, Failure> {
    let wrong = |error| Failure::new(1, crate::failure::chain(&error));
    let image = Reference::parse(image).map_err(wrong)?.to_string();
    let mut entries = entries(admin).await?;
    entries.retain(|entry| entry.image == image);
    if entries.is_empty() {
        return Err(Failure::new(
            1,
            format!(
                "the daemon has no profile of {image}: it is learned when a container of it starts, and written some seconds later; `pontoon profile show` names those that there are"
            ),
        ));
    }
    Ok(entries)
}

/// All of a file, or of the standard input, as far as it may be a profile.
pub(crate) fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().take(BYTES_MAX).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(file).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes))
        }
    };
    read.map_err(|error| Failure::new(1, format!("reading {}: {error}", file.display())))?;
    Ok(bytes)
}

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no profiles yet: they are learned when containers of lazy images start\n"
            .to_owned();
    }
    let rows = entries.iter().map(|entry| {
        [
            entry.image.clone(),
            entry.name.get(..12).unwrap_or(&entry.name).to_owned(),
            entry.layers.to_string(),
            entry.chunks.to_string(),
        ]
    });
    text::table(
        ["IMAGE", "PROFILE", "LAYERS", "CHUNKS"],
        &rows.collect::<Vec<_>>(),
    )
}
