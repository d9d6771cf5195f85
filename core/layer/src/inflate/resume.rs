//! Where inflating begins that does not begin with a gzip stream.

use flate2::{Decompress, DecompressError, FlushDecompress};

/// Bytes that deflate can look back at most.
const DICTIONARY_BYTES_MAX: usize = 32 << 10;

/// A deflate block of nothing, with fixed codes. It is not the last one.
const EVEN_BLOCK: u128 = 0b10;
const EVEN_BLOCK_BITS: u32 = 10;

/// A deflate block of nothing with codes of its own, for a length in bits that is odd. It is not the last one. First bits
/// first: type 2; 258 literals, one distance, 18 lengths of lengths: of these 138 to 11 zeros and 1 have one bit; 138 and
/// 118 zeros, thrice 1; the end of the block.
const ODD_BLOCK: u128 = 2 << 1
    | 1 << 3
    | 14 << 13
    | 1 << (17 + 2 * 3)
    | 1 << (17 + 17 * 3)
    | 1 << 71
    | (138 - 11) << 72
    | 1 << 79
    | (118 - 11) << 80;
const ODD_BLOCK_BITS: u32 = 91;

/// What has to be known to inflate from the middle of a gzip stream on: from where a deflate block begins, which may be
/// inside a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume<'a> {
    /// How many bits of [`Resume::byte`] belong to the block: its highest ones, 0 to 7.
    pub bits: u8,
    /// The byte before those that are given to be inflated. Does not matter if the block has no bits of it.
    pub byte: u8,
    /// What came out before, as far as the block may look back: at most 32 KiB, less at the beginning of a stream.
    pub dictionary: &'a [u8],
}

impl Resume<'_> {
    /// Whether inflating can begin so.
    pub(crate) fn is_sound(&self) -> bool {
        self.bits < 8 && self.dictionary.len() <= DICTIONARY_BYTES_MAX
    }

    /// A decoder that goes on here.
    pub(super) fn decoder(&self) -> Result<Decompress, DecompressError> {
        let mut decoder = Decompress::new(false);
        if !self.dictionary.is_empty() {
            decoder.set_dictionary(self.dictionary)?;
        }
        let (lead, length) = self.lead();
        let lead = lead.to_le_bytes();
        let mut rest = lead.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let before = decoder.total_in();
            decoder.decompress(rest, &mut [], FlushDecompress::None)?;
            let taken = usize::try_from(decoder.total_in() - before).unwrap_or(0);
            if taken == 0 {
                break;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(decoder)
    }

    /// The bits of the byte, behind blocks of nothing that end where they begin, and how many bytes that is. Decoders
    /// count in bytes, and so the bits of the blocks behind stay where they are in theirs.
    fn lead(&self) -> (u128, usize) {
        let bits = u32::from(self.bits & 7);
        if bits == 0 {
            return (0, 0);
        }
        let (mut lead, mut length) = match bits % 2 {
            0 => (0, 0),
            _ => (ODD_BLOCK, ODD_BLOCK_BITS),
        };
        while (length + bits) % 8 != 0 {
            lead |= EVEN_BLOCK << length;
            length += EVEN_BLOCK_BITS;
        }
        lead |= u128::from(self.byte >> (8 - bits)) << length;
        (lead, (length + bits) as usize / 8)
    }
}
