//! Project automation: demo, test, bench, gen-proto, checks.

fn main() {}
