//! The regular expressions of `~=`.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};

/// The most memory that one compiled expression may take, and again for the automaton that grows while it
/// runs. Expressions that people write take a few kilobytes.
const EXPRESSION_BYTES_MAX: usize = 256 * 1024;

/// How deep groups may be nested; the compiler recurses.
const NEST_MAX: u32 = 50;

/// Compiles `text`; the error is one line.
pub(super) fn compile(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&with_ascii_classes(text))
        .size_limit(EXPRESSION_BYTES_MAX)
        .dfa_size_limit(EXPRESSION_BYTES_MAX)
        .nest_limit(NEST_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                "the regular expression is too big; use a simpler one".to_owned()
            }
            // The last line of a syntax error says what is wrong; those above draw where.
            error => {
                let drawn = error.to_string();
                let told = drawn.lines().last().unwrap_or_default();
                let told = told.strip_prefix("error: ").unwrap_or(told);
                format!("not a regular expression: {told}")
            }
        })
}

/// `text` with the classes and boundaries that are about ASCII in Go, and about Unicode in the `regex` crate,
/// spelled out. Such a class may stand inside of another.
fn with_ascii_classes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut spelled = String::with_capacity(text.len() + 16);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            spelled.push(char);
            continue;
        }
        match chars.next() {
            Some('d') => spelled.push_str("[0-9]"),
            Some('D') => spelled.push_str("[^0-9]"),
            Some('s') => spelled.push_str(r"[\t\n\f\r ]"),
            Some('S') => spelled.push_str(r"[^\t\n\f\r ]"),
            Some('w') => spelled.push_str("[0-9A-Za-z_]"),
            Some('W') => spelled.push_str("[^0-9A-Za-z_]"),
            Some('b') => spelled.push_str(r"(?-u:\b)"),
            Some('B') => spelled.push_str(r"(?-u:\B)"),
            Some(other) => spelled.extend(['\\', other]),
            None => spelled.push('\\'),
        }
    }
    Cow::Owned(spelled)
}
