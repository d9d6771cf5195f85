//! Why a layer is not brought: short sentences that are counted, and what exactly happened, which is logged.

use pontoon_layer::FormatError;

pub(crate) const NO_LABELS: &str = "the labels do not say where the layer is";
pub(crate) const BAD_LABELS: &str = "the labels do not name an image and a layer";
pub(crate) const NOT_IN_IMAGE: &str = "the layer is not in the image's manifest";
pub(crate) const ORDINARY: &str = "no layer of the image can be lazy";
pub(crate) const UNLISTED: &str = "the manifest names no table of contents for the layer";
pub(crate) const SLOW_MANIFEST: &str = "the registry did not deliver the manifest in time";
pub(crate) const SLOW_TOC: &str = "the registry did not deliver the table of contents in time";
pub(crate) const SLOW_LAYER: &str = "the ordinary layer was not unpacked in time";
pub(crate) const LARGE_LAYER: &str =
    "the ordinary layer is too large to be unpacked while containerd waits";
pub(crate) const UNPACK_FAILED: &str = "the ordinary layer could not be unpacked";
pub(crate) const NO_FOOTER: &str =
    "the layer has no table of contents, although its annotations name one";
pub(crate) const NO_TOC_IMAGE: &str =
    "the image with the tables of contents does not have the layer's";
pub(crate) const UNVERIFIABLE: &str = "the layer has data without digests";
pub(crate) const BAD_TOC: &str = "the table of contents is not the one that the manifest names";
pub(crate) const MALFORMED: &str = "the table of contents cannot be used";
pub(crate) const UNSUPPORTED: &str = "the image has a form that Pontoon does not read";
pub(crate) const OTHER_PLUGIN: &str = "it is a nydus image, and this plugin does not run those";
pub(crate) const SLOW_BOOTSTRAP: &str = "the registry did not deliver the bootstrap in time";
pub(crate) const BAD_BOOTSTRAP: &str = "the bootstrap of the nydus image cannot be used";
pub(crate) const NO_BOOTSTRAP: &str = "the manifest of the nydus image names no bootstrap";
pub(crate) const NO_BLOB: &str = "data of the nydus image is missing";
pub(crate) const BEYOND_LIMITS: &str = "the layer is beyond a limit";
pub(crate) const NO_RANGES: &str = "the registry does not answer range requests";
pub(crate) const UNAUTHORIZED: &str = "the registry wants other credentials";
pub(crate) const UNAVAILABLE: &str = "the registry is not available";
pub(crate) const REGISTRY: &str = "the registry does not give what was asked for";
pub(crate) const STORE: &str = "the layer could not be stored";
pub(crate) const BUG: &str = "a bug of the daemon";

/// Why a layer is not brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The same for the same cause.
    pub(crate) reason: &'static str,
    /// What exactly happened, if that says more.
    pub(crate) detail: Option<String>,
    /// Whether the next try may go better by itself.
    pub(crate) transient: bool,
    /// Whether containerd cannot unpack the layer either.
    pub(crate) is_final: bool,
}

impl Refusal {
    /// For good.
    pub(crate) fn new(reason: &'static str) -> Self {
        Refusal {
            reason,
            detail: None,
            transient: false,
            is_final: false,
        }
    }

    /// It is one of a layer that containerd cannot unpack.
    pub(crate) fn and_final(self) -> Self {
        Refusal {
            is_final: true,
            ..self
        }
    }

    /// Until the next try.
    pub(crate) fn for_now(reason: &'static str) -> Self {
        Refusal {
            transient: true,
            ..Refusal::new(reason)
        }
    }

    /// With what exactly happened, or what to do.
    pub(crate) fn with(self, detail: &str) -> Self {
        Refusal {
            detail: Some(detail.to_owned()),
            ..self
        }
    }

    /// With what exactly happened.
    pub(crate) fn because(self, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut below = error.source();
        while let Some(error) = below {
            text = format!("{text}: {error}");
            below = error.source();
        }
        Refusal {
            detail: Some(text),
            ..self
        }
    }

    /// Something on this machine failed.
    pub(crate) fn store(error: &dyn std::error::Error) -> Self {
        Refusal::for_now(STORE).because(error)
    }
}

impl From<pontoon_source::Error> for Refusal {
    fn from(error: pontoon_source::Error) -> Self {
        use pontoon_source::Error::{Credentials, RangeUnsupported, TooLarge, Unauthorized};
        let reason = match &error {
            RangeUnsupported { .. } => NO_RANGES,
            Unauthorized { .. } | Credentials { .. } => UNAUTHORIZED,
            TooLarge { .. } => BEYOND_LIMITS,
            _ if error.is_transient() => UNAVAILABLE,
            _ => REGISTRY,
        };
        let refusal = Refusal {
            transient: error.is_transient(),
            ..Refusal::new(reason)
        };
        refusal.because(&error)
    }
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        let reason = match &error {
            FormatError::Digest(_) => BAD_TOC,
            FormatError::Unverifiable { .. } => UNVERIFIABLE,
            FormatError::TooLarge { .. } => BEYOND_LIMITS,
            FormatError::Unsupported { .. } => UNSUPPORTED,
            _ => MALFORMED,
        };
        Refusal::new(reason).because(&error)
    }
}
