//! Packed chunks. Before them, two bytes: how long the chunk has to be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_peer::wire::pack;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, packed)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length));
    if let Some((start, rest)) = packed.split_first_chunk()
        && let Ok((bytes, _)) = pack::header(*start, length)
    {
        // Never more than the chunk itself, so that no room is made for more.
        assert!(bytes <= length);
        if let Some(rest) = rest.get(..bytes)
            && let Ok(chunk) = pack::unpack(rest, length)
        {
            assert_eq!(chunk.len(), length);
        }
    }
    let again = pack::pack(packed);
    assert!(again.len() <= pack::HEADER_BYTES + packed.len());
});
