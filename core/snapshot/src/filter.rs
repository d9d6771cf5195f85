//! The filter grammar of List, as containerd's package `filters` defines it.
//!
//! ```text
//! filter   := "" | selector ("," selector)*            "" matches everything
//! selector := path | path operator value               a path alone asks whether the field is present
//! path     := field ("." field)*
//! field    := [A-Za-z0-9_]+ | '"' text '"'
//! operator := "==" | "!=" | "~="                       equal, not equal, matches the regular expression
//! value    := plain | '"' text '"'                     after ~= also /text/ and |text|
//! ```
//!
//! Paths are `name`, `parent`, `kind` and `labels.KEY`; the parts of a label's key are joined by dots, so
//! `labels.a.b` and `labels."a.b"` are the same. A field that does not exist is absent and its value is
//! empty: `!=` matches it, and so does `~=` with an expression that matches nothing. Quoted text has the
//! escapes of a Go string. White space may stand before a field, an operator and a value, and nowhere else.
//!
//! On purpose different from containerd: an expression that is no regular expression is refused (containerd
//! matches nothing and logs), and the expressions are those of the `regex` crate, RE2's syntax but for `\Q…\E`,
//! `\C` and set operations. `\d`, `\s`, `\w` and `\b` are about ASCII, as in Go.

mod expression;
mod parse;
#[cfg(test)]
mod tests;

use regex::bytes::Regex;

use crate::Info;
use crate::key::abridged;

/// The most filters in one List. containerd sends one; the limit is only there to have one.
pub const FILTERS_MAX: usize = 256;

/// The most bytes that all filters of one List take together: room for several with keys of 4,096 bytes.
pub const FILTERS_BYTES_MAX: usize = 64 * 1024;

/// The most regular expressions in one List, each of which may take half a megabyte while List runs.
pub const EXPRESSIONS_MAX: usize = 16;

/// A parsed list of filters; matches an [`Info`] if any of them does.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these must match, unless there are none.
    any: Vec<Selectors>,
    text: Vec<String>,
}

/// A filter that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter}: {reason}")]
pub struct FilterError {
    /// The filter, quoted, and cut if it is long.
    pub filter: String,
    /// What is wrong with it, and where.
    pub reason: String,
}

/// One filter: all of these must match.
type Selectors = Vec<Selector>;

#[derive(Debug, Clone)]
struct Selector {
    field: Field,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// No snapshot has it.
    Unknown,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    /// Values are bytes: an escape like `\xff` can make any.
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    Matches(Regex),
}

impl Filter {
    /// Parses each of `filters`; none matches everything.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, FilterError> {
        check_sizes(filters)?;
        let mut any = Vec::with_capacity(filters.len());
        let mut expressions = 0;
        for filter in filters {
            let filter = filter.as_ref();
            let selectors = parse::selectors(filter).map_err(|reason| FilterError {
                filter: abridged(filter),
                reason,
            })?;
            expressions += selectors
                .iter()
                .filter(|selector| matches!(selector.test, Test::Matches(_)))
                .count();
            if expressions > EXPRESSIONS_MAX {
                return Err(FilterError {
                    filter: abridged(filter),
                    reason: format!("more than {EXPRESSIONS_MAX} regular expressions; use fewer"),
                });
            }
            any.push(selectors);
        }
        let text = filters.iter().map(|filter| filter.as_ref().to_owned());
        Ok(Filter {
            any,
            text: text.collect(),
        })
    }

    /// The filters as they were given, for a boundary that sends them on.
    pub fn as_strings(&self) -> &[String] {
        &self.text
    }

    /// Whether `info` matches any of the filters.
    pub fn matches(&self, info: &Info) -> bool {
        self.any.is_empty()
            || self
                .any
                .iter()
                .any(|all| all.iter().all(|selector| selector.matches(info)))
    }
}

impl Selector {
    fn matches(&self, info: &Info) -> bool {
        let value = self.field.value(info);
        let bytes = value.unwrap_or_default().as_bytes();
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some() && bytes == wanted,
            Test::NotEqual(unwanted) => bytes != unwanted,
            Test::Matches(expression) => expression.is_match(bytes),
        }
    }
}

impl Field {
    /// The field that a path of a filter names.
    fn from_path(mut path: Vec<Vec<u8>>) -> Self {
        let rest = path.split_off(1);
        match path.concat().as_slice() {
            b"name" => Field::Name,
            b"parent" => Field::Parent,
            b"kind" => Field::Kind,
            // A key that is no text cannot be a label's.
            b"labels" => String::from_utf8(rest.join(&b'.')).map_or(Field::Unknown, Field::Label),
            _ => Field::Unknown,
        }
    }

    fn value<'a>(&self, info: &'a Info) -> Option<&'a str> {
        match self {
            Field::Name => Some(info.key.as_str()),
            Field::Parent => Some(info.parent.as_ref().map_or("", |parent| parent.as_str())),
            Field::Kind => Some(info.kind.as_str()),
            Field::Label(key) => info.labels.get(key),
            Field::Unknown => None,
        }
    }
}

fn check_sizes<S: AsRef<str>>(filters: &[S]) -> Result<(), FilterError> {
    if filters.len() > FILTERS_MAX {
        return Err(FilterError {
            filter: format!("{FILTERS_MAX} and more"),
            reason: format!("List takes at most {FILTERS_MAX} filters; use fewer"),
        });
    }
    let mut total = 0;
    for filter in filters.iter().map(AsRef::as_ref) {
        total += filter.len();
        if total > FILTERS_BYTES_MAX {
            return Err(FilterError {
                filter: abridged(filter),
                reason: "all filters together are longer than 64 KiB; use fewer or shorter ones"
                    .to_owned(),
            });
        }
    }
    Ok(())
}
