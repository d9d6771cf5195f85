//! Images over gzip layers (`nydus-image create -t targz-ref`).

use std::collections::BTreeSet;

use super::*;

/// The index, in the blob of which it is a part, of a record of the table of blobs.
const CI_OFFSET: usize = 112;
const CI_LENGTH: usize = 120;

fn blob_table(boot: &[u8]) -> usize {
    let at = u64::from_le_bytes(boot[EXTENDED + 8..][..8].try_into().unwrap());
    usize::try_from(at).unwrap()
}

fn long(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..][..8].try_into().unwrap())).unwrap()
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..][..4].try_into().unwrap()) as usize
}

fn verified(bytes: Vec<u8>) -> Verified<Vec<u8>> {
    let digest = Digest::of(&bytes);
    Verified::check(bytes, &digest).unwrap()
}

/// An image with its gzip layers.
struct Zran {
    boot: Vec<u8>,
    indexes: Vec<Vec<u8>>,
    layers: Vec<Vec<u8>>,
}

impl Zran {
    /// As a converter merges it: two layers, indexes with bootstraps inside.
    fn merged() -> Zran {
        Zran {
            boot: boot("both"),
            indexes: ["under.index", "over.index"].map(read).into(),
            layers: ["under.tar.gz", "over.tar.gz"].map(read).into(),
        }
    }

    /// One layer, small chunks, an index that is nothing else.
    fn bare() -> Zran {
        Zran {
            boot: boot("over"),
            indexes: vec![read("bare.index")],
            layers: vec![read("over.tar.gz")],
        }
    }

    fn infos(&self, limits: &Limits) -> Result<Vec<ChunkInfos>, FormatError> {
        let opened = Bootstrap::open(&self.boot, limits)?;
        let blobs = opened.blobs().iter().zip(&self.indexes);
        blobs
            .map(|(blob, index)| ChunkInfos::of_index_blob(blob, &verified(index.clone()), limits))
            .collect()
    }

    fn image_within(&self, limits: &Limits) -> Result<Image, FormatError> {
        let infos = self.infos(limits)?;
        Bootstrap::open(&self.boot, limits)?.image(&infos, OpaqueXattr::Trusted)
    }

    fn image(&self) -> Image {
        self.image_within(&Limits::default()).unwrap()
    }

    /// Where in the index blob of blob `number` the index is.
    fn place(&self, number: usize) -> std::ops::Range<usize> {
        let record = &self.boot[blob_table(&self.boot) + 256 * number..];
        let start = long(record, CI_OFFSET);
        start..start + long(record, CI_LENGTH)
    }

    /// What the index of blob `number` decompresses to, and what is behind it.
    fn index(&self, number: usize) -> (Vec<u8>, Vec<u8>) {
        let place = self.place(number);
        let header = self.indexes[number][place.end..][..4096].to_vec();
        let mut index = vec![0; long(&header, 32)];
        let length = zstd_safe::decompress(&mut index[..], &self.indexes[number][place]).unwrap();
        assert_eq!(length, index.len());
        (index, header)
    }

    /// The image with another index for blob 0, that is stored as it is and right but for what is in it.
    fn with_index(mut self, index: &[u8], header: &[u8]) -> Zran {
        let table = blob_table(&self.boot);
        let mut header = header.to_vec();
        header[24..32].copy_from_slice(&(index.len() as u64).to_le_bytes());
        self.indexes[0] = [index, &header].concat();
        let mut put = |at: usize, value: &[u8]| {
            self.boot[table + at..][..value.len()].copy_from_slice(value);
        };
        put(108, &0_u32.to_le_bytes());
        put(CI_OFFSET, &0_u64.to_le_bytes());
        put(CI_LENGTH, &(index.len() as u64).to_le_bytes());
        put(168, Digest::of(&self.indexes[0]).bytes());
        self
    }
}

/// nydus-image makes a root of its own for a tar.
fn without_root(mut files: Vec<Value>) -> Vec<Value> {
    assert_eq!(files.remove(0)["path"], json!(""));
    files
}

#[test]
fn every_file_of_gzip_layers_is_read() {
    for (name, zran) in [("both", Zran::merged()), ("over", Zran::bare())] {
        let image = zran.image();
        let mut found = without_root(files(&image, &zran.layers));
        let mut expected = without_root(expected(name));
        if name == "over" {
            // It stays in a layer that is alone, and hides nothing.
            let whiteout = expected.remove(0);
            assert_eq!(whiteout["path"], json!(text(b".wh.gone")));
            let whiteout = found.remove(0);
            assert_eq!(whiteout["path"], json!(text(b"gone")));
            assert_eq!(whiteout["device"], json!([0, 0]));
        }
        assert_same(name, &found, &expected);
    }
}

#[test]
fn it_is_said_which_blob_is_what() {
    let zran = Zran::merged();
    let image = zran.image();
    let blobs = image.blobs.iter().zip(&zran.indexes).zip(&zran.layers);
    assert_eq!(blobs.len(), 2);
    for ((blob, index), layer) in blobs {
        assert_eq!(blob.id, Digest::of(layer).hex());
        assert_eq!(blob.size, layer.len() as u64);
        let index_blob = blob.index_blob.as_ref().unwrap();
        assert_eq!(index_blob.digest, Digest::of(index));
        assert_eq!(index_blob.size, index.len() as u64);
    }
    let native = super::image(&boot("zstd")).unwrap();
    assert!(native.blobs[0].index_blob.is_none() && native.contexts.is_empty());
}

#[test]
fn chunks_share_contexts_that_overlap() {
    let zran = Zran::merged();
    let image = zran.image();
    let used: BTreeSet<_> = image.chunks.iter().map(|chunk| chunk.context).collect();
    assert!(used.len() >= 4 && used.len() < image.chunks.len());
    for chunk in &image.chunks {
        let context = &image.contexts[chunk.context.unwrap() as usize];
        assert_eq!(
            (chunk.blob, chunk.blob_offset, chunk.blob_length),
            (context.blob, context.blob_offset, context.blob_length)
        );
        assert!(chunk.inner_offset + u64::from(chunk.length) <= u64::from(context.length));
    }
    let first = || image.contexts.iter().filter(|context| context.blob == 0);
    let overlapping = first().zip(first().skip(1)).filter(|(context, next)| {
        next.blob_offset < context.blob_offset + u64::from(context.blob_length)
    });
    assert!(overlapping.count() > 0);
    let bits: BTreeSet<_> = first().map(|context| context.bits).collect();
    assert!(bits.len() > 2, "{bits:?}");
    // The second layer is one context over several gzip members.
    let members = zran.layers[1]
        .windows(4)
        .filter(|window| *window == b"\x1f\x8b\x08\x00");
    assert!(members.count() > 3);
    assert_eq!(image.contexts.last().unwrap().blob, 1);
    assert_eq!(image.contexts.len(), first().count() + 1);
}

#[test]
fn the_file_beside_a_bootstrap_says_the_same() {
    let zran = Zran::merged();
    let opened = Bootstrap::open(&zran.boot, &Limits::default()).unwrap();
    let files: Vec<_> = (0..2)
        .map(|number| {
            let (mut file, header) = zran.index(number);
            file.resize(file.len().next_multiple_of(4096), 0);
            file.extend(header);
            file
        })
        .collect();
    let read = |number: usize, file: &[u8]| {
        ChunkInfos::of_index_file(&opened.blobs()[number], file, &Limits::default())
    };
    let infos = [0, 1].map(|number| read(number, &files[number]).unwrap());
    let image = opened.image(&infos, OpaqueXattr::Trusted).unwrap();
    let other = zran.image();
    assert_eq!(image.chunks, other.chunks);
    assert_eq!(image.contexts, other.contexts);
    for length in [0, 4096, files[0].len() - 1] {
        assert!(read(0, &files[0][..length]).is_err());
    }
    assert!(read(1, &files[0]).is_err());
}

#[test]
fn a_damaged_index_is_not_believed() {
    let zran = Zran::merged();
    let opened = Bootstrap::open(&zran.boot, &Limits::default()).unwrap();
    let blob = &opened.blobs()[0];
    let digest = &blob.index_blob.as_ref().unwrap().digest;
    for at in [0, zran.place(0).start, zran.indexes[0].len() - 1] {
        let mut damaged = zran.indexes[0].clone();
        damaged[at] ^= 1;
        assert!(Verified::check(&damaged, digest).is_err());
        // Whoever verified it against something else gets no further.
        let other = ChunkInfos::of_index_blob(blob, &verified(damaged), &Limits::default());
        assert!(matches!(other, Err(FormatError::Malformed { .. })));
    }
    let other = verified(zran.indexes[1].clone());
    let other = ChunkInfos::of_index_blob(blob, &other, &Limits::default());
    assert!(matches!(other, Err(FormatError::Malformed { .. })));
    // Nor is it taken for the parts of a blob that has its chunks itself, and the other way round.
    let meta = verified(zran.index(0).0);
    assert!(ChunkInfos::parse(blob, &meta, &meta, &Limits::default()).is_err());
    let native = boot("zstd");
    let native = Bootstrap::open(&native, &Limits::default()).unwrap();
    assert!(ChunkInfos::of_index_blob(&native.blobs()[0], &meta, &Limits::default()).is_err());
    // Without an index, nothing can be read.
    assert!(matches!(
        opened.image(&[], OpaqueXattr::Trusted),
        Err(FormatError::Malformed { .. })
    ));
    // Nor with one whose digest nobody knows.
    let mut boot = zran.boot.clone();
    let table = blob_table(&boot);
    boot[table + 168..][..32].fill(0);
    let opened = Bootstrap::open(&boot, &Limits::default());
    assert!(matches!(opened, Err(FormatError::Unverifiable { .. })));
}

/// Where in the index the contexts begin, and where the dictionaries do.
fn parts(header: &[u8]) -> (usize, usize) {
    let contexts = long(header, 40);
    (contexts, contexts + 40 * word(header, 56))
}

#[test]
fn what_inflates_to_something_else_is_refused() {
    let zran = Zran::merged();
    let (index, header) = zran.index(0);
    let (contexts, dictionaries) = parts(&header);
    // Right as it is.
    let same = Zran::merged().with_index(&index, &header).image();
    assert_eq!(same.chunks, zran.image().chunks);
    let spoiled = |at: usize, value: u8| {
        let mut index = index.clone();
        index[at] ^= value;
        Zran::merged().with_index(&index, &header).image()
    };
    // Of context 1 begins, its first dictionary.
    let second = contexts + 40;
    assert_ne!(index[second + 37], 0);
    let refused = |image: &Image, chunk: &Chunk| {
        let bytes = packed(chunk, &zran.layers);
        image.unpack(chunk, bytes).is_err()
    };
    for (at, value, what) in [
        (second, 1, "place"),
        (second + 36, 0x80, "byte"),
        (second + 37, 3, "bits"),
        (second + 16, 1, "dictionary"),
    ] {
        let image = spoiled(at, value);
        let of_it = |chunk: &&Chunk| chunk.context == Some(1);
        let chunks: Vec<_> = image.chunks.iter().filter(of_it).collect();
        assert!(chunks.len() > 1);
        let mut of_it_refused = chunks.iter().map(|chunk| refused(&image, chunk));
        let is_refused = match what {
            // Not all of it looks so far back.
            "dictionary" => of_it_refused.any(|refused| refused),
            _ => of_it_refused.all(|refused| refused),
        };
        assert!(is_refused, "{what}");
        let others = image.chunks.iter().filter(|chunk| !of_it(chunk));
        for chunk in others {
            assert!(!refused(&image, chunk), "{what}");
        }
    }
    // A byte of a dictionary that is looked back at.
    let counts = (0..32 << 10).step_by(997).map(|at| {
        let image = spoiled(dictionaries + at, 1);
        let chunks = image.chunks.iter();
        chunks.filter(|chunk| refused(&image, chunk)).count()
    });
    assert!(counts.sum::<usize>() > 0);
}

#[test]
fn a_damaged_gzip_layer_is_not_given_out() {
    for zran in [Zran::merged(), Zran::bare()] {
        let image = zran.image();
        let step = image.chunks.len().div_ceil(30);
        for chunk in image.chunks.iter().step_by(step) {
            let good = packed(chunk, &zran.layers);
            let unpacked = image.unpack(chunk, good).unwrap();
            assert_eq!(*unpacked.digest(), chunk.digest());
            let mut damaged = good.to_vec();
            damaged.iter_mut().step_by(50).for_each(|byte| *byte ^= 4);
            assert!(image.unpack(chunk, &damaged).is_err());
            assert!(image.unpack(chunk, &[]).is_err());
            assert!(chunk.unpack(good).is_err(), "it needs its context");
        }
    }
}

#[test]
fn an_index_that_makes_no_sense_is_refused() {
    let zran = Zran::merged();
    let (index, header) = zran.index(0);
    let (contexts, _) = parts(&header);
    let context = |at: usize, value: u64| (false, contexts + at, value, 8);
    for (in_header, at, value, length) in [
        (true, 0, 0, 4),
        (true, 4092, 0, 4),
        (true, 12, 3, 4),
        (true, 32, 5, 8),
        // Contexts beyond the end, dictionaries, more contexts than bytes.
        (true, 40, u64::MAX, 8),
        (true, 40, index.len() as u64 - 40, 8),
        (true, 48, u64::MAX, 8),
        (true, 48, 39, 8),
        (true, 56, 100_000, 4),
        context(0, u64::MAX),
        context(0, zran.layers[0].len() as u64 - 5),
        (false, contexts + 24, 0, 4),
        (false, contexts + 24, u64::from(u32::MAX), 4),
        (false, contexts + 28, u64::from(u32::MAX), 4),
        (false, contexts + 28, 100, 4),
        context(16, u64::MAX),
        context(16, 1 << 20),
        (false, contexts + 32, 40 << 10, 4),
        (false, contexts + 37, 8, 1),
        // Of the first chunk: its flags, context, place in that.
        (false, 7, 0, 1),
        (false, 7, 1, 1),
        (false, 7, 7, 1),
        (false, 20, 99, 4),
        (false, 16, u64::from(u32::MAX), 4),
        // Where the bootstrap says that something else is.
        (false, 24, 77, 4),
        (false, 28, 5, 1),
    ] {
        let (mut index, mut header) = (index.clone(), header.clone());
        let bytes = if in_header { &mut header } else { &mut index };
        bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
        let refused = Zran::merged().with_index(&index, &header);
        let image = refused.image_within(&Limits::default());
        assert!(image.is_err(), "{in_header} {at} {value:#x}");
    }
    for (at, value) in [(84, 0x10), (84, 4), (76, 2)] {
        let mut boot = zran.boot.clone();
        let table = blob_table(&boot);
        boot[table + at] ^= value;
        let opened = Bootstrap::open(&boot, &Limits::default());
        assert!(matches!(opened, Err(FormatError::Malformed { .. })));
    }
}

#[test]
fn limits_of_an_index_are_kept() {
    let limits = Limits::default();
    for limits in [
        Limits {
            member_bytes_max: 50_000,
            ..limits.clone()
        },
        Limits {
            member_inflated_bytes_max: 1 << 20,
            ..limits.clone()
        },
        Limits {
            toc_json_bytes_max: 100_000,
            ..limits.clone()
        },
        Limits {
            entries_max: 9,
            ..limits.clone()
        },
    ] {
        let image = Zran::merged().image_within(&limits);
        assert!(
            matches!(image, Err(FormatError::TooLarge { .. })),
            "{limits:?}: {image:?}"
        );
    }
}

/// A byte of the index without the dictionaries: any answer but a panic, and what is answered is sound.
#[test]
fn no_damage_of_an_index_panics() {
    let zran = Zran::bare();
    let (index, header) = zran.index(0);
    let limits = Limits::default();
    for at in 0..index.len() {
        let mut index = index.clone();
        index[at] ^= 0x81;
        let damaged = Zran::bare().with_index(&index, &header);
        let Ok(image) = damaged.image_within(&limits) else {
            continue;
        };
        for chunk in &image.chunks {
            assert!(chunk.blob_offset + u64::from(chunk.blob_length) <= image.blobs[0].size);
            assert!(chunk.context.is_some_and(|number| number == 0));
        }
    }
}
