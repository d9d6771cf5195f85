//! The pontoon command: one verb, one module.

mod admin;
mod check;
mod convert;
mod failure;
mod fsck;
mod hydrate;
mod inspect;
mod interrupt;
mod layers;
mod place;
mod profile;
mod progress;
mod settings;
mod status;
mod text;
mod watched;

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::{EXIT_UNAVAILABLE, Failure};
use serde::Serialize;

/// What a wrong command line exits with: EX_USAGE of sysexits.h, as the daemons do.
const EXIT_USAGE: u8 = 64;

/// Looks after the roots of Pontoon's snapshotters, and after lazily pulled images; makes images that can be pulled lazily.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status(status::Status),
    Inspect(inspect::Inspect),
    Hydrate(hydrate::Hydrate),
    Profile(profile::Profile),
    Convert(convert::Convert),
    Check(check::Check),
    Fsck(fsck::Fsck),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap too. If the text cannot be printed, there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match arguments.verb {
        Verb::Status(status) => run("status", status.run()),
        Verb::Inspect(inspect) => run("inspect", inspect.run()),
        Verb::Hydrate(hydrate) => run("hydrate", hydrate.run()),
        Verb::Profile(profile) => run("profile", profile.run()),
        Verb::Convert(convert) => run("convert", convert.run()),
        Verb::Check(check) => run("check", check.run()),
        Verb::Fsck(fsck) => fsck.run(),
    }
}

/// Does what `verb` does, and tells how it failed.
fn run(verb: &str, work: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(Failure::new(
            EXIT_UNAVAILABLE,
            format!("starting threads failed: {error}"),
        )),
    };
    done.unwrap_or_else(|failure| failure.tell(verb))
}

/// Prints `text`, which is what the verb is called for.
fn show(text: &str) -> Result<(), Failure> {
    let written = io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(1, format!("writing the answer failed: {error}")))
}

/// What a verb prints with `--json`: one object, on one line.
fn json(answer: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(answer);
    text.map(|text| format!("{text}\n"))
        .map_err(|error| Failure::new(1, format!("writing JSON failed: {error}")))
}
