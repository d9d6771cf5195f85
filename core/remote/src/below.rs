//! Directories of the layers below, found as in a mount of all of them: links are followed from layer to layer, and what
//! a layer hides is not there.

use std::cell::{Cell, OnceCell};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use pontoon_erofs::{FileType, Image, Nid};
use pontoon_layer::Attributes;
use pontoon_linux::Map;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::trees::Trees;

/// So many links are followed on the way to a directory: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// So many names are looked up in layers, for all directories of a layer: links to links make many out of one.
const LOOKUPS_MAX: usize = 10_000_000;

/// By which overlayfs knows that a directory hides those below it.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// The layers below, opened when something is looked for in them.
pub(crate) struct Below<'a> {
    layers: Vec<Layer<'a>>,
    /// Which of them have a root that counts.
    root: OnceCell<Vec<Part>>,
    lookups: Cell<usize>,
}

/// A layer.
pub(crate) enum Layer<'a> {
    Lazy {
        tree: &'a str,
        trees: &'a Trees,
        image: OnceCell<Image<Map>>,
    },
    Ordinary {
        directory: &'a Path,
        root: OnceCell<OwnedFd>,
    },
}

/// Where a directory is in one layer: which layer, and which inode if that is a lazy one.
type Part = (usize, Option<Nid>);

/// What one layer has under a name.
enum Entry {
    Nothing,
    Directory { nid: Option<Nid>, is_opaque: bool },
    Link(Vec<u8>),
    Other,
}

/// What all layers together have under a name.
enum Merged {
    /// The layers that have the directory, topmost first.
    Directory(Vec<Part>),
    Link(Vec<u8>),
    Other,
}

impl<'a> Below<'a> {
    /// `layers`, the topmost first.
    pub(crate) fn new(layers: Vec<Layer<'a>>) -> Self {
        Below {
            layers,
            root: OnceCell::new(),
            lookups: Cell::new(LOOKUPS_MAX),
        }
    }

    /// The attributes of the directory `path`; `None` if there is none.
    ///
    /// [`io::ErrorKind::QuotaExceeded`] if it takes too long to find out.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<Option<Attributes>> {
        let mut names = Vec::new();
        push(&mut names, path);
        // The way to where we are, without links: in each layer it is a way of directories.
        let mut way = PathBuf::new();
        let mut parts = vec![self.root()?.clone()];
        let mut links = 0;
        while let Some(name) = names.pop() {
            if name == b".." {
                // Above the root is the root.
                if way.pop() {
                    parts.pop();
                }
                continue;
            }
            let here = parts.last().map_or(&[][..], Vec::as_slice);
            match self.step(here, &way, &name)? {
                Merged::Directory(next) => {
                    way.push(OsStr::from_bytes(&name));
                    parts.push(next);
                }
                Merged::Link(target) if links < LINKS_MAX => {
                    links += 1;
                    if target.starts_with(b"/") {
                        way = PathBuf::new();
                        parts.truncate(1);
                    }
                    push(&mut names, Path::new(OsStr::from_bytes(&target)));
                }
                Merged::Link(_) | Merged::Other => return Ok(None),
            }
        }
        let topmost = parts.last().and_then(|parts| parts.first());
        match topmost {
            Some(part) => self.attributes(*part, &way),
            None => Ok(None),
        }
    }

    fn root(&self) -> io::Result<&Vec<Part>> {
        if let Some(parts) = self.root.get() {
            return Ok(parts);
        }
        let mut parts = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let (nid, is_opaque) = match layer {
                Layer::Lazy { .. } => {
                    let image = layer.image()?;
                    (Some(image.root()), is_opaque(image, image.root())?)
                }
                Layer::Ordinary { directory, .. } => (None, is_opaque_directory(directory)?),
            };
            parts.push((index, nid));
            if is_opaque {
                break;
            }
        }
        Ok(self.root.get_or_init(|| parts))
    }

    /// What is called `name` in the directory `way`, which is there in `parts`.
    fn step(&self, parts: &[Part], way: &Path, name: &[u8]) -> io::Result<Merged> {
        let mut found = Vec::new();
        for (index, nid) in parts {
            let left = self.lookups.get().checked_sub(1).ok_or_else(|| {
                let text = format!("it takes more than {LOOKUPS_MAX} look-ups in the layers below");
                io::Error::new(io::ErrorKind::QuotaExceeded, text)
            })?;
            self.lookups.set(left);
            let entry = match (&self.layers[*index], nid) {
                (layer @ Layer::Lazy { .. }, Some(nid)) => in_image(layer.image()?, *nid, name)?,
                (layer, _) => in_directory(layer.fd()?, &way.join(OsStr::from_bytes(name)))?,
            };
            match entry {
                Entry::Nothing => {}
                Entry::Directory { nid, is_opaque } => {
                    found.push((*index, nid));
                    if is_opaque {
                        break;
                    }
                }
                Entry::Link(target) if found.is_empty() => return Ok(Merged::Link(target)),
                // Whatever is above hides it, and it what is below.
                Entry::Link(_) | Entry::Other => break,
            }
        }
        Ok(match found.is_empty() {
            true => Merged::Other,
            false => Merged::Directory(found),
        })
    }

    fn attributes(&self, part: Part, way: &Path) -> io::Result<Option<Attributes>> {
        match (&self.layers[part.0], part.1) {
            (layer @ Layer::Lazy { .. }, Some(nid)) => attributes(layer.image()?, nid).map(Some),
            (Layer::Ordinary { directory, .. }, _) => {
                pontoon_unpack::directories(&[directory], way)
            }
            _ => Ok(None),
        }
    }
}

impl Layer<'_> {
    fn image(&self) -> io::Result<&Image<Map>> {
        let Layer::Lazy { tree, trees, image } = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        if let Some(image) = image.get() {
            return Ok(image);
        }
        let opened = open(trees, tree)?;
        Ok(image.get_or_init(|| opened))
    }

    fn fd(&self) -> io::Result<&OwnedFd> {
        let Layer::Ordinary { directory, root } = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        if let Some(root) = root.get() {
            return Ok(root);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(*directory, flags, Mode::empty())?;
        Ok(root.get_or_init(|| opened))
    }
}

/// Opens the tree `tree` of a layer below.
pub(crate) fn open(trees: &Trees, tree: &str) -> io::Result<Image<Map>> {
    let lost = |error: io::Error| {
        let reason = "remove the images with this layer and pull them again";
        let text = format!("the tree {tree} of a layer below cannot be used: {error}; {reason}");
        io::Error::new(error.kind(), text)
    };
    let map = trees.map(tree).map_err(lost)?;
    Image::open(map).map_err(io::Error::other)
}

/// Puts the names of `path` on the stack `names`, the first one on top.
fn push(names: &mut Vec<Vec<u8>>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::ParentDir => names.push(b"..".to_vec()),
            _ => {}
        }
    }
}

fn in_image(image: &Image<Map>, directory: Nid, name: &[u8]) -> io::Result<Entry> {
    let nid = image.lookup(directory, name).map_err(io::Error::other)?;
    let Some(nid) = nid else {
        return Ok(Entry::Nothing);
    };
    let inode = image.inode(nid).map_err(io::Error::other)?;
    Ok(match inode.file_type {
        FileType::Directory => Entry::Directory {
            nid: Some(nid),
            is_opaque: is_opaque(image, nid)?,
        },
        FileType::Symlink => {
            let target = image.read_link(nid).map_err(io::Error::other)?;
            Entry::Link(target.to_vec())
        }
        _ => Entry::Other,
    })
}

/// `path` has no links but, maybe, the last name.
fn in_directory(root: &OwnedFd, path: &Path) -> io::Result<Entry> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Entry::Directory {
            nid: None,
            is_opaque: is_opaque_fd(&fd)?,
        }),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(Entry::Nothing),
        Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::readlinkat(root, path, Vec::new()) {
            Ok(target) => Ok(Entry::Link(target.into_bytes())),
            Err(Errno::INVAL) => Ok(Entry::Other),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn is_opaque(image: &Image<Map>, nid: Nid) -> io::Result<bool> {
    for name in OPAQUE {
        let value = image.xattr(nid, name.as_bytes());
        if value.map_err(io::Error::other)? == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_opaque_directory(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    is_opaque_fd(&rustix::fs::open(path, flags, Mode::empty())?)
}

fn is_opaque_fd(fd: &OwnedFd) -> io::Result<bool> {
    for name in OPAQUE {
        let mut value = [0; 2];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) if value[..length] == *b"y" => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::fixture;
    use crate::parents::Parents;

    fn directory(name: &str, mode: u32) -> Value {
        json!({"name": name, "type": "dir", "mode": mode})
    }

    fn link(name: &str, target: &str) -> Value {
        json!({"name": name, "type": "symlink", "mode": 0o777, "linkName": target})
    }

    /// Layers of both kinds.
    struct Layers {
        trees: Arc<Trees>,
        directory: tempfile::TempDir,
    }

    impl Layers {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let trees = Arc::new(Trees::open(directory.path().join("trees")).unwrap());
            Layers { trees, directory }
        }

        fn lazy(&self, name: &str, entries: &[Value]) -> Parents {
            let layer = fixture::layer_of(entries);
            let image = pontoon_erofs::write(&layer.tree, layer.chunks.data_size()).unwrap();
            self.trees.write(name, &image).unwrap();
            Parents::lazy(name, &self.trees)
        }

        /// The same from a directory: what ends with a slash is one, and of its mode, the others are links.
        fn ordinary(&self, name: &str, entries: &[Value]) -> Parents {
            let root = self.directory.path().join(name);
            fs::create_dir(&root).unwrap();
            for entry in entries {
                let path = root.join(entry["name"].as_str().unwrap());
                match entry["linkName"].as_str() {
                    Some(target) => symlink(target, path).unwrap(),
                    None => {
                        fs::create_dir_all(&path).unwrap();
                        let mode = entry["mode"].as_u64().unwrap() as u32;
                        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                    }
                }
            }
            Parents::ordinary(&[&root])
        }
    }

    fn mode(parents: &Parents, path: &str) -> Option<u16> {
        let found = parents.below().directory(Path::new(path)).unwrap();
        found.map(|found| found.mode)
    }

    #[test]
    fn links_are_followed_from_layer_to_layer_of_either_kind() {
        let above = [
            directory("usr/", 0o755),
            link("lib", "usr/lib"),
            link("bin", "/usr/./bin/../bin"),
            link("out", "../../../usr/lib"),
        ];
        let below = [
            directory("usr/", 0o755),
            directory("usr/lib/", 0o711),
            directory("usr/bin/", 0o701),
            directory("lib/", 0o700),
        ];
        let layers = Layers::new();
        let on = [
            layers.lazy("0a", &above).on(layers.lazy("0b", &below)),
            layers.lazy("0c", &above).on(layers.ordinary("d", &below)),
            layers.ordinary("e", &above).on(layers.lazy("0f", &below)),
            layers
                .ordinary("a", &above)
                .on(layers.ordinary("b", &below)),
        ];
        for parents in on {
            assert_eq!(mode(&parents, "lib"), Some(0o711), "{parents:?}");
            assert_eq!(mode(&parents, "bin"), Some(0o701), "{parents:?}");
            // Not what is above the layers.
            assert_eq!(mode(&parents, "out"), Some(0o711), "{parents:?}");
            assert_eq!(mode(&parents, "usr"), Some(0o755), "{parents:?}");
            assert_eq!(mode(&parents, "lib/none"), None, "{parents:?}");
        }
    }

    #[test]
    fn circles_and_long_ways_of_links_end() {
        let mut entries = vec![
            link("a", "b"),
            link("b", "a"),
            link("c0", "end"),
            directory("end/", 0o710),
        ];
        entries.extend((1..=LINKS_MAX).map(|n| link(&format!("c{n}"), &format!("c{}", n - 1))));
        let layers = Layers::new();
        for parents in [layers.lazy("0a", &entries), layers.ordinary("b", &entries)] {
            assert_eq!(mode(&parents, "a"), None);
            assert_eq!(mode(&parents, &format!("c{}", LINKS_MAX - 1)), Some(0o710));
            assert_eq!(mode(&parents, &format!("c{LINKS_MAX}")), None);
        }
    }

    #[test]
    fn what_is_hidden_is_not_found() {
        let layers = Layers::new();
        let below = [
            directory("a/", 0o755),
            directory("a/b/", 0o700),
            directory("c/", 0o700),
        ];
        let above = [
            directory("a/", 0o711),
            json!({"name": "a/.wh..wh..opq", "type": "reg", "mode": 0o644}),
            json!({"name": ".wh.c", "type": "reg", "mode": 0o644}),
        ];
        let above = layers.lazy("0a", &above);
        for below in [layers.lazy("0b", &below), layers.ordinary("b", &below)] {
            let parents = above.clone().on(below.clone());
            assert_eq!(mode(&parents, "a"), Some(0o711));
            assert_eq!(mode(&parents, "a/b"), None);
            assert_eq!(mode(&parents, "c"), None);
            assert_eq!(mode(&below, "a/b"), Some(0o700));
        }
    }

    #[test]
    fn looking_up_has_an_end() {
        let layers = Layers::new();
        let parents = layers.lazy("0a", &[directory("a/", 0o755)]);
        let below = parents.below();
        below.lookups.set(1);
        below.directory(Path::new("a")).unwrap();
        let error = below.directory(Path::new("a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    }
}
