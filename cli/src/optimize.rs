//! `pontoon optimize FROM TO`: puts the order in which a start reads into an image.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use pontoon_convert::{Optimize as How, Optimized, Order, Plan, Recorded, Source};
use pontoon_remote::Profile;
use serde::Serialize;

use crate::admin::Admin;
use crate::failure::Failure;
use crate::place::{Choice, Place, Ways};
use crate::produce::{Aim, produce};
use crate::watched::Stop;
use crate::{convert, profile, text};

/// The exit codes.
const EXIT_CODES: &str = "\
Places are those of `pontoon convert`.

Exit codes:
  0   the image has the order
  1   it has not, and nobody sees anything of it
  64  the command line or the daemon's configuration is wrong
  69  the daemon, or containerd, does not answer
  75  interrupted, or a registry is not available: the same command may do better later";

/// The longest list of paths that is read from a file, in bytes.
const PATHS_BYTES_MAX: u64 = 64 << 20;

/// Put the order in which a start reads into a lazy image
///
/// Every node then fetches what a start needs first, also one that has learned nothing. Layers of eStargz and zstd:chunked are
/// written again, the files of the order first and a landmark behind them; a nydus image gets a table of files to fetch early.
/// The order is that of a profile, as Pontoon records one at every start, or a list of paths. A profile is good for every
/// form of the image, for what counts are the files that it leads to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Optimize {
    /// Where the image is, which can be read lazily already: docker://, containerd://, oci: or an OCI layout directory
    from: Place,
    /// Where the new one goes: likewise, a directory that is empty or not there yet
    to: Place,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    admin: Admin,
    /// Where the image is that was started, if that is another form of it than FROM
    #[arg(long, value_name = "PLACE", conflicts_with = "paths")]
    recorded_on: Option<Place>,
    /// How hard to compress: 1 to 12 for eStargz, 1 to 19 for zstd:chunked
    #[arg(long)]
    level: Option<i32>,
    /// Decompressed bytes of a chunk, 65536 to 33554432; those of each layer unless said otherwise
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

/// Which order.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// A profile, as `pontoon profile export` prints it; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// The profile that this node's daemon has of this image, as it was pulled
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// A list of paths in the image, one a line; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    paths: Option<PathBuf>,
}

/// What `--json` prints. `docs/convert.md` documents it: names stay, more may come.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    written: convert::Answer,
    files: u64,
    first_bytes: u64,
}

impl Optimize {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        let stop = Stop::new();
        let wanted = self.wanted(&stop).await?;
        let (level, chunk_bytes, threads) = (self.level, self.chunk_size, self.threads);
        let make = move |plan: &Plan, aim: &Aim<'_>| {
            let how = How {
                level,
                chunk_bytes,
                threads,
                cancel: Some(aim.cancel),
            };
            plan.optimize(aim.target, &wanted.order()?, &how, aim.watch)
        };
        let places = (&self.from, &self.to);
        let done = produce(places, (&self.choice, &self.ways), &stop, make).await?;
        let answer = Answer::of(&self.to, done);
        crate::show(&match self.json {
            true => crate::json(&answer)?,
            false => answer.text(),
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// What was asked for, read.
    async fn wanted(&self, stop: &Arc<Stop>) -> Result<Wanted, Failure> {
        let Which {
            profile,
            image,
            paths,
        } = &self.which;
        if let Some(file) = paths {
            let bytes = read(file, PATHS_BYTES_MAX)?;
            let lines = bytes.split(|byte| *byte == b'\n');
            let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            return Ok(Wanted::Paths(lines.map(<[u8]>::to_vec).collect()));
        }
        let (bytes, from) = match (profile, image) {
            (Some(file), _) => (profile::read(file)?, file.display().to_string()),
            (None, Some(image)) => {
                let bytes = profile::newest(&self.admin, image).await?;
                (bytes.to_vec(), format!("what the daemon has of {image}"))
            }
            (None, None) => return Err(Failure::new(crate::EXIT_USAGE, "name an order")),
        };
        let profile = Profile::decode(&bytes)
            .map_err(|reason| Failure::new(1, format!("{from} is no profile: {reason}")))?;
        let keys = profile.layer_keys().into_iter();
        let recorded = Recorded {
            image: profile.image().to_owned(),
            layers: keys.map(|key| (key.blob, key.toc)).collect(),
            chunks: profile.order().collect(),
        };
        let place = self.recorded_on.as_ref().unwrap_or(&self.from);
        let started = self.ways.source(place, stop).await?;
        Ok(Wanted::Recorded(recorded, started, place.to_string()))
    }
}

/// An order that is not looked up yet.
enum Wanted {
    Paths(Vec<Vec<u8>>),
    /// A profile, and the image that was started, and where that is.
    Recorded(Recorded, Arc<dyn Source>, String),
}

impl Wanted {
    fn order(self) -> pontoon_convert::Result<Order> {
        match self {
            Wanted::Paths(paths) => Order::of_paths(paths),
            Wanted::Recorded(recorded, started, place) => {
                Order::of_recorded(&recorded, &*started, &place)
            }
        }
    }
}

/// All of a file, or of the standard input, of at most `bytes_max` bytes.
fn read(file: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let name = file.display();
    let mut bytes = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().take(bytes_max + 1).read_to_end(&mut bytes),
        false => File::open(file).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|error| Failure::new(1, format!("reading {name}: {error}")))?;
    match bytes.len() as u64 > bytes_max {
        true => {
            let reason = format!("reading {name}: it has more than {bytes_max} bytes");
            Err(Failure::new(1, reason))
        }
        false => Ok(bytes),
    }
}

impl Answer {
    fn of(to: &Place, optimized: Optimized) -> Answer {
        Answer {
            written: convert::Answer::of(to, optimized.written),
            files: optimized.files,
            first_bytes: optimized.first_bytes,
        }
    }

    fn text(&self) -> String {
        let mut text = self.written.lines();
        let first = match self.first_bytes {
            0 => String::new(),
            bytes => format!(", {} of their layers", text::bytes(bytes)),
        };
        text.push_str(&format!(
            "{} and {} written, {} come first{first}\n",
            text::count(self.written.images, "image"),
            text::count(self.written.layers, "layer"),
            text::count(self.files, "file"),
        ));
        text
    }
}
