//! `cargo xtask fresh [VERB]`: runs another verb on a fresh Debian 12, as a newcomer would.
//!
//! The root filesystem is mmdebstrap's smallest, with a linker, git and certificates, which Rust and Go need anyway;
//! this machine's Rust and Go toolchains are mounted into it, and nothing else of this machine. The checkout is cloned,
//! so only what is committed counts. It runs in mount and pid namespaces of its own: what it mounts or leaves running
//! ends with it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a Rust and a Go toolchain need of Debian: a linker, C headers for cgo, git, certificates.
const PACKAGES: &str = "--include=gcc,libc6-dev,git,ca-certificates";

/// Enters the root `$1` and runs the rest of the arguments there.
const ENTER: &str = r#"
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -o bind,ro "$GO" "$root/usr/local/go"
mount -o bind,ro "$RUST" "$root/opt/rust"
cd "$root"
pivot_root . old
umount --lazy old
rmdir old
cd /src/pontoon
exec env -i HOME=/root LANG=C.UTF-8 \
    PATH=/opt/rust/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "$@"
"#;

/// Makes the root filesystem and runs `cargo xtask` with `arguments` in it (`test` without any).
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let place = root.join("target/fresh/root");
    let go = PathBuf::from(answer(Command::new("go").args(["env", "GOROOT"]))?);
    let rust = PathBuf::from(answer(Command::new("rustc").args(["--print", "sysroot"]))?);
    make(root, &place)?;
    println!(
        "fresh: running `cargo xtask {}` in {}",
        arguments.join(" "),
        place.display()
    );
    let default = ["test".to_owned()];
    let arguments = if arguments.is_empty() {
        &default
    } else {
        arguments
    };
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--"])
        .args(["bash", "-euc", ENTER, "fresh"])
        .arg(&place)
        .args(["cargo", "xtask"])
        .args(arguments)
        .env("GO", go)
        .env("RUST", rust)
        .status()?;
    if !status.success() {
        return Err(format!("the verb failed there ({status}); see above").into());
    }
    let installed = packages(&place)?;
    let before = fs::read_to_string(place.join("packages-before"))?;
    let before: Vec<&str> = before.lines().collect();
    let added: Vec<&str> = installed
        .lines()
        .filter(|package| !before.contains(package))
        .collect();
    println!(
        "fresh: it went well; Debian packages that it added ({}):",
        added.len()
    );
    println!("  {}", added.join(" "));
    fs::remove_dir_all(&place)?;
    Ok(())
}

/// Makes a fresh root at `place` with a clone of `checkout` in it.
fn make(checkout: &Path, place: &Path) -> Result<(), Box<dyn Error>> {
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::create_dir_all(place)?;
    println!(
        "fresh: making a Debian 12 root filesystem in {}",
        place.display()
    );
    done(
        Command::new("mmdebstrap")
            .args(["--variant=minbase", PACKAGES, "bookworm"])
            .arg(place),
    )?;
    for folder in ["old", "opt/rust", "usr/local/go", "src"] {
        fs::create_dir_all(place.join(folder))?;
    }
    // The network of this machine: its resolver and the certificates that it trusts.
    fs::copy("/etc/resolv.conf", place.join("etc/resolv.conf"))?;
    fs::copy("/etc/hosts", place.join("etc/hosts"))?;
    let certificates = "etc/ssl/certs/ca-certificates.crt";
    fs::copy(Path::new("/").join(certificates), place.join(certificates))?;
    fs::write(place.join("packages-before"), packages(place)?)?;
    let clone = place.join("src/pontoon");
    done(
        Command::new("git")
            .args(["clone", "--quiet"])
            .arg(checkout)
            .arg(clone),
    )
}

/// The names of the Debian packages in the root at `place`, one a line.
fn packages(place: &Path) -> Result<String, Box<dyn Error>> {
    let admin = place.join("var/lib/dpkg");
    answer(
        Command::new("dpkg-query")
            .arg("--admindir")
            .arg(admin)
            .args(["-W", "-f", "${Package}\n"]),
    )
}

fn done(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {status}").into())
    }
}

fn answer(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
