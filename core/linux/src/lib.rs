//! Linux as Pontoon needs it: mounts, idmapped mounts, kernel probes, the lock of a root.
//!
//! - [`Mounter`]: makes the mounts that a snapshotter answers; [`SystemMounter`] does it, [`RecordingMounter`]
//!   notes it down for tests without privileges.
//! - [`mount_fuse`]: a FUSE connection of which this process is the server.
//! - [`mount_erofs`]: an EROFS image straight from a file, with the files that hold its data.
//! - [`mounts_below`]: which mounts there are.
//! - [`IdMap`]: the mapping of a user namespace, as labels and mount options write it.
//! - [`try_id_map`]: whether a filesystem can be idmapped.
//! - [`Map`]: a whole file as bytes.
//! - [`probe`]: what this kernel and this filesystem can do. Nothing of a probe can stay behind.
//! - [`DirLock`]: one daemon per root.
//! - [`PacketSocket`]: packets between processes, with descriptors.
//! - [`process`]: who a peer is.
//!
//! The only crate with `unsafe` code, all of it in `raw.rs`: the calls that rustix does not have.

mod error;
mod idmap;
mod lock;
mod map;
mod mount;
mod packet;
pub mod probe;
pub mod process;
mod raw;

pub use error::{Error, Result};
pub use idmap::{IdMap, IdMapError};
pub use lock::{DirLock, LockError};
pub use map::Map;
pub use mount::fuse::{
    Slot, abort, abort_connection, connection_at, detach, is_connected, is_disconnected,
    is_mount_point, mount_fuse, open_fuse_device, resend, set_read_ahead,
};
pub use mount::list::{Mounted, mounts_below};
pub use mount::{
    Call, DeviceReads, Mounter, RecordingMounter, SystemMounter, mount_erofs, try_erofs, try_id_map,
};
pub use packet::{Packet, PacketSocket, Peer};
