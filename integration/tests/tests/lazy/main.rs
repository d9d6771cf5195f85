//! Layers that come when they are read: the plugins `pontoon-stargz` and `pontoon-nydus` under real containerd and Docker,
//! with a registry that is watched and disturbed.
//!
//! What is tested of nydus images is in `nydus.rs`: small ones that were made once, and, where `PONTOON_NYDUS_IMAGE` or
//! PATH has the builder (`cargo install nydus-rs@2.2.0 --locked`, four minutes), those of the other formats' tests.
//!
//! `PONTOON_LAZY_PLUGIN=stargz` puts stargz-snapshotter in the plugin's place, which is how these tests themselves are
//! tested, where it can do what they ask for. `PONTOON_FULL=1` runs the long forms.
//!
//! The kernel serves trees where it can, FUSE in the tests that are called so, and in all of them with
//! `PONTOON_FRONT_END=fuse`, which `cargo xtask test --full` runs too.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod compose;
mod damage;
mod disk;
mod docker;
mod faults;
mod holder;
mod life;
mod memory;
mod nydus;
mod ordinary;
mod peers;
mod readers;
mod registries;
mod stage;
mod stalls;
mod storm;
mod suite;
mod trees;
