//! The real daemon's socket under requests that no good client sends, and the daemon on disks that fail it.
//!
//! Every test ends by looking whether what was there before is there still.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod bytes;
mod connections;
mod daemon;
mod disk;
mod lists;
mod requests;
mod start;
