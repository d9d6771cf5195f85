//! A read-only registry on loopback for other clients on this node: what containerd's content store has, by digest.
//!
//! Spegel's idea (<https://spegel.dev>): another containerd, BuildKit, or a snapshotter of another kind names it as a
//! mirror in its `hosts.toml`, and what this node has pulled is not pulled again. Nothing is copied, nothing is asked of a
//! registry: what is not here is not found, and the client goes on to the registry.
//!
//! It speaks the pulling half of the OCI distribution specification
//! (<https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>), and is shaped so that a client that was set up for
//! a dfdaemon's mirror (`X-Dragonfly-Registry`, `?ns=`) can use it as it is.
//!
//! - Tags are never answered: only the registry knows what one stands for now, and who may know.
//! - Whoever can connect gets every blob whose digest he knows. So it listens on loopback only.
//!
//! | part | concern |
//! |---|---|
//! | [`Mirror`] | listening, connections and their limits |
//! | [`Store`] | who has blobs; [`Containerd`] is one |
//! | `request`, `range` | what is asked for. Pure |
//! | `library` | from one to the other |
//! | `answer` | what is said |

mod answer;
mod config;
mod containerd;
mod error;
mod library;
mod patient;
mod range;
mod request;
mod server;
mod store;

pub use config::Config;
pub use containerd::Containerd;
pub use error::{Error, Result};
pub use request::MIRRORED;
pub use server::{Counts, Mirror};
pub use store::{BoxFuture, Bytestream, Info, Store, Unavailable};
