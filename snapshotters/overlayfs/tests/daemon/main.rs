//! The real daemon, started as a process: what `core/daemon` promises, seen from outside.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod admin;
mod config;
mod drain;
mod http;
mod logs;
mod memory;
mod owner;
mod process;
mod shipped;
mod sockets;
mod systemd;
