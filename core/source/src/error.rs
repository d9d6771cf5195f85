//! What can go wrong between here and a registry, and what to do about it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of asking a registry.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a registry did not give what was asked for. Each says what a person does next; [`Error::is_transient`] says
/// whether time alone may mend it.
///
/// Cheap to clone: callers who waited for the same thing share its error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is no image reference.
    #[error("{text:?} is no image reference: {reason}")]
    Reference {
        /// What was to be read, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The registry wants other credentials than there are.
    #[error(
        "{host} does not let us read {object}: {reason}; log in to it or give its credentials to this daemon"
    )]
    Unauthorized {
        /// Registry or token server.
        host: String,
        /// What was asked for.
        object: String,
        /// Which credentials were tried and what was answered.
        reason: String,
    },
    /// The registry does not have it.
    #[error("{host} does not have {object}; check the name, or push the image again")]
    NotFound {
        /// The registry that was asked last.
        host: String,
        /// What was asked for.
        object: String,
    },
    /// The registry cannot be reached, is overloaded or broke off. The only transient error.
    #[error(
        "{host} did not deliver {object}: {reason}; check the network and the registry, it is tried again"
    )]
    Unavailable {
        /// Host that was asked last.
        host: String,
        /// What was asked for.
        object: String,
        /// What happened.
        reason: String,
        /// How long the registry asked us to wait.
        retry_after: Option<Duration>,
        /// What the transport said.
        #[source]
        source: Option<Cause>,
    },
    /// The certificate of the host is not one that we trust.
    #[error(
        "the TLS certificate of {host} is not trusted; add its CA to the system's or to `ca` in its hosts.toml"
    )]
    Untrusted {
        /// Whose certificate it is.
        host: String,
        /// What is wrong with it.
        #[source]
        source: Option<Cause>,
    },
    /// The server cannot answer with a part of a blob, so the layer cannot be lazy.
    #[error(
        "{host} ignores range requests for {object}; let it be downloaded whole, or use another registry or mirror"
    )]
    RangeUnsupported {
        /// Server that holds the blob.
        host: String,
        /// What was asked for.
        object: String,
    },
    /// Larger than our limits: refused before it was read.
    #[error("{object} is larger than the limit of {limit} {unit}; it is refused, make it smaller")]
    TooLarge {
        /// What was asked for.
        object: String,
        /// What is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The bytes are not those that the digest or the descriptor names.
    #[error(
        "what {host} calls {object} is {actual}, not {expected}; its storage, a mirror or a proxy on the way is damaged, push the image again"
    )]
    Mismatch {
        /// Who delivered it.
        host: String,
        /// What was asked for.
        object: String,
        /// The digest or size that was expected.
        expected: String,
        /// What came.
        actual: String,
    },
    /// An answer that is not what the distribution specification says.
    #[error(
        "{host} answered {object} with something that we cannot read: {reason}; is it a registry?"
    )]
    Malformed {
        /// Who answered.
        host: String,
        /// What was asked for.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image or manifest that we do not support.
    #[error("{object} cannot be used: {reason}")]
    Unsupported {
        /// Which one.
        object: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A status that says that asking again is of no use.
    #[error("{host} refused {object} with status {status}: {reason}")]
    Refused {
        /// Who refused.
        host: String,
        /// What was asked for.
        object: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said, shortened.
        reason: String,
    },
    /// What is to be given to a registry cannot be read here.
    #[error("what is to become {object} cannot be read: {source}; look at where it comes from")]
    Unreadable {
        /// What it was to become.
        object: String,
        /// Why it cannot be read.
        source: Cause,
    },
    /// Our own configuration is wrong.
    #[error("cannot use {path}: {reason}; correct it")]
    Configuration {
        /// File or setting.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A source of credentials failed.
    #[error("cannot get credentials from {from}: {reason}")]
    Credentials {
        /// Helper, file or cluster.
        from: String,
        /// What happened and what to do.
        reason: String,
        /// Whether it may work later.
        transient: bool,
    },
}

impl Error {
    /// Whether the same request may succeed later although nobody changes anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unavailable { .. } => true,
            Error::Credentials { transient, .. } => *transient,
            _ => false,
        }
    }

    /// How long the registry asked us to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A short constant word for metrics and `--json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Reference { .. } => "reference",
            Error::Unauthorized { .. } => "unauthorized",
            Error::NotFound { .. } => "not-found",
            Error::Unavailable { .. } => "unavailable",
            Error::Untrusted { .. } => "untrusted",
            Error::RangeUnsupported { .. } => "range-unsupported",
            Error::TooLarge { .. } => "too-large",
            Error::Mismatch { .. } => "mismatch",
            Error::Malformed { .. } => "malformed",
            Error::Unsupported { .. } => "unsupported",
            Error::Refused { .. } => "refused",
            Error::Unreadable { .. } => "unreadable",
            Error::Configuration { .. } => "configuration",
            Error::Credentials { .. } => "credentials",
        }
    }
}

/// What lies below an [`Error`], shared by those who got it.
#[derive(Clone)]
pub struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl Cause {
    pub(crate) fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Cause(Arc::new(error))
    }

    /// The error itself; this only shows what lies below it.
    pub fn get(&self) -> &(dyn std::error::Error + 'static) {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
