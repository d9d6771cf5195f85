//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::LogLevel;

/// What the daemon was called with.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "A proxy snapshotter for containerd. Without a command it serves."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// Flags, which win over the file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// The directory of all snapshots
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// The unix socket to serve on
    #[arg(long, global = true, value_name = "SOCKET")]
    pub(crate) address: Option<PathBuf>,
    /// The configuration; without it /etc/pontoon/<plugin>.toml, if that exists
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check the configuration and exit: 0 if the daemon would start with it, 64 if not
    #[command(name = "check-config")]
    Check,
    /// Print the configuration with all defaults
    #[command(name = "print-default-config")]
    PrintDefault,
    /// Print the drop-in for containerd's configuration
    #[command(name = "print-containerd-config")]
    PrintContainerd {
        /// The release of containerd
        #[arg(long, value_name = "RELEASE", default_value = "2")]
        containerd_version: ContainerdVersion,
    },
}

/// Releases of containerd by the form of their configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContainerdVersion {
    /// `version = 2`
    #[value(name = "1.7")]
    V1_7,
    /// `version = 3`
    #[value(name = "2")]
    V2,
}

/// Reads the command line of `pontoon-NAME`.
pub(crate) fn parse(
    name: &str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Arguments, clap::Error> {
    let command = Arguments::command().name(format!("pontoon-{name}"));
    let matches = command.try_get_matches_from(arguments)?;
    Arguments::from_arg_matches(&matches)
}
