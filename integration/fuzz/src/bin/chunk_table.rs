//! A chunk table from a disk. The checksum is made right, for nothing would get past it otherwise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_layer::{ChunkTable, ChunkTableRef};

fuzz_target!(|bytes: &[u8]| {
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 36 {
        sealed[32..36].fill(0);
        let checksum = pontoon_fuzz::crc32(&sealed);
        sealed[32..36].copy_from_slice(&checksum.to_le_bytes());
    }
    let _ = ChunkTableRef::open(bytes).is_ok();
    let reopened = ChunkTableRef::reopen(bytes);
    for index in 0..=reopened.len() {
        let _ = (reopened.get(index), reopened.same_member(index));
    }
    let _ = reopened.find(1..1 << 20);
    let Ok(table) = ChunkTableRef::open(&sealed) else {
        return;
    };
    let mut end = 0;
    for (index, chunk) in table.iter().enumerate() {
        assert!(chunk.algorithm == table.algorithm() && chunk.inner_offset < 1 << 56);
        assert!(chunk.data_offset >= end && chunk.length > 0);
        end = chunk.data_end();
        let member = table.same_member(index);
        assert!(member.contains(&index) && table.same_member(member.start) == member);
        assert_eq!(table.find(chunk.data_offset..end), index..index + 1);
    }
    assert!(end <= table.data_size());
    let again = ChunkTable::new(
        table.compression(),
        table.data_size(),
        table.iter().collect(),
    );
    let again = again.expect("what was accepted is accepted again").encode();
    let again = ChunkTableRef::open(&again).expect("what is written is read");
    assert!(again.iter().eq(table.iter()));
    // What has a version 2 and needs none is written as version 1.
    assert!(again.algorithm() == table.algorithm() || table.is_empty());
});
