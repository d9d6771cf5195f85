//! The engine on a real filesystem, with the mounts that it answers really made. Needs root.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

mod compose;
mod fsck;
mod layers;
mod namespaced;
mod removal;
mod root;
mod site;
mod usage;
