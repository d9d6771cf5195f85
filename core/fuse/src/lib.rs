//! Lazy layers as directories of one FUSE connection.
//!
//! A daemon has one [`Server`], mounted at one directory. Below it `<n>` is the root of the layer that [`Layers`] knows
//! by the number `n`: a lower directory of an overlay. A thousand layers are no more connections than one.
//!
//! What the kernel knows once it does not ask again, since layers never change: names, attributes, links, missing names,
//! directories and pages stay cached until they are evicted. Files and directories are opened and closed without asking
//! at all (Linux 5.1), so no program waits in a close for a daemon that is gone. Older kernels ask, and are told
//! not to flush.
//!
//! No thread that serves waits for the network. A read whose bytes are not here is answered from the runtime when
//! they are, and can be killed in the meantime.
//!
//! With a [`Keeper`](pontoon_holder::Keeper) a connection outlives its server: another process goes on with it
//! ([`Server::adopt`]), and answers what the first one left unanswered. Nodes are numbers that mean the same in both.
//!
//! The root of a layer also has a hidden directory [`STATE_DIRECTORY`], with a file that tells how far the layer is, as
//! stargz-snapshotter has it.

mod attributes;
mod error;
mod filesystem;
mod greeting;
mod layers;
mod mounted;
mod node;
mod operations;
mod server;
mod state;

pub use error::{Error, Result};
pub use layers::{LAYER_NUMBERS, LayerTable, Layers};
pub use node::data_name;
pub use operations::Operations;
pub use server::{Config, Server};
pub use state::STATE_DIRECTORY;
