//! Archives through the writer of nydus images and back, for fuzzing.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use pontoon_layer::rafs::{Bootstrap, Image};
use pontoon_layer::{Algorithm, Digest, Hasher, Kind, Limits, Node, OpaqueXattr, Tree};
use pontoon_unpack::Archive;

use super::image::Layers;
use super::merge::{Merged, is_opaque};
use super::{ChunkCompression, Nydus, layer, prefetch};
use crate::error::Result;
use crate::flat::{self, Data, Files};
use crate::options::{CHUNK_BYTES_MIN, Format, Options};

/// Makes a nydus image of archives, the lowest first, and reads it back. Answers how many names it has.
///
/// # Errors
/// Whatever the writer refuses.
///
/// # Panics
/// If the image that is read back has other files than the archives one on the other.
pub fn round_trip(archives: &[Vec<u8>]) -> Result<usize> {
    let nydus = Nydus {
        compression: ChunkCompression::Lz4Block,
        ..Nydus::default()
    };
    let usual = Options::new(Format::Nydus(nydus));
    let options = Options {
        chunk_bytes: CHUNK_BYTES_MIN,
        threads: NonZeroUsize::MIN,
        ..usual
    };
    let mut layers = Layers::default();
    let (mut blobs, mut names) = (Vec::new(), Names::new());
    for archive in archives {
        let mut blob = Vec::new();
        let stock = &layers.stock;
        let layer = layer::convert_here(archive, &mut blob, &options, nydus, stock)?;
        layers.add(&layer)?;
        lay(&mut names, &layer.tree);
        if layer.blob.is_some() {
            blobs.push(blob);
        }
    }
    let bootstrap = layers.bootstrap(nydus, options.chunk_bytes)?;
    let written = expected(archives, &options).expect("what was converted can be read again");
    let (image, read) = read_back(&bootstrap, &blobs);
    assert_eq!(read, written);
    let mut read_names = Names::new();
    lay(&mut read_names, &image.tree);
    assert_eq!(read_names, names);
    check_order(&bootstrap, &image);
    Ok(read.len())
}

/// What names have, data aside.
type Names = BTreeMap<Vec<u8>, String>;

/// Lays a layer on others as OCI's `layer.md` says it, name by name: whoever merges trees comes to the same.
fn lay(names: &mut Names, tree: &Tree) {
    tree.walk(|path, id| {
        if path.is_empty() {
            return true;
        }
        let node = tree.node(id);
        let is_whiteout = matches!(node.kind, Kind::CharDevice { major: 0, minor: 0 });
        let stays = node.is_directory()
            && !is_opaque(tree, id)
            && (names.get(path)).is_some_and(|below| below.starts_with("Directory"));
        if !stays {
            let below = [path, b"/"].concat();
            names.retain(|name, _| name != path && !name.starts_with(&below));
        }
        if !(is_whiteout || stays && node.implied) {
            let kind = match node.kind {
                // Where the data is depends on what else is there.
                Kind::File { .. } => "File".to_owned(),
                kind => format!("{kind:?}"),
            };
            let owner = (node.uid, node.gid);
            let size = if node.is_directory() { 0 } else { node.size };
            let facts = format!("{kind} {:o} {owner:?} {:?} {size}", node.mode, node.mtime);
            names.insert(path.to_vec(), facts);
        }
        true
    });
}

/// The files of the archives, as `pontoon check` sees them.
fn expected(archives: &[Vec<u8>], options: &Options<'_>) -> Result<Files> {
    let (mut tree, mut data) = (Merged::new(), Data::default());
    for archive in archives {
        let mut archive = Archive::new(&archive[..], &options.limits);
        flat::layer(&mut archive, &mut tree, &mut data)?;
    }
    flat::of_layers(&tree, &data)
}

/// The image of a bootstrap, and its files, with data from the blobs.
fn read_back(bootstrap: &[u8], blobs: &[Vec<u8>]) -> (Image, Files) {
    let opened = Bootstrap::open(bootstrap, &Limits::default());
    let image = opened.and_then(|opened| opened.image(&[], OpaqueXattr::Trusted));
    let image = image.expect("what was written can be read");
    let files = flat::of_tree(&image.tree, |_, node| Ok(data(&image, blobs, node)));
    let files = files.expect("there are not too many files");
    (image, files)
}

/// The digest of the data of a file, every chunk of which is verified.
fn data(image: &Image, blobs: &[Vec<u8>], node: &Node<'_>) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    if let Kind::File { data_offset } = node.kind {
        let own = data_offset..data_offset + node.size;
        let chunks = image.chunks.iter();
        for chunk in chunks.filter(|chunk| own.contains(&chunk.data_offset)) {
            let start = usize::try_from(chunk.blob_offset).expect("a blob is in memory");
            let bytes = &blobs[chunk.blob as usize][start..start + chunk.blob_length as usize];
            hasher.update(&chunk.unpack(bytes).expect("a chunk has its digest"));
        }
    }
    hasher.finish()
}

/// All files, the last one first, as an order.
fn check_order(bootstrap: &[u8], image: &Image) {
    let (mut paths, mut all) = (Vec::new(), BTreeSet::new());
    image.tree.walk(|path, id| {
        if let Kind::File { .. } = image.tree.node(id).kind {
            paths.push(path.to_vec());
            all.insert(id.index());
        }
        true
    });
    paths.reverse();
    let (bytes, found) = prefetch::put(bootstrap, &paths).expect("an order can be written");
    assert_eq!(found, paths.len() as u64);
    let opened = Bootstrap::open(&bytes, &Limits::default());
    let again = opened.and_then(|opened| opened.image(&[], OpaqueXattr::Trusted));
    let again = again.expect("an image with an order can be read");
    assert_eq!(again.chunks, image.chunks);
    let first: Vec<usize> = again.prefetch.iter().map(|id| id.index()).collect();
    assert_eq!(first.len(), all.len());
    assert_eq!(first.into_iter().collect::<BTreeSet<_>>(), all);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where entries are: names that hide, hold and follow each other.
    const PATHS: [&str; 16] = [
        "a",
        "b",
        "a/b",
        "a/c",
        "b/a",
        "a/b/c",
        "./b/../a",
        "c/d/e",
        "c",
        ".wh.a",
        "a/.wh.b",
        "a/.wh..wh..opq",
        "c/.wh.d",
        "b/.wh..wh..opq",
        "a/c/",
        "d",
    ];

    /// The same numbers each time (xorshift64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) as usize % bound
        }
    }

    fn archive(random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..random.below(9) {
            let path = PATHS[random.below(PATHS.len())];
            let target = PATHS[random.below(9)];
            let kind = b"00005551236"[random.below(11)];
            let data = match kind {
                b'0' => vec![random.below(3) as u8; [0, 1, 5000, 70_000][random.below(4)]],
                _ => Vec::new(),
            };
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_mode(random.below(0o10000) as u32);
            header.set_uid(random.below(3) as u64);
            header.set_gid(0);
            header.set_mtime(random.below(1000) as u64);
            header.set_size(data.len() as u64);
            if matches!(kind, b'1' | b'2') {
                header.set_link_name(target).unwrap();
            }
            if kind == b'3' {
                header.set_device_major(random.below(2) as u32).unwrap();
                header.set_device_minor(random.below(2) as u32).unwrap();
            }
            header.set_cksum();
            bytes.extend(header.as_bytes());
            bytes.extend(&data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    /// Found by the fuzz target: read back, it was gone.
    #[test]
    fn a_directory_with_the_name_of_a_whiteout_is_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a/.wh..wh..opqb/c").unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        let archive = [&header.as_bytes()[..], &[0; 1024]].concat();
        let refused = round_trip(&[archive]).unwrap_err().to_string();
        assert!(refused.contains(".wh..wh..opqb"), "{refused}");
    }

    #[test]
    fn whatever_layers_do_to_each_other_is_read_back() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut made, mut names) = (0, 0);
        for _ in 0..250 {
            let layers = 1 + random.below(3);
            let archives: Vec<Vec<u8>> = (0..layers).map(|_| archive(&mut random)).collect();
            if let Ok(found) = round_trip(&archives) {
                made += 1;
                names += found;
            }
        }
        assert!(
            made > 80 && names > 3 * made,
            "{made} images of {names} names"
        );
    }
}
