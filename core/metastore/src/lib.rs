//! Transactional snapshot metadata on redb.
