//! The end of a blob.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::limits;
use pontoon_layer::parse_tail;

fuzz_target!(|tail: &[u8]| {
    for before in [0, 1000, 1 << 40, u64::MAX - tail.len() as u64] {
        let size = before + tail.len() as u64;
        if let Ok(Some(tail)) = parse_tail(tail, size, &limits()) {
            assert!(tail.payload_end() < size);
            if let Some(place) = tail.place() {
                assert!(place.payload_end <= place.range.start);
                assert!(place.range.start < place.range.end && place.range.end < size);
            }
        }
    }
});
