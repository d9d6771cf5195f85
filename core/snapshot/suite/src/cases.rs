//! The cases, by subject. Each plays on a [`Stage`](crate::Stage) of its own and panics when it fails.

pub mod concurrency;
pub mod content;
pub mod errors;
pub mod extraction;
pub mod keyspaces;
pub mod labels;
pub mod lifecycle;
pub mod listing;
pub mod mounting;
pub mod space;
