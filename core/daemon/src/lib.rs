//! What every Pontoon daemon has: config, gRPC service, socket, admin HTTP, metrics, logs.
