//! Finds what is known of a chunk by what an inode says of it.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::chunk::{RECORD_BYTES, Record};
use super::info::ChunkInfos;
use super::inode::ADDRESS_BYTES;
use crate::chunk::BLOCK_BYTES;
use crate::error::FormatError;
use crate::limits::Limits;

/// What an inode says of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Address {
    blob: u32,
    /// Its number in the blob.
    index: u32,
    /// Where it is in the decompressed blob.
    data_offset: u64,
}

impl Address {
    /// None if it names no blob. Written are the low 16 bits of the chunk's number, the blob's number plus 1 in 8 bits,
    /// the high 8 bits of the chunk's number, and the block.
    pub(super) fn read(address: [u8; ADDRESS_BYTES]) -> Option<Address> {
        let [low, middle, blob, high, block @ ..] = address;
        Some(Address {
            blob: u32::from(blob).checked_sub(1)?,
            index: u32::from_le_bytes([low, middle, high, 0]),
            data_offset: u64::from(u32::from_le_bytes(block)) * BLOCK_BYTES,
        })
    }

    fn of(record: &Record) -> Address {
        Address {
            blob: record.blob,
            index: record.index,
            data_offset: record.data_offset,
        }
    }
}

/// The chunks that the bootstrap lists, then those that blobs told of. There may be a million: nothing is copied.
pub(super) struct Records<'a> {
    table: &'a [[u8; RECORD_BYTES]],
    told: Vec<&'a Record>,
    /// Their positions, by the hashes of their addresses.
    index: HashTable<u32>,
    hasher: RandomState,
}

impl<'a> Records<'a> {
    /// Fails if there is a chunk that cannot be read, wanted or not.
    pub(super) fn new(
        table: &'a [u8],
        infos: &'a [ChunkInfos],
        limits: &Limits,
    ) -> Result<Records<'a>, FormatError> {
        let (table, _) = table.as_chunks();
        let told = infos.iter().map(|infos| infos.records.len() as u64);
        let count = (table.len() as u64).saturating_add(told.sum());
        FormatError::check_limit(
            "the number of chunks of the image",
            count,
            u64::from(limits.entries_max),
        )?;
        let mut records = Records {
            table,
            told: infos.iter().flat_map(|infos| &infos.records).collect(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        for position in 0..count {
            records.insert(position)?;
        }
        Ok(records)
    }

    /// The last one of an address counts, as it does for nydus.
    fn insert(&mut self, position: u32) -> Result<(), FormatError> {
        let Some(record) = self.read(position).transpose()? else {
            return Ok(());
        };
        let address = Address::of(&record);
        let hash = self.hasher.hash_one(address);
        let mut index = std::mem::take(&mut self.index);
        let entry = index.entry(
            hash,
            |other| self.address(*other) == Some(address),
            |other| {
                self.address(*other)
                    .map_or(0, |address| self.hasher.hash_one(address))
            },
        );
        match entry {
            Entry::Occupied(mut entry) => *entry.get_mut() = position,
            Entry::Vacant(entry) => {
                entry.insert(position);
            }
        }
        self.index = index;
        Ok(())
    }

    fn read(&self, position: u32) -> Option<Result<Record, FormatError>> {
        let position = position as usize;
        match self.table.get(position) {
            Some(record) => Some(Record::read(record)),
            None => {
                let record = self.told.get(position - self.table.len())?;
                Some(Ok(**record))
            }
        }
    }

    fn address(&self, position: u32) -> Option<Address> {
        let record = self.read(position)?.ok()?;
        Some(Address::of(&record))
    }

    pub(super) fn find(&self, address: Address) -> Option<Record> {
        let hash = self.hasher.hash_one(address);
        let position = self
            .index
            .find(hash, |other| self.address(*other) == Some(address))?;
        self.read(*position)?.ok()
    }
}
