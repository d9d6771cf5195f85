//! The filter grammar of List.

use crate::Info;

/// A parsed list of filters; matches an [`Info`] if any of them does.
#[derive(Debug, Clone, Default)]
pub struct Filter {}

/// A filter that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter:?}: {reason}")]
pub struct FilterError {
    /// The filter as it was given.
    pub filter: String,
    /// What is wrong with it, and where.
    pub reason: String,
}

impl Filter {
    /// Parses each of `filters`; none matches everything.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, FilterError> {
        let _ = filters;
        Ok(Filter {})
    }

    /// Whether `info` matches any of the filters.
    pub fn matches(&self, info: &Info) -> bool {
        let _ = info;
        true
    }
}
