//! Layers that come when they are read: the plugins `pontoon-stargz` and `pontoon-nydus` under real containerd and Docker,
//! with a registry that is watched and disturbed.
//!
//! nydus images are a form as any other: small ones that were made once are in `nydus.rs`, and the rest is converted by our
//! own command. What needs others' programs is in `with_rivals.rs`, and ignored unless it is asked for: `PONTOON_RIVALS` names
//! the folder with them, `cargo xtask test --rivals DIR` runs it.
//!
//! `PONTOON_LAZY_PLUGIN=stargz` puts stargz-snapshotter in the plugin's place, which is how these tests themselves are
//! tested, where it can do what they ask for; `PONTOON_LAZY_PLUGIN=pontoon-nydus` our other daemon, which must do all that
//! `pontoon-stargz` does. `PONTOON_FULL=1` runs the long forms.
//!
//! The kernel serves trees where it can, FUSE in the tests that are called so, and in all of them with
//! `PONTOON_FRONT_END=fuse`. `cargo xtask test --full` runs that too, and the other daemon.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod damage;
mod disk;
mod docker;
mod docker_nydus;
mod faults;
mod holder;
mod json;
mod life;
mod memory;
mod mirror;
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
mod update;
mod with_rivals;
