//! Layers as directories, mounted for real. Needs root.

#[path = "../../lazyfs/tests/fixture.rs"]
mod fixture;

mod mounted;
mod overlay;
mod serving;
mod tree;
mod waiting;
