//! Layers as directories, mounted for real. Needs root.
#![allow(missing_docs, reason = "nothing here is a library")]
#![allow(clippy::unwrap_used, reason = "what a test unwraps is what it asserts")]

#[path = "../../lazyfs/tests/fixture.rs"]
mod fixture;

mod erofs;
mod mounted;
mod overlay;
mod serving;
mod tree;
mod waiting;
