//! Lazy layers for the overlay engine: where containerd's labels lead, from the first Prepare to the last Remove.
//!
//! [`Remote`] is a [`LayerProvider`](pontoon_overlay::LayerProvider). Everything that it keeps is in `<root>/lazy`:
//! ```text
//! blobs/              chunk tables and data (crate cache)
//! trees/<name>        metadata images, by what they were made of
//! number              which numbers of layers are used up
//! decisions.json      why layers are not lazy, as long as their snapshots are here
//! credentials.json    what opened registries, for its owner only
//! profiles/           what starts of images have read, in order
//! tmp/                ordinary layers on their way, without names
//! mnt/<number>        the FUSE mount: one directory for each lazy layer, with an EROFS mount on it where the kernel can
//! holder/             where the holder of the FUSE connection listens
//! ```
//!
//! ## One image
//! 1. `labels.rs`: where the layer is. Without labels it is declined.
//! 2. `session.rs`: the first Prepare of an image fetches its manifest with the caller's credentials, which proves that
//!    the image may be read; only then is anything that is here already used for it.
//! 3. `image.rs`: at once everything that its layers will need is on its way, side by side: `toc.rs` tables of contents,
//!    `download.rs` ordinary layers. An image without any lazy layer is left to containerd.
//! 4. `build.rs`: a table of contents becomes a tree on what lies below (`parents.rs`, `below.rs`), stored durably (`stock.rs`);
//!    `record.rs` is what the snapshot keeps of it. `unpack.rs` unpacks an ordinary layer while containerd waits.
//! 5. `ahead.rs`: as soon as a layer's table is here its bytes flow: first what an earlier start of the image has read
//!    (`profile.rs`, `profiles.rs`), then what the image tells (`told.rs`, `merged.rs`, `elf.rs`), then the rest.
//! 6. `front.rs`: the FUSE server, when the first layer is mounted, or from the start if a predecessor has left its
//!    connection; `restore.rs`: the layers that are read through it. `front_end.rs` has chosen at the start whether the
//!    kernel serves the trees itself; `erofs.rs` mounts them then, by `mounter.rs`.
//!
//! A Prepare waits for all of this until a deadline; what is not there by then goes on, and the next Prepare finds it.
//! After a restart layers come back from disk, without registry and without credentials.
//!
//! ## Why not lazy
//! Each layer's fate and its reason are remembered, over a restart too (`decisions.rs`, `reason.rs`): [`Remote::report`].

mod ahead;
mod anywhere;
mod below;
mod bootstrap;
mod build;
mod config;
mod credentials;
mod decisions;
mod download;
mod durable;
mod elf;
mod erofs;
mod error;
mod first;
#[cfg(test)]
mod fixture;
mod front;
mod front_end;
mod image;
mod indexes;
mod item;
mod kin;
mod labels;
mod merged;
mod mounter;
mod numbers;
mod nydus;
mod offer;
mod parents;
mod profile;
mod profiles;
mod promise;
mod quiet;
mod reason;
mod record;
mod remote;
mod report;
mod restore;
mod session;
mod stock;
mod toc;
mod told;
mod trees;
mod unpack;

/// Where the cache is below a daemon's root, for whoever checks it while the daemon is stopped.
pub const CACHE: &str = "lazy/blobs";

pub use ahead::ProfileReport;
pub use config::{
    Config, CredentialsConfig, HolderConfig, ImageServiceConfig, LazyConfig, UnpackConfig,
};
pub use decisions::Counts;
pub use error::Error;
pub use front_end::{Chosen, FrontEnd};
pub use mounter::at_mounts;
pub use profile::Profile;
pub use remote::Remote;
pub use report::{HolderReport, LayerReport, LayerState, Progress, Report, Totals};
