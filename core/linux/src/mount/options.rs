//! Mount options in the form of mount(8), sorted by who takes them.

use std::os::fd::BorrowedFd;

use rustix::mount::MountAttrFlags;

use crate::IdMap;
use crate::raw::MountChange;

/// Options of one mount.
#[derive(Debug)]
pub(crate) struct MountOptions<'a> {
    set: MountAttrFlags,
    clear: MountAttrFlags,
    /// Whether this is a bind mount.
    pub(crate) bind: Option<Bind>,
    /// The mapping of `uidmap=` and `gidmap=`.
    pub(crate) id_map: Option<IdMap>,
    /// What is the filesystem's own, in order, without lower directories.
    pub(crate) data: Vec<&'a str>,
    /// The lower directories of an overlay, topmost first.
    pub(crate) lower: Vec<String>,
}

/// How much a bind mount takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    /// One mount.
    Single,
    /// With the mounts below.
    Recursive,
}

impl<'a> MountOptions<'a> {
    pub(crate) fn parse<S: AsRef<str>>(options: &'a [S]) -> Result<Self, String> {
        let mut parsed = MountOptions {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            bind: None,
            id_map: None,
            data: Vec::new(),
            lower: Vec::new(),
        };
        let (mut uids, mut gids) = (None, None);
        for option in options.iter().map(AsRef::as_ref) {
            if let Some((flag, set)) = attribute(option) {
                let (on, off) = if set {
                    (&mut parsed.set, &mut parsed.clear)
                } else {
                    (&mut parsed.clear, &mut parsed.set)
                };
                on.insert(flag);
                off.remove(flag);
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                uids = Some(map);
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                gids = Some(map);
            } else if let Some(list) = option.strip_prefix("lowerdir=") {
                parsed.lower.extend(split_lower(list));
            } else {
                match option {
                    "bind" => parsed.bind = Some(Bind::Single),
                    "rbind" => parsed.bind = Some(Bind::Recursive),
                    "defaults" => {}
                    _ => parsed.data.push(option),
                }
            }
        }
        parsed.id_map = match (uids, gids) {
            (Some(uids), Some(gids)) => {
                Some(IdMap::parse(uids, gids).map_err(|error| format!("id mapping: {error}"))?)
            }
            (None, None) => None,
            _ => return Err("uidmap= and gidmap= go together; give both".to_owned()),
        };
        Ok(parsed)
    }

    /// The flags of the mount itself, for fsmount.
    pub(crate) fn attributes(&self) -> MountAttrFlags {
        self.set
    }

    /// Flags and mapping as one change of an existing mount.
    pub(crate) fn change<'fd>(&self, user_namespace: Option<BorrowedFd<'fd>>) -> MountChange<'fd> {
        MountChange {
            user_namespace,
            ..MountChange::flags(self.set, self.clear)
        }
    }
}

/// A flag of every mount, and whether the option sets or clears it.
fn attribute(option: &str) -> Option<(MountAttrFlags, bool)> {
    Some(match option {
        "ro" => (MountAttrFlags::MOUNT_ATTR_RDONLY, true),
        "rw" => (MountAttrFlags::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (MountAttrFlags::MOUNT_ATTR_NOSUID, true),
        "suid" => (MountAttrFlags::MOUNT_ATTR_NOSUID, false),
        "nodev" => (MountAttrFlags::MOUNT_ATTR_NODEV, true),
        "dev" => (MountAttrFlags::MOUNT_ATTR_NODEV, false),
        "noexec" => (MountAttrFlags::MOUNT_ATTR_NOEXEC, true),
        "exec" => (MountAttrFlags::MOUNT_ATTR_NOEXEC, false),
        _ => return None,
    })
}

/// The directories of a `lowerdir=` list. The kernel's escape for a colon in a path is `\:`.
fn split_lower(list: &str) -> Vec<String> {
    let mut directories = vec![String::new()];
    let mut chars = list.chars();
    while let Some(char) = chars.next() {
        let last = directories.len() - 1;
        match char {
            ':' => directories.push(String::new()),
            '\\' => directories[last].extend(chars.next()),
            _ => directories[last].push(char),
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_where_they_belong() {
        let options = [
            "uidmap=0:5:1",
            "gidmap=0:6:1",
            "workdir=/w",
            "lowerdir=/a:/b\\:c",
            "ro",
            "nodev",
            "rw",
            "index=off",
            "userxattr",
        ];
        let parsed = MountOptions::parse(&options).unwrap();
        assert_eq!(parsed.lower, ["/a", "/b:c"]);
        assert_eq!(parsed.data, ["workdir=/w", "index=off", "userxattr"]);
        assert_eq!(parsed.id_map.as_ref().unwrap().root(), (5, 6));
        assert_eq!(parsed.set, MountAttrFlags::MOUNT_ATTR_NODEV);
        assert_eq!(parsed.clear, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert_eq!(parsed.bind, None);
    }

    #[test]
    fn half_a_mapping_is_refused() {
        let error = MountOptions::parse(&["rbind", "uidmap=0:5:1"]).unwrap_err();
        assert!(error.contains("give both"), "{error}");
        let error = MountOptions::parse(&["uidmap=x", "gidmap=0:6:1"]).unwrap_err();
        assert!(error.starts_with("id mapping: \"x\""), "{error}");
    }
}
