//! Where bytes come from: the registry client.
