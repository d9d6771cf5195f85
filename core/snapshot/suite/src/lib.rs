//! Conformance cases for snapshotters: what containerd, dockerd and BuildKit expect of one, as tests.
//!
//! The cases know only [`Snapshotter`](pontoon_snapshot::Snapshotter) and real mounts, so the same ones run on
//! the engine in this process, on a daemon through its socket, and on containerd's own overlayfs snapshotter,
//! which shows that the cases themselves are right. Where Pontoon differs from containerd on purpose, the case
//! says why and holds each to its own behaviour ([`Stage::differs`]).
//!
//! - [`conformance!`]: makes one `#[test]` of each case.
//! - [`Harness`]: what a test binary provides: a fresh snapshotter.
//! - [`Stage`]: what a case plays on: the snapshotter, mounts, and answers that must succeed.
//! - [`cases`]: the cases by subject; [`tree`]: making and comparing file trees.
//!
//! The cases need root, for mounts. A case that fails panics, after its mounts are gone.

#![allow(clippy::unwrap_used, reason = "a case that cannot go on fails")]

pub mod cases;
mod conformance;
mod harness;
mod stage;
pub mod tree;

pub use conformance::play;
pub use harness::{Harness, Oracle};
pub use stage::{Mounted, Stage, key, labels};
