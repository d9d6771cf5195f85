//! HAVE and chunks over HTTP/1.1.
//!
//! Two questions, both GET, over TLS 1.3 at whose other end a [`PeerId`](crate::PeerId) is proven ([`tls`](crate::tls)). A layer
//! is named by both digests of its [`Key`](pontoon_cache::Key):
//!
//! | path | answer |
//! |---|---|
//! | `/peer/v1/layers/<blob>.<table>/have?since=<generation>` | which chunks the node has: [`mod@have`]. Given the generation that it told last it answers when it has others, or after half a minute |
//! | `/peer/v1/layers/<blob>.<table>/chunks/<first>-<last>` | these chunks, decompressed and whole, one after another |
//!
//! | header | meaning |
//! |---|---|
//! | `X-Class` | `demand` or `prefetch` |
//! | `X-Deadline-Ms` | after so long nobody wants the answer any more |
//! | `X-Token` | the membership token of who asks, if it has one |
//! | `X-Port` | where who asks serves chunks itself, if it does, at the address that it asks from |
//! | `Accept-Encoding: zstd` | chunks may be compressed: [`pack`] |
//!
//! 200 has all that was asked for. 404: the node has not got the layer, or not all of the chunks, and `X-Have-Generation` says how
//! new that is. 429: it has enough to do; `X-Retry-After-Ms` says for how long. A node gives only what it has verified, and never
//! asks anybody else on behalf of who asks.
//!
//! Nothing that comes from another node is believed: [`Client`] hands on chunks of the lengths that its own chunk table gives, and
//! whoever takes them checks their digests.

mod buffers;
pub mod client;
mod error;
pub mod have;
mod limits;
pub mod pack;
pub mod request;
pub mod server;
mod shelf;
#[cfg(test)]
mod tests;

pub use client::{Chunks, Client, ClientConfig, Order};
pub use error::{Error, Result};
pub use limits::Limits;
pub use server::{Counters, Server, ServerConfig};
pub use shelf::Shelf;

/// How urgent a request is.
const CLASS: &str = "x-class";
/// For how many milliseconds the answer is wanted.
const DEADLINE: &str = "x-deadline-ms";
/// The membership token of who asks.
const TOKEN: &str = "x-token";
/// Where who asks serves chunks itself.
const PORT: &str = "x-port";
/// The generation of a node's chunks, when it has not got what was asked for.
const GENERATION: &str = "x-have-generation";
/// After how many milliseconds to ask again.
const RETRY_AFTER: &str = "x-retry-after-ms";
/// How chunks are compressed.
const ZSTD: &str = "zstd";
