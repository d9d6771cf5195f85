//! Chunks that are compressed on their way.
//!
//! Each chunk is u32 of its compressed bytes, little-endian, and these: one zstd frame. A chunk that gets no shorter is sent as it is;
//! then the highest bit of the number is set. So nothing is longer than the chunk itself, and whoever unpacks it knows beforehand
//! how long it has to become.

/// Bytes before each chunk.
pub const HEADER_BYTES: usize = 4;

/// Set if the chunk is not compressed.
const PLAIN: u32 = 1 << 31;

/// The fastest: the link shall be what is waited for.
const LEVEL: i32 = 1;

/// What is wrong with a packed chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Packs `chunk`, header and all.
pub fn pack(chunk: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; HEADER_BYTES + chunk.len()];
    // Too little room is what tells that it gets no shorter.
    let length = match packed.get_mut(HEADER_BYTES..) {
        Some(room) => zstd_safe::compress(room, chunk, LEVEL).ok(),
        None => None,
    };
    let length = length.filter(|length| *length < chunk.len());
    let header = match length {
        Some(length) => {
            packed.truncate(HEADER_BYTES + length);
            u32::try_from(length).unwrap_or(PLAIN)
        }
        None => {
            packed.truncate(HEADER_BYTES);
            packed.extend_from_slice(chunk);
            u32::try_from(chunk.len()).unwrap_or(0) | PLAIN
        }
    };
    packed
        .iter_mut()
        .zip(header.to_le_bytes())
        .for_each(|(byte, header)| *byte = header);
    packed
}

/// How many bytes follow a header, and whether they are compressed, if the chunk is `length` bytes long.
pub fn header(header: [u8; HEADER_BYTES], length: usize) -> Result<(usize, bool), Malformed> {
    let header = u32::from_le_bytes(header);
    let (bytes, is_plain) = ((header & !PLAIN) as usize, header & PLAIN != 0);
    match is_plain {
        true if bytes != length => Err(Malformed("a chunk has another length than the table says")),
        false if bytes >= length || bytes == 0 => {
            Err(Malformed("a chunk is no shorter for being compressed"))
        }
        _ => Ok((bytes, !is_plain)),
    }
}

/// The chunk of `length` bytes that `packed` is, without its header.
pub fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, Malformed> {
    let mut chunk = vec![0; length];
    // There is room for so much and no more.
    match zstd_safe::decompress(chunk.as_mut_slice(), packed) {
        Ok(written) if written == length => Ok(chunk),
        Ok(_) => Err(Malformed("a chunk is shorter than the table says")),
        Err(_) => Err(Malformed(
            "a chunk does not unpack into the length that the table says",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(packed: &[u8], length: usize) -> Result<Vec<u8>, Malformed> {
        let (start, rest) = packed.split_first_chunk().unwrap();
        let (bytes, is_packed) = header(*start, length)?;
        assert_eq!(bytes, rest.len());
        match is_packed {
            true => unpack(rest, length),
            false => Ok(rest.to_vec()),
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(seed in prop::collection::vec(any::<u8>(), 1..40), times in 1_usize..200) {
            let chunk = seed.repeat(times);
            let packed = pack(&chunk);
            prop_assert!(packed.len() <= HEADER_BYTES + chunk.len());
            prop_assert_eq!(again(&packed, chunk.len()), Ok(chunk.clone()));
            prop_assert!(again(&packed, chunk.len() + 1).is_err());
            if chunk.len() > packed.len() {
                prop_assert!(again(&packed, chunk.len() - 1).is_err());
            }
        }

        #[test]
        fn nothing_becomes_longer_than_it_may(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_usize..300) {
            if let Ok(chunk) = unpack(&bytes, length) {
                prop_assert_eq!(chunk.len(), length);
            }
        }
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let packed = pack(&vec![0; 16 << 20]);
        assert!(packed.len() < 16 << 10);
        assert!(unpack(&packed[HEADER_BYTES..], 1000).is_err());
    }
}
