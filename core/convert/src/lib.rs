//! Makes lazy layers and images of ordinary ones.
//!
//! [`convert_layer`] makes of any layer one with a table of contents: eStargz or zstd:chunked. [`Plan`] does that to all
//! layers of the images of a [`Source`] and gives them to a [`Target`], and [`Comparison`] says whether two images hold the
//! same files. [`Layout`] and [`NewLayout`] are OCI layout directories; others are the caller's.
//!
//! One thread reads and inflates, one hashes what it reads, the caller's cuts the archive into *units*, several compress
//! them, one writes them in their order. A unit is a chunk of a file and what follows it up to the next data: padding,
//! and the headers of the next entries. Where units begin depends on the archive and on the size of a chunk alone, so
//! the same bytes come out whatever the number of threads is. In memory are two units for each thread and the compressed
//! table of contents; at the end it is read as whoever serves the layer reads it, which takes some 350 bytes an entry.
//!
//! Headers go through as they are: what no table of contents says survives for those who read the layer as an archive.
//! zstd:chunked layers are, decompressed, the archives that they were, and keep their diff IDs.
//!
//! A nydus image ([`Format::Nydus`]) has no layers with tables of contents: its blobs hold chunks, and one bootstrap the
//! files of all layers together. It is made of the same parts, and the same bytes come out each time, too.
//!
//! All input is a stranger's: it is verified, limits come first, and nothing panics.

mod blob;
mod check;
mod cut;
mod encode;
mod error;
mod files;
mod flat;
mod image;
mod layer;
mod layout;
mod manifest;
mod nydus;
mod options;
mod pipeline;
mod place;
mod platform;
mod tail;
mod tarsplit;
mod time;
mod toc;
mod unit;

pub use check::{Checked, Comparison};
pub use error::{Error, Result};
pub use image::{Converted, Plan, Watch};
pub use layer::{LayerConverted, convert_layer};
pub use layout::{Layout, NewLayout};
pub use nydus::{ChunkCompression, ChunkDigest, Nydus};
pub use options::{CHUNK_BYTES_MIN, Dialect, Format, Options};
pub use place::{DOCUMENT_BYTES_MAX, Descriptor, Source, Target, document_bytes};
pub use platform::{Platform, Selection};
