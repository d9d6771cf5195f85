//! Lazy layers as directories of one FUSE connection.
