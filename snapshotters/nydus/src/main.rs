//! The lazy proxy snapshotter for containerd: nydus images from their registry, and all that `pontoon-stargz` runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    pontoon_lazy::run::<pontoon_lazy::Nydus>()
}
