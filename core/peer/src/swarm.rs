//! What a mounted layer knows about the other nodes that have it.
