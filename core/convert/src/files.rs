//! What is in a layer, to compare it with what is in another.

use std::collections::BTreeMap;

use pontoon_layer::{Algorithm, Digest, Hasher, path_names};
use pontoon_unpack::{Archive, Entry, Kind, Source, Stored};

use crate::error::{Error, Result};
use crate::tail;

/// The most names of a layer: as many as its table of contents may have entries.
const FILES_MAX: usize = 1_250_000;

/// Bytes of all their paths, at most.
const PATHS_BYTES_MAX: u64 = 256 << 20;

/// What a name has, data included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    kind: Kind,
    stored: Stored,
    owner: (u32, u32),
    /// Of the target of a link, the extended attributes, and the data.
    rest: [Digest; 3],
}

/// What all names of a layer have, the last entry of each.
pub(crate) type Files = BTreeMap<Vec<u8>, File>;

/// The files of `archive`, but not what belongs to eStargz.
pub(crate) fn read<S: Source>(archive: &mut Archive<S>) -> Result<Files> {
    let mut files = Files::new();
    let mut paths_bytes = 0;
    while let Some(entry) = archive.next()? {
        if tail::is_special(&entry.path) {
            continue;
        }
        let mut data = Hasher::new(Algorithm::Sha256);
        archive.data(|piece| {
            data.update(piece);
            Ok(())
        })?;
        let path = path_names(&entry.path).join(&b'/');
        paths_bytes += path.len() as u64;
        Error::check_limit(
            "the bytes of all paths of the layer",
            paths_bytes,
            PATHS_BYTES_MAX,
        )?;
        files.insert(path, file(entry, data.finish()));
        Error::check_limit(
            "the files of the layer",
            files.len() as u64,
            FILES_MAX as u64,
        )?;
    }
    archive.drain()?;
    Ok(files)
}

fn file(entry: Entry, data: Digest) -> File {
    let is_link = matches!(entry.kind, Kind::Symlink | Kind::HardLink);
    let target = if is_link { &entry.target[..] } else { &[] };
    let mut xattrs: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for (name, value) in &entry.xattrs {
        xattrs.insert(name, value);
    }
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for (name, value) in xattrs {
        for bytes in [name, value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    File {
        kind: entry.kind,
        stored: entry.stored,
        owner: (entry.uid, entry.gid),
        rest: [Digest::of(target), hasher.finish(), data],
    }
}

/// In what the two differ.
pub(crate) fn difference(old: &File, new: &File) -> String {
    let [old_target, old_xattrs, old_data] = &old.rest;
    let [target, xattrs, data] = &new.rest;
    let checks = [
        ("kind", old.kind != new.kind),
        ("mode", old.stored.mode != new.stored.mode),
        ("owner", old.owner != new.owner),
        ("times", {
            let times = |file: &File| (file.stored.mtime, file.stored.atime, file.stored.ctime);
            times(old) != times(new)
        }),
        ("size", old.stored.size != new.stored.size),
        ("device", old.stored.device != new.stored.device),
        ("target", old_target != target),
        ("extended attributes", old_xattrs != xattrs),
        ("data", old_data != data),
    ];
    let different = checks.iter().filter(|(_, differs)| *differs);
    let names: Vec<&str> = different.map(|(name, _)| *name).collect();
    format!("differs: {}", names.join(", "))
}
