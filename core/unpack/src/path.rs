//! Paths as archives have them: bytes.

/// `raw` as a path below the root, without a leading `/`; empty for the root itself. `.` and `..` go as in Go's
/// `path.Clean("/" + raw)`, that is without looking at what is there.
pub(crate) fn clean(raw: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(raw.len());
    for component in components(raw) {
        if component == b".." {
            let parent = clean.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            clean.truncate(parent);
        } else {
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
    }
    clean
}

/// The components of `path` that are neither empty nor `.`.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
}

/// The parent, empty for the root, and the last component of a clean path other than the root.
pub(crate) fn split(clean: &[u8]) -> (&[u8], &[u8]) {
    match clean.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&clean[..slash], &clean[slash + 1..]),
        None => (&[], clean),
    }
}

/// `name` in the directory `dir`.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    if !dir.is_empty() {
        path.extend_from_slice(dir);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (raw, wanted) in [
            ("", ""),
            ("/", ""),
            (".", ""),
            ("./", ""),
            ("..", ""),
            ("a/..", ""),
            ("a", "a"),
            ("./a//b/./c/", "a/b/c"),
            ("/a/b", "a/b"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/b/../../../c", "c"),
            ("a/b/../c", "a/c"),
            ("...", "..."),
        ] {
            assert_eq!(clean(raw.as_bytes()), wanted.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn a_path_is_its_parent_and_its_name() {
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"a/b", b"c"), b"a/b/c");
    }
}
