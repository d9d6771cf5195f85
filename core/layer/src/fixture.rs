//! Layers made by hand, for tests.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use crate::{
    ChunkTableRef, Digest, Layer, Limits, Member, OpaqueXattr, Tail, TocDigest, TocKind, Verified,
    parse_tail, parse_toc,
};

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(data.len())];
    let length = zstd_safe::compress(frame.as_mut_slice(), data, 3).unwrap();
    frame.truncate(length);
    frame
}

pub(crate) fn skippable(content: &[u8]) -> Vec<u8> {
    let mut frame = b"\x50\x2a\x4d\x18".to_vec();
    frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
    frame.extend_from_slice(content);
    frame
}

/// A tar archive of one file: header, content, padding, end.
pub(crate) fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar_header(name, b'0', content.len() as u64).to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

pub(crate) fn tar_header(name: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// An empty gzip member with an extra field.
pub(crate) fn gzip_footer(extra: &[u8]) -> Vec<u8> {
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff".to_vec();
    footer.extend_from_slice(&(extra.len() as u16).to_le_bytes());
    footer.extend_from_slice(extra);
    footer.extend_from_slice(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    footer
}

pub(crate) fn estargz_footer(offset: u64) -> Vec<u8> {
    gzip_footer(format!("SG\x16\0{offset:016x}STARGZ").as_bytes())
}

pub(crate) fn stargz_footer(offset: u64) -> Vec<u8> {
    gzip_footer(format!("{offset:016x}STARGZ").as_bytes())
}

pub(crate) fn external_footer() -> Vec<u8> {
    gzip_footer(b"SG\x11\0STARGZEXTERNALTOC")
}

pub(crate) fn zstd_footer(words: &[u64], magic: &[u8; 8]) -> Vec<u8> {
    let mut content: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    content.extend_from_slice(magic);
    skippable(&content)
}

/// A blob in the making: its data, and the entries of its table of contents.
pub(crate) struct Blob {
    kind: TocKind,
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Value>,
}

/// A finished blob.
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: TocDigest,
    /// The table of contents, where it is in a blob of its own.
    pub(crate) external: Option<Vec<u8>>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Blob {
    /// A blob that begins with something, as every blob does: no data is at 0.
    pub(crate) fn new(kind: TocKind) -> Blob {
        let mut blob = Blob {
            kind,
            bytes: Vec::new(),
            entries: Vec::new(),
        };
        blob.member(&tar_header("first", b'0', 0));
        blob
    }

    /// Adds a compressed stream and answers where it begins.
    pub(crate) fn member(&mut self, data: &[u8]) -> u64 {
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&match self.kind {
            TocKind::TarGzip => gzip(data),
            TocKind::Zstd => zstd(data),
        });
        offset
    }

    pub(crate) fn entry(&mut self, entry: Value) -> &mut Blob {
        self.entries.push(entry);
        self
    }

    /// Adds a file in chunks of `chunk` bytes. The header of the next file is in its last member, as in every tar.
    pub(crate) fn file(&mut self, name: &str, content: &[u8], chunk: usize) -> &mut Blob {
        if content.is_empty() {
            return self.entry(json!({"name": name, "type": "reg", "mode": 0o644}));
        }
        let count = content.len().div_ceil(chunk);
        for (number, piece) in content.chunks(chunk).enumerate() {
            let mut stream = piece.to_vec();
            if number + 1 == count {
                stream.extend_from_slice(&tar_header("next", b'0', 7));
            }
            let offset = self.member(&stream);
            let mut entry = match number {
                0 => json!({
                    "name": name, "type": "reg", "mode": 0o644, "size": content.len(),
                    "digest": Digest::of(content).to_string(),
                }),
                _ => json!({"name": name, "type": "chunk", "chunkOffset": number * chunk}),
            };
            entry["offset"] = offset.into();
            entry["chunkDigest"] = Digest::of(piece).to_string().into();
            if number + 1 < count {
                entry["chunkSize"] = piece.len().into();
            }
            self.entries.push(entry);
        }
        self
    }

    /// Adds files that share one member.
    pub(crate) fn shared(&mut self, files: &[(&str, &[u8])]) -> &mut Blob {
        let mut stream = Vec::new();
        let offset = self.bytes.len() as u64;
        for (name, content) in files {
            self.entries.push(json!({
                "name": name, "type": "reg", "mode": 0o644, "size": content.len(),
                "offset": offset, "innerOffset": stream.len(),
                "chunkDigest": Digest::of(content).to_string(),
            }));
            stream.extend_from_slice(content);
            stream.extend_from_slice(&tar_header("next", b'0', 7));
        }
        self.member(&stream);
        self
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&json!({"version": 1, "entries": self.entries})).unwrap()
    }

    fn sealed(&self, digest: TocDigest, tail: &[&[u8]]) -> Sealed {
        Sealed {
            bytes: [&self.bytes, tail.concat().as_slice()].concat(),
            digest,
            external: None,
            annotations: BTreeMap::new(),
        }
    }

    pub(crate) fn estargz(&self) -> Sealed {
        let toc = gzip(&tar("stargz.index.json", &self.json()));
        let footer = estargz_footer(self.bytes.len() as u64);
        self.sealed(TocDigest::Json(Digest::of(&self.json())), &[&toc, &footer])
    }

    pub(crate) fn stargz(&self) -> Sealed {
        let toc = gzip(&tar("stargz.index.json", &self.json()));
        let footer = stargz_footer(self.bytes.len() as u64);
        self.sealed(TocDigest::Json(Digest::of(&self.json())), &[&toc, &footer])
    }

    pub(crate) fn external(&self) -> Sealed {
        let digest = TocDigest::Json(Digest::of(&self.json()));
        let mut sealed = self.sealed(digest, &[&external_footer()]);
        sealed.external = Some(gzip(&tar("stargz.index.json", &self.json())));
        sealed
    }

    pub(crate) fn zstd_chunked(&self) -> Sealed {
        let toc = zstd(&self.json());
        let offset = self.bytes.len() as u64 + 8;
        let words = [offset, toc.len() as u64, self.json().len() as u64, 1];
        let footer = zstd_footer(&words, b"GnUlInUx");
        let digest = TocDigest::Json(Digest::of(&self.json()));
        let mut sealed = self.sealed(digest, &[&skippable(&toc), &footer]);
        let position = words.map(|word| word.to_string()).join(":");
        sealed.annotations = BTreeMap::from([
            (
                "io.containers.zstd-chunked.manifest-checksum".to_owned(),
                Digest::of(&toc).to_string(),
            ),
            (
                "io.containers.zstd-chunked.manifest-position".to_owned(),
                position,
            ),
            (
                crate::ANNOTATION_TOC_DIGEST.to_owned(),
                Digest::of(&self.json()).to_string(),
            ),
        ]);
        sealed
    }

    pub(crate) fn podman(&self) -> Sealed {
        let toc = zstd(&self.json());
        let split = zstd(b"tar-split");
        let offset = self.bytes.len() as u64 + 8;
        let words = [offset, toc.len() as u64, self.json().len() as u64, 1];
        let after = offset + toc.len() as u64 + 8;
        let footer = [&words[..], &[after, split.len() as u64, 9]].concat();
        let footer = zstd_footer(&footer, b"GNUlInUx");
        let digest = TocDigest::Compressed(Digest::of(&toc));
        let mut sealed = self.sealed(digest, &[&skippable(&toc), &skippable(&split), &footer]);
        let position = words.map(|word| word.to_string()).join(":");
        sealed.annotations = BTreeMap::from([
            (
                "io.github.containers.zstd-chunked.manifest-checksum".to_owned(),
                Digest::of(&toc).to_string(),
            ),
            (
                "io.github.containers.zstd-chunked.manifest-position".to_owned(),
                position,
            ),
        ]);
        sealed
    }
}

impl Sealed {
    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn tail(&self) -> Tail {
        let start = self.bytes.len().saturating_sub(crate::TAIL_BYTES);
        let tail = parse_tail(&self.bytes[start..], self.size(), &Limits::default());
        tail.unwrap().unwrap()
    }

    /// The layer, found by its footer.
    pub(crate) fn layer(&self) -> Result<Layer, crate::FormatError> {
        let tail = self.tail();
        let toc = match (tail.place(), &self.external) {
            (Some(place), None) => {
                &self.bytes[place.range.start as usize..place.range.end as usize]
            }
            (None, Some(external)) => external,
            _ => panic!("the table of contents is in one place"),
        };
        let (kind, end) = (tail.toc_kind(), tail.payload_end());
        parse_toc(
            kind,
            toc,
            end,
            &self.digest,
            OpaqueXattr::Trusted,
            &Limits::default(),
        )
    }

    /// The content of a file, read as it would be read lazily.
    pub(crate) fn content(&self, layer: &Layer, path: &str) -> Vec<u8> {
        let node = layer.tree.node(layer.tree.find(path.as_bytes()).unwrap());
        let crate::Kind::File { data_offset } = node.kind else {
            panic!("{path} is no file");
        };
        let table = layer.chunks.encode();
        let table = ChunkTableRef::open(&table).unwrap();
        let mut content = Vec::new();
        for index in table.find(data_offset..data_offset + node.size) {
            let chunk = table.get(index).unwrap();
            assert_eq!(chunk.data_offset, data_offset + content.len() as u64);
            if chunk.is_zeros() {
                content.resize(content.len() + chunk.length as usize, 0);
                continue;
            }
            let fetched = &self.bytes[chunk.blob_offset as usize..chunk.blob_end() as usize];
            let mut member = Member::new(chunk.compression, fetched);
            let bytes = member.chunk(chunk.inner_offset, chunk.length).unwrap();
            content.extend_from_slice(&Verified::check(bytes, &chunk.digest()).unwrap());
        }
        content
    }
}

/// A layer whose table of contents is `json`, of a blob whose data ends at `payload_end`.
pub(crate) fn layer_of(json: &[u8], payload_end: u64) -> Result<Layer, crate::FormatError> {
    let toc = zstd(json);
    let digest = TocDigest::Compressed(Digest::of(&toc));
    parse_toc(
        TocKind::Zstd,
        &toc,
        payload_end,
        &digest,
        OpaqueXattr::Trusted,
        &Limits::default(),
    )
}

/// The same, of its entries alone.
pub(crate) fn layer_with(entries: Value) -> Result<Layer, crate::FormatError> {
    let json = json!({"version": 1, "entries": entries});
    layer_of(json.to_string().as_bytes(), 1 << 26)
}

/// Bytes that do not compress to nothing, the same for every `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 & 0x3f
    };
    (0..length).map(|_| next()).collect()
}
