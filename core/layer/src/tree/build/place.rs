//! Where an entry goes.

use std::borrow::Cow;

use super::{Entry, EntryKind, IMPLIED, Inode, NONE, NodeId, PendingLink, TreeBuilder, What};
use crate::error::FormatError;
use crate::path::components;

/// Symbolic links followed for one path: Linux' own limit.
const SYMLINKS_MAX: usize = 40;

/// What overlayfs takes for "nothing here": a character device 0:0.
const WHITEOUT: Inode = Inode {
    what: What::CharDevice { major: 0, minor: 0 },
    mode: 0,
    implied: false,
    ..IMPLIED
};

/// What a layer writes before the name of what it removes (image-spec, layer.md, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The whiteout of everything that is below a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether that is a directory of AUFS' own, which every unpacker skips with all that is in it.
fn is_aufs(parents: &[&[u8]]) -> bool {
    parents.first().is_some_and(|name| {
        let removed = name.strip_prefix(WHITEOUT_PREFIX);
        removed.is_some_and(|removed| removed.starts_with(WHITEOUT_PREFIX))
    })
}

impl TreeBuilder {
    /// Adds a file. Answers which one it became; none if it was a whiteout. The answer is good until
    /// [`TreeBuilder::finish`].
    pub fn add(&mut self, path: &[u8], entry: Entry<'_>) -> Result<Option<NodeId>, FormatError> {
        let names = components(path, &self.limits)?;
        let Some((name, parents)) = names.split_last() else {
            return TreeBuilder::add_root(path, &entry).map(Some);
        };
        if is_aufs(parents) {
            return Ok(None);
        }
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.add_whiteout(path, parents, name).map(|()| None);
        }
        let parent = self.parent(path, parents)?;
        if entry.kind == EntryKind::Directory
            && let Some(id) = self.child(parent, name)?
            && let what @ What::Directory { .. } = self.nodes[id.index()].what
        {
            let inode = self.inode(path, entry)?;
            self.nodes[id.index()] = Inode { what, ..inode };
            return Ok(Some(id));
        }
        let hides = entry.kind == EntryKind::Directory && self.is_whiteout(parent, name)?;
        let inode = self.inode(path, entry)?;
        let id = self.push(inode)?;
        self.replace(parent, name, id.0)?;
        if hides {
            // It hides what is below, and is a directory itself.
            self.opaque_directories.push(id);
        }
        Ok(Some(id))
    }

    /// Adds another name, `path`, for the file `target`, which may come later.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), FormatError> {
        let refuse = |reason: &str| {
            Err(FormatError::entry(
                &String::from_utf8_lossy(path),
                format!(
                    "is a hard link to {:?}, {reason}",
                    String::from_utf8_lossy(target)
                ),
            ))
        };
        let names = components(path, &self.limits)?;
        let Some((name, parents)) = names.split_last() else {
            return refuse("in place of the root directory");
        };
        if is_aufs(parents) {
            return Ok(());
        }
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.add_whiteout(path, parents, name);
        }
        let parent = self.parent(path, parents)?;
        match self.target(path, target)? {
            Some(slot) if self.slots[slot as usize].node != NONE => {
                let node = self.slots[slot as usize].node;
                if matches!(self.nodes[node as usize].what, What::Directory { .. }) {
                    return refuse("which is a directory");
                }
                self.replace(parent, name, node)?;
            }
            _ => {
                let slot = self.replace(parent, name, NONE)?;
                self.pending.push(PendingLink {
                    slot,
                    path: path.to_vec(),
                    target: target.to_vec(),
                });
            }
        }
        Ok(())
    }

    fn add_root(path: &[u8], entry: &Entry<'_>) -> Result<NodeId, FormatError> {
        if entry.kind != EntryKind::Directory {
            return Err(FormatError::entry(
                &String::from_utf8_lossy(path),
                "is in place of the root directory and is none",
            ));
        }
        // containerd ignores it (`pkg/archive/tar.go`, "resolved to root"): the root is what its snapshotter makes.
        Ok(NodeId::ROOT)
    }

    fn add_whiteout(
        &mut self,
        path: &[u8],
        parents: &[&[u8]],
        name: &[u8],
    ) -> Result<(), FormatError> {
        if name == OPAQUE {
            let parent = self.parent(path, parents)?;
            self.opaque_directories.push(parent);
            return Ok(());
        }
        let removed = name.get(WHITEOUT_PREFIX.len()..).unwrap_or_default();
        if removed.starts_with(WHITEOUT_PREFIX) {
            // AUFS' own administration, which every unpacker skips.
            return Ok(());
        }
        if matches!(removed, b"" | b"." | b"..") {
            return Err(FormatError::entry(
                &String::from_utf8_lossy(path),
                "removes nothing that can exist",
            ));
        }
        let parent = self.parent(path, parents)?;
        if self.slot(parent, removed)?.is_none() {
            let whiteout = self.push(WHITEOUT)?;
            self.replace(parent, removed, whiteout.0)?;
        } else if let Some(id) = self.child(parent, removed)?
            && matches!(self.nodes[id.index()].what, What::Directory { .. })
        {
            // What the layer has of that name stays, and what is below does not show through.
            self.opaque_directories.push(id);
        }
        Ok(())
    }

    fn is_whiteout(&mut self, parent: NodeId, name: &[u8]) -> Result<bool, FormatError> {
        let id = self.child(parent, name)?;
        Ok(id.is_some_and(|id| {
            let what = self.nodes[id.index()].what;
            matches!(what, What::CharDevice { major: 0, minor: 0 })
        }))
    }

    fn replace(&mut self, parent: NodeId, name: &[u8], node: u32) -> Result<u32, FormatError> {
        if let Some(id) = self.child(parent, name)?
            && matches!(
                self.nodes[id.index()].what,
                What::Directory { .. } | What::Symlink { .. }
            )
        {
            // What was below that name is somewhere else now, or nowhere.
            self.recent = None;
        }
        self.set(parent, name, node)
    }

    fn inode(&mut self, path: &[u8], entry: Entry<'_>) -> Result<Inode, FormatError> {
        let refuse = |reason: &str| FormatError::entry(&String::from_utf8_lossy(path), reason);
        let (what, size) = match entry.kind {
            EntryKind::Directory => (IMPLIED.what, 0),
            EntryKind::File { data_offset } => (What::File { data_offset }, entry.size),
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(refuse("is a symbolic link to nowhere"));
                }
                if target.len() >= self.limits.path_bytes_max {
                    return Err(refuse("is a symbolic link with too long a target"));
                }
                let number = u32::try_from(self.targets.len())
                    .map_err(|_| refuse("is one symbolic link too many"))?;
                self.keep(target.len())?;
                self.targets.push(target.into());
                (What::Symlink { target: number }, target.len() as u64)
            }
            EntryKind::CharDevice { major, minor } => (What::CharDevice { major, minor }, 0),
            EntryKind::BlockDevice { major, minor } => (What::BlockDevice { major, minor }, 0),
            EntryKind::Fifo => (What::Fifo, 0),
            EntryKind::Socket => (What::Socket, 0),
        };
        if let What::CharDevice { major, minor } | What::BlockDevice { major, minor } = what
            && (major > 0xfff || minor > 0xf_ffff)
        {
            return Err(refuse("is a device with a number that Linux does not have"));
        }
        let mut xattrs = entry.xattrs;
        xattrs.retain(|(name, _)| !super::is_reserved(name));
        let xattrs = self.intern(xattrs)?;
        Ok(Inode {
            what,
            size,
            mtime: entry.mtime,
            uid: entry.uid,
            gid: entry.gid,
            links: 0,
            xattrs,
            mode: match what {
                // Linux' own: no call changes it, so whatever an archive says is lost.
                What::Symlink { .. } => 0o777,
                _ => entry.mode & 0o7777,
            },
            implied: false,
        })
    }

    /// The directory in which `path` is, made if it is not there.
    fn parent(&mut self, path: &[u8], parents: &[&[u8]]) -> Result<NodeId, FormatError> {
        let written = path.rsplitn(2, |byte| *byte == b'/').nth(1);
        let plain = written.filter(|_| !path.ends_with(b"/") && !path.ends_with(b"/.."));
        if let Some(written) = plain
            && let Some((recent, id)) = &self.recent
            && recent == written
        {
            return Ok(*id);
        }
        let id = self.directory(path, parents, true)?.unwrap_or(NodeId::ROOT);
        if let Some(written) = plain {
            self.recent = Some((written.to_vec(), id));
        }
        Ok(id)
    }

    /// The slot of what `target` names, for the hard link `path`.
    pub(super) fn target(
        &mut self,
        path: &[u8],
        target: &[u8],
    ) -> Result<Option<u32>, FormatError> {
        let names = components(target, &self.limits)?;
        let Some((name, parents)) = names.split_last() else {
            return Err(FormatError::entry(
                &String::from_utf8_lossy(path),
                "is a hard link to the root directory",
            ));
        };
        match self.directory(path, parents, false)? {
            Some(parent) => self.slot(parent, name),
            None => Ok(None),
        }
    }

    /// The directory that `names` lead to. Symbolic links are followed as if the root of the layer were the root of
    /// everything. What is missing is made, or there is no answer.
    fn directory(
        &mut self,
        path: &[u8],
        names: &[&[u8]],
        make: bool,
    ) -> Result<Option<NodeId>, FormatError> {
        let refuse = |reason: &str| FormatError::entry(&String::from_utf8_lossy(path), reason);
        let mut todo: Vec<Cow<'_, [u8]>> = names.iter().rev().map(|name| (*name).into()).collect();
        let mut way = vec![NodeId::ROOT];
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            self.step()?;
            let here = way.last().copied().unwrap_or(NodeId::ROOT);
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                    continue;
                }
                name if name.len() > self.limits.name_bytes_max => {
                    return Err(refuse(
                        "is below a symbolic link with too long a name in it",
                    ));
                }
                _ => {}
            }
            let id = match self.child(here, &name)? {
                Some(id) => id,
                None if make => {
                    let id = self.push(IMPLIED)?;
                    self.set(here, &name, id.0)?;
                    id
                }
                None => return Ok(None),
            };
            match self.nodes[id.index()].what {
                What::Directory { .. } => way.push(id),
                What::Symlink { target } => {
                    followed += 1;
                    if followed > SYMLINKS_MAX {
                        return Err(refuse("is below symbolic links that lead round in circles"));
                    }
                    let target = &self.targets[target as usize];
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    let names = target.split(|byte| *byte == b'/').rev();
                    todo.extend(names.map(|name| Cow::Owned(name.to_vec())));
                }
                _ if make => return Err(refuse("is below something that is no directory")),
                _ => return Ok(None),
            }
            FormatError::check_limit(
                "the number of directories inside each other",
                way.len() as u64,
                self.limits.depth_max as u64,
            )?;
        }
        Ok(way.last().copied())
    }
}
