//! Tests that look at all of the cache, on disks that remember, fail, or are small.

mod change;
mod crash;
mod damage;
mod disk;
mod faults;
mod fixture;
mod full;
mod image;
mod index;
mod kill;
mod quota;
mod restart;
mod scrub;
mod threads;
mod waits;
