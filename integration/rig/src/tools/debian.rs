//! Programs taken out of Debian packages: extracted into the checkout, never
//! installed on the machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use super::Tool;
use crate::command::run;
use crate::error::{At, Error, Result};

const LIMIT: Duration = Duration::from_mins(10);

/// What is taken from which release.
struct Parcel {
    suite: &'static str,
    packages: &'static str,
    /// Program and the path it has in the package.
    files: &'static [(&'static str, &'static str)],
    /// Whether the programs bring their C library along, and every other one.
    own_libraries: bool,
    /// The package whose version is told.
    versions: &'static [&'static str],
}

const DEBIAN_12: Parcel = Parcel {
    suite: "bookworm",
    packages: "runc,docker-registry,busybox-static",
    files: &[
        ("runc", "usr/sbin/runc"),
        ("docker-registry", "usr/bin/docker-registry"),
        ("busybox", "bin/busybox"),
    ],
    own_libraries: false,
    versions: &["runc", "docker-registry", "busybox-static"],
};

const FORKY: Parcel = Parcel {
    suite: "forky",
    packages: "skopeo,erofs-utils",
    files: &[
        ("skopeo", "usr/bin/skopeo"),
        ("fsck.erofs", "usr/bin/fsck.erofs"),
        ("dump.erofs", "usr/bin/dump.erofs"),
        ("mkfs.erofs", "usr/bin/mkfs.erofs"),
    ],
    own_libraries: true,
    versions: &["skopeo", "erofs-utils"],
};

const CONTAINERD_17: Parcel = Parcel {
    suite: "trixie",
    packages: "containerd",
    files: &[
        ("containerd", "usr/bin/containerd"),
        ("ctr", "usr/bin/ctr"),
        ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
    ],
    own_libraries: false,
    versions: &["containerd"],
};

const DOCKER: Parcel = Parcel {
    suite: "forky",
    packages: "docker.io,docker-cli,docker-buildx",
    // Not its runc, which wants a newer C library than Debian 12 has.
    files: &[
        ("dockerd", "usr/sbin/dockerd"),
        ("docker-proxy", "usr/sbin/docker-proxy"),
        ("docker-init", "usr/bin/docker-init"),
        ("docker", "usr/bin/docker"),
        (
            "docker-buildx",
            "usr/libexec/docker/cli-plugins/docker-buildx",
        ),
    ],
    own_libraries: false,
    versions: &["docker.io", "docker-buildx"],
};

fn parcel(tool: Tool) -> &'static Parcel {
    match tool {
        Tool::Containerd17 => &CONTAINERD_17,
        Tool::Docker => &DOCKER,
        Tool::Forky => &FORKY,
        _ => &DEBIAN_12,
    }
}

pub(super) fn recipe(tool: Tool) -> String {
    let parcel = parcel(tool);
    format!(
        "{} {} {}",
        parcel.suite,
        parcel.packages,
        parcel.files.len()
    )
}

/// Extracts a parcel's packages and keeps only its programs.
pub(super) fn install(tool: Tool, dir: &Path) -> Result<String> {
    let parcel = parcel(tool);
    let root = dir.join("root");
    let mut command = mmdebstrap()?;
    command.args([
        "--variant=extract",
        &format!("--include={}", parcel.packages),
    ]);
    run(command.arg(parcel.suite).arg(&root), LIMIT)?;
    for (name, path) in parcel.files {
        let from = root.join(path);
        let to = dir.join(name);
        // Packages that moved to merged /usr hold the same file there.
        let from = if from.exists() {
            from
        } else {
            root.join("usr").join(path)
        };
        if parcel.own_libraries {
            bring_libraries(&root, &from, dir, name)?;
        } else {
            fs::copy(&from, &to).at("copy", &from)?;
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).at("chmod", &to)?;
    }
    let versions = parcel.versions.iter().map(|package| {
        let version = version(&root, package).unwrap_or_else(|| "of unknown version".into());
        format!("{package} {version}")
    });
    let told = versions.collect::<Vec<_>>().join(", ");
    fs::remove_dir_all(&root).at("delete", &root)?;
    Ok(told)
}

/// Puts a program, its libraries and their loader into `<dir>/lib`, and `<dir>/<name>`
/// that starts it with them: it runs where the C library is an older one.
fn bring_libraries(root: &Path, program: &Path, dir: &Path, name: &str) -> Result<()> {
    let lib = dir.join("lib");
    fs::create_dir_all(&lib).at("create", &lib)?;
    let loader = find(&root.join("usr"), &|name| name.starts_with("ld-linux"))?;
    let libc = find(&root.join("usr/lib"), &|name| name == "libc.so.6")?;
    let (Some(loader), Some(libc)) = (loader, libc) else {
        let why = "its packages have no C library";
        return Err(Error::unexpected(program.to_string_lossy(), why));
    };
    let libraries = libc.parent().unwrap_or(root);
    // The loader tells which libraries it would load, as `NAME => PATH (ADDRESS)`.
    let mut command = Command::new(&loader);
    command.arg("--library-path").arg(libraries);
    let listed = run(command.arg("--list").arg(program), LIMIT)?.stdout;
    let paths = listed.lines().filter_map(|line| line.split_once(" => "));
    let paths = paths.filter_map(|(_, path)| path.split(' ').next());
    for from in paths.map(Path::new).chain([loader.as_path(), program]) {
        if let Some(name) = from.file_name() {
            fs::copy(from, lib.join(name)).at("copy", from)?;
        }
    }
    let file_name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let script = format!(
        "#!/bin/sh\nexec '{lib}/{}' --library-path '{lib}' '{lib}/{}' \"$@\"\n",
        file_name(&loader),
        file_name(program),
        lib = lib.display(),
    );
    let path = dir.join(name);
    fs::write(&path, script).at("write", &path)
}

/// The first file below `dir` whose name is `wanted`.
fn find(dir: &Path, wanted: &impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && wanted(&name) {
            return Ok(Some(path));
        }
        if path.is_dir()
            && !path.is_symlink()
            && let Some(found) = find(&path, wanted)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The version in the first line of a package's changelog, `name (version) suite; ...`:
/// packages that are only extracted are not in dpkg's database.
fn version(root: &Path, package: &str) -> Option<String> {
    let changelog = format!("usr/share/doc/{package}/changelog.Debian.gz");
    let file = fs::File::open(root.join(changelog)).ok()?;
    let mut line = String::new();
    BufReader::new(GzDecoder::new(file))
        .read_line(&mut line)
        .ok()?;
    let (_, rest) = line.split_once('(')?;
    Some(rest.split_once(')')?.0.to_owned())
}

/// An `mmdebstrap` with the options that every use here shares: no
/// recommendations, no translations, and no complaint about an archive that is
/// older than its promise.
pub(crate) fn mmdebstrap() -> Result<Command> {
    prepare()?;
    let mut command = Command::new("mmdebstrap");
    command.arg("--quiet");
    for option in [
        "Acquire::Check-Valid-Until \"false\"",
        "Acquire::Languages \"none\"",
        "APT::Install-Recommends \"false\"",
    ] {
        command.arg(format!("--aptopt={option}"));
    }
    // Its output must not depend on the caller's locale.
    command.env("LC_ALL", "C.UTF-8");
    Ok(command)
}

/// Installs on the machine what the extraction of packages needs.
pub(super) fn prepare() -> Result<()> {
    require_package(
        "mmdebstrap",
        "mmdebstrap",
        "it extracts Debian packages into the checkout",
    )?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    require_package(
        keyring,
        "debian-archive-keyring",
        "it verifies Debian's packages",
    )
}

/// Installs `package` by apt-get, after saying so, unless `needed` (a program on
/// PATH, or an absolute path) is there.
pub fn require_package(needed: &str, package: &str, reason: &str) -> Result<()> {
    if present(needed) {
        return Ok(());
    }
    let what = format!("installing {package}");
    if !rustix::process::geteuid().is_root() || !present("apt-get") {
        let why = format!("{reason}; install it by hand, or run as root where apt-get is");
        return Err(Error::unexpected(what, why));
    }
    eprintln!("installing {package} on this machine (apt-get install): {reason}");
    let started = Instant::now();
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        run(
            command.args(args).env("DEBIAN_FRONTEND", "noninteractive"),
            LIMIT,
        )
    };
    let install = ["install", "-y", "--no-install-recommends", package];
    if apt(&install).is_err() {
        apt(&["update"])?;
        apt(&install)?;
    }
    eprintln!(
        "installed {package} in {:.0} s",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

fn present(needed: &str) -> bool {
    if needed.starts_with('/') {
        return Path::new(needed).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(needed).is_file())
}
