//! Benchmarks of Pontoon against its rivals.

fn main() {}
