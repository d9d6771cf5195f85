//! What every Pontoon daemon has, whatever its snapshots are made of.
//!
//! A plugin's `main` is [`run`] with its [`Plugin`]: a name, a section of the configuration and an [`Engine`].
//! From there a daemon goes the way of `run.rs` and `lifetime.rs`:
//!
//! - `arguments.rs`, [`config`]: the command line over the file over the defaults.
//! - `socket.rs`: the unix socket, 0600 from its first moment; or the one that systemd passes.
//! - `server.rs`: connections; `caller.rs`: whose they are, and which process owns a snapshotter name.
//! - `service.rs`: the ten RPCs, each on a blocking thread; `status.rs`: errors as gRPC codes and as log lines.
//! - `admin.rs`: health, metrics and log level by HTTP; `metrics.rs`: what is counted; `log.rs`: logs.
//! - `notify.rs`, `health.rs`: systemd's readiness and watchdog.
//! - `containerd.rs`: the drop-in for containerd's configuration.
//!
//! This crate deliberately does not know what a snapshot is made of, only that an [`Engine`] keeps them. Its tests
//! run a real daemon: `snapshotters/overlayfs/tests`.

mod admin;
mod arguments;
mod caller;
pub mod config;
mod containerd;
mod error;
mod health;
mod lifetime;
mod log;
mod metrics;
mod notify;
mod plugin;
mod rpc;
mod run;
mod server;
mod service;
mod socket;
mod status;

pub use config::Config;
pub use plugin::{Census, Engine, Number, Plugin, Profiles};
pub use run::run;
