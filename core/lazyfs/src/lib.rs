//! Verified random access to a layer that arrives while it is read.
