//! HAVE and chunks between nodes: HTTP/1.1 over TLS that is bound to the peer.
