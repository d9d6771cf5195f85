//! The store through its public operations: the contract, concurrency, crashes, failures, repair.
#![allow(missing_docs, reason = "nothing here is a library")]
#![allow(clippy::unwrap_used, reason = "what a test unwraps is what it asserts")]

mod contract;
mod crash;
mod faults;
mod file;
mod fixture;
mod kill;
mod model;
mod random;
mod recorded;
