//! Archives to convert, and what reads the result.

#![allow(dead_code, reason = "every test program uses some of it")]

pub(crate) mod layout;

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine as _;
use pontoon_convert::LayerConverted;
use pontoon_layer::{
    ChunkTableRef, Kind, Layer, Limits, Member, OpaqueXattr, TAIL_BYTES, Verified,
    parse_annotations, parse_tail, parse_toc,
};

/// An archive in the making.
#[derive(Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
    /// The data of regular files, by the names that they end up with.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What the next entry is really called.
    name: Option<String>,
}

impl Tar {
    fn header(&mut self, name: &str, kind: u8, size: u64, change: impl FnOnce(&mut tar::Header)) {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        // As old Docker wrote them: with the bits of the type.
        header.set_mode(0o100_644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_mtime(1_600_000_000);
        change(&mut header);
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
    }

    fn data(&mut self, data: &[u8]) {
        self.bytes.extend(data);
        let padded = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(padded, 0);
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) {
        self.header(name, b'5', 0, |header| header.set_mode(mode));
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) {
        self.sized(name, data.len() as u64, data);
    }

    /// A file whose header says another size.
    pub(crate) fn sized(&mut self, name: &str, size: u64, data: &[u8]) {
        self.header(name, b'0', size, |_| {});
        self.data(data);
        let name = self.name.take().unwrap_or_else(|| name.to_owned());
        let name = name.trim_end_matches('/').to_owned();
        self.files.insert(name, data.to_vec());
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.header(name, b'1', 0, |header| {
            header.set_link_name(target).unwrap()
        });
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) {
        if target.len() > 100 {
            self.pax(&[("linkpath", target.as_bytes())]);
        }
        let cut = &target[..target.len().min(100)];
        self.header(name, b'2', 0, |header| {
            header.set_link_name_literal(cut).unwrap();
        });
    }

    pub(crate) fn device(&mut self, name: &str, kind: u8, major: u32, minor: u32) {
        self.header(name, kind, 0, |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        });
    }

    /// An extended header for the next entry.
    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.extended(b'x', records);
        if let Some((_, path)) = records.iter().find(|(key, _)| *key == "path") {
            self.name = Some(String::from_utf8_lossy(path).into_owned());
        }
    }

    pub(crate) fn global(&mut self, records: &[(&str, &[u8])]) {
        self.extended(b'g', records);
    }

    fn extended(&mut self, kind: u8, records: &[(&str, &[u8])]) {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            if length.to_string().len() > rest.to_string().len() {
                length += 1;
            }
            content.extend(format!("{length} {key}=").as_bytes());
            content.extend(*value);
            content.push(b'\n');
        }
        self.header("extended", kind, content.len() as u64, |_| {});
        self.data(&content);
    }

    pub(crate) fn gnu_long_name(&mut self, name: &str) {
        let content = [name.as_bytes(), b"\0"].concat();
        self.header("././@LongLink", b'L', content.len() as u64, |_| {});
        self.data(&content);
        self.name = Some(name.to_owned());
    }

    pub(crate) fn finish(&self) -> Vec<u8> {
        [&self.bytes[..], &[0; 1024]].concat()
    }
}

/// Bytes that do not compress, the same each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn gunzip(blob: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(blob);
    decoder.read_to_end(&mut bytes).unwrap();
    bytes
}

/// All frames of `blob`.
pub(crate) fn unzstd(blob: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut member = Member::new(pontoon_layer::Compression::Zstd, blob);
    member.read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn unbase64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

/// The layer as the one who serves it opens it.
pub(crate) fn open(converted: &LayerConverted, blob: &[u8]) -> Layer {
    let limits = Limits::default();
    let size = blob.len() as u64;
    let annotated = parse_annotations(&converted.annotations, size, &limits).unwrap();
    let tail = &blob[blob.len().saturating_sub(TAIL_BYTES)..];
    let tail = parse_tail(tail, size, &limits).unwrap().unwrap();
    let place = tail.place().unwrap();
    if let Some(other) = &annotated.place {
        assert_eq!(other, place, "annotations and footer say the same");
    }
    let toc = &blob[place.range.start as usize..place.range.end as usize];
    parse_toc(
        tail.toc_kind(),
        toc,
        place.payload_end,
        &annotated.digest.unwrap(),
        OpaqueXattr::Trusted,
        &limits,
    )
    .unwrap()
}

/// The data of all files, every chunk of it verified.
pub(crate) fn read_back(layer: &Layer, blob: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let table = layer.chunks.encode();
    let table = ChunkTableRef::open(&table).unwrap();
    let mut data = vec![0; table.data_size() as usize];
    for chunk in table.iter() {
        let member = &blob[chunk.blob_offset as usize..chunk.blob_end() as usize];
        let bytes = Member::new(table.compression(), member)
            .chunk(chunk.inner_offset, chunk.length)
            .unwrap();
        let bytes = Verified::check(bytes, &chunk.digest()).unwrap();
        data[chunk.data_offset as usize..chunk.data_end() as usize].copy_from_slice(&bytes);
    }
    let mut files = BTreeMap::new();
    layer.tree.walk(|path, id| {
        let node = layer.tree.node(id);
        if let Kind::File { data_offset } = node.kind {
            let start = data_offset as usize;
            let bytes = data[start..start + node.size as usize].to_vec();
            files.insert(String::from_utf8(path.to_vec()).unwrap(), bytes);
        }
        true
    });
    files
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}
