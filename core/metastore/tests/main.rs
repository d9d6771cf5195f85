//! The store through its public operations: the contract, concurrency, crashes, failures, repair.
#![allow(missing_docs, reason = "nothing here is a library")]

mod contract;
mod fixture;
