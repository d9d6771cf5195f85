//! What the binary prints, ships and documents.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

#[path = "../../lazy/tests/shipped.rs"]
mod shipped;

const BINARY: &str = env!("CARGO_BIN_EXE_pontoon-nydus");

type Daemon = pontoon_lazy::Nydus;
