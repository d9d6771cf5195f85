//! Layers that arrive while they are read.
#![allow(missing_docs, reason = "nothing here is a library")]
#![allow(clippy::unwrap_used, reason = "what a test unwraps is what it asserts")]

mod fixture;
mod log;

mod background;
mod blobs;
mod contexts;
mod faults;
mod kin;
mod peers;
mod reading;
