//! What another node tells of its chunks. Before it, two bytes: how many chunks the layer has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_peer::wire::have;

fuzz_target!(|bytes: &[u8]| {
    let Some((chunks, answer)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let chunks = usize::from(u16::from_le_bytes(*chunks));
    let Ok(read) = have::decode(answer, chunks) else {
        return;
    };
    assert!(read.peers.len() <= pontoon_peer::PEERS_TOLD_MAX);
    assert!(read.zone.len() <= pontoon_peer::ZONE_BYTES_MAX);
    let mut generation = 0;
    if let Some(told) = &read.told {
        assert_eq!(told.chunks.len(), chunks);
        assert_eq!(told.complete, told.chunks.count() == chunks);
        assert!(told.chunks.runs(0..usize::MAX).all(|run| run.end <= chunks));
        generation = told.generation;
    }
    // What is written again may be shorter, and means the same, but that nothing more comes to a complete layer.
    let mut again = have::decode(&have::encode(&read, generation, chunks), chunks).expect("it was read");
    if let (Some(again), Some(told)) = (&mut again.told, &read.told) {
        again.active = told.active;
    }
    assert_eq!(again, read);
});
