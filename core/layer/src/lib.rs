//! Image layers as data: a file tree and a chunk map, whatever the format. No I/O.
//!
//! A layer that can be lazy carries a table of contents (TOC) at its end. From the last bytes of the blob
//! ([`parse_tail`]) or from the annotations of its descriptor ([`parse_annotations`]) follows where the TOC is;
//! [`parse_toc`] verifies it and makes a [`Layer`] of it:
//!
//! - [`Tree`]: names, attributes, links, whiteouts. File data is at an offset of a *data file* that does not exist
//!   yet: all files of the layer one after another, decompressed, each at a multiple of [`BLOCK_BYTES`].
//! - [`ChunkTable`]: which bytes of the blob make which bytes of the data file, and their digests. It is kept on disk
//!   as it is and read through [`ChunkTableRef`].
//!
//! [`Member`] inflates what was fetched; [`Verified`] is the only form in which data goes on from here.
//!
//! nydus images are no layers with a table of contents; [`rafs`] makes a tree and a list of chunks of them.
//!
//! All input is a stranger's: [`Limits`] are applied before anything is parsed, and nothing panics.

mod annotations;
mod chunk;
mod digest;
mod error;
#[cfg(test)]
mod fixture;
mod inflate;
mod limits;
mod path;
pub mod rafs;
mod tail;
mod toc;
mod tree;
mod verified;

pub use annotations::{ANNOTATION_TOC_DIGEST, Annotated, parse_annotations};
pub use chunk::{BLOCK_BYTES, Chunk, ChunkTable, ChunkTableError, ChunkTableRef};
pub use digest::{Algorithm, Digest, Hasher, ParseDigestError};
pub use error::FormatError;
pub use inflate::{Compression, InflateError, Member, Resume, inflate};
pub use limits::Limits;
pub use path::path_names;
pub use tail::{TAIL_BYTES, Tail, TocPlace, parse_tail};
pub use toc::{Landmark, Layer, TocDigest, TocKind, parse_toc, toc_json_bytes};
pub use tree::{
    Attributes, Children, Entry, EntryKind, Kind, Node, NodeId, OpaqueXattr, Time, Tree,
    TreeBuilder, Xattrs,
};
pub use verified::{DigestMismatch, Verified};
