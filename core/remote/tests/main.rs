//! The provider in a real engine, with a registry in this process and real mounts.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod crash;
mod deadline;
mod front_end;
mod image;
mod kin;
mod nydus;
mod ordinary;
mod profiles;
mod pull;
mod registry;
mod scrub;
mod site;
mod space;
mod unmounted;
