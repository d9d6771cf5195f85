//! How a verb ends when it did not do what it was asked for.

use std::error::Error;
use std::process::ExitCode;

/// EX_UNAVAILABLE of sysexits.h: somebody who is needed does not answer.
pub(crate) const EXIT_UNAVAILABLE: u8 = 69;

/// EX_TEMPFAIL of sysexits.h: the same command may do better later.
pub(crate) const EXIT_LATER: u8 = 75;

/// What went wrong, with what to do about it, and what to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
        }
    }

    /// Tells it on standard error as `verb`'s.
    pub(crate) fn tell(&self, verb: &str) -> ExitCode {
        eprintln!("pontoon {verb}: {}", self.message);
        ExitCode::from(self.code)
    }
}

/// The error and what caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        // Some errors tell their source's text themselves.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        below = error.source();
    }
    text
}
