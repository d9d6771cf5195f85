//! A real image: a Debian root file system with Python, in four layers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Layer, LayerBuilder, Layout, Spec};
use crate::checkout;
use crate::command::run;
use crate::error::{At, Result};
use crate::tools;

const SUITE: &str = "bookworm";
const PACKAGES: &str = "python3-minimal,ca-certificates";

/// The image, made from Debian packages on the first call.
pub fn debian() -> Result<Layout> {
    install("debian", PACKAGES, "1", |dir, root| {
        let spec = Spec {
            command: vec!["/usr/bin/python3".into(), "/app/hello.py".into()],
            environment: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            ],
        };
        Layout::write(dir, &spec, &layers(root)?).map(drop)
    })
}

/// Has `write` make an image called `name` of a root file system with `packages`, unless
/// an earlier call with the same `version` of the recipe did.
pub(super) fn install(
    name: &str,
    packages: &str,
    version: &str,
    write: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<Layout> {
    let dir = checkout::rig_dir().join("images").join(name);
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    tools::once(&dir, &format!("{SUITE} {packages} {version}"), || {
        eprintln!("making an image from Debian packages ({packages}): a real image to run");
        let started = Instant::now();
        let root = dir.join("root");
        let mut command = tools::mmdebstrap()?;
        command.args([
            "--variant=essential",
            &format!("--include={packages}"),
            SUITE,
        ]);
        run(command.arg(&root), Duration::from_mins(10))?;
        // Not part of an image: what the installation itself left.
        for left in ["var/lib/apt/lists", "var/cache/apt", "var/log"] {
            let path = root.join(left);
            if path.exists() {
                fs::remove_dir_all(&path).at("delete", &path)?;
            }
        }
        write(&dir, &root)?;
        fs::remove_dir_all(&root).at("delete", &root)?;
        let size = Layout::open(&dir)?.size()? / 1_000_000;
        eprintln!(
            "made it ({size} MB) in {:.0} s",
            started.elapsed().as_secs_f32()
        );
        Ok(())
    })?;
    Layout::open(&dir)
}

/// The base system, then Python, then the certificates, then an application.
fn layers(root: &Path) -> Result<Vec<Layer>> {
    let python = owned(root, |package| package.contains("python3"))?;
    let certificates = owned(root, |package| {
        package.starts_with("ca-certificates") || package.starts_with("openssl")
    })?;
    let mut layers = split(root, &[python, certificates], &LayerBuilder::new)?;
    let mut app = LayerBuilder::new();
    app.dir("app", 0o755, 0, 0)?;
    app.file("app/hello.py", 0o644, 0, 0, HELLO.as_bytes())?;
    layers.push(app.finish()?);
    Ok(layers)
}

/// A layer of each of the sets `above`, on one of all that is in none of them, each begun
/// by `begin`.
pub(super) fn split(
    root: &Path,
    above: &[BTreeSet<PathBuf>],
    begin: &dyn Fn() -> LayerBuilder,
) -> Result<Vec<Layer>> {
    let mut all = Vec::new();
    walk(root, Path::new(""), &mut all)?;
    let mut base = begin();
    let mut above: Vec<_> = above.iter().map(|owned| (begin(), owned)).collect();
    for path in &all {
        let absolute = Path::new("/").join(path);
        // A directory is also in the base: a layer lists the parents of its files.
        let is_dir = root
            .join(path)
            .symlink_metadata()
            .at("stat", path)?
            .is_dir();
        let owners = above
            .iter_mut()
            .filter(|(_, owned)| owned.contains(&absolute));
        let mut in_base = true;
        for (layer, _) in owners {
            layer.tree_entry(root, path)?;
            in_base = false;
        }
        if in_base || is_dir {
            base.tree_entry(root, path)?;
        }
    }
    let above = above.into_iter().map(|(layer, _)| layer);
    std::iter::once(base)
        .chain(above)
        .map(LayerBuilder::finish)
        .collect()
}

const HELLO: &str = "\
import platform, sys
print('hello from Python', platform.python_version(), 'with', len(sys.modules), 'modules loaded')
";

/// Every path below `dir`, relative to `root`, each directory before its content.
fn walk(root: &Path, dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(&full).at("list", &full)? {
        names.push(entry.at("list", &full)?.file_name());
    }
    names.sort();
    for name in names {
        let path = dir.join(name);
        into.push(path.clone());
        if root
            .join(&path)
            .symlink_metadata()
            .at("stat", &path)?
            .is_dir()
        {
            walk(root, &path, into)?;
        }
    }
    Ok(())
}

/// The paths of the packages that `wanted` accepts, from dpkg's lists.
pub(super) fn owned(root: &Path, wanted: impl Fn(&str) -> bool) -> Result<BTreeSet<PathBuf>> {
    let info = root.join("var/lib/dpkg/info");
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(&info).at("list", &info)? {
        let path = entry.at("list", &info)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.strip_suffix(".list").is_some_and(&wanted) {
            let list = fs::read_to_string(&path).at("read", &path)?;
            // The list names the root itself as "/.".
            paths.extend(list.lines().filter(|line| *line != "/.").map(PathBuf::from));
        }
    }
    Ok(paths)
}
