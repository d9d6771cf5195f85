//! Real containerd, registry, Docker and images for tests, demos and benchmarks.
//!
//! | module | what is in it |
//! |---|---|
//! | [`tools`] | the real programs, and how they get into `target/rig` |
//! | [`image`] | OCI images made here: small odd ones, long ones, a real one |
//! | [`sandbox`] | the directory of one run, and the end of all that ran in it |
//! | [`process`], [`command`] | programs that go on, programs that end |
//! | [`plugin`] | the snapshotter under test: ours or containerd's own |
//! | [`containerd`], [`docker`], [`registry`] | private daemons in a sandbox |
//! | [`gate`] | what is in front of a registry: counts, holds, faults |
//! | [`site`], [`token`], [`authority`], [`hosts`] | registries with TLS, users and tokens |
//! | [`wire`] | a link of a bandwidth and a round trip, for benchmarks |
//! | [`cluster`] | a plugin and the containerd that uses it |
//! | [`fleet`], [`network`] | several of these, each in a network namespace, and their registry |
//! | [`tree`] | directory trees compared byte for byte |
//! | [`wait`] | deadlines, and Ctrl-C |
//!
//! Everything runs as root, below `target/rig` of the checkout, and is gone when the
//! value that stands for it is dropped.

pub mod authority;
pub mod checkout;
pub mod cluster;
pub mod command;
pub mod containerd;
pub mod digest;
pub mod docker;
mod error;
pub mod fleet;
pub mod gate;
pub mod hosts;
pub mod http;
pub mod image;
pub mod network;
pub mod plugin;
pub mod process;
pub mod registry;
pub mod sandbox;
pub mod site;
pub mod token;
pub mod tools;
pub mod tree;
pub mod wait;
pub mod wire;

pub use error::{Error, Result};
