//! A nydus image that is there: its bootstrap, and the data of its files with every chunk verified.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use pontoon_layer::rafs::{Bootstrap, ChunkInfos, Image, Toc};
use pontoon_layer::{Algorithm, BLOCK_BYTES, Digest, Hasher, Kind, Limits, Node, OpaqueXattr};
use pontoon_unpack::{Archive, Source};

use super::boot_layer::BOOTSTRAP;
use crate::error::{Error, Result};

/// The blobs of an image, opened.
pub(crate) struct Blobs {
    files: Vec<(File, PathBuf)>,
}

/// The bootstrap in the archive of an image's last layer.
pub(crate) fn bootstrap<S: Source>(archive: &mut Archive<S>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bytes_max = Limits::default().toc_json_bytes_max;
    while let Some(entry) = archive.next()? {
        if entry.path == BOOTSTRAP {
            let what = "the bytes of the bootstrap";
            Error::check_limit(what, archive.data_bytes(), bytes_max)?;
            bytes.clear();
            archive.read(&mut bytes, usize::try_from(bytes_max).unwrap_or(usize::MAX))?;
        }
    }
    archive.drain()?;
    match bytes.is_empty() {
        true => {
            let name = String::from_utf8_lossy(BOOTSTRAP);
            Err(Error::malformed(
                "the last layer",
                format!("it has no {name}"),
            ))
        }
        false => Ok(bytes),
    }
}

/// The image that the bootstrap `bytes` describes. `open` opens the blob of a layer by the digest of it.
pub(crate) fn image(
    bytes: &[u8],
    mut open: impl FnMut(&Digest) -> Result<(File, PathBuf)>,
) -> Result<(Image, Blobs)> {
    let limits = Limits::default();
    let bootstrap = Bootstrap::open(bytes, &limits).map_err(Error::Unreadable)?;
    let mut files = Vec::new();
    for blob in bootstrap.blobs() {
        let digest = format!("sha256:{}", blob.id).parse();
        let digest = digest.map_err(|_| {
            let reason = format!("it names a blob {:?}, which is no digest", blob.id);
            Error::malformed("the bootstrap", reason)
        })?;
        files.push(open(&digest)?);
    }
    let blobs = Blobs { files };
    let mut infos = Vec::new();
    if !bootstrap.lists_chunks() {
        for (number, blob) in bootstrap.blobs().iter().enumerate() {
            infos.push(blobs.infos(number, blob, &limits)?);
        }
    }
    let image = bootstrap.image(&infos, OpaqueXattr::Trusted);
    Ok((image.map_err(Error::Unreadable)?, blobs))
}

impl Blobs {
    /// The chunks of a blob, as itself says.
    fn infos(
        &self,
        number: usize,
        blob: &pontoon_layer::rafs::Blob,
        limits: &Limits,
    ) -> Result<ChunkInfos> {
        let size = self.size(number)?;
        let start = size.saturating_sub(u64::from(blob.toc_size));
        let toc = self.read(number, start, u64::from(blob.toc_size))?;
        let toc = Toc::parse(&toc, blob).map_err(Error::Unreadable)?;
        let part = |name: &str| {
            let entry = toc.find(name).ok_or_else(|| {
                Error::malformed(format!("the blob {}", blob.id), format!("it has no {name}"))
            })?;
            let length = entry.range.end - entry.range.start;
            Error::check_limit(
                "the bytes of a part of a blob",
                length,
                limits.toc_bytes_max,
            )?;
            let bytes = self.read(number, entry.range.start, length)?;
            entry.unpack(&bytes, limits).map_err(Error::Unreadable)
        };
        let (meta, digests) = (part("blob.meta")?, part("blob.digest")?);
        ChunkInfos::parse(blob, &meta, &digests, limits).map_err(Error::Unreadable)
    }

    fn size(&self, number: usize) -> Result<u64> {
        let (file, path) = &self.files[number];
        let size = file.metadata().map(|metadata| metadata.len());
        size.map_err(Error::file("cannot read", path))
    }

    fn read(&self, number: usize, offset: u64, length: u64) -> Result<Vec<u8>> {
        let Some((file, path)) = self.files.get(number) else {
            let reason = format!("it names the blob {number}, which it does not have");
            return Err(Error::malformed("the bootstrap", reason));
        };
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = file.read_exact_at(&mut bytes, offset);
        read.map_err(Error::file("cannot read", path))?;
        Ok(bytes)
    }

    /// The digests of all blobs.
    pub(crate) fn digests(&self) -> Result<Vec<Digest>> {
        let digest = |(file, path): &(File, PathBuf)| -> io::Result<Digest> {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut buffer = vec![0; 256 << 10];
            let mut file = file.try_clone().or_else(|_| File::open(path))?;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finish()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        };
        let of = |blob| digest(blob).map_err(Error::file("cannot read", &blob.1));
        self.files.iter().map(of).collect()
    }

    /// The SHA-256 of the data of a file, and how many chunks it has. Every chunk is verified; what is wrong with one is
    /// the `Err` inside.
    pub(crate) fn data(
        &self,
        image: &Image,
        node: &Node<'_>,
    ) -> Result<std::result::Result<(Digest, u64), String>> {
        let Kind::File { data_offset } = node.kind else {
            return Ok(Ok((Digest::of(b""), 0)));
        };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut count = 0;
        let end = data_offset + node.size;
        debug_assert!(data_offset.is_multiple_of(BLOCK_BYTES));
        let first = (image.chunks).partition_point(|chunk| chunk.data_offset < data_offset);
        let chunks = image.chunks.iter().skip(first);
        for chunk in chunks.take_while(|chunk| chunk.data_offset < end) {
            let length = u64::from(chunk.blob_length);
            let bytes = self.read(chunk.blob as usize, chunk.blob_offset, length)?;
            match chunk.unpack(&bytes) {
                Ok(data) => hasher.update(&data),
                Err(error) => {
                    let (blob, offset) = (chunk.blob, chunk.blob_offset);
                    return Ok(Err(format!(
                        "the chunk at {offset} of blob {blob}: {error}"
                    )));
                }
            }
            count += 1;
        }
        Ok(Ok((hasher.finish(), count)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use flate2::read::GzDecoder;

    use super::*;

    /// Where a bootstrap says where its list of chunks is, and how long.
    const CHUNK_TABLE: std::ops::Range<usize> = 1024 + 128 + 24..1024 + 128 + 40;

    #[test]
    fn chunks_that_only_a_blob_lists_are_found_in_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layer/tests/rafs");
        for name in ["zstd", "sha"] {
            let packed = std::fs::read(folder.join(format!("{name}.boot.gz"))).unwrap();
            let mut boot = Vec::new();
            GzDecoder::new(&*packed).read_to_end(&mut boot).unwrap();
            let path = folder.join(format!("{name}.blob"));
            let open = |_: &Digest| Ok((File::open(&path).unwrap(), path.clone()));
            let (listed, _) = image(&boot, open).unwrap();
            boot[CHUNK_TABLE].fill(0);
            let (told, blobs) = image(&boot, open).unwrap();
            assert_eq!(told.chunks, listed.chunks);
            let file = told.tree.find(b"usr/lib/twice").unwrap();
            let (_, count) = blobs.data(&told, &told.tree.node(file)).unwrap().unwrap();
            assert_eq!(count, 5);
        }
    }
}
