//! Programs built from the Go modules of `integration/conformance` and
//! `integration/images`, whose `go.mod` files pin their versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Tool;
use crate::command::run;
use crate::error::{At, Error, Result};
use crate::{checkout, digest};

const LIMIT: Duration = Duration::from_mins(20);

/// What no test here uses and would take most of the build: the CRI plugin and the
/// other snapshotters.
const TAGS: &str = "no_cri,no_btrfs,no_devmapper,no_zfs";

const CONTAINERD: &str = "github.com/containerd/containerd/v2";

fn module() -> PathBuf {
    checkout::root().join("integration/conformance")
}

fn images() -> PathBuf {
    checkout::root().join("integration/images")
}

/// A digest over the module files and sources that are built.
pub(super) fn recipe(tool: Tool) -> Result<String> {
    let (module, sources): (PathBuf, &[&str]) = match tool {
        Tool::Suites => (
            module(),
            &[
                "suite/suite_test.go",
                "containerd-1.7/go.sum",
                "containerd-1.7/suite/suite_test.go",
            ],
        ),
        Tool::Images => (
            images(),
            &[
                CONVERTER[0],
                CONVERTER[1],
                CONVERTER[2],
                CONVERTER[3],
                "pull/go.sum",
                "pull/main.go",
                "stargz/go.sum",
                "stargz/main.go",
                "verify/main.go",
                "podman/go.sum",
                "podman/main.go",
            ],
        ),
        _ => (module(), &["oracle/main.go"]),
    };
    digest_of(&module, sources)
}

/// A digest over what decides how images are converted.
pub(super) fn converter_recipe() -> Result<String> {
    digest_of(&images(), CONVERTER)
}

/// The sources of the converter.
const CONVERTER: &[&str] = &["main.go", "convert.go", "footer.go", "layout.go"];

fn digest_of(module: &Path, sources: &[&str]) -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.sum"].iter().chain(sources) {
        let path = module.join(file);
        hash.update(fs::read(&path).at("read", &path)?);
    }
    Ok(format!("{TAGS} {}", digest::hex(&hash.finalize())))
}

/// What of containers/storage needs headers that few machines have.
const STORAGE_TAGS: &str = "exclude_graphdriver_btrfs";

/// Builds the converter, the two that judge conversions, the puller and stargz-snapshotter.
pub(super) fn build_images(into: &Path) -> Result<String> {
    for (dir, name) in [
        ("", "images"),
        ("verify", "verify"),
        ("pull", "pull"),
        ("stargz", "stargz"),
        ("podman", "podman"),
    ] {
        let mut command = go(&images().join(dir))?;
        command.args([
            "build",
            "-trimpath",
            "-ldflags=-s -w",
            "-tags",
            STORAGE_TAGS,
            "-o",
        ]);
        run(command.arg(into.join(name)).arg("."), LIMIT)?;
    }
    Ok("the converter, two judges, the puller and stargz-snapshotter".into())
}

/// Builds containerd, ctr, the shim and the oracle in one go, so that they share
/// their packages.
pub(super) fn build_programs(into: &Path) -> Result<String> {
    let mut command = go(&module())?;
    command
        .args(["build", "-trimpath", "-ldflags=-s -w", "-tags", TAGS, "-o"])
        .arg(into);
    for program in ["containerd", "ctr", "containerd-shim-runc-v2"] {
        command.arg(format!("{CONTAINERD}/cmd/{program}"));
    }
    run(command.arg("./oracle"), LIMIT)?;
    let version = run(
        Command::new("go")
            .args(["list", "-m", "-f", "{{.Version}}", CONTAINERD])
            .envs(environment())
            .current_dir(module()),
        LIMIT,
    )?;
    Ok(format!(
        "containerd {} (with ctr, shim and oracle)",
        version.stdout
    ))
}

/// Builds the suites of containerd 2.3 and 1.7.
pub(super) fn build_suites(into: &Path) -> Result<String> {
    for (dir, name) in [("", "suite.test"), ("containerd-1.7", "suite-1.7.test")] {
        let mut command = go(&module().join(dir))?;
        command.args([
            "test",
            "-c",
            "-trimpath",
            "-ldflags=-s -w",
            "-tags",
            TAGS,
            "-o",
        ]);
        run(command.arg(into.join(name)).arg("./suite"), LIMIT)?;
    }
    Ok("the suites of containerd 2.3 and 1.7".into())
}

fn go(dir: &Path) -> Result<Command> {
    let found = Command::new("go").arg("version").output();
    if !found.is_ok_and(|o| o.status.success()) {
        return Err(Error::unexpected(
            "building Go programs",
            "there is no Go toolchain on PATH; install one as new as integration/conformance/go.mod says",
        ));
    }
    let mut command = Command::new("go");
    command.current_dir(dir).envs(environment());
    Ok(command)
}

/// Everything that Go keeps stays in the checkout.
fn environment() -> [(&'static str, String); 7] {
    let base = checkout::rig_dir().join("go");
    let at = |dir: &str| base.join(dir).to_string_lossy().into_owned();
    [
        ("GOPATH", at("path")),
        ("GOMODCACHE", at("mod")),
        ("GOCACHE", at("build")),
        ("GOTOOLCHAIN", "local".into()),
        ("GOFLAGS", "-modcacherw -buildvcs=false".into()),
        ("GOWORK", "off".into()),
        // Static programs that need no C compiler.
        ("CGO_ENABLED", "0".into()),
    ]
}
