//! The domain's errors as gRPC statuses, and as log lines.

use std::error::Error as StdError;
use std::fmt;

use pontoon_proto::convert;
use pontoon_snapshot::{Class, Error};
use tonic::Status;

/// The status that reports `error`: the code of its class and its text, without what caused it.
pub(crate) fn of(error: &Error) -> Status {
    Status::new(convert::code(error.class()), error.to_string())
}

/// Logs `error` with its causes, as loud as somebody has to look at it.
pub(crate) fn log(error: &Error) {
    let chain = Chain(error);
    match error.class() {
        Class::Corrupt | Class::Internal | Class::Exhausted => {
            tracing::error!(error = %chain, "failed")
        }
        Class::Unavailable => tracing::warn!(error = %chain, "failed"),
        // Part of the protocol, but for these: nobody who works as documented sees them.
        Class::FailedPrecondition
            if matches!(error, Error::Refused { .. } | Error::MixedKeys { .. }) =>
        {
            tracing::warn!(error = %chain, "refused");
        }
        _ => tracing::debug!(error = %chain, "refused"),
    }
}

/// An error and all its causes in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn StdError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
