//! The inflate contexts behind the chunks of a table: where in gzip streams the bytes of their members begin.

use bytes::Bytes;

use super::ChunkTableError;
use crate::inflate::Resume;

/// Bytes before the contexts, and of each of them.
const RECORD_BYTES: usize = 32;

/// What has to be known to inflate what begins at an offset of the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) blob_offset: u64,
    pub(crate) bits: u8,
    pub(crate) byte: u8,
    pub(crate) dictionary: Bytes,
}

/// `contexts` as they are written, sorted by their offsets: nothing if there are none.
pub(super) fn encode(contexts: &[Context], bytes: &mut Vec<u8>) {
    if contexts.is_empty() {
        return;
    }
    bytes.extend_from_slice(&(contexts.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; RECORD_BYTES - 8]);
    let mut offset = 0_u64;
    for context in contexts {
        let length = context.dictionary.len();
        bytes.extend_from_slice(&context.blob_offset.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&(length as u64).to_le_bytes());
        bytes.extend_from_slice(&[context.bits, context.byte, 0, 0, 0, 0, 0, 0]);
        offset += length as u64;
    }
    for context in contexts {
        bytes.extend_from_slice(&context.dictionary);
    }
}

/// Bytes that [`encode`] writes for `contexts`.
pub(super) fn encoded_bytes(contexts: &[Context]) -> usize {
    let dictionaries = contexts.iter().map(|context| context.dictionary.len());
    match contexts.len() {
        0 => 0,
        count => (1 + count) * RECORD_BYTES + dictionaries.sum::<usize>(),
    }
}

/// Written contexts, read where they are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contexts<'a> {
    records: &'a [[u8; RECORD_BYTES]],
    dictionaries: &'a [u8],
}

impl<'a> Contexts<'a> {
    /// Finds the parts, in constant time.
    pub(super) fn split(bytes: &'a [u8]) -> Option<Contexts<'a>> {
        if bytes.is_empty() {
            return Some(Contexts::default());
        }
        let (header, rest) = bytes.split_first_chunk::<RECORD_BYTES>()?;
        let count = usize::try_from(u64_at(header, 0)).ok()?;
        let length = count.checked_mul(RECORD_BYTES)?;
        let (records, dictionaries) = rest.split_at_checked(length)?;
        Some(Contexts {
            records: records.as_chunks().0,
            dictionaries,
        })
    }

    /// Whether all of them are sound, and sorted.
    pub(super) fn check(&self) -> Result<(), ChunkTableError> {
        let damaged = |reason| Err(ChunkTableError::Damaged(reason));
        let offsets = self.records.iter().map(|record| u64_at(record, 0));
        if !offsets.is_sorted_by(|one, next| one < next) {
            return damaged("its inflate contexts are not sorted");
        }
        let mut resumes = self.records.iter().map(|record| self.resume(record));
        if !resumes.all(|resume| resume.is_some_and(|resume| resume.is_sound())) {
            return damaged("an inflate context makes no sense");
        }
        Ok(())
    }

    /// How what begins at `blob_offset` is inflated, if that is in the middle of a stream.
    pub(super) fn find(&self, blob_offset: u64) -> Option<Resume<'a>> {
        let found = self
            .records
            .binary_search_by_key(&blob_offset, |record| u64_at(record, 0));
        self.resume(self.records.get(found.ok()?)?)
    }

    fn resume(&self, record: &[u8; RECORD_BYTES]) -> Option<Resume<'a>> {
        let start = usize::try_from(u64_at(record, 8)).ok()?;
        let length = usize::try_from(u64_at(record, 16)).ok()?;
        Some(Resume {
            bits: record[24],
            byte: record[25],
            dictionary: self.dictionaries.get(start..start.checked_add(length)?)?,
        })
    }
}

fn u64_at(record: &[u8; RECORD_BYTES], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&record[at..at + 8]);
    u64::from_le_bytes(value)
}
