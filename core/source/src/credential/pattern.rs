//! What keys of Docker's `auths` mean, as Docker and Kubernetes read them.

use crate::reference::Reference;

/// Docker Hub's names. Its credentials are stored under one, images name another, and a third one is asked.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The key under which Docker's own tools store what is for Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The entries whose key fits, the most specific first.
///
/// A key is a host with or without scheme and port; behind it may stand the beginning of a repository, whole
/// components only. Kubernetes' `*` stands for a part of one label: `*.registry.example`.
pub(crate) fn select<'a, T>(
    entries: impl Iterator<Item = (&'a str, T)>,
    host: &str,
    reference: &Reference,
) -> Vec<T> {
    let mut found: Vec<(usize, T)> = entries
        .filter_map(|(key, entry)| Some((specificity(key, host, reference)?, entry)))
        .collect();
    found.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
    found.into_iter().map(|(_, entry)| entry).collect()
}

fn specificity(key: &str, host: &str, reference: &Reference) -> Option<usize> {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (key_host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = path.trim_end_matches('/');
    // What Docker appends for the API, not a repository.
    let path = if matches!(path, "v1" | "v2") {
        ""
    } else {
        path
    };
    if !same_host(key_host, host) {
        return None;
    }
    let rest = reference.repository().strip_prefix(path)?;
    let is_whole = path.is_empty() || rest.is_empty() || rest.starts_with('/');
    let exact = usize::from(!key_host.contains('*'));
    is_whole.then_some(2 * path.len() + exact)
}

pub(crate) fn same_host(key: &str, host: &str) -> bool {
    if HUB.contains(&key) && HUB.contains(&host) {
        return true;
    }
    let (key_labels, labels) = (key.split('.'), host.split('.'));
    key_labels.clone().count() == labels.clone().count()
        && key_labels
            .zip(labels)
            .all(|(pattern, label)| fits(pattern.as_bytes(), label.as_bytes()))
}

/// Whether `text` is `pattern`, in which `*` stands for any characters. Takes time in proportion to both lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern
            .get(p)
            .is_some_and(|c| c.eq_ignore_ascii_case(&text[t]))
        {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// What Docker's tools call `host` when they store credentials for it.
pub(crate) fn server(host: &str) -> &str {
    if HUB.contains(&host) { HUB_KEY } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_for(keys: &[&'static str], host: &str, reference: &str) -> Vec<&'static str> {
        let reference = Reference::parse(reference).unwrap();
        select(keys.iter().map(|key| (*key, *key)), host, &reference)
    }

    #[test]
    fn the_most_specific_key_comes_first() {
        let keys = [
            "*.example",
            "r.example",
            "https://r.example/v2/",
            "r.example/team",
            "r.example/team/app",
            "r.example/tea",
            "other.example",
        ];
        assert_eq!(
            keys_for(&keys, "r.example", "r.example/team/app"),
            [
                "r.example/team/app",
                "r.example/team",
                "r.example",
                "https://r.example/v2/",
                "*.example"
            ]
        );
        assert_eq!(
            keys_for(&keys, "r.example:5000", "r.example/team/app"),
            [""; 0]
        );
    }

    #[test]
    fn docker_hub_has_several_names() {
        for key in [HUB_KEY, "docker.io", "registry-1.docker.io"] {
            assert_eq!(keys_for(&[key], "docker.io", "nginx"), [key]);
        }
    }

    #[test]
    fn a_star_stays_in_its_label() {
        assert!(same_host("*.dkr.*.example", "12.dkr.eu.example"));
        assert!(same_host("a*c*", "abcd"));
        assert!(!same_host("*.example", "a.b.example"));
        assert!(!same_host("*", "r.example"));
        assert!(!same_host("a*c", "abcd"));
    }
}
