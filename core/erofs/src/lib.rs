//! File trees as EROFS metadata images: a deterministic writer and a reader over bytes.
