//! Images against the tree that they were made of, by the reader, by erofs-utils and by the kernel. Needs root and
//! Linux 6.12, like the product with its EROFS front end.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

mod compare;
mod damage;
mod kernel;
mod round_trip;
mod sample;
mod site;
mod tools;
