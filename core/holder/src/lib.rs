//! Keeps FUSE connections while no daemon serves them.
//!
//! A FUSE connection lives as long as somebody has its device open. `pontoon-holder`, a process of its own, has what a
//! daemon gave it: when the daemon is killed, restarted or upgraded, readers wait, and its successor goes on with the
//! same connection. When nobody takes it over within the daemon's patience, the holder ends the connection, so that
//! readers get an error instead of waiting for ever.
//!
//! The holder does nothing else, and never needs to be newer than a daemon: it keeps descriptors by name, with bytes that
//! only daemons understand, and refuses messages that it does not know (`protocol.rs`).
//!
//! - [`Keeper`]: what a daemon has. It starts a holder when there is something to keep, and gives everything again to
//!   another one when the holder is lost.
//! - [`Client`]: one connection to a holder.
//! - [`serve`]: the holder itself.

mod client;
mod entries;
mod error;
mod keeper;
mod protocol;
mod serve;
mod start;

pub use client::{Client, Held, Keep, Welcome};
pub use error::{Error, Result};
pub use keeper::{Keeper, Settings, State};
pub use protocol::PROTOCOL;
pub use serve::{Options, serve};
pub use start::{PROGRAM, is_unit, program_beside};

/// The holder's socket in its directory.
pub const SOCKET: &str = "socket";
