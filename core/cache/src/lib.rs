//! Verified chunks on disk: one sparse file per layer, with quota and eviction.
//!
//! A [`Cache`] is a directory that holds layers. A layer is known by its [`Key`] and has
//! - `chunks`: the chunk table of its format, never changed,
//! - `meta`: what it is and how large, never changed,
//! - `data`: its decompressed bytes at the offsets that the chunk table gives, sparse,
//! - `ready`: one bit per chunk that is in `data` and synced,
//! - `digests`, if it has given chunks to others: which chunks have which digest. It can always be made again.
//!
//! A [`CachedLayer`] reads and takes chunks. [`CachedLayer::put`] takes only [`Verified`](pontoon_layer::Verified)
//! bytes, so whatever can be read was checked against its digest.
//!
//! ## What a crash leaves
//! A chunk can be read as soon as it is put: the process trusts its own memory and the kernel's page cache. It is
//! *durable* when its bit is in `ready`, and that is written by one thread for all layers, within [`FLUSH_DELAY`] or
//! on [`Cache::flush`]: first the data and fdatasync, then the bits and fdatasync. So no bit ever stands for data
//! that may be lost, and what was not durable when the process or the machine died is fetched again.
//!
//! What the machine took down with it is in doubt even so: a disk may lose or change what it has synced. After a power
//! cut or a panic, which the file `trust` tells from a daemon that was killed, every published chunk is checked against
//! its digest once before it is read (`verify.rs`): when somebody reads it, or by a thread once the layer is opened. What
//! is wrong is dropped, counted in [`Stats::damaged_chunks`] and fetched again. A layer is
//! [complete](CachedLayer::is_complete), so that the kernel may read its file, when nothing of it is in doubt. A start only
//! notes which layers are: it reads none of them. [`Cache::scrub`] checks everything, also what nothing has put in doubt.
//!
//! ## Quota
//! `max_bytes` bounds the space that is really allocated. Above fifteen sixteenths of it the data of the layers that
//! were not used for longest are evicted, whole layers, down to seven eighths; likewise when less than `free_bytes_min`
//! of the filesystem is free, until an eighth more than that is. The bits are cleared durably, then `data` is unlinked:
//! it is never punched, for the kernel may have it mapped long after an unmount. Chunk table and meta stay, so that an
//! evicted layer can still be mounted without its registry. [`Cache::sweep`] removes what nobody wants any more,
//! and goes before all eviction.
//!
//! A pinned layer ([`CachedLayer::pin`], held while a layer is mounted) is never evicted nor removed. **When what is
//! pinned exceeds the quota, the cache goes over it**: a read that somebody waits for is still stored, for the same
//! read would come again, but [`Cache::admits_background`] says no, so that nothing is fetched ahead. A warning,
//! [`Stats::over_quota`] and [`Stats::over_quota_times`] tell. Likewise on a disk that is full; there
//! [`CachedLayer::put`] answers [`Put::NotStored`], and the reader is answered from memory.
//!
//! ## Keys
//! A lazy layer's blob is never hashed as a whole: what vouches for its bytes is the digest of its table of contents.
//! Who names another table for the same blob decides what that table's chunks contain. So both digests are the
//! key; by the blob's digest alone, one image could put its bytes under another image's layer.
//!
//! ## Chunks of other layers
//! [`CachedLayer::find`] and [`CachedLayer::verified`] give a chunk of one layer to another one that has it too. Who may have
//! whose chunks is not decided here: digests are guessed or told, so nobody is given a chunk by its digest alone who may not
//! read the layer that it is from.
//!
//! Threads: everything may be called from any thread. Nothing here is asynchronous, and nothing waits for a network.

mod bits;
mod build;
mod cache;
mod change;
mod dir;
mod disk;
mod error;
mod evict;
mod flush;
mod index;
mod key;
mod layer;
mod meta;
mod now;
mod open;
mod pending;
mod pin;
mod ready;
mod slot;
mod stats;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod trust;
mod verify;

pub use cache::{Cache, Config};
pub use change::Changed;
pub use error::{Error, Result};
pub use flush::FLUSH_DELAY;
pub use key::Key;
pub use layer::{CachedLayer, NotStored, Put, Read};
pub use meta::Meta;
pub use pin::Pin;
pub use slot::Usage;
pub use stats::{LayerStatus, Stats};
pub use sweep::Swept;
pub use verify::Scrubbed;
