//! What is in an image, all layers together, to compare it with what is in another.

use std::collections::BTreeMap;

use pontoon_layer::{
    Algorithm, Digest, Hasher, Kind, Limits, Node, NodeId, OpaqueXattr, Time, Tree, TreeBuilder,
    Xattrs,
};
use pontoon_unpack::{Archive, Source};

use crate::error::{Error, Result};
use crate::nydus::{Merged, What, add, is_kept};
use crate::tail;

/// Bytes of all paths of an image, at most.
const PATHS_BYTES_MAX: u64 = 256 << 20;

/// What a name has, data included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Its type, and numbers of a device.
    kind: (u8, u32, u32),
    mode: u16,
    owner: (u32, u32),
    mtime: Time,
    size: u64,
    /// Of the target of a link, the extended attributes, and the data.
    rest: [Digest; 3],
    /// How many names it has, if it is no directory.
    links: u32,
}

/// What all names have.
pub(crate) type Files = BTreeMap<Vec<u8>, File>;

/// The data of files, by the numbers that trees have for where it is.
#[derive(Debug, Default)]
pub(crate) struct Data(Vec<Digest>);

/// Reads the archive of a layer, and lays it on `tree`.
pub(crate) fn layer<S: Source>(
    archive: &mut Archive<S>,
    tree: &mut Merged,
    data: &mut Data,
) -> Result<()> {
    let mut builder = TreeBuilder::new(OpaqueXattr::Trusted, &Limits::default());
    while let Some(entry) = archive.next()? {
        if tail::is_special(&entry.path) {
            continue;
        }
        add(
            &mut builder,
            &entry,
            archive.data_bytes(),
            data.0.len() as u64,
        )?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        archive.data(|piece| {
            hasher.update(piece);
            Ok(())
        })?;
        data.0.push(hasher.finish());
    }
    archive.drain()?;
    tree.apply(&builder.finish().map_err(Error::Unreadable)?, 0);
    Ok(())
}

/// The files of a tree of layers. What layers say of the root directory, nobody takes.
pub(crate) fn of_layers(tree: &Merged, data: &Data) -> Result<Files> {
    let mut files = Files::new();
    let mut open = vec![(Vec::new(), 0)];
    let mut paths_bytes = 0;
    let mut links = vec![0_u32; tree.nodes.len()];
    let mut names = Vec::new();
    while let Some((path, directory)) = open.pop() {
        for (name, number) in tree.children(directory) {
            let path = join(&path, name);
            pay(&mut paths_bytes, &path)?;
            if tree.is_directory(number) {
                open.push((path.clone(), number));
            } else {
                links[number] += 1;
            }
            names.push((path, number));
        }
    }
    for (path, number) in names {
        let node = &tree.nodes[number];
        let mut file = File {
            kind: (0, 0, 0),
            mode: node.mode,
            owner: (node.uid, node.gid),
            mtime: node.mtime,
            size: 0,
            rest: rest(&[], &node.xattrs, has_user(&node.what), None),
            links: links[number],
        };
        match &node.what {
            What::Directory(_) => {}
            What::File { size, data: place } => {
                file.kind.0 = 1;
                file.size = *size;
                let place = usize::try_from(*place).ok();
                let found = place.and_then(|place| data.0.get(place));
                file.rest = rest(&[], &node.xattrs, true, found.cloned());
            }
            What::Symlink(target) => {
                file.kind.0 = 2;
                file.rest = rest(target, &node.xattrs, false, None);
            }
            What::CharDevice(major, minor) => file.kind = (3, *major, *minor),
            What::BlockDevice(major, minor) => file.kind = (4, *major, *minor),
            What::Fifo => file.kind.0 = 5,
            What::Socket => file.kind.0 = 6,
        }
        files.insert(path, file);
    }
    Ok(files)
}

/// The files of a nydus image. `data` has the digest of the data of a file.
pub(crate) fn of_tree(
    tree: &Tree,
    mut data: impl FnMut(NodeId, &Node<'_>) -> Result<Digest>,
) -> Result<Files> {
    let mut names = Vec::new();
    let mut paths_bytes = 0;
    let mut wrong = None;
    tree.walk(|path, id| {
        if !path.is_empty() && wrong.is_none() {
            wrong = pay(&mut paths_bytes, path).err();
            names.push((path.to_vec(), id));
        }
        wrong.is_none()
    });
    if let Some(error) = wrong {
        return Err(error);
    }
    let mut known: BTreeMap<usize, Digest> = BTreeMap::new();
    let mut files = Files::new();
    for (path, id) in names {
        let node = tree.node(id);
        let (kind, target, content) = match node.kind {
            Kind::Directory => ((0, 0, 0), &[][..], None),
            Kind::File { .. } => {
                let digest = match known.get(&id.index()) {
                    Some(digest) => digest.clone(),
                    None => data(id, &node)?,
                };
                if node.links > 1 {
                    known.insert(id.index(), digest.clone());
                }
                ((1, 0, 0), &[][..], Some(digest))
            }
            Kind::Symlink(target) => ((2, 0, 0), target, None),
            Kind::CharDevice { major, minor } => ((3, major, minor), &[][..], None),
            Kind::BlockDevice { major, minor } => ((4, major, minor), &[][..], None),
            Kind::Fifo => ((5, 0, 0), &[][..], None),
            Kind::Socket => ((6, 0, 0), &[][..], None),
        };
        let file = File {
            kind,
            mode: node.mode,
            owner: (node.uid, node.gid),
            mtime: node.mtime,
            size: if kind.0 == 1 { node.size } else { 0 },
            rest: rest(target, node.xattrs(), kind.0 <= 1, content),
            links: if node.is_directory() { 0 } else { node.links },
        };
        files.insert(path, file);
    }
    Ok(files)
}

fn pay(paths_bytes: &mut u64, path: &[u8]) -> Result<()> {
    *paths_bytes += path.len() as u64;
    let what = "the bytes of all paths of the image";
    Error::check_limit(what, *paths_bytes, PATHS_BYTES_MAX)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, separator, name].concat()
}

/// Whether it may have attributes in the namespace `user`.
fn has_user(what: &What) -> bool {
    matches!(what, What::Directory(_) | What::File { .. })
}

fn rest(target: &[u8], xattrs: Xattrs<'_>, user: bool, data: Option<Digest>) -> [Digest; 3] {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for (name, value) in xattrs.iter().filter(|(name, _)| is_kept(name, user)) {
        for bytes in [name, value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    let data = data.unwrap_or_else(|| Digest::of(b""));
    [Digest::of(target), hasher.finish(), data]
}

/// In what the two differ.
pub(crate) fn difference(old: &File, new: &File) -> String {
    let [old_target, old_xattrs, old_data] = &old.rest;
    let [target, xattrs, data] = &new.rest;
    let checks = [
        ("kind", old.kind.0 != new.kind.0),
        ("mode", old.mode != new.mode),
        ("owner", old.owner != new.owner),
        ("time", old.mtime != new.mtime),
        ("size", old.size != new.size),
        ("device", old.kind != new.kind && old.kind.0 == new.kind.0),
        ("target", old_target != target),
        ("number of names", old.links != new.links),
        ("extended attributes", old_xattrs != xattrs),
        ("data", old_data != data),
    ];
    let different = checks.iter().filter(|(_, differs)| *differs);
    let names: Vec<&str> = different.map(|(name, _)| *name).collect();
    format!("differs: {}", names.join(", "))
}
