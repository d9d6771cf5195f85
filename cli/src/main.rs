//! The pontoon command: one verb, one module.

mod fsck;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a wrong command line exits with: EX_USAGE of sysexits.h, as the daemons do.
const EXIT_USAGE: u8 = 64;

/// Looks after the roots of Pontoon's snapshotters.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
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
        Verb::Fsck(fsck) => fsck.run(),
    }
}
