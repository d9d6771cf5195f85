//! What can be told about peers: for `pontoon peers`, metrics and the log.
