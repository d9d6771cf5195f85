//! What a layer lies on: where directories that it does not list have their attributes from.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use pontoon_erofs::{FileType, Image, Nid};
use pontoon_layer::Attributes;
use pontoon_linux::Map;
use pontoon_overlay::{Chain, Link};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::record::Record;
use crate::trees::Trees;

/// The layers below, nearest first.
#[derive(Debug, Clone)]
pub(crate) struct Parents(Vec<Parent>);

#[derive(Debug, Clone)]
enum Parent {
    /// A lazy layer: the name of its tree, and where that is.
    Lazy(String, Arc<Trees>),
    /// An ordinary one: its id, and its directory.
    Ordinary(String, PathBuf),
}

/// What a layer below has at a path.
enum Found {
    Directory(Box<Attributes>),
    /// Nothing: the layers further below count.
    Nothing,
    /// Something else, which hides what is below it.
    Other,
}

impl Parents {
    /// The layers of `chain`; those that are lazy have their trees among `trees`.
    pub(crate) fn of(chain: &Chain<'_>, trees: &Arc<Trees>) -> pontoon_snapshot::Result<Self> {
        let parent = |link: &Link| match &link.layer {
            None => Ok(Parent::Ordinary(link.id.to_string(), chain.directory(link))),
            Some(record) => {
                let tree = Record::decode(record)?.tree;
                Ok(Parent::Lazy(tree, Arc::clone(trees)))
            }
        };
        let parents: pontoon_snapshot::Result<Vec<Parent>> =
            chain.links.iter().map(parent).collect();
        parents.map(Parents)
    }

    /// Ordinary layers in these directories.
    #[cfg(test)]
    pub(crate) fn ordinary(directories: &[&Path]) -> Self {
        let parent = |path: &&Path| Parent::Ordinary("1".to_owned(), path.to_path_buf());
        Parents(directories.iter().map(parent).collect())
    }

    /// A text that stands for exactly these layers: trees never change, ids are never used again.
    pub(crate) fn identity(&self) -> String {
        let names = self.0.iter().map(|parent| match parent {
            Parent::Lazy(tree, _) => format!("tree {tree}"),
            Parent::Ordinary(id, _) => format!("snapshot {id}"),
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Who owns the root directory of the nearest one; root without any. That is whom an ordinary layer's belongs to.
    pub(crate) fn root_owner(&self) -> io::Result<(u32, u32)> {
        match self.0.first() {
            None => Ok((0, 0)),
            Some(Parent::Ordinary(_, directory)) => {
                let stat = std::fs::symlink_metadata(directory)?;
                Ok((stat.uid(), stat.gid()))
            }
            Some(Parent::Lazy(tree, trees)) => {
                let image = open(trees, tree)?;
                let root = image.inode(image.root()).map_err(io::Error::other)?;
                Ok((root.uid, root.gid))
            }
        }
    }

    /// The attributes of the directory `path` in the nearest layer that has anything there; `None` if that is no
    /// directory, or if none has.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<Option<Attributes>> {
        for parent in &self.0 {
            let found = match parent {
                Parent::Lazy(tree, trees) => in_image(&open(trees, tree)?, path)?,
                Parent::Ordinary(_, directory) => in_directory(directory, path)?,
            };
            match found {
                Found::Directory(attributes) => return Ok(Some(*attributes)),
                Found::Nothing => {}
                Found::Other => return Ok(None),
            }
        }
        Ok(None)
    }
}

fn open(trees: &Trees, tree: &str) -> io::Result<Image<Map>> {
    let lost = |error: io::Error| {
        let reason = "remove the images with this layer and pull them again";
        let text = format!("the tree {tree} of a layer below cannot be used: {error}; {reason}");
        io::Error::new(error.kind(), text)
    };
    let map = trees.map(tree).map_err(lost)?;
    Image::open(map).map_err(io::Error::other)
}

fn in_image(image: &Image<Map>, path: &Path) -> io::Result<Found> {
    let mut nid = image.root();
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        let next = image
            .lookup(nid, name.as_bytes())
            .map_err(io::Error::other)?;
        let Some(next) = next else {
            return Ok(match is_opaque(image, nid)? {
                true => Found::Other,
                false => Found::Nothing,
            });
        };
        let inode = image.inode(next).map_err(io::Error::other)?;
        if inode.file_type != FileType::Directory {
            return Ok(Found::Other);
        }
        nid = next;
    }
    attributes(image, nid).map(|found| Found::Directory(Box::new(found)))
}

fn is_opaque(image: &Image<Map>, nid: Nid) -> io::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let value = image.xattr(nid, name.as_bytes());
        if value.map_err(io::Error::other)? == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// All but `trusted.*` attributes: what overlayfs notes there is about that layer alone.
fn attributes(image: &Image<Map>, nid: Nid) -> io::Result<Attributes> {
    let inode = image.inode(nid).map_err(io::Error::other)?;
    let mut xattrs = Vec::new();
    for xattr in image.xattrs(nid).map_err(io::Error::other)? {
        let xattr = xattr.map_err(io::Error::other)?;
        let name = xattr.name();
        if !name.starts_with(b"trusted.") {
            xattrs.push((name, xattr.value.to_vec()));
        }
    }
    Ok(Attributes {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        xattrs,
    })
}

fn in_directory(directory: &Path, path: &Path) -> io::Result<Found> {
    if let Some(found) = pontoon_unpack::directories(&[directory], path)? {
        return Ok(Found::Directory(Box::new(found)));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags | OFlags::DIRECTORY, Mode::empty())?;
    let flags = flags | OFlags::NOFOLLOW;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => Ok(Found::Other),
        Err(error) => Err(error.into()),
    }
}
