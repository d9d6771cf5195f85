//! `cargo xtask bench NAME`: builds what is measured as it is packaged and measures it.

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// The benchmark that is a simulation.
const FLEET: &str = "fleet";

/// What this program takes from the arguments; the benchmark gets the rest.
const FRESH_FILESYSTEM: &str = "--fresh-filesystem";

/// Makes an ext4 as mkfs makes it, with a journal, in the file `$1`, mounts it on `$2` and runs the rest of the arguments.
/// In a mount namespace of its own: mount and loop device end with it.
const ON_FRESH_FILESYSTEM: &str = r#"
image=$1 place=$2; shift 2
trap 'rm -f "$image"' EXIT
mkdir -p "$place" "${image%/*}"
fallocate --length 14G "$image"
mkfs.ext4 -q -F -E nodiscard "$image"
mount -o loop "$image" "$place"
"$@"
"#;

/// Builds the daemons and runs the benchmark that `arguments` name, with the rest of them as its own.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    if let Some((FLEET, arguments)) = arguments
        .split_first()
        .map(|(name, rest)| (name.as_str(), rest))
    {
        return simulate(root, arguments);
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--profile", "dist"])
        .args(
            daemons(arguments)
                .iter()
                .flat_map(|name| ["--package", name]),
        )
        .args(["--package", "pontoon-bench"])
        .current_dir(root)
        .status()?;
    if !built.success() {
        return Err("building the daemons failed; see above".into());
    }
    if measure(root, arguments)?.success() {
        Ok(())
    } else {
        Err("the benchmark failed; see above".into())
    }
}

/// Simulates fleets: nothing is measured, so nothing has to be as it is packaged.
fn simulate(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let status = Command::new(env!("CARGO"))
        .args(["run", "--release", "--package", "pontoon-fleet", "--"])
        .args(arguments)
        .current_dir(root)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err("the simulation failed; see above".into()),
    }
}

/// What the benchmark measures.
fn daemons(arguments: &[String]) -> &'static [&'static str] {
    match arguments.first().map(String::as_str) {
        Some("lazy") => &["pontoon-stargz", "pontoon-holder", "pontoon"],
        Some("convert") => &["pontoon"],
        Some("peers") => &[],
        _ => &["pontoon-overlayfs"],
    }
}

fn measure(root: &Path, arguments: &[String]) -> Result<ExitStatus, Box<dyn Error>> {
    let target = root.join("target");
    let program = target.join("dist/pontoon-bench");
    let (ours, theirs): (Vec<_>, Vec<_>) = arguments
        .iter()
        .partition(|argument| *argument == FRESH_FILESYSTEM);
    let mut command = if ours.is_empty() {
        Command::new(program)
    } else {
        let mut namespace = Command::new("unshare");
        namespace
            .args(["--mount", "--propagation", "private", "--"])
            .args(["bash", "-euc", ON_FRESH_FILESYSTEM, "bench"])
            .arg(target.join("bench/filesystem.img"))
            .arg(target.join("rig/run"))
            .arg(program);
        namespace
    };
    Ok(command.args(theirs).current_dir(root).status()?)
}
