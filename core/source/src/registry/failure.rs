//! What failures mean.

use std::error::Error as _;
use std::fmt::Display;
use std::io;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use rustls::AlertDescription;

use crate::error::{Cause, Error};

/// Characters of what a registry says that are shown.
const WORDS_MAX: usize = 200;

pub(crate) fn unavailable(host: &str, object: &str, reason: impl Into<String>) -> Error {
    Error::Unavailable {
        host: host.to_owned(),
        object: object.to_owned(),
        reason: reason.into(),
        retry_after: None,
        source: None,
    }
}

pub(crate) fn malformed(host: &str, object: &str, reason: impl Into<String>) -> Error {
    Error::Malformed {
        host: host.to_owned(),
        object: object.to_owned(),
        reason: reason.into(),
    }
}

pub(crate) fn mismatch(
    host: &str,
    object: &str,
    expected: &impl Display,
    actual: &impl Display,
) -> Error {
    Error::Mismatch {
        host: host.to_owned(),
        object: object.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_string(),
    }
}

/// What it means that no answer, or not all of it, came.
pub(crate) fn transport(host: &str, object: &str, error: reqwest::Error) -> Error {
    // The URL may hold a signature, and is said already.
    let error = error.without_url();
    match rustls_error(&error) {
        Some(rustls::Error::InvalidCertificate(_)) => Error::Untrusted {
            host: host.to_owned(),
            source: Some(Cause::new(error)),
        },
        Some(rustls::Error::AlertReceived(alert)) if CERTIFICATE_ALERTS.contains(&alert) => {
            certificate_wanted(host, object)
        }
        Some(rustls::Error::InvalidMessage(_)) => malformed(
            host,
            object,
            "it does not speak TLS; if it is meant to be plain, write http:// in its hosts.toml",
        ),
        _ if says_certificate_alert(&error) => certificate_wanted(host, object),
        _ => {
            let reason = match (error.is_connect(), error.is_timeout()) {
                (true, true) => "connecting took too long",
                (true, false) => "no connection could be made",
                (false, _) => "the connection broke",
            };
            Error::Unavailable {
                host: host.to_owned(),
                object: object.to_owned(),
                reason: format!("{reason} ({})", root(&error)),
                retry_after: None,
                source: Some(Cause::new(error)),
            }
        }
    }
}

/// What a server answers to a client certificate that it does not like, or to none.
const CERTIFICATE_ALERTS: [AlertDescription; 8] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
];

fn certificate_wanted(host: &str, object: &str) -> Error {
    Error::Unauthorized {
        host: host.to_owned(),
        object: object.to_owned(),
        reason: "it wants another TLS client certificate: set `client` in its hosts.toml"
            .to_owned(),
    }
}

/// Of the errors of a connection with HTTP/2 only their text is left.
fn says_certificate_alert(error: &reqwest::Error) -> bool {
    let text = root(error);
    let says = |alert: &AlertDescription| rustls::Error::AlertReceived(*alert).to_string() == text;
    CERTIFICATE_ALERTS.iter().any(says)
}

/// The innermost error, which names what happened.
fn root(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    words(&deepest.to_string())
}

fn rustls_error(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error.clone());
        }
        // An I/O error passes its content's source on, not the content.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What a status other than success means. `said` is what the host said about it.
pub(crate) fn status(
    host: &str,
    object: &str,
    status: StatusCode,
    headers: &HeaderMap,
    said: &str,
) -> Error {
    let (host, object) = (host.to_owned(), object.to_owned());
    let reason = match said {
        "" => status.canonical_reason().unwrap_or("no reason").to_owned(),
        said => said.to_owned(),
    };
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { host, object },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unauthorized {
            host,
            object,
            reason: format!("it answers {} ({reason})", status.as_u16()),
        },
        status if is_passing(status) => Error::Unavailable {
            host,
            object,
            reason: format!("it answers {} ({reason})", status.as_u16()),
            retry_after: retry_after(headers, SystemTime::now()),
            source: None,
        },
        status => Error::Refused {
            host,
            object,
            status: status.as_u16(),
            reason,
        },
    }
}

/// Whether the same request may succeed later.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

/// `Retry-After` in either of its forms, RFC 9110 section 10.2.3.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text)
            .ok()
            .map(|then| then.duration_since(now).unwrap_or_default()),
    }
}

/// What somebody else wrote, fit for one line of ours.
pub(crate) fn words(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(WORDS_MAX).map(printable).collect()
}

/// What a registry says about an error, <https://github.com/opencontainers/distribution-spec>, "Error Codes"; else
/// nothing, because error pages of proxies are long and say little.
pub(crate) fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        // Token servers have forms of their own.
        #[serde(default)]
        details: String,
        #[serde(default)]
        error_description: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else {
        let is_plain = !body.is_empty() && !body.starts_with(b"<");
        let text = std::str::from_utf8(body).ok().filter(|_| is_plain);
        return text.map(|text| words(text.trim())).unwrap_or_default();
    };
    let first = errors.errors.first().map(|one| match one.message.as_str() {
        "" => one.code.clone(),
        message => message.to_owned(),
    });
    words(&first.unwrap_or(errors.error_description + &errors.details))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_has_two_forms() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        let read = |text: &'static str| {
            retry_after(
                &HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]),
                now,
            )
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            read("Wed, 21 Oct 2015 07:29:00 GMT"),
            Some(Duration::from_secs(60))
        );
        assert_eq!(read("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn what_a_registry_says_is_shown_on_one_line() {
        let said = |text: &str| said(text.as_bytes());
        assert_eq!(
            said(r#"{"errors":[{"code":"DENIED","message":"go\naway"}]}"#),
            "go away"
        );
        assert_eq!(said(r#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(
            said(r#"{"details":"incorrect username"}"#),
            "incorrect username"
        );
        assert_eq!(said("<html>"), "");
        assert_eq!(said("slow down"), "slow down");
        assert_eq!(said(&"x".repeat(1000)).len(), WORDS_MAX);
    }
}
