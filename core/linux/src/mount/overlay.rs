//! Overlay mounts: with any number of lower directories, idmapped or not.
//!
//! - From Linux 6.8 on each lower directory is handed over by itself (`lowerdir+`), so no option is long.
//! - Before, all are one string of at most a page. The mount is made from the directory that they have in
//!   common, so that the paths in the string are short.
//! - overlayfs itself cannot be idmapped. Its lower directories are instead: each is covered by an idmapped copy
//!   of itself, in a mount namespace that only this call has. The upper directory stays as it is; its owner must
//!   be the mapped root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::namespace::with_private_mounts;
use super::options::MountOptions;
use super::{attach, change, clone_tree};
use crate::raw::MountChange;
use crate::{Error, IdMap, Result};

/// The longest option string that mount(2) takes, without the final NUL.
const DATA_BYTES_MAX: usize = 4095;

/// An overlay with these options that is attached nowhere.
pub(crate) fn detached(options: &MountOptions<'_>) -> Result<OwnedFd> {
    let Some(map) = &options.id_map else {
        return match each_by_itself(options) {
            Err(error) if error.is_too_old() => with_private_mounts(|| all_in_one_string(options)),
            answer => answer.map_err(Refused::into_error),
        };
    };
    with_private_mounts(|| {
        cover_lower(options, map)?;
        match each_by_itself(options) {
            Err(error) if error.is_too_old() => all_in_one_string(options),
            answer => answer.map_err(Refused::into_error),
        }
    })
}

/// Covers each lower directory by an idmapped read-only copy of itself.
fn cover_lower(options: &MountOptions<'_>, map: &IdMap) -> Result<()> {
    let namespace = map.user_namespace()?;
    let mapped = MountChange {
        user_namespace: Some(namespace.as_fd()),
        ..MountChange::flags(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty())
    };
    for path in options.lower.iter().map(Path::new) {
        let copy = clone_tree(path, false)?;
        change(copy.as_fd(), &mapped, path)?;
        attach(copy.as_fd(), path)?;
    }
    Ok(())
}

/// Why the new mount calls refused an overlay.
enum Refused {
    /// Perhaps only because the kernel is older than `lowerdir+`, or a path longer than they take.
    LowerDirectory(Error),
    Otherwise(Error),
}

impl Refused {
    fn is_too_old(&self) -> bool {
        match self {
            Refused::LowerDirectory(error) => error.errno() == Some(Errno::INVAL),
            Refused::Otherwise(error) => error.errno() == Some(Errno::NAMETOOLONG),
        }
    }

    fn into_error(self) -> Error {
        match self {
            Refused::LowerDirectory(error) | Refused::Otherwise(error) => error,
        }
    }
}

/// The longest value that fsconfig takes for a string.
const VALUE_BYTES_MAX: usize = 255;

fn each_by_itself(options: &MountOptions<'_>) -> Result<OwnedFd, Refused> {
    let failed = |errno| Refused::Otherwise(Error::new("open an overlay", errno));
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    fsconfig_set_string(&context, "source", "overlay").map_err(failed)?;
    for directory in &options.lower {
        fsconfig_set_string(&context, "lowerdir+", directory).map_err(|errno| {
            let operation = format!("mount an overlay with lower directory {directory}");
            Refused::LowerDirectory(explained(&context, operation, errno))
        })?;
    }
    for option in &options.data {
        let refused = |errno| {
            let operation = format!("mount an overlay with option {option}");
            Refused::Otherwise(explained(&context, operation, errno))
        };
        match option.split_once('=') {
            Some((_, value)) if value.len() > VALUE_BYTES_MAX => {
                return Err(refused(Errno::NAMETOOLONG));
            }
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, *option),
        }
        .map_err(refused)?;
    }
    fsconfig_create(&context).map_err(|errno| {
        Refused::Otherwise(explained(&context, "make an overlay".into(), errno))
    })?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(&context, flags, options.attributes())
        .map_err(|errno| Refused::Otherwise(explained(&context, "mount an overlay".into(), errno)))
}

/// An error with what the kernel noted down about it in the mount's context.
pub(super) fn explained(context: &OwnedFd, operation: String, errno: Errno) -> Error {
    let mut error = Error::new(operation, errno);
    let mut lines: Vec<String> = Vec::new();
    let mut line = [0; 1024];
    // Each read answers one line; the kernel keeps eight.
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        // "e ", "w " or "i " says how bad it is.
        let text = text.get(2..).unwrap_or_default().trim();
        if !text.is_empty() {
            lines.push(text.to_owned());
        }
    }
    if !lines.is_empty() {
        error.said = Some(lines.join("; "));
    }
    error
}

/// The way of older kernels. Changes the current directory and mounts over a directory, so it runs with private
/// mounts only.
fn all_in_one_string(options: &MountOptions<'_>) -> Result<OwnedFd> {
    let Some(target) = options.lower.first().map(Path::new) else {
        return Err(Error::invalid(
            "mount an overlay",
            "it has no lower directory",
        ));
    };
    let (base, lower) = shortened(&options.lower);
    let escaped: Vec<String> = lower.iter().map(|path| escape(path)).collect();
    let mut data = vec![format!("lowerdir={}", escaped.join(":"))];
    data.extend(options.data.iter().map(|option| (*option).to_owned()));
    let data = data.join(",");
    if data.len() > DATA_BYTES_MAX {
        let reason = format!(
            "{} lower directories do not fit in one page even by relative paths; this needs Linux 6.8",
            lower.len()
        );
        return Err(Error::invalid("mount an overlay", reason));
    }
    rustix::process::chdir(&base)
        .map_err(|errno| Error::new(format!("change to directory {}", base.display()), errno))?;
    let data = std::ffi::CString::new(data)
        .map_err(|_| Error::invalid("mount an overlay", "a path holds a NUL"))?;
    // Any directory would do; nobody else sees it, and the overlay has its own copy of what it covers.
    rustix::mount::mount(
        "overlay",
        target,
        "overlay",
        MountFlags::empty(),
        Some(&*data),
    )
    .map_err(|errno| Error::new("mount an overlay", errno))?;
    let detached = clone_tree(target, false)?;
    change(
        detached.as_fd(),
        &options.change(None),
        Path::new("overlay"),
    )?;
    Ok(detached)
}

/// The directory that all of `paths` have in common, and their paths from there.
fn shortened(paths: &[String]) -> (PathBuf, Vec<String>) {
    let mut common: Vec<Component<'_>> = match paths.first() {
        Some(first) => Path::new(first).components().collect(),
        None => Vec::new(),
    };
    for path in paths {
        // Above it: a path from there must not be empty.
        let above = Path::new(path).parent().unwrap_or(Path::new("/"));
        let same = above
            .components()
            .zip(&common)
            .take_while(|(one, other)| one == *other)
            .count();
        common.truncate(same);
    }
    let base: PathBuf = common.iter().collect();
    let relative = |path: &String| match Path::new(path).strip_prefix(&base) {
        Ok(rest) => rest.to_string_lossy().into_owned(),
        Err(_) => path.clone(),
    };
    let lower = paths.iter().map(relative).collect();
    (base, lower)
}

/// A path as an element of a `lowerdir=` list in an option string.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for char in path.chars() {
        if matches!(char, ':' | '\\' | ',') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
mod tests;
