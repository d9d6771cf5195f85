//! The index of a gzip layer, with the digest that it should have, and chunks that are inflated through it. The bootstrap
//! and the layer are real ones. The first bytes are what the header says of the contexts.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::limits;
use pontoon_layer::rafs::{Bootstrap, ChunkInfos, Image};
use pontoon_layer::{Compression, Digest, Limits, Member, OpaqueXattr, Verified};

/// One layer in chunks of 4 KiB: `core/layer/tests/rafs/make.sh`.
static BOOT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let packed = include_bytes!("../../../../core/layer/tests/rafs/over.boot.gz");
    let mut boot = Vec::new();
    std::io::Read::read_to_end(&mut Member::new(Compression::Gzip, packed), &mut boot)
        .expect("it is gzip");
    boot
});
static LAYER: &[u8] = include_bytes!("../../../../core/layer/tests/rafs/over.tar.gz");

const HEADER_BYTES: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((said, index)) = bytes.split_first_chunk::<20>() else {
        return;
    };
    let limits = limits();
    let boot = bootstrap(index);
    let mut header = vec![0; HEADER_BYTES];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    put(0, &0xb10b_b10b_u32.to_le_bytes());
    put(HEADER_BYTES - 4, &0xb10b_b10b_u32.to_le_bytes());
    put(12, &chunks(&boot).to_le_bytes());
    put(24, &(index.len() as u64).to_le_bytes());
    put(32, &(index.len() as u64).to_le_bytes());
    put(40, said);
    let whole = [index, &header].concat();
    let image = of_blob(&boot, &whole, &limits);
    let mut file = index.to_vec();
    file.resize(index.len().next_multiple_of(4096), 0);
    file.extend(header);
    let same = of_file(&boot, &file, &limits);
    assert_eq!(image.is_some(), same.is_some());
    if let Some(image) = image {
        check(&image, &limits);
    }
});

fn table(boot: &[u8]) -> usize {
    let at = boot[1160..1168].try_into().expect("there are 8");
    u64::from_le_bytes(at) as usize
}

fn chunks(boot: &[u8]) -> u32 {
    let at = table(boot) + 72;
    u32::from_le_bytes(boot[at..at + 4].try_into().expect("there are 4"))
}

/// The bootstrap, if `index` were that of its layer and stored as it is.
fn bootstrap(index: &[u8]) -> Vec<u8> {
    let mut boot = BOOT.clone();
    let at = table(&boot);
    let mut put = |offset: usize, value: &[u8]| {
        boot[at + offset..][..value.len()].copy_from_slice(value);
    };
    put(108, &0_u32.to_le_bytes());
    put(112, &0_u64.to_le_bytes());
    put(120, &(index.len() as u64).to_le_bytes());
    put(128, &(index.len() as u64).to_le_bytes());
    boot
}

fn of_blob(boot: &[u8], whole: &[u8], limits: &Limits) -> Option<Image> {
    let mut boot = boot.to_vec();
    let digest = Digest::of(whole);
    let at = table(&boot);
    boot[at + 168..at + 200].copy_from_slice(digest.bytes());
    let opened = Bootstrap::open(&boot, limits).expect("it is real");
    let whole = Verified::check(whole, &digest).expect("it is its own");
    let infos = ChunkInfos::of_index_blob(&opened.blobs()[0], &whole, limits).ok()?;
    opened.image(&[infos], OpaqueXattr::Trusted).ok()
}

fn of_file(boot: &[u8], file: &[u8], limits: &Limits) -> Option<Image> {
    let opened = Bootstrap::open(boot, limits).expect("it is real");
    let infos = ChunkInfos::of_index_file(&opened.blobs()[0], file, limits).ok()?;
    opened.image(&[infos], OpaqueXattr::Trusted).ok()
}

fn check(image: &Image, limits: &Limits) {
    for context in &image.contexts {
        assert!(context.bits < 8 && context.dictionary.len() <= 32 << 10);
        assert!(u64::from(context.length) <= limits.member_inflated_bytes_max);
        assert!(context.blob_offset + u64::from(context.blob_length) <= LAYER.len() as u64);
    }
    let sizes = [LAYER.len() as u64];
    let table = image.table(&sizes).expect("its chunks are in the layer");
    let encoded = table.encode();
    let table = pontoon_layer::ChunkTableRef::open(&encoded).expect("what is written is read");
    for (number, chunk) in image.chunks.iter().enumerate() {
        let context = &image.contexts[chunk.context.expect("all have one") as usize];
        assert!(chunk.inner_offset + u64::from(chunk.length) <= u64::from(context.length));
        // The first one costs time enough.
        if number == 0 {
            let bytes = &LAYER[chunk.blob_offset as usize..][..chunk.blob_length as usize];
            let unpacked = image.unpack(chunk, bytes).ok();
            let written = table.get(0).expect("there is one");
            let mut member = table.member(&written, bytes);
            let same = member.chunk(written.inner_offset, written.length).ok();
            let same = same.and_then(|same| Verified::check(same, &written.digest()).ok());
            assert_eq!(unpacked, same);
        }
    }
}
