//! The lazy proxy snapshotter for containerd: eStargz and zstd:chunked layers from their registry, through EROFS or FUSE.

use std::process::ExitCode;

fn main() -> ExitCode {
    pontoon_lazy::run::<pontoon_lazy::Stargz>()
}
