//! The snapshot domain: trait, types, filters, labels, errors. No gRPC, no I/O.
