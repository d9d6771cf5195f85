//! Whom to ask for a chunk, and when to ask somebody else. No I/O and no clock: times are passed in.
