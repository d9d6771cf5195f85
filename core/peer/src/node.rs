//! One node: discovery, wire and policy as one source of chunks for `core/lazyfs`.
