//! What is asked for, and what is refused whatever is here.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use pontoon_layer::Digest;

/// A mirror that asks others in its turn says so with this header, and nobody asks on for it.
pub const MIRRORED: HeaderName = HeaderName::from_static("x-pontoon-mirrored");

/// The same of Spegel.
const SPEGEL_MIRRORED: HeaderName = HeaderName::from_static("x-spegel-mirrored");

/// What a dfdaemon does with files of the client's node. We write nowhere.
const FILE_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-dragonfly-output-path"),
    HeaderName::from_static("x-dragonfly-force-hard-link"),
];

/// The longest path that is looked at, in bytes: a name has at most 255.
const PATH_MAX: usize = 1024;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whether this is a registry.
    Registry,
    /// A layer or a configuration, or a part of one.
    Blob(Digest),
    /// A manifest or an index.
    Manifest(Digest),
    /// What a tag stands for.
    Tag,
    /// Something that only a registry has.
    Other,
}

/// A refusal: a status and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// A code of the distribution specification.
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
}

/// What `request` asks for.
pub(crate) fn read(request: &Parts) -> Result<Wanted, Refusal> {
    let refuse = |status, message| {
        Err(Refusal {
            status,
            code: "UNSUPPORTED",
            message,
        })
    };
    if request.uri.authority().is_some() || request.method == Method::CONNECT {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            "this is a mirror and no proxy; name it in hosts.toml",
        );
    }
    if !is_meant(&request.headers) {
        return refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "this is for programs on this node; ask it by its loopback address",
        );
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "nothing can be changed here; push to the registry",
        );
    }
    if FILE_HEADERS
        .iter()
        .any(|name| request.headers.contains_key(name))
    {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            "no files are written here; read the answer, or ask a dfdaemon",
        );
    }
    Ok(wanted(request.uri.path()))
}

/// Whether others may be asked on behalf of a request with these headers: not for one that is asked on behalf already.
pub(crate) fn may_be_passed_on(headers: &HeaderMap) -> bool {
    !headers.contains_key(MIRRORED) && !headers.contains_key(SPEGEL_MIRRORED)
}

/// Whether the client knows that it talks to this node. A web page whose name was made to point here (DNS rebinding) does
/// not.
fn is_meant(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        return false;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let is_loopback = |address: IpAddr| address.is_loopback();
    name == "localhost" || name.parse().is_ok_and(is_loopback)
}

/// `/v2/`, `/v2/NAME/blobs/DIGEST`, `/v2/NAME/manifests/REFERENCE`. Whose repository NAME is (`X-Dragonfly-Registry`, `?ns=`)
/// makes no difference to what a digest stands for.
fn wanted(path: &str) -> Wanted {
    if path.len() > PATH_MAX {
        return Wanted::Other;
    }
    let Some(rest) = path.strip_prefix("/v2") else {
        return Wanted::Other;
    };
    if matches!(rest, "" | "/") {
        return Wanted::Registry;
    }
    let mut parts = rest.rsplitn(3, '/');
    let (Some(last), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Wanted::Other;
    };
    if name.len() < 2 || !name.starts_with('/') {
        return Wanted::Other;
    }
    // Some clients escape the colon.
    let digest = last.replacen("%3A", ":", 1).replacen("%3a", ":", 1).parse();
    match (kind, digest) {
        ("blobs", Ok(digest)) => Wanted::Blob(digest),
        ("manifests", Ok(digest)) => Wanted::Manifest(digest),
        ("manifests", Err(_)) => Wanted::Tag,
        _ => Wanted::Other,
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_digests_are_known() {
        let digest: Digest = DIGEST.parse().unwrap();
        let hex = DIGEST.trim_start_matches("sha256:");
        for (path, expected) in [
            ("/v2".to_owned(), Wanted::Registry),
            ("/v2/".to_owned(), Wanted::Registry),
            (
                format!("/v2/a/blobs/{DIGEST}"),
                Wanted::Blob(digest.clone()),
            ),
            (
                format!("/v2/a/b/c/blobs/{DIGEST}"),
                Wanted::Blob(digest.clone()),
            ),
            (
                format!("/v2/a/blobs/sha256%3A{hex}"),
                Wanted::Blob(digest.clone()),
            ),
            (
                format!("/v2/blobs/blobs/{DIGEST}"),
                Wanted::Blob(digest.clone()),
            ),
            (
                format!("/v2/a/manifests/{DIGEST}"),
                Wanted::Manifest(digest),
            ),
            ("/v2/a/manifests/latest".to_owned(), Wanted::Tag),
            ("/v2/a/blobs/latest".to_owned(), Wanted::Other),
            ("/v2/a/tags/list".to_owned(), Wanted::Other),
            (format!("/v2/blobs/{DIGEST}"), Wanted::Other),
            (format!("/v2//blobs/{DIGEST}"), Wanted::Other),
            (format!("/v3/a/blobs/{DIGEST}"), Wanted::Other),
            ("/v2/_catalog".to_owned(), Wanted::Other),
            ("/v22".to_owned(), Wanted::Other),
            ("/".to_owned(), Wanted::Other),
            (
                format!("/v2/{}/blobs/{DIGEST}", "a".repeat(PATH_MAX)),
                Wanted::Other,
            ),
        ] {
            assert_eq!(wanted(&path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_never_done_is_refused_with_its_reason() {
        let blob = format!("/v2/a/blobs/{DIGEST}");
        let here = [("host", "127.0.0.1:4001")];
        let dragonfly = |name| [here[0], (name, "/tmp/x")];
        for (request, status) in [
            (parts("POST", "/v2/a/blobs/uploads/", &here), 405),
            (parts("DELETE", &blob, &here), 405),
            (parts("GET", &format!("http://r.example{blob}"), &here), 501),
            (parts("CONNECT", "r.example:443", &here), 501),
            (parts("GET", &blob, &[]), 421),
            (
                parts("GET", &blob, &[("host", "rebound.example:4001")]),
                421,
            ),
            (parts("GET", &blob, &[("host", "10.0.0.1:4001")]), 421),
            (
                parts("GET", &blob, &dragonfly("x-dragonfly-output-path")),
                501,
            ),
            (
                parts("GET", &blob, &dragonfly("x-dragonfly-force-hard-link")),
                501,
            ),
        ] {
            let refusal = read(&request).unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{request:?}");
        }
        for host in [
            "127.0.0.1:4001",
            "127.0.0.2",
            "localhost:4001",
            "[::1]:4001",
        ] {
            let request = parts("HEAD", &blob, &[("host", host)]);
            assert_eq!(read(&request), Ok(wanted(&blob)), "{host}");
        }
    }

    #[test]
    fn a_request_is_passed_on_once() {
        let headers = |name| parts("GET", "/v2/", &[(name, "true")]).headers;
        assert!(may_be_passed_on(&headers("x-dragonfly-registry")));
        assert!(!may_be_passed_on(&headers("x-pontoon-mirrored")));
        assert!(!may_be_passed_on(&headers("X-Spegel-Mirrored")));
    }

    proptest::proptest! {
        #[test]
        fn no_path_breaks_it(path in "(/v2|/|[a-z%:/@.]|sha256:[0-9a-f]{60,66}|blobs|manifests|\\PC){0,12}") {
            let _ = wanted(&path);
        }
    }
}
