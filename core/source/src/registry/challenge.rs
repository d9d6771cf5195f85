//! `WWW-Authenticate`, RFC 9110 section 11.6.1: how a registry wants to be shown who asks.

use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Bytes of all challenges of one answer that are read.
const BYTES_MAX: usize = 8 << 10;

/// How a registry learns who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// User and password with every request.
    Basic,
    /// A token from a token server, <https://distribution.github.io/distribution/spec/auth/token/>.
    Bearer {
        /// Where the token server is.
        realm: Url,
        /// What it calls the registry.
        service: Option<String>,
    },
}

/// A scheme, and what this request would have needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: Scheme,
    pub(crate) scope: Option<String>,
}

/// The challenge that we can answer; a token is preferred to a password.
pub(crate) fn read(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter();
    let mut left = BYTES_MAX;
    let mut all = Vec::new();
    for text in texts.filter_map(|value| value.to_str().ok()) {
        left = left.checked_sub(text.len())?;
        all.extend(split(text));
    }
    let bearer = all.iter().find_map(|(scheme, parameters)| {
        let parameter = |name: &str| {
            let found = parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let realm = Url::parse(&parameter("realm")?).ok()?;
        let is_web = matches!(realm.scheme(), "http" | "https");
        is_web.then(|| Challenge {
            scheme: Scheme::Bearer {
                realm,
                service: parameter("service"),
            },
            scope: parameter("scope").filter(|scope| !scope.is_empty()),
        })
    });
    bearer.or_else(|| {
        let has_basic = all
            .iter()
            .any(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
        has_basic.then_some(Challenge {
            scheme: Scheme::Basic,
            scope: None,
        })
    })
}

type Parameters = Vec<(String, String)>;

/// One header may hold several challenges, separated like their parameters.
fn split(text: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (token, after) = token(rest);
        if token.is_empty() {
            return challenges;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                parameters.push((token.to_owned(), value));
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push((token.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// RFC 9110 section 5.6.2, and what stands unquoted in practice.
fn token(text: &str) -> (&str, &str) {
    let is_end = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | '=' | '"' | ';');
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            character => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(texts: &[&str]) -> Option<Challenge> {
        let header = |text: &&str| (WWW_AUTHENTICATE, text.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in texts.iter().map(header) {
            headers.append(name, value);
        }
        read(&headers)
    }

    #[test]
    fn tokens_are_preferred_however_they_are_asked_for() {
        let expected = Challenge {
            scheme: Scheme::Bearer {
                realm: Url::parse("https://t.example/token?a=b,c").unwrap(),
                service: Some("a \"registry\"".to_owned()),
            },
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        let bearer = r#"Bearer realm="https://t.example/token?a=b,c",service="a \"registry\"", scope="repository:a/b:pull,push""#;
        assert_eq!(read_all(&[bearer]), Some(expected.clone()));
        let both = format!("Negotiate abc==, basic realm=\"x\", {bearer}");
        assert_eq!(read_all(&[&both]), Some(expected.clone()));
        assert_eq!(read_all(&["Basic realm=x", bearer]), Some(expected));
        let unquoted = read_all(&["bearer realm=https://t.example/token,service=s"]);
        assert!(
            matches!(unquoted.unwrap().scheme, Scheme::Bearer { service: Some(s), .. } if s == "s")
        );
    }

    #[test]
    fn what_cannot_be_answered_is_none() {
        for text in [
            "",
            ",",
            "=",
            "a=b",
            "\"",
            "Bearer",
            "Bearer realm",
            "Bearer realm=\"",
            "Bearer realm=\"nowhere\"",
            "Bearer realm=\"file:///etc/passwd\"",
            "Digest realm=\"x\", nonce=\"y\"",
            "Bearer realm=\"\\",
        ] {
            assert_eq!(read_all(&[text]), None, "{text}");
        }
        assert_eq!(
            read_all(&[&format!("Basic x=\"{}\"", "y".repeat(BYTES_MAX))]),
            None
        );
        assert_eq!(read_all(&["Basic"]).unwrap().scheme, Scheme::Basic);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_survived(text in "[ -~]{0,80}", near in "(Bearer|Basic|[a-z=\\\\\", ]){0,40}") {
            for text in [&text, &near] {
                read_all(&[text]);
            }
        }
    }
}
