//! Which snapshots a mount uses, whatever the records say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pontoon_metastore::SnapshotId;
use pontoon_snapshot::{Error, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The ids under the directory `snapshots` that are mounted or part of an overlay, in this process's mount namespace.
pub(crate) fn ids(snapshots: &Path) -> Result<BTreeSet<SnapshotId>> {
    let mountinfo =
        fs::read(MOUNTINFO).map_err(|error| Error::io(format!("read {MOUNTINFO}"), error))?;
    let snapshots = as_told(&snapshots.to_string_lossy());
    let mountinfo = String::from_utf8_lossy(&mountinfo);
    let ids = mountinfo
        .lines()
        .flat_map(|line| of_mount(line, &snapshots));
    Ok(ids.collect())
}

/// The ids in one line of proc_pid_mountinfo(5). Rather one too many than one too few.
fn of_mount(line: &str, snapshots: &str) -> Vec<SnapshotId> {
    let mut ids = ids_after(line, &format!("{snapshots}/"), |_| true);
    // A bind mount is told by its path within its filesystem, which may be mounted anywhere.
    let source = line.split(' ').nth(3).unwrap_or_default();
    let directories = snapshots.strip_suffix("/snapshots").unwrap_or(snapshots);
    ids.extend(ids_after(source, "/snapshots/", |above| {
        above.is_empty() || name_of(above) == name_of(directories)
    }));
    // containerd writes many lower directories relative to snapshots/; a view then has no absolute path at all.
    let options = line.rsplit(' ').next().unwrap_or_default();
    let may_be_ours = !ids.is_empty() || !options.contains("=/");
    for option in options.split(',').filter(|_| may_be_ours) {
        let lower = option.strip_prefix("lowerdir=").unwrap_or_default();
        let relative = lower.split(':').filter_map(|path| path.strip_suffix("/fs"));
        // Relative to the root if lazy layers are among them.
        let relative = relative.map(|path| path.strip_prefix("snapshots/").unwrap_or(path));
        ids.extend(relative.filter_map(|id| id.parse::<SnapshotId>().ok()));
    }
    ids
}

/// The ids that follow `prefix` where `fits` what is before it.
fn ids_after(text: &str, prefix: &str, fits: impl Fn(&str) -> bool) -> Vec<SnapshotId> {
    text.match_indices(prefix)
        .filter(|(at, _)| fits(&text[..*at]))
        .filter_map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().ok()
        })
        .collect()
}

fn name_of(path: &str) -> Option<&str> {
    path.rsplit('/').next()
}

/// A path as the kernel writes it there. A root has no backslash.
fn as_told(path: &str) -> String {
    path.replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(line: &str) -> Vec<String> {
        let snapshots = as_told("/var/lib/my root/snapshots");
        let ids = of_mount(line, &snapshots);
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn overlays_and_bind_mounts_name_their_snapshots() {
        let overlay = "36 35 0:52 / /run/c rw - overlay overlay rw,";
        let root = "/var/lib/my\\040root/snapshots";
        let lines = [
            (
                format!("{overlay}lowerdir={root}/2/fs:{root}/1/fs,upperdir={root}/13/fs"),
                vec!["2", "1", "13"],
            ),
            // As containerd shortens it.
            (
                format!("{overlay}lowerdir=2/fs:1/fs,upperdir={root}/3/fs"),
                vec!["3", "2", "1"],
            ),
            (format!("{overlay}lowerdir=2/fs:1/fs"), vec!["2", "1"]),
            // With a lazy layer among them.
            (
                format!("{overlay}lowerdir=snapshots/2/fs:lazy/mnt/1"),
                vec!["2"],
            ),
            (
                format!("{overlay}lowerdir=2/fs:1/fs,upperdir=/other/snapshots/3/fs"),
                vec![],
            ),
            // The filesystem is mounted at /var/lib, at the root itself, or is another one.
            (
                "36 35 8:1 /my\\040root/snapshots/7/fs /mnt ro - ext4 /dev/sda rw".to_owned(),
                vec!["7"],
            ),
            (
                "36 35 8:1 /snapshots/7/fs /mnt ro - ext4 /dev/sda rw".to_owned(),
                vec!["7"],
            ),
            (
                "36 35 8:1 /other/snapshots/7/fs /mnt ro - ext4 /dev/sda rw".to_owned(),
                vec![],
            ),
            ("36 35 8:1 / / rw - ext4 /dev/sda rw".to_owned(), vec![]),
        ];
        for (line, expected) in lines {
            assert_eq!(ids(&line), expected, "{line}");
        }
    }
}
