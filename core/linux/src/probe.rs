//! What this kernel and this filesystem can do.
//!
//! Overlays are tried for real, as detached mounts over a scratch directory: no mount can stay behind.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::mount::{MountOptions, detached_overlay, stat_below};
use crate::{Error, Result};

/// Whether this process is in a user namespace other than the first one.
pub fn in_user_namespace() -> bool {
    match fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => map.split_whitespace().ne(["0", "0", "4294967295"]),
        // A kernel without user namespaces.
        Err(_) => false,
    }
}

/// Major and minor version of the kernel; zeros if it has another form.
pub fn kernel_release() -> (u32, u32) {
    let uname = rustix::system::uname();
    parse_release(&uname.release().to_string_lossy())
}

/// The first two numbers of a release, `6.18.44-generic` for instance.
pub fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    (next(), next())
}

/// Whether overlayfs knows the option `index`.
pub fn overlay_has_index() -> bool {
    Path::new("/sys/module/overlay/parameters/index").exists()
}

/// Whether listing `directory` tells the types of its entries (d_type), which overlayfs needs. `None` if it is
/// empty.
pub fn tells_types(directory: &Path) -> io::Result<Option<bool>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = rustix::fs::Dir::new(rustix::fs::open(directory, flags, Mode::empty())?)?;
    for entry in entries {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(Some(entry.file_type() != FileType::Unknown));
        }
    }
    Ok(None)
}

/// A scratch directory for trying overlays, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// Makes `directory`, on the filesystem in question. What a killed probe left in its place is removed.
    pub fn new(directory: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Scratch { directory })
    }

    /// Whether overlays need the option `userxattr`: in a user namespace, where the kernel knows the option (5.11)
    /// and the filesystem has such attributes.
    pub fn needs_userxattr(&self) -> bool {
        in_user_namespace() && self.overlay("userxattr", &["userxattr".to_owned()]).is_ok()
    }

    /// Tries an overlay with these options of the operator.
    pub fn overlay_takes(&self, options: &[String]) -> Result<()> {
        self.overlay("options", options)
    }

    /// Tries an idmapped overlay: Linux 5.19, and a filesystem that can be idmapped.
    pub fn overlay_takes_id_maps(&self) -> Result<()> {
        const MAPPED: u32 = 666;
        let map = format!("map=0:{MAPPED}:1");
        let dirs = self.directories("idmap")?;
        let file = dirs.lower.join("file");
        let made =
            fs::write(&file, "").and_then(|()| chown(&dirs.upper, Some(MAPPED), Some(MAPPED)));
        made.map_err(|error| Error::new("prepare the probe of idmapped overlays", error))?;
        let mut options = dirs.options();
        options.extend([format!("uid{map}"), format!("gid{map}")]);
        let overlay = try_overlay(&options)?;
        let seen = stat_below(overlay.as_fd(), "file")?;
        if (seen.st_uid, seen.st_gid) == (MAPPED, MAPPED) {
            return Ok(());
        }
        let reason = format!(
            "a file of user 0 belongs to user {}, not {MAPPED}",
            seen.st_uid
        );
        Err(Error::invalid("map the ids of an overlay", reason))
    }

    fn overlay(&self, name: &str, extra: &[String]) -> Result<()> {
        let mut options = self.directories(name)?.options();
        options.extend_from_slice(extra);
        try_overlay(&options).map(drop)
    }

    fn directories(&self, name: &str) -> Result<Directories> {
        let base = self.directory.join(name);
        let dirs = Directories {
            lower: base.join("lower"),
            upper: base.join("upper"),
            work: base.join("work"),
        };
        for dir in [&dirs.lower, &dirs.upper, &dirs.work] {
            fs::create_dir_all(dir)
                .map_err(|error| Error::new(format!("create {}", dir.display()), error))?;
        }
        Ok(dirs)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next probe.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether a failed probe says nothing about the kernel: this process may not mount, or the disk is full.
pub fn says_nothing(error: &Error) -> bool {
    let nothing = [Errno::PERM, Errno::ACCESS, Errno::NOSPC, Errno::DQUOT];
    error.errno().is_some_and(|errno| nothing.contains(&errno))
}

struct Directories {
    lower: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Directories {
    fn options(&self) -> Vec<String> {
        vec![
            format!("lowerdir={}", self.lower.display()),
            format!("upperdir={}", self.upper.display()),
            format!("workdir={}", self.work.display()),
        ]
    }
}

fn try_overlay(options: &[String]) -> Result<std::os::fd::OwnedFd> {
    let options =
        MountOptions::parse(options).map_err(|reason| Error::invalid("try an overlay", reason))?;
    detached_overlay(&options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_release("6.18.44-fc-v669"), (6, 18));
        assert_eq!(parse_release("7.0-rc1"), (7, 0));
        assert_eq!(parse_release("custom"), (0, 0));
        assert!(kernel_release() > (2, 0));
    }
}
